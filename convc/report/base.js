// What all parts of the page use: the record, elements, numbers for people, the tip,
// and what is pointed at and chosen. Text goes into the page as text, never as markup.

const R = JSON.parse(document.getElementById("record").textContent);
const KERNEL_OF_NODE = new Map(R.kernels.map((k, i) => [k.node, i]));
const MEASURED = R.kernels.some((k) => k.measured !== null);
const TOTAL_SECONDS = R.kernels.reduce((sum, k) => sum + secondsOf(k), 0);

const byId = (id) => document.getElementById(id);

// An element with a class, text or children, and attributes.
function el(tag, cls, inside, attributes) {
  const element = document.createElement(tag);
  return dress(element, cls, inside, attributes);
}

function svg(tag, cls, inside, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return dress(element, cls, inside, attributes);
}

function dress(element, cls, inside, attributes) {
  if (cls) element.setAttribute("class", cls);
  if (Array.isArray(inside)) element.append(...inside);
  else if (inside !== undefined && inside !== null) element.textContent = inside;
  for (const [name, value] of Object.entries(attributes || {})) {
    element.setAttribute(name, value);
  }
  return element;
}

// ---- numbers for people

function scaled(value, step, units, digits = 3) {
  let unit = 0;
  while (Math.abs(value) >= step * 0.9995 && unit < units.length - 1) {
    value /= step;
    unit += 1;
  }
  const text = unit === 0 ? String(Math.round(value)) : value.toPrecision(digits);
  const plain = text.includes("e") ? String(Math.round(value)) : text;
  return units[unit] ? `${plain} ${units[unit]}` : plain;
}

