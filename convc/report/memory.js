// The arena: bytes upwards, launches to the right, one rectangle for each buffer; above
// it how many bytes must live at each launch. Redrawn for the room there is.

const KINDS = ["parameter", "state", "input", "value", "scratch", "view", "update"];
const KIND_SAYS = {
  parameter: "a parameter",
  state: "what the optimizer keeps",
  input: "an input",
  value: "a value",
  scratch: "scratch of one kernel",
  view: "another name for a value",
  update: "a parameter's next value, in its place",
};

function setUpMemory() {
  const kinds = KINDS.filter((kind) => R.memory.buffers.some((b) => b.kind === kind));
  const key = kinds.map((kind) => el("li", "", [el("i", `swatch kind-${kind}`), kind], { title: KIND_SAYS[kind] }));
  byId("memory-key").replaceChildren(...key);
  byId("stretch").addEventListener("change", drawMemory);
  const above = R.memory.bytes / Math.max(1, R.memory.bound) - 1;
  byId("memory-says").textContent =
    `one arena of ${bytesText(R.memory.bytes)}, ` +
    (above < 0.0005 ? "no more than must live at once" : `${percent(above)} above the ${bytesText(R.memory.bound)} that must live at once`);
}

// Where a byte of the arena lies, as a part of the height from the bottom. To scale,
// or with room for every buffer: then equal heights for equal ratios, about.
function byteScale(stretched) {
  const total = R.memory.bytes || 1;
  if (!stretched) return (byte) => byte / total;
  const edges = [...new Set([0, total, ...R.memory.buffers.flatMap((b) => [b.offset, b.offset + b.size])])];
  edges.sort((a, b) => a - b);
  const heights = [0];
  edges.slice(1).forEach((edge, i) => heights.push(heights[i] + (edge - edges[i]) ** 0.25));
  const at = new Map(edges.map((edge, i) => [edge, heights[i] / heights.at(-1)]));
  return (byte) => at.get(byte);
}

