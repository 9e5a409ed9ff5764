// The roofline with a dot for each kernel, and the table of kernels beside it.

const order = { column: "share", falling: true };

const COLUMNS = [
  { id: "name", title: "kernel", text: titleOf, value: titleOf },
  { id: "how", title: "how", text: howText, value: howText },
  { id: "flops", title: "FLOP", text: (k) => flopsText(k.flops), value: (k) => k.flops },
  { id: "bytes", title: "bytes", text: (k) => bytesText(k.nbytes), value: (k) => k.nbytes },
  { id: "predicted", title: "predicted", text: (k) => secondsText(k.predicted), value: (k) => (k.predicted ?? -1) },
  { id: "measured", title: "measured", text: (k) => secondsText(k.measured), value: (k) => k.measured ?? -1 },
  { id: "share", title: "share", text: (k) => percent(shareOf(k)), value: shareOf },
];

const intensityOf = (kernel) => (kernel.nbytes ? kernel.flops / kernel.nbytes : 0);
const rateOf = (kernel) => (secondsOf(kernel) ? kernel.flops / secondsOf(kernel) : 0);

function setUpKernels() {
  const peaks = R.peaks;
  byId("roofline-says").textContent =
    (MEASURED ? "A dot is a kernel as measured, its ring what was predicted" : "A dot is a kernel as predicted: nothing was measured") +
    "; larger dots take more of a step." +
    (peaks ? "" : " The machine's peaks were not measured.");
  drawTable();
  on("choose", markKernel);
  on("point", pointKernels);
}

// ---- the table

function drawTable() {
  const heads = COLUMNS.map((column) => {
    const button = el("button", "", column.title);
    const own = order.column === column.id;
    const head = el("th", column.id, [button], { scope: "col", "aria-sort": own ? (order.falling ? "descending" : "ascending") : "none" });
    button.addEventListener("click", () => {
      order.falling = own ? !order.falling : !["name", "how"].includes(column.id);
      order.column = column.id;
      drawTable();
    });
    return head;
  });
  byId("table").tHead.replaceChildren(el("tr", "", heads));
  const column = COLUMNS.find((c) => c.id === order.column);
  const ranked = R.kernels.map((kernel, i) => [kernel, i]).sort(([a], [b]) => {
    const [x, y] = [column.value(a), column.value(b)];
    return (x < y ? -1 : x > y ? 1 : 0) * (order.falling ? -1 : 1);
  });
  byId("table").tBodies[0].replaceChildren(...ranked.map(([kernel, i]) => drawRow(kernel, i)));
  byId("table").tFoot.replaceChildren(drawTotal());
  markKernel(chosen.kernel);
}

function drawRow(kernel, index) {
  const cells = COLUMNS.map((column) => {
    const cell = el("td", column.id, column.text(kernel));
    if (column.id === "share") cell.style.setProperty("--share", `${(100 * shareOf(kernel)) / Math.max(...R.kernels.map(shareOf), 1e-9)}%`);
    if (["name", "how"].includes(column.id)) cell.title = column.text(kernel);
    return cell;
  });
  const button = el("button", "", [el("i", "swatch"), el("span", "", titleOf(kernel))]);
  cells[0].replaceChildren(button);
  const row = tint(el("tr", "", cells, { "data-kernel": index }), R.nodes[kernel.node].layer);
  row.addEventListener("click", () => choose(index));
  row.addEventListener("pointerenter", () => tell("point", pointedKernel(kernel)));
  row.addEventListener("pointerleave", () => point(null));
  return row;
}

function drawTotal() {
  const total = (value) => R.kernels.reduce((sum, k) => sum + (value(k) || 0), 0);
  const texts = {
    name: `${R.kernels.length} kernels`,
    flops: flopsText(total((k) => k.flops)),
    bytes: bytesText(total((k) => k.nbytes)),
    predicted: secondsText(total((k) => k.predicted)),
    measured: MEASURED ? secondsText(total((k) => k.measured)) : "–",
  };
  return el("tr", "", COLUMNS.map((column) => el("td", column.id, texts[column.id] || "")));
}

function pointedKernel(kernel) {
  const node = R.nodes[kernel.node];
  return { layer: node.layer, locs: node.locs, names: new Set(node.gives.map(([n]) => n)), kernel };
}

// ---- the roofline

// A logarithmic scale from numbers to pixels that ends at whole powers of ten.
function logScale(values, from, to) {
  const low = Math.floor(Math.log10(Math.min(...values)) - 0.05);
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values)) + 0.05));
  const at = (value) => from + ((to - from) * (Math.log10(value) - low)) / (high - low);
  const decades = Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));
  return { at, decades, low: 10 ** low, high: 10 ** high };
}

