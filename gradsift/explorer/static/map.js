// The map: what is shown is said by the URL, so that a link, a reload and the way back show the same.

import { Plane, within } from "./canvas.js";
import { idsOf, passing, places, rowsOf, shade, told } from "./points.js";
import { listRows, showTip } from "./rows.js";

const byId = (id) => document.getElementById(id);
const look = byId("look"), narrow = byId("narrow"), over = byId("over"), stage = document.querySelector(".plane");
const FILTERS = ["words", "source", "licence", "chars", "loss", "score", "cluster", "selected_in", "where"];
const OF_SELECTION = ["selected", "score", "cluster"];
const KINDS = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--d0", "--d1", "--d2", "--d3"];
const STEPS = ["--s0", "--s1", "--s2", "--s3", "--s4", "--s5"];
const REACH = 14; // pixels within which a point is meant
const plane = new Plane(byId("points"));
let url = new URLSearchParams(location.search);
let map = null, shaded = null, passed = null, ids = null, shown = new Uint8Array(0), lasso = null;
let hovered = -1, page = 0, waiting = false, drawing = null, byKeys = false;

// ---- what is asked of the server

const query = (names) => {
  const asked = new URLSearchParams();
  for (const name of names) for (const value of url.getAll(name)) asked.append(name, value);
  if (names.includes("by")) asked.set("by", look.elements.by.value); // the first there is, where the URL names none
  return asked;
};
let waits = "led" in narrow.dataset && url.has("where"); // a predicate that another site wrote: only its button asks it
const filters = () => FILTERS.filter((name) => url.has(name) && !(waits && name === "where"));
const UNASKED = "A link brought a predicate (Where), which was not asked. Look at it; the button Filter asks it.";

async function load(what = ["places", "shade", "passing"]) {
  try {
    problem("");
    const [a, b, c] = await Promise.all([
      what.includes("places") ? places(query(["by"])) : map,
      what.includes("shade") ? shade(query(["by", "shade_by", "selection"])).catch(bySource) : shaded,
      what.includes("passing") ? (filters().length ? passing(query(["by", ...filters()])).catch((refused) => ({ refused })) : null) : passed,
    ]);
    if (c?.refused && passed?.key === a.key) Object.assign(c, { key: a.key, inside: passed.inside }); // points stay as they were
    if ([b, c].some((one) => one?.key && one.key !== a.key)) return load(); // the store changed between two answers
    const other = !map || map.key !== a.key;
    [map, shaded, passed] = [a, b, c];
    if (other && !stage.hidden) plane.take(map.xy);
    if (shaded.refused) showBySource();
    legend();
    mark();
    const refused = [shaded.refused && `${shaded.refused.message}. The map is coloured by source.`, passed?.refused?.message,
                     passed?.passing === 0 && "No example passes the filters.", waits && UNASKED];
    problem(refused.filter(Boolean).join(" "), passed?.refused?.more);
    shaded.refused = null;
    byId("save").querySelector("button").disabled = Boolean(passed?.refused);
    byId("waits").hidden = true;
    if (other) {
      ids = null;
      ids = await idsOf(query(["by"]));
      if (ids.key !== map.key) return load();
      list();
    }
  } catch (error) {
    problem(error.message);
    byId("waits").hidden = true;
  }
}

const bySource = async (refused) => ({ ...(await shade(query(["by"]))), refused }); // for a shade that is not there

function showBySource() {
  look.elements.shade_by.value = "source";
  offer();
  set({ shade_by: null, selection: null, hide: [] }, false);
}

function problem(words, more = "") {
  const [said, all] = byId("problem").children;
  said.textContent = words;
  all.lastElementChild.textContent = more;
  [byId("problem").hidden, all.hidden, all.open] = [!words, !more, false];
}

// ---- what is shown

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
const nameOf = (code) => {
  if (code === 255 || (shaded.rest && code === shaded.labels.length - 1)) return "--c7";
  if (shaded.by === "selected") return code === 0 ? "--c5" : "--c7";
  if (shaded.ordered) return STEPS[shaded.labels.length > 1 ? Math.round((code * (STEPS.length - 1)) / (shaded.labels.length - 1)) : 0];
  return KINDS[code];
};
const labels = () => [...shaded.labels.map((name, code) => ({ name, code, n: shaded.counts[code] })), ...unknown()];
const unknown = () => {
  const n = shaded.codes.length - shaded.counts.reduce((sum, one) => sum + one, 0);
  return n > 0 ? [{ name: "not known", code: 255, n }] : [];
};

