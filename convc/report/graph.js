// The graph at two stages side by side: which stages, drawing them, and what is said
// of a node that is pointed at.

const LAST = R.stages.length - 1;
const view = { before: 0, after: lastUnplanned(), zoom: 1, shown: null };
const sideCache = new Map();
const PAPER = 980; // the width of a sheet of paper on its side
const READABLE = 0.7; // the least that "fit" makes of a graph

function lastUnplanned() {
  for (let i = LAST; i > 0; i--) if (R.stages[i].stage !== "planned") return i;
  return LAST;
}

const sameNumbers = (a, b) => a.length === b.length && a.every((n, i) => n === b[i]);

// Whether a pass left another program than it was given.
function changes(index) {
  if (index === 0) return true;
  const [old, now] = [R.stages[index - 1], R.stages[index]];
  return (
    old.stage !== now.stage ||
    !sameNumbers(old.nodes, now.nodes) ||
    !sameNumbers(old.parameters, now.parameters) ||
    JSON.stringify(old.outputs) !== JSON.stringify(now.outputs)
  );
}

// The stages that can be chosen: all, or those that differ from the one before.
function offered() {
  const all = R.stages.map((_, i) => i);
  if (!byId("changed").checked) return all;
  return all.filter((i) => changes(i) || i === view.before || i === view.after);
}

function setUpGraph() {
  for (const name of ["before", "after"]) {
    byId(name).addEventListener("change", (event) => {
      view[name] = Number(event.target.value);
      drawGraph();
    });
  }
  byId("changed").addEventListener("change", drawGraph);
  byId("previous").addEventListener("click", () => stepPass(-1));
  byId("next").addEventListener("click", () => stepPass(1));
  byId("whole").addEventListener("click", () => showStages(0, lastUnplanned()));
  byId("smaller").addEventListener("click", () => zoomTo(view.zoom / 1.15));
  byId("larger").addEventListener("click", () => zoomTo(view.zoom * 1.15));
  byId("fit").addEventListener("click", fitGraph);
  on("point", markPointed);
  on("choose", (kernel) => {
    markChosen(kernel);
    revealChosen();
  });
}

function showStages(before, after) {
  [view.before, view.after] = [before, after];
  drawGraph();
}

// One pass alone: the stage before it and the stage behind it.
function stepPass(direction) {
  const list = offered();
  const single = list.indexOf(view.after) === list.indexOf(view.before) + 1;
  let index = list.indexOf(single ? view.after : direction > 0 ? view.before : view.after);
  index += single || direction > 0 ? direction : 0;
  index = Math.max(1, Math.min(list.length - 1, index));
  showStages(list[index - 1], list[index]);
}

// What is drawn smaller gets wider lanes: the graph fills the width at any size.
function zoomTo(zoom) {
  view.zoom = Math.max(0.4, Math.min(2, zoom));
  drawGraph();
}

function fitGraph() {
  const canvas = byId("canvas");
  const height = parseFloat(canvas.firstElementChild.style.height);
  zoomTo(Math.max(READABLE, Math.min(1, canvas.clientHeight / height)));
}

function fillBar() {
  for (const name of ["before", "after"]) {
    const choices = offered().map((i) => {
      const stage = R.stages[i];
      const option = el("option", "", `${i}  ${stage.name}`, { value: i });
      option.selected = i === view[name];
      return option;
    });
    byId(name).replaceChildren(...choices);
  }
  const [old, now] = [R.stages[view.before], R.stages[view.after]];
  byId("between").textContent = `${old.nodes.length} → ${now.nodes.length} nodes`;
  const list = offered();
  byId("previous").disabled = list.indexOf(view.after) <= 1 && view.before === 0;
  byId("next").disabled = view.after === LAST && list.indexOf(view.before) >= list.length - 2;
  fillNotes();
}

// What the passes between the two stages did, and what they left undone and why.
function fillNotes() {
  const [from, to] = [Math.min(view.before, view.after), Math.max(view.before, view.after)];
  const passes = R.stages.slice(from + 1, to + 1);
  const single = passes.length === 1;
  const done = passes.filter((s) => s.changes.length).flatMap((stage) => (single ? eachChange(stage) : [countChanges(stage)]));
  const count = passes.reduce((sum, stage) => sum + stage.changes.length, 0);
  fillNote("changes", `${count} change${count === 1 ? "" : "s"}`, done);
  const refused = passes.flatMap((stage) =>
    stage.refusals.map(([subject, reason, locs]) => {
      const where = linesOf(locs).map(([f, l]) => `${R.files[f].name}:${l}`).join(", ");
      return el("li", "", [el("b", "", stage.name), ` ${subject}: ${reason} `, el("span", "where", where)]);
    }),
  );
  fillNote("refusals", `${refused.length} refused`, refused);
}

