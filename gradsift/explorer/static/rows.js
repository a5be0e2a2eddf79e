// Rows beside the map: a page of them as a list, and the one that the pointer is at.

import { rowsOf } from "./points.js";

const PAGE = 20;
const byId = (id) => document.getElementById(id);
const element = (kind, name, text) => {
  const made = document.createElement(kind);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
};

function about(row, linked) {
  const line = element("p", "about"), id = element(linked ? "a" : "span", "id", row.id.slice(0, 8));
  if (linked) id.href = `/row/${row.id}`;
  line.append(id, element("bdi", "source", row.source), element("span", "", `${row.chars.toLocaleString("en")} characters`));
  return line;
}

function words(row) {
  return row.turns.slice(0, 2).map((turn) => {
    const line = element("p"), said = element("bdi", "", turn.words);
    said.dir = "auto";
    line.append(element("span", "role", turn.role), said);
    return line;
  });
}

let asked = 0;

// List a page of the rows that are shown; `idsOf(from, to)` names them.
export async function listRows(count, page, idsOf, problem) {
  const mine = ++asked, first = page * PAGE, last = Math.min(count, first + PAGE);
  byId("pager").hidden = count <= PAGE;
  byId("before").disabled = first === 0;
  byId("after").disabled = last >= count;
  byId("rows").setAttribute("aria-busy", "true");
  byId("where").textContent = `${(first + 1).toLocaleString("en")} to ${last.toLocaleString("en")}`;
  try {
    const rows = count ? await rowsOf(idsOf(first, last)) : [];
    if (mine !== asked) return; // another list was asked for meanwhile
    byId("rows").replaceChildren(...rows.filter(Boolean).map((row) => {
      const item = element("li");
      item.append(about(row, true), ...words(row));
      return item;
    }));
  } catch (error) {
    if (mine === asked) problem(error.message);
  } finally {
    if (mine === asked) byId("rows").removeAttribute("aria-busy");
  }
}

let tipped = null, later = 0;

// Show the first words of a row beside a place on the map; no id hides them.
export function showTip(id, x, y, problem) {
  const tip = byId("tip");
  if (id === null) {
    tipped = null;
    tip.hidden = true;
    return;
  }
  if (id !== tipped) {
    tipped = id;
    tip.hidden = true;
    clearTimeout(later);
    later = setTimeout(async () => { // a pointer that passes asks for nothing
      try {
        const [row] = await rowsOf([id]);
        if (tipped !== id || !row) return;
        tip.replaceChildren(about(row, false), ...words(row));
        tip.hidden = false;
        place(tip, x, y);
      } catch (error) {
        problem(error.message);
      }
    }, 60);
  } else if (!tip.hidden) place(tip, x, y);
}

function place(tip, x, y) {
  const room = tip.parentElement.getBoundingClientRect(), box = tip.getBoundingClientRect();
  const left = x + 16 + box.width > room.width ? x - 16 - box.width : x + 16;
  const top = y + 16 + box.height > room.height ? y - 16 - box.height : y + 16;
  tip.style.transform = `translate(${Math.max(8, left)}px, ${Math.max(8, top)}px)`;
}