function mark() { // which points are shown, and above which others
  lasso = url.get("lasso")?.split(",").map(Number) ?? null;
  if (lasso && (stage.hidden || lasso.length < 6 || lasso.length % 2 || lasso.some((one) => !Number.isFinite(one)))) lasso = null;
  const hidden = new Set(url.getAll("hide")), level = new Uint8Array(256);
  for (const { name, code } of labels()) level[code] = hidden.has(name) ? 0 : nameOf(code) === "--c7" ? 1 : 2;
  const inside = lasso && within(map.xy, lasso);
  shown = new Uint8Array(shaded.codes.length);
  let n = 0;
  for (let k = 0; k < shown.length; k++) {
    if ((!passed?.inside || passed.inside[k]) && (!inside || inside[k])) { shown[k] = level[shaded.codes[k]]; n += shown[k] > 0; }
  }
  shown.count = n;
  byId("lasso").textContent = lasso ? "Clear lasso" : "Lasso";
  const rest = map.members - map.examples;
  byId("count").textContent = `${n.toLocaleString("en")} of ${map.examples.toLocaleString("en")} examples`;
  byId("count").title = rest > 0 ? `${rest.toLocaleString("en")} of the pool have no row, and no place` : "";
  page = 0;
  list();
  redraw();
}

function legend() {
  const hidden = new Set(url.getAll("hide"));
  byId("legend").replaceChildren(...labels().map(({ name, code, n }) => {
    const button = document.createElement("button"), swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = `var(${nameOf(code)})`;
    const words = document.createElement("bdi"), count = document.createElement("span");
    words.className = "name";
    words.textContent = name;
    count.className = "n";
    count.textContent = n.toLocaleString("en");
    button.append(swatch, words, count);
    if (shaded.meanings[code]) {
      const meaning = document.createElement("small");
      meaning.textContent = shaded.meanings[code];
      button.append(meaning);
    }
    button.setAttribute("aria-pressed", String(!hidden.has(name)));
    button.title = hidden.size ? "Show or hide these" : "Show these alone";
    button.addEventListener("click", () => toggle(name));
    return button;
  }));
}

function toggle(name) { // the first click shows one alone, later ones add and take away
  const all = labels().map((one) => one.name), hidden = new Set(url.getAll("hide").filter((one) => all.includes(one)));
  if (!hidden.size) for (const one of all) { if (one !== name) hidden.add(one); }
  else if (hidden.has(name)) hidden.delete(name);
  else hidden.add(name);
  set({ hide: hidden.size < all.length ? [...hidden] : [] });
  const at = all.indexOf(name);
  legend();
  byId("legend").children[at]?.focus();
  mark();
}

function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    if (!map || stage.hidden) return;
    const began = performance.now(), table = {};
    for (const { code } of labels()) table[code] = colour(nameOf(code));
    plane.draw(shaded.codes, shown, table, colour("--bg"), colour("--soft"));
    above();
    if (!performance.getEntriesByName("drawn").length) performance.mark("drawn");
    performance.measure("frame", { start: began, end: performance.now() });
    if (performance.getEntriesByName("frame").length > 500) performance.clearMeasures();
  });
}

function above() { // the lasso, the point that is meant, the middle for who moves by keys
  const box = over.getBoundingClientRect(), dense = plane.dense, context = over.getContext("2d");
  over.width = plane.canvas.width;
  over.height = plane.canvas.height;
  context.scale(dense, dense);
  context.strokeStyle = context.fillStyle = colour("--accent");
  const line = drawing ?? (lasso && pairs(lasso).map(([x, y]) => plane.toScreen(x, y)));
  if (line?.length) {
    context.lineWidth = 2;
    context.beginPath();
    line.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.stroke();
    context.globalAlpha = 0.06;
    context.fill();
    context.globalAlpha = 1;
  }
  if (hovered >= 0) {
    const [x, y] = plane.toScreen(map.xy[2 * hovered], map.xy[2 * hovered + 1]);
    context.strokeStyle = colour("--fg");
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x, y, plane.radius + 3, 0, 7);
    context.stroke();
  }
  if (byKeys) {
    context.fillRect(box.width / 2 - 8, box.height / 2 - 0.5, 16, 1);
    context.fillRect(box.width / 2 - 0.5, box.height / 2 - 8, 1, 16);
  }
}

const pairs = (flat) => Array.from({ length: flat.length / 2 }, (_, k) => [flat[2 * k], flat[2 * k + 1]]);

// ---- rows

function shownIds(from, to) {
  const found = [];
  for (let k = 0, n = 0; k < shown.length && n < to; k++) {
    if (shown[k] && n++ >= from) found.push(ids.at(k));
  }
  return found;
}

function list() {
  if (ids) listRows(shown.count, page, shownIds, problem);
}