const eachChange = (stage) =>
  stage.changes.map(([kind, subject, old, now]) => {
    const fresh = now !== subject && now ? `→ ${now}` : "";
    const said = old && now ? `${old} → ${now}` : fresh || (old && old !== subject ? `was ${old}` : "");
    return el("li", "", [el("b", "", kind), ` ${subject} `, el("span", "where", said)]);
  });

function countChanges(stage) {
  const counts = new Map();
  for (const [kind] of stage.changes) counts.set(kind, (counts.get(kind) || 0) + 1);
  const text = [...counts].map(([kind, n]) => `${n} ${kind}`).join(", ");
  return el("li", "", [el("b", "", stage.name), ` ${text} `, el("span", "where", secondsText(stage.seconds))]);
}

function fillNote(id, title, rows) {
  const box = byId(id);
  box.hidden = !rows.length;
  if (!rows.length) box.open = false;
  box.querySelector("summary").textContent = title;
  box.querySelector("ul").replaceChildren(...rows);
}

// ---- drawing

function drawGraph() {
  fillBar();
  const canvas = byId("canvas");
  const sides = [view.before, view.after].map((i) => {
    if (!sideCache.has(i)) sideCache.set(i, sideOf(R.stages[i]));
    return sideCache.get(i);
  });
  const pair = sides[0] === sides[1] ? [sideOf(R.stages[view.before]), sides[1]] : sides;
  const plan = layOut(pair, Math.floor((canvas.clientWidth - 2) / view.zoom), view.zoom);
  const drawn = el("div", "drawn");
  drawn.style.width = `${plan.width}px`;
  drawn.style.height = `${plan.height}px`;
  drawn.style.zoom = view.zoom;
  const common = new Set(pair[0].stage.nodes.filter((n) => pair[1].stage.nodes.includes(n)));
  const telling = pair.some((side) => side.stage.nodes.some((n) => !common.has(n)));
  drawn.append(...drawBands(plan, pair), drawHeadings(pair, telling ? common.size : null));
  for (const [index, side] of pair.entries()) {
    drawn.append(drawSide(side, index ? "after" : "before", telling ? common : null, plan));
  }
  const kept = canvas.scrollTop;
  hang(canvas, drawn, ".node, .chip");
  canvas.scrollTop = kept;
  document.body.style.setProperty("--print-zoom", Math.min(1, PAPER / plan.width));
  markChosen(chosen.kernel);
  revealChosen();
  tell("stages");
}

function drawBands(plan, sides) {
  return plan.bands.order.map((band) => {
    const used = sides.some(
      (side) => side.chips.some((c) => c.layer === band) || side.boxes.some((b) => b.leaves.some((l) => l.layer === band)),
    );
    const stripe = tint(el("div", "band", [el("span", "", used ? R.layers[band] || "·" : "")]), band);
    stripe.style.top = `${plan.bands.tops.get(band)}px`;
    stripe.style.height = `${plan.bands.heights.get(band) + 2 * BAND}px`;
    return stripe;
  });
}

function drawSide(side, name, common, plan) {
  const group = el("div", `side ${name}`, null, {
    role: "group",
    "aria-label": `${name}: ${side.stage.name}`,
    "data-stage": side.stage.name,
  });
  const lines = svg("svg", "edges", null, { width: plan.width, height: plan.height, "aria-hidden": "true" });
  lines.append(arrowHead(name));
  if (name === "after") lines.append(svg("path", "divide", null, { d: `M${side.x - 14} 0V${plan.height}` }));
  group.append(lines);
  for (const edge of side.edges) drawEdge(lines, side, edge, name);
  for (const chip of side.chips) group.append(drawChip(chip));
  for (const box of side.boxes) group.append(drawBox(side, box, common && common.has(box.number)));
  return group;
}

// The names of the stages and of their lanes, which stay in sight. ``same`` is how many
// nodes fade because both sides have them, null if none do.
function drawHeadings(sides, same) {
  const arrows = { forward: "forward ↓", backward: "backward ↑", update: "update" };
  const put = (cls, inside, x, w) => {
    const heading = el("div", `heading ${cls}`, inside);
    heading.style.left = `${x}px`;
    heading.style.width = `${w}px`;
    return heading;
  };
  const left = same ? `, ${same} of them the same on both sides` : "";
  const all = sides.flatMap((side) => [
    put("stage", [el("b", "", side.stage.name), `  ${side.stage.nodes.length} nodes${left}`], side.x, side.right - side.x - 30),
    put("lane", "parameters", side.x, side.chipWidth),
    ...[...side.laneX].map(([lane, x]) => put("lane", arrows[lane], x, side.laneWidth)),
  ]);
  return el("div", "headings", all);
}