function drawRoofline() {
  const plot = byId("roofline");
  const [width, height] = [Math.max(320, plot.clientWidth), Math.max(220, plot.clientHeight)];
  const working = R.kernels.filter((k) => intensityOf(k) > 0 && rateOf(k) > 0);
  const area = { left: 50, right: width - 22, top: 12, bottom: height - 36 };
  const peak = R.peaks ? R.peaks.gemm : null;
  const rates = working.flatMap((k) => [rateOf(k), k.predicted ? k.flops / k.predicted : rateOf(k)]);
  const x = logScale([...working.map(intensityOf), 1], area.left, area.right);
  const y = logScale([...rates, peak || 1e9], area.bottom, area.top);
  const picture = svg("svg", "roofline", null, { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Roofline" });
  picture.append(drawAxes(area, x, y));
  const taken = [{ left: area.left, right: area.left + 60, top: area.top, bottom: area.top + 18 }];
  if (R.peaks) picture.append(drawRoofs(area, x, y, taken));
  const ranked = [...R.kernels].sort((a, b) => shareOf(b) - shareOf(a));
  const dots = ranked.map((kernel) => drawDot(kernel, area, x, y, taken));
  picture.append(...dots);
  for (const kernel of ranked) {
    const label = drawLabel(kernel, ranked, area, taken);
    if (label) picture.append(label);
  }
  hang(plot, picture, ".dot");
  markKernel(chosen.kernel);
}

function drawAxes(area, x, y) {
  const group = svg("g", "axes");
  for (const decade of x.decades) {
    group.append(
      svg("path", "grid", null, { d: `M${x.at(decade)} ${area.top}L${x.at(decade)} ${area.bottom}` }),
      svg("text", "label middle", decade >= 1 ? String(decade) : decade.toPrecision(1), { x: x.at(decade), y: area.bottom + 15 }),
    );
  }
  for (const decade of y.decades) {
    group.append(
      svg("path", "grid", null, { d: `M${area.left} ${y.at(decade)}L${area.right} ${y.at(decade)}` }),
      svg("text", "label end", decadeText(decade), { x: area.left - 6, y: y.at(decade) + 4 }),
    );
  }
  group.append(
    svg("text", "label axis", "FLOP per byte of main memory", { x: area.right, y: area.bottom + 30 }),
    svg("text", "label inside", "FLOP/s", { x: area.left + 6, y: area.top + 12 }),
  );
  return group;
}

// 1e9 is 1 G.
const decadeText = (n) => scaled(n, 1000, ["", "k", "M", "G", "T", "P"], 1);

// The two roofs: bandwidth times intensity, and the arithmetic peak.
function drawRoofs(area, x, y, taken) {
  const { gemm, memory } = R.peaks;
  const low = Math.max(x.low, y.low / memory);
  const ridge = Math.min(Math.max(gemm / memory, x.low), x.high);
  const roof = (value) => Math.min(gemm, value * memory);
  const path = `M${x.at(low)} ${y.at(roof(low))}L${x.at(ridge)} ${y.at(roof(ridge))}L${x.at(x.high)} ${y.at(roof(x.high))}`;
  const angle = (Math.atan2(y.at(roof(ridge)) - y.at(roof(low)), x.at(ridge) - x.at(low)) * 180) / Math.PI;
  const middle = Math.sqrt(low * ridge);
  const [mx, my] = [x.at(middle), y.at(roof(middle)) - 6];
  const flat = y.at(gemm);
  taken.push({ left: x.at(ridge), right: area.right, top: flat - 1, bottom: flat + 1 });
  taken.push({ left: area.right - 90, right: area.right, top: flat - 18, bottom: flat });
  taken.push({ left: mx - 30, right: mx + 30, top: my - 22, bottom: my + 22 });
  return svg("g", "roofs", [
    svg("path", "roof", null, { d: path }),
    svg("text", "label end roof-label", `${flopsText(gemm)}FLOP/s`, { x: x.at(x.high) - 4, y: flat - 6 }),
    svg("text", "label middle roof-label", `${bytesPerSecond(memory)}`, { x: mx, y: my, transform: `rotate(${angle} ${mx} ${my})` }),
  ]);
}

const bytesPerSecond = (n) => `${(n / 1e9).toPrecision(3)} GB/s`;

function drawDot(kernel, area, x, y, taken) {
  const index = R.kernels.indexOf(kernel);
  const r = 3.5 + 9 * Math.sqrt(shareOf(kernel));
  const idle = !(intensityOf(kernel) > 0 && rateOf(kernel) > 0); // no arithmetic: no place on the scales
  const cx = idle ? area.left + 8 : x.at(intensityOf(kernel));
  const cy = idle ? area.bottom - 8 : y.at(rateOf(kernel));
  kernel.spot = { cx, cy, r, idle };
  taken.push({ left: cx - r, right: cx + r, top: cy - r, bottom: cy + r });
  const group = svg("g", "spot");
  tint(group, R.nodes[kernel.node].layer);
  if (!idle && kernel.measured !== null && kernel.predicted) {
    const gy = y.at(kernel.flops / kernel.predicted);
    const ghost = Math.max(3, r * 0.6);
    taken.push({ left: cx - ghost, right: cx + ghost, top: gy - ghost, bottom: gy + ghost });
    group.append(
      svg("path", "gap", null, { d: `M${cx} ${cy}L${cx} ${gy}` }),
      svg("circle", "ghost", null, { cx, cy: gy, r: ghost }),
    );
  }
  const dot = svg("circle", kernel.measured === null ? "dot predicted" : "dot", null, {
    cx, cy, r, role: "button", "data-kernel": index, "aria-label": `kernel ${titleOf(kernel)}`,
  });
  pointable(dot, pointedKernel(kernel), () => kernelRows(kernel, idle));
  pressable(dot, () => choose(index));
  group.append(dot);
  return group;
}

function kernelRows(kernel, idle) {
  const node = R.nodes[kernel.node];
  const roof = R.peaks ? Math.min(R.peaks.gemm, intensityOf(kernel) * R.peaks.memory) : 0;
  const rate = `${flopsText(rateOf(kernel))}FLOP/s` + (roof ? `, ${percent(rateOf(kernel) / roof)} of the roof` : "");
  return [
    ["tip-title", node.title],
    ...lineRows(node.locs, 2),
    ["", idle ? "no arithmetic" : rate],
    ["type", `${flopsText(kernel.flops)}FLOP, ${bytesText(kernel.nbytes)}`],
    ["type", `measured ${secondsText(kernel.measured)}, predicted ${secondsText(kernel.predicted)}`],
    ["attrs", node.schedule],
  ];
}

// A name near a large dot, where nothing is yet; a line leads to it if it is not
// beside it. None if there is no such place. Where many dots are one, so is their name.
function drawLabel(kernel, ranked, area, taken) {
  const { cx, cy, r, idle } = kernel.spot;
  if (shareOf(kernel) < 0.01 || idle) return null;
  const crowd = ranked.filter((k) => Math.hypot(k.spot.cx - cx, k.spot.cy - cy) < 4);
  const merged = crowd.length > 3;
  if (merged && crowd[0] !== kernel) return null;
  const text = titleOf(kernel) + (merged ? ` and ${crowd.length - 1} more` : "");
  const [wide, high] = [labelWidth(text), 13];
  for (const { left, top, far } of labelPlaces(cx, cy, r, wide, high)) {
    const box = { left, top, right: left + wide, bottom: top + high };
    const inside = left > area.left && box.right < area.right && top > area.top && box.bottom < area.bottom;
    const free = taken.every((t) => t.left > box.right || t.right < left || t.top > box.bottom || t.bottom < top);
    if (!inside || !free) continue;
    taken.push(box);
    const parts = [svg("text", "label name", text, { x: left, y: top + 10 })];
    const end = { x: Math.max(left, Math.min(cx, box.right)), y: top > cy ? top : box.bottom };
    if (far) parts.unshift(svg("path", "leader", null, { d: `M${cx} ${cy}L${end.x} ${end.y}` }));
    return svg("g", "", parts);
  }
  return null;
}

// Beside a dot first, then further and further above and below it.
function* labelPlaces(cx, cy, r, wide, high) {
  yield { left: cx + r + 4, top: cy - high / 2 };
  yield { left: cx - r - 4 - wide, top: cy - high / 2 };
  for (let far = 0; far < 12; far++) {
    for (const left of [cx - wide / 2, cx - wide + 8, cx - 8]) {
      yield { left, top: cy + r + 3 + far * 12, far };
      yield { left, top: cy - r - 3 - high - far * 12, far };
    }
  }
}

function markKernel(kernel) {
  for (const item of byId("kernels").querySelectorAll(".chosen")) item.classList.remove("chosen");
  if (kernel === null) return;
  for (const item of byId("kernels").querySelectorAll(`[data-kernel="${kernel}"]`)) item.classList.add("chosen");
}

function pointKernels(thing) {
  for (const item of byId("kernels").querySelectorAll(".pointed")) item.classList.remove("pointed");
  if (!thing || !thing.kernel) return;
  const index = R.kernels.indexOf(thing.kernel);
  for (const item of byId("kernels").querySelectorAll(`[data-kernel="${index}"]`)) item.classList.add("pointed");
}