function hover(k, x, y) {
  stage.classList.toggle("hits", k >= 0);
  if (k !== hovered) {
    hovered = k;
    above();
  }
  showTip(k >= 0 && ids ? ids.at(k) : null, x, y, problem);
}

// ---- the URL

function set(changes, remember = true) {
  for (const [name, value] of Object.entries(changes)) {
    url.delete(name);
    for (const one of [value].flat()) if (one !== null && one !== "") url.append(name, one);
  }
  const text = url.toString();
  history[remember ? "pushState" : "replaceState"](null, "", text ? `?${text}` : location.pathname);
}

let soon = 0;
function keepView() {
  const { x, y, zoom } = plane.view, short = (one) => Number(one.toPrecision(5));
  clearTimeout(soon);
  soon = setTimeout(() => set({ view: zoom === 1 && !x && !y ? null : [x, y, zoom].map(short).join() }, false), 150);
}

function readUrl() {
  const [x, y, zoom] = (url.get("view") ?? "").split(",").map(Number);
  plane.view = Number.isFinite(x) && Number.isFinite(y) && zoom > 0 ? { x, y, zoom } : { x: 0, y: 0, zoom: 1 };
  for (const form of [look, narrow]) {
    form.reset();
    for (const field of form.elements) {
      const values = url.getAll(field.name);
      if (field.multiple) { for (const option of field.options) option.selected = values.includes(option.value); }
      else if (field.name && values.length) field.value = values[0];
    }
  }
  if (look.elements.by.selectedIndex < 0) look.elements.by.selectedIndex = 0;
  byId("filters").open ||= FILTERS.some((name) => url.has(name));
  offer();
}

function offer() { // the selections that recorded what it is coloured by
  const { shade_by, selection } = look.elements;
  byId("of").hidden = !OF_SELECTION.includes(shade_by.value);
  for (const option of selection.options) option.hidden = option.disabled = !option.dataset.shades.split(" ").includes(shade_by.value);
  if (selection.selectedOptions[0]?.disabled !== false) selection.value = [...selection.options].find((option) => !option.disabled)?.value ?? "";
}

// ---- controls

look.addEventListener("change", (event) => {
  const { by, shade_by, selection } = look.elements, of = OF_SELECTION.includes(shade_by.value);
  offer();
  const moved = event.target === by;
  set({ by: by.value === by.options[0].value ? null : by.value, shade_by: shade_by.value === "source" ? null : shade_by.value,
        selection: of ? selection.value : null, hide: [], ...(moved ? { lasso: null, view: null } : {}) });
  if (moved) plane.view = { x: 0, y: 0, zoom: 1 };
  load(moved ? undefined : ["shade"]);
});
narrow.addEventListener("submit", (event) => {
  event.preventDefault();
  waits = false;
  const given = new FormData(narrow);
  set(Object.fromEntries(FILTERS.map((name) => [name, given.getAll(name).map((one) => one.trim())])));
  load(["passing"]);
});
byId("clear").addEventListener("click", () => {
  narrow.reset();
  waits = false;
  set(Object.fromEntries(FILTERS.map((name) => [name, null])));
  load(["passing"]);
});
byId("filters").addEventListener("toggle", fillSources);

async function fillSources() {
  const field = narrow.elements.source;
  if (field.options.length || !byId("filters").open) return;
  const counted = await (await told(await fetch(`/map/sources?${query(["by"])}`))).json();
  field.replaceChildren(...Object.entries(counted).map(([name, n]) => new Option(`${name} (${n.toLocaleString("en")})`, name)));
  const wanted = url.getAll("source");
  for (const option of field.options) option.selected = wanted.includes(option.value);
}

byId("save").addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = byId("save").elements.name.value, view = new URLSearchParams(url);
  view.delete("view");
  try {
    problem("");
    const answer = await told(await fetch("/map/selection", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ name, ids: shownIds(0, Infinity), view: view.toString() }),
    }));
    const made = await answer.json(), link = document.createElement("a"), code = document.createElement("code");
    link.href = `/selections/${encodeURIComponent(made.version)}`;
    link.textContent = made.version;
    code.textContent = `gradsift export ${made.version} FOLDER`;
    byId("saved").replaceChildren("Saved as ", link, `, ${made.examples.toLocaleString("en")} examples. `, code);
    byId("saved").hidden = false;
    for (const field of [look.elements.selection, narrow.elements.selected_in]) {
      if (![...field.options].some((one) => one.value === made.version)) {
        const option = new Option(made.version, made.version);
        option.dataset.shades = "selected";
        field.append(option);
      }
    }
  } catch (error) {
    problem(error.message);
  }
});
for (const [id, by] of [["before", -1], ["after", 1]]) {
  byId(id).addEventListener("click", () => {
    page += by;
    list();
  });
}