function arrowHead(name) {
  const tip = svg("path", "arrow", null, { d: "M0 0L5 2.5L0 5Z" });
  const marker = { id: `arrow-${name}`, markerWidth: 5, markerHeight: 5, refX: 4, refY: 2.5, orient: "auto", markerUnits: "userSpaceOnUse" };
  return svg("defs", "", [svg("marker", "", [tip], marker)]);
}

function setBox(element, box) {
  element.style.left = `${box.x}px`;
  element.style.top = `${box.y}px`;
  element.style.width = `${box.w}px`;
  element.style.height = `${box.h}px`;
  return element;
}

function drawBox(side, box, unchanged) {
  const fused = Boolean(box.node.body);
  const outputs = new Map(side.stage.outputs.map(([name, value]) => [value, name]));
  const made = box.node.gives.map(([name]) => outputs.get(name)).filter(Boolean);
  const cls = ["box", fused ? "kernel" : "alone", unchanged ? "same" : "", isView(side, box) ? "view-op" : ""];
  const element = setBox(el("div", cls.join(" ")), box);
  element.dataset.number = box.number;
  tint(element, box.node.layer);
  if (fused) element.append(drawTitle(side, box));
  for (const leaf of box.leaves) element.append(drawOp(side, box, leaf, made));
  return element;
}

const isView = (side, box) => !box.node.body && side.stage.stage !== "tensor" && side.stage.stage !== "fusing";

function drawTitle(side, box) {
  const kernel = kernelOf(box, null);
  const share = kernel !== null && R.kernels[kernel].node === box.number ? shareOf(R.kernels[kernel]) : 0;
  const parts = [el("span", "name", box.node.title)];
  if (share >= 0.005) parts.push(el("span", "share", percent(share)));
  const title = el("div", "node title", parts, { role: "button", "aria-label": `kernel ${box.node.title}` });
  title.style.top = `${box.leaves.reduce((y, l) => Math.min(y, l.top), Infinity) - box.y}px`;
  return wire(title, side, box, null);
}

function drawOp(side, box, leaf, made) {
  const op = leaf.op;
  const fused = Boolean(box.node.body);
  const last = op.gives.at(-1);
  const said = made.length && (!fused || leaf === side.producers.get(box.node.gives[0][0])) ? `→ ${made.join(", ")}` : null;
  const shape = el("span", said ? "out" : "shape", said || shapeText(op.gives[0] ? op.gives[0][1] : ""));
  const element = el("div", "node op", [el("span", "name", op.op), shape], {
    role: "button",
    "aria-label": `${op.op}, ${last ? last[1] : ""}`,
  });
  element.style.top = `${leaf.y - box.y}px`;
  element.style.height = `${leaf.h}px`;
  tint(element, leaf.layer);
  return wire(element, side, box, leaf);
}

// f32[N,28,28,64]{1,2,3,0} is N·28·28·64 where there is little room.
const shapeText = (type) => (type.match(/\[(.*?)\]/)?.[1] ?? "").replaceAll(",", "·");

function wire(element, side, box, leaf) {
  const thing = leaf ? leaf.op : box.node;
  const own = thing.locs.length ? thing.locs : leaf ? box.node.locs : [];
  const layer = leaf ? leaf.layer : box.node.layer;
  element.dataset.layer = layer ?? "";
  element.dataset.became = leaf && leaf.became !== null ? leaf.became : "";
  const names = new Set(box.node.gives.map(([n]) => n));
  const pointed = { layer, locs: own, names, box: element, became: element.dataset.became };
  pointable(element, pointed, () => nodeRows(box, leaf, own));
  return pressable(element, () => {
    const kernel = kernelOf(box, leaf);
    if (kernel === null) showLines(own);
    else choose(kernel, leaf ? own : undefined);
  });
}

function nodeRows(box, leaf, locs) {
  const thing = leaf ? leaf.op : box.node;
  const types = thing.gives.slice(0, 3).map(([n, t]) => `%${n} : ${t}`);
  if (thing.gives.length > 3) types.push(`and ${thing.gives.length - 3} more results`);
  const layer = leaf ? leaf.layer : thing.layer;
  const kernel = leaf || !box.node.body ? null : kernelOf(box, null);
  return [
    ["tip-title", (leaf ? "" : "kernel ") + thing.title + (layer !== null && R.layers[layer] ? `  in ${R.layers[layer]}` : "")],
    ...lineRows(locs),
    ...types.map((text) => ["type", text]),
    ["attrs", thing.attrs],
    ["attrs", thing.schedule ? `schedule ${thing.schedule}` : ""],
    ["", kernel === null ? "" : timesText(R.kernels[kernel])],
  ];
}