const bytesText = (n) => scaled(n, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
const flopsText = (n) => scaled(n, 1000, ["", "k", "M", "G", "T", "P"]);

function secondsText(s) {
  if (s === null || s === undefined) return "–";
  if (s >= 1) return `${s.toPrecision(3)} s`;
  if (s >= 1e-3) return `${(s * 1e3).toPrecision(3)} ms`;
  return `${Math.max(s * 1e6, 0.1).toPrecision(s < 1e-5 ? 2 : 3)} µs`;
}

const percent = (part) =>
  part > 0 && part < 0.0005 ? "< 0.1 %" : `${(100 * part).toFixed(part < 0.0995 ? 1 : 0)} %`;

function secondsOf(kernel) {
  if (kernel.measured !== null) return kernel.measured;
  return kernel.predicted ?? 0;
}

const shareOf = (kernel) => (TOTAL_SECONDS ? secondsOf(kernel) / TOTAL_SECONDS : 0);
// The schedule, without the word that is the same for all.
const howText = (kernel) => (R.nodes[kernel.node].schedule || "").replace("algorithm=", "");
const titleOf = (kernel) => R.nodes[kernel.node].title;

// What a kernel takes of a step, and what was predicted.
function timesText(kernel) {
  const times = [];
  if (kernel.measured !== null) times.push(`${secondsText(kernel.measured)}, ${percent(shareOf(kernel))} of a step`);
  if (kernel.predicted) times.push(`${secondsText(kernel.predicted)} predicted`);
  return times.join("  ·  ");
}

// How wide a label of a picture is.
const ruler = document.createElement("canvas").getContext("2d");
function labelWidth(text) {
  ruler.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(text).width;
}

// ---- layers and lines

// Neighbouring layers lie far apart on the colour wheel: steps of the golden angle.
const hueOf = (layer) => Math.round(((layer ?? 0) * 137.508 + 250) % 360);

function tint(element, layer) {
  if (layer === null || layer === undefined) element.classList.add("plain");
  else element.style.setProperty("--hue", hueOf(layer));
  return element;
}

// The lane of a kernel: forward, backward or update.
function laneOf(kernel) {
  const last = R.stages.at(-1);
  return last.lanes[last.nodes.indexOf(R.kernels[kernel].node)];
}

function lineText(file, line) {
  const row = R.files[file].lines.find(([number]) => number === line);
  return row ? row[1].trim() : "";
}

// The lines that locations name, each once: [file, line].
function linesOf(locs) {
  const seen = new Map();
  for (const loc of locs) {
    const [file, line] = R.locs[loc];
    seen.set(`${file}:${line}`, [file, line]);
  }
  return [...seen.values()];
}

// ---- the tip beside what is pointed at

// rows: [class, text] each; at: the element it belongs to, or a point.
// Above it, where there is room: what is like it lies beside it or below.
function showTip(rows, at) {
  const tip = byId("tip");
  tip.replaceChildren(...rows.filter((r) => r && r[1]).map(([cls, text]) => el("div", cls, text)));
  tip.hidden = false;
  const box = at.getBoundingClientRect ? at.getBoundingClientRect() : at;
  const own = tip.getBoundingClientRect();
  const above = box.top - own.height - 6;
  const top = above > 4 ? above : Math.min(box.bottom + 6, innerHeight - own.height - 4);
  const left = Math.min(box.left, innerWidth - own.width - 8);
  tip.style.top = `${top}px`;
  tip.style.left = `${Math.max(4, left)}px`;
}

function hideTip() {
  byId("tip").hidden = true;
}

// The lines of the user's code behind locations, for a tip.
function lineRows(locs, most = 4) {
  const lines = linesOf(locs);
  const rows = lines.slice(0, most).flatMap(([file, line]) => [
    ["where", `${R.files[file].name}:${line}`],
    ["quote", lineText(file, line)],
  ]);
  if (lines.length > most) rows.push(["where", `and ${lines.length - most} more lines`]);
  return rows;
}

// ---- what is pointed at and what is chosen

// Parts of the page listen: pointing is passing, choosing stays.
const listeners = { point: [], choose: [], stages: [], resize: [] };
const chosen = { kernel: null };

function on(what, listener) {
  listeners[what].push(listener);
}

function tell(what, ...details) {
  for (const listener of listeners[what]) listener(...details);
}

// thing: {layer, locs} or null.
function point(thing) {
  if (!thing) hideTip();
  tell("point", thing);
}

// Choose a kernel by its number; ``locs`` are the lines it was asked for by, if any.
function choose(kernel, locs) {
  chosen.kernel = kernel;
  tell("choose", kernel, locs);
}

// Pointing with the mouse or the focus does the same.
function pointable(element, thing, rows) {
  const enter = () => {
    showTip(rows(), element);
    tell("point", thing);
  };
  element.addEventListener("pointerenter", enter);
  element.addEventListener("focus", enter);
  element.addEventListener("pointerleave", () => point(null));
  element.addEventListener("blur", () => point(null));
  return element;
}

// Put a drawing into its place, with one stop for the tab key: up and down go from one
// item to the next, left and right to the nearest on that side. An item that has the
// focus leaves it to the one that is drawn in its turn.
function hang(place, drawing, selector) {
  const all = () => [...place.querySelectorAll(selector)];
  const held = all().indexOf(document.activeElement);
  place.replaceChildren(drawing);
  const items = all();
  const first = items[Math.max(0, Math.min(held, items.length - 1))];
  items.forEach((item) => item.setAttribute("tabindex", item === first ? "0" : "-1"));
  if (held >= 0 && first) first.focus({ preventScroll: true });
  place.onkeydown = (event) => {
    const from = document.activeElement;
    const index = all().indexOf(from);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const side = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (index < 0 || !(step || side)) return;
    event.preventDefault();
    const next = step ? all()[index + step] : nearest(from, all(), side);
    if (!next) return;
    from.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  };
}

// The item to the right (1) or left (-1) of another that is least far, above all in height.
function nearest(from, items, side) {
  const middle = (item) => {
    const box = item.getBoundingClientRect();
    return [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
  };
  const [x, y] = middle(from);
  let best = null;
  let least = Infinity;
  for (const item of items) {
    const [ix, iy] = middle(item);
    const far = (ix - x) * side + 3 * Math.abs(iy - y);
    if ((ix - x) * side > 4 && far < least) [best, least] = [item, far];
  }
  return best;
}

// Enter and space press what is no button by birth.
function pressable(element, action) {
  element.addEventListener("click", action);
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    action(event);
  });
  return element;
}