// ---- pointer and keys

const pointers = new Map();
let drags = false, moved = 0, apart = 0;
const lassoMode = () => byId("lasso").getAttribute("aria-pressed") === "true";

function setLassoMode(on) {
  byId("lasso").setAttribute("aria-pressed", String(on));
  stage.classList.toggle("draws", on);
}

const at = (event) => {
  const box = plane.canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
const middle = () => {
  const box = plane.canvas.getBoundingClientRect();
  return [box.width / 2, box.height / 2];
};

plane.canvas.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  plane.canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, at(event));
  [drags, moved, byKeys] = [true, 0, false];
  drawing = pointers.size === 1 && (event.shiftKey || lassoMode()) ? [at(event)] : null;
});
plane.canvas.addEventListener("pointermove", (event) => {
  const here = at(event), before = pointers.get(event.pointerId);
  if (!before) {
    if (map) hover(plane.nearest(...here, shown, REACH), ...here);
    return;
  }
  pointers.set(event.pointerId, here);
  moved += Math.abs(here[0] - before[0]) + Math.abs(here[1] - before[1]);
  if (pointers.size === 2) {
    const [a, b] = [...pointers.values()], wide = Math.hypot(a[0] - b[0], a[1] - b[1]);
    if (apart) plane.zoomAt((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, wide / apart);
    apart = wide;
    plane.panBy((here[0] - before[0]) / 2, (here[1] - before[1]) / 2);
  } else if (drawing) {
    drawing.push(here);
    above();
    return;
  } else plane.panBy(here[0] - before[0], here[1] - before[1]);
  hover(-1);
  keepView();
  redraw();
});
const lift = (event) => {
  if (!pointers.delete(event.pointerId)) return;
  apart = 0;
  if (drawing) {
    const line = drawing;
    drawing = null;
    setLassoMode(false);
    if (line.length > 4 && moved > 20) endLasso(line);
    else above();
  } else if (drags && moved < 4 && event.type === "pointerup") {
    const k = plane.nearest(...at(event), shown, REACH);
    if (k >= 0 && ids) go(k, event.ctrlKey || event.metaKey);
  }
  drags = pointers.size > 0;
};
plane.canvas.addEventListener("pointerup", lift);
plane.canvas.addEventListener("pointercancel", lift);
plane.canvas.addEventListener("pointerleave", () => hover(-1));
plane.canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  plane.zoomAt(...at(event), Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015) * (event.ctrlKey ? 4 : 1)));
  keepView();
  redraw();
}, { passive: false });

function endLasso(line) { // at most 80 corners, in the map's own units
  const step = Math.ceil(line.length / 80);
  const corners = line.filter((_, k) => k % step === 0).flatMap(([x, y]) => plane.toMap(x, y));
  set({ lasso: corners.map((one) => Number(one.toPrecision(4))).join() });
  mark();
}

function clearLasso() {
  set({ lasso: null });
  mark();
}

function go(k, aside) {
  const path = `/row/${ids.at(k)}`;
  if (aside) open(path);
  else location.assign(path);
}

function zoom(factor) {
  plane.zoomAt(...middle(), factor);
  keepView();
  redraw();
}

function all() {
  plane.view = { x: 0, y: 0, zoom: 1 };
  keepView();
  redraw();
}

const KEYS = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
plane.canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !map) return;
  const { key } = event;
  if (KEYS[key]) plane.panBy(...KEYS[key]);
  else if (key === "+" || key === "=") zoom(1.3);
  else if (key === "-") zoom(1 / 1.3);
  else if (key === "0") all();
  else if (key === "l") return setLassoMode(!lassoMode());
  else if (key === "Escape") { setLassoMode(false); return lasso && clearLasso(); }
  else if (key === "Enter") { if (hovered >= 0 && ids) go(hovered); return; }
  else return;
  event.preventDefault();
  byKeys = true;
  keepView();
  redraw();
  hover(plane.nearest(...middle(), shown, 60), ...middle());
});
byId("lasso").addEventListener("click", () => (lasso ? clearLasso() : setLassoMode(!lassoMode())));
byId("closer").addEventListener("click", () => zoom(1.5));
byId("farther").addEventListener("click", () => zoom(1 / 1.5));
byId("whole").addEventListener("click", all);

new ResizeObserver(redraw).observe(plane.canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
addEventListener("popstate", () => {
  url = new URLSearchParams(location.search);
  readUrl();
  load();
});
readUrl();
load();
fillSources();