function drawMemory() {
  const plot = byId("memory-plot");
  const [width, height] = [Math.max(500, plot.clientWidth), Math.max(260, plot.clientHeight)];
  const columns = R.memory.launches.length + 1;
  const area = { left: 74, right: width - 12, top: 84, bottom: height - 34, columns };
  area.x = (launch) => area.left + ((area.right - area.left) * launch) / columns;
  const scale = byteScale(byId("stretch").checked);
  area.y = (byte) => area.bottom - (area.bottom - area.top) * scale(byte);
  const picture = svg("svg", "memory", null, { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Memory over time" });
  picture.append(hatching(), drawLive(area, 14, 70), drawLaunches(area, height), drawArena(area));
  hang(plot, picture, ".buffer");
}

function hatching() {
  const stripes = svg("path", "hatch", null, { d: "M0 6L6 0" });
  const pattern = svg("pattern", "", [stripes], { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse" });
  return svg("defs", "", [pattern]);
}

// The bytes that must live at each launch as steps, and the arena's size above them.
function drawLive(area, top, bottom) {
  const most = Math.max(R.memory.bytes, 1);
  const y = (bytes) => bottom - ((bottom - top) * bytes) / most;
  const steps = R.memory.live.map((bytes, i) => `L${area.x(i)} ${y(bytes)}L${area.x(i + 1)} ${y(bytes)}`);
  const peak = R.memory.live.indexOf(Math.max(...R.memory.live));
  return svg("g", "live", [
    svg("path", "fill", null, { d: `M${area.left} ${bottom}${steps.join("")}L${area.right} ${bottom}Z` }),
    svg("path", "line", null, { d: `M${area.left} ${y(R.memory.live[0])}${steps.join("")}` }),
    svg("path", "peak", null, { d: `M${area.left} ${y(most)}L${area.right} ${y(most)}` }),
    svg("text", "label end", "must live", { x: area.left - 8, y: bottom - 2 }),
    svg("text", "label end", bytesText(R.memory.bytes), { x: area.left - 8, y: y(most) + 4 }),
    svg("circle", "top", null, { cx: (area.x(peak) + area.x(peak + 1)) / 2, cy: y(R.memory.live[peak]), r: 3 }),
  ]);
}

// The names of the launches below, each over its column.
function drawLaunches(area, height) {
  const wide = area.x(1) - area.x(0);
  const every = Math.ceil(58 / wide);
  const group = svg("g", "launches");
  R.memory.launches.forEach((number, i) => {
    const node = R.nodes[number];
    const kernel = KERNEL_OF_NODE.get(number);
    const layer = node.layer;
    const bar = svg("rect", "column", null, { x: area.x(i), y: area.top, width: wide, height: area.bottom - area.top });
    group.append(bar);
    if (i % every) return;
    const name = kernel === undefined ? "(view)" : layer === null ? node.title : R.layers[layer] || node.title;
    const lane = kernel === undefined ? "" : R.stages[LAST].lanes[i];
    const cut = (text) => shortened(text, wide * every - 6);
    const x = area.x(i) + wide / 2;
    const label = svg("g", kernel === undefined ? "launch idle" : "launch", [
      svg("text", "label middle", cut(name), { x, y: height - 19 }),
      svg("text", "label middle faint", cut(lane), { x, y: height - 6 }),
    ]);
    tint(label, layer);
    if (kernel !== undefined) label.addEventListener("click", () => choose(kernel));
    label.append(svg("title", "", node.title));
    group.append(label);
  });
  const end = { x: (area.x(area.columns - 1) + area.right) / 2, y: height - 19 };
  const free = (R.memory.launches.length - 1) % every || every === 1;
  if (free) group.append(svg("text", "label middle", "end", end));
  return group;
}

// As much of a text as there is room for.
function shortened(text, room) {
  if (labelWidth(text) * BOLD <= room) return text;
  let end = text.length - 1;
  while (end > 1 && labelWidth(`${text.slice(0, end)}…`) * BOLD > room) end -= 1;
  return `${text.slice(0, end)}…`;
}
const BOLD = 1.1; // how much wider bold letters are

function drawArena(area) {
  const order = [...R.memory.buffers].sort((a, b) => KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind));
  const rects = order.map((buffer) => {
    const [y1, y2] = [area.y(buffer.offset + buffer.size), area.y(buffer.offset)];
    const [x1, x2] = [area.x(buffer.first), area.x(Math.min(buffer.last + 1, area.columns))];
    const rect = svg("rect", `buffer kind-${buffer.kind}`, null, {
      x: x1 + 0.5,
      y: y1,
      width: Math.max(1, x2 - x1 - 1),
      height: Math.max(0.6, y2 - y1 - (y2 - y1 > 3 ? 1 : 0)),
      role: "img",
      "aria-label": `${buffer.name}, ${bytesText(buffer.size)}`,
    });
    tint(rect, buffer.layer);
    const pointed = { layer: buffer.layer, locs: [], names: new Set([buffer.name]) };
    pointable(rect, pointed, () => bufferRows(buffer));
    return pressable(rect, () => {
      const kernel = KERNEL_OF_NODE.get(R.memory.launches[buffer.first]);
      if (kernel !== undefined && !["parameter", "state", "input"].includes(buffer.kind)) choose(kernel);
    });
  });
  return svg("g", "arena", [...rects, ...drawNames(order, area), ...drawBytes(area)]);
}

// The names of buffers with room for one.
function drawNames(buffers, area) {
  const names = [];
  for (const b of buffers) {
    if (b.kind === "view" || b.kind === "update") continue;
    const [y1, y2] = [area.y(b.offset + b.size), area.y(b.offset)];
    const wide = area.x(Math.min(b.last + 1, area.columns)) - area.x(b.first) - 8;
    const own = b.kind === "scratch" ? b.name.slice(b.name.lastIndexOf("!") + 1) : b.kind === "value" ? `%${b.name}` : b.name;
    const layer = b.kind === "value" && b.layer !== null ? `${R.layers[b.layer]} ` : "";
    const choices = [`${layer}${own} · ${bytesText(b.size)}`, `${layer}${own}`, own];
    const text = choices.find((said) => labelWidth(said) < wide);
    if (y2 - y1 < 13 || !text) continue;
    names.push(svg("text", "label inside", text, { x: area.x(b.first) + 5, y: (y1 + y2) / 2 + 4 }));
  }
  return names;
}

function drawBytes(area) {
  const marks = [0, 0.25, 0.5, 0.75, 1].map((part) => Math.round(R.memory.bytes * part));
  const shown = byId("stretch").checked ? [0, R.memory.bytes] : marks;
  return shown.map((byte) => svg("text", "label end", bytesText(byte), { x: area.left - 8, y: area.y(byte) + 4 }));
}

function bufferRows(buffer) {
  const name = (launch) => {
    const number = R.memory.launches[launch];
    return number === undefined ? "the end" : R.nodes[number].title;
  };
  return [
    ["tip-title", buffer.name],
    ["", `${KIND_SAYS[buffer.kind]}, ${bytesText(buffer.size)}`],
    ["type", buffer.type],
    ["attrs", `bytes ${buffer.offset.toLocaleString("en")} to ${(buffer.offset + buffer.size).toLocaleString("en")}`],
    ["attrs", buffer.first === buffer.last ? `during ${name(buffer.first)}` : `from ${name(buffer.first)} to ${name(buffer.last)}`],
  ];
}