function drawChip(chip) {
  const element = setBox(el("div", `chip ${chip.kind}`, chip.title, { tabindex: "0", "aria-label": chip.ir }), chip);
  tint(element, chip.layer);
  element.dataset.layer = chip.layer ?? "";
  const pointed = { layer: chip.layer, locs: chip.locs, names: new Set(chip.names), box: element };
  const rows = () => {
    const lines = chip.ir.split("\n").map((line) => ["type", line.split("   @")[0]]);
    return [["tip-title", `${chip.kind} ${chip.names.length > 1 ? "" : chip.names[0]}`], ...lineRows(chip.locs), ...lines];
  };
  pointable(element, pointed, rows);
  return element;
}

function drawEdge(lines, side, edge, name) {
  const chip = edge.from ? null : side.chips.find((c) => c.names.includes(edge.name));
  const [from, to] = [edge.from || chip, edge.to];
  if (!from || from.box === to.box) return;
  const end = (at) => ({ ...at, boxTop: at.box ? at.box.y : at.y, boxBottom: at.box ? at.box.y + at.box.h : at.y + at.h });
  const same = Boolean(edge.from) && edge.from.box.lane === to.box.lane;
  const lane = same ? side.lanes.get(to.box.lane) : [];
  const boxes = [...new Set(lane.map((leaf) => leaf.box))];
  const adjacent = same && Math.abs(boxes.indexOf(from.box) - boxes.indexOf(to.box)) === 1;
  // Constants, and parameters that are read far away, show their edges when asked.
  const near = edge.from ? edge.from.op.op !== "constant" : (to.box.lane === "forward" && chip.kind !== "state");
  const d = pathOf(end(from), end(to), same, adjacent);
  const path = svg("path", near ? "edge" : "edge far", null, { d, "marker-end": `url(#arrow-${name})` });
  path.dataset.name = edge.name;
  path.dataset.to = to.box.node.gives[0] ? to.box.node.gives[0][0] : "";
  lines.append(path);
}

// ---- from a node to the kernel that it became

const nameOf = (node) => (node.gives[0] ? node.gives[0][0] : "");

// The number of the kernel that runs an op, or most ops of a box; null if none does.
function kernelOf(box, leaf) {
  if (KERNEL_OF_NODE.has(box.number)) return KERNEL_OF_NODE.get(box.number);
  const counts = new Map();
  for (const { became } of leaf ? [leaf] : box.leaves) {
    const kernel = became === null ? null : R.runs[became];
    if (kernel !== null) counts.set(kernel, (counts.get(kernel) || 0) + 1);
  }
  const ranked = [...counts].sort(([, a], [, b]) => b - a);
  return ranked.length ? ranked[0][0] : null;
}

// ---- marking

function markPointed(thing) {
  const canvas = byId("canvas");
  canvas.classList.toggle("pointing", Boolean(thing && thing.layer !== null && thing.layer !== undefined));
  for (const item of canvas.querySelectorAll(".kin, .twin")) item.classList.remove("kin", "twin");
  for (const item of canvas.querySelectorAll(".edge.lit")) item.classList.remove("lit");
  if (!thing) return;
  for (const item of canvas.querySelectorAll("[data-layer]")) {
    if (thing.layer !== null && item.dataset.layer === String(thing.layer)) item.classList.add("kin");
  }
  for (const item of thing.became ? canvas.querySelectorAll(`[data-became="${thing.became}"]`) : []) {
    item.classList.add("twin");
  }
  const side = thing.box && thing.box.closest(".side");
  for (const edge of side ? side.querySelectorAll(".edge") : []) {
    if (thing.names.has(edge.dataset.name) || thing.names.has(edge.dataset.to)) edge.classList.add("lit");
  }
}

function markChosen(kernel) {
  const canvas = byId("canvas");
  for (const item of canvas.querySelectorAll(".box.chosen")) item.classList.remove("chosen");
  if (kernel === null) return;
  const number = R.kernels[kernel].node;
  const name = nameOf(R.nodes[number]);
  for (const item of canvas.querySelectorAll(".box.kernel")) {
    const own = Number(item.dataset.number);
    if (own === number || nameOf(R.nodes[own]) === name) item.classList.add("chosen");
  }
}

// Bring the box of the chosen kernel into sight, once, unless one of its is.
function revealChosen() {
  const canvas = byId("canvas");
  if (byId("graph").hidden || view.shown === chosen.kernel) return;
  view.shown = chosen.kernel;
  const frame = canvas.getBoundingClientRect();
  const boxes = [...canvas.querySelectorAll(".box.chosen")].map((box) => box.getBoundingClientRect());
  const seen = boxes.some((box) => box.bottom > frame.top + HEAD + 20 && box.top < frame.bottom - 20);
  if (boxes.length && !seen) canvas.scrollTop += boxes.at(-1).top - frame.top - HEAD - BAND;
}
