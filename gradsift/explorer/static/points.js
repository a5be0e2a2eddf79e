// What the server knows of the points, as arrays; and rows as JSON. An answer that is an error is thrown with its words.

export async function told(response) {
  if (response.ok) return response;
  let said = {};
  try { said = await response.json(); } catch { /* not JSON */ }
  throw Object.assign(new Error(said.error ?? `the server answers ${response.status}`), { more: said.more });
}

// {head, bytes}: bytes begin at a multiple of four.
async function numbers(path, query) {
  const buffer = await (await told(await fetch(`/map/${path}?${query}`))).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { head, buffer, start: 4 + length };
}

export async function places(query) {
  const { head, buffer, start } = await numbers("points", query);
  return { ...head, xy: new Float32Array(buffer, start) };
}

export async function shade(query) {
  const { head, buffer, start } = await numbers("shade", query);
  return { ...head, codes: new Uint8Array(buffer, start) };
}

export async function passing(query) {
  const { head, buffer, start } = await numbers("passing", query);
  return { ...head, inside: new Uint8Array(buffer, start) };
}

export async function idsOf(query) {
  const { head, buffer, start } = await numbers("ids", query);
  const bytes = new Uint8Array(buffer, start), hex = Array.from({ length: 256 }, (_, k) => k.toString(16).padStart(2, "0"));
  return { key: head.key, at: (k) => { let id = ""; for (let b = 16 * k; b < 16 * k + 16; b++) id += hex[bytes[b]]; return id; } };
}

const known = new Map(); // of rows that were looked at

export async function rowsOf(ids) {
  const lacking = ids.filter((id) => !known.has(id));
  for (let k = 0; k < lacking.length; k += 50) {
    const answer = await told(await fetch(`/map/rows?ids=${lacking.slice(k, k + 50).join(",")}`));
    for (const row of await answer.json()) known.set(row.id, row);
  }
  const rows = ids.map((id) => known.get(id));
  if (known.size > 5000) known.clear();
  return rows;
}
