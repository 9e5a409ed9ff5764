// Where everything in the graph lies. A row of the page is a layer of the model, the
// same row before and after a pass; a column is a lane: forward (downwards), backward
// (upwards, so that gradients lie beside what they are gradients of) and the update.

const LANES = ["forward", "backward", "update"];
const OP = 19; // the height of an op in a kernel
const ALONE = 23; // of an op that stands alone
const TITLE = 22; // of a kernel's name
const FOOT = 5; // below a kernel's last op
const GAP = 9; // between boxes
const CHIP = 18; // the height of a parameter
const HEAD = 44; // the names of stages and lanes
const BAND = 10; // space above and below what a layer has

// One side: leaves (ops) in lanes, boxes (kernels, or ops alone) and chips (parameters
// and inputs), each with the band (layer) it lies in. No geometry yet.
function sideOf(stage) {
  const side = { stage, lanes: new Map(), boxes: [], chips: [], producers: new Map() };
  let count = 0;
  stage.nodes.forEach((number, order) => {
    const node = R.nodes[number];
    const lane = stage.lanes[order];
    const box = { number, node, order, lane, leaves: [] };
    const ops = node.body || [node];
    box.leaves = ops.map((op) => ({ op, box, layer: op.layer ?? node.layer, own: null, band: null, became: stage.became[count++] ?? null }));
    // What serves all layers spans their bands, any other kernel lies in one.
    const spans = node.body && node.layer === null;
    for (const leaf of box.leaves) leaf.own = spans ? leaf.op.layer : node.layer;
    side.boxes.push(box);
  });
  for (const lane of LANES) {
    const boxes = side.boxes.filter((box) => box.lane === lane);
    if (!boxes.length) continue;
    const sequence = boxes.flatMap((box) => box.leaves);
    if (lane === "backward") sequence.reverse();
    side.lanes.set(lane, sequence);
    giveBands(sequence);
  }
  connect(side);
  addChips(side);
  return side;
}

// A lane shows its ops in order of execution, so bands must rise along it: the longest
// sequence that does keeps its layers' bands, the others lie where they are run.
function giveBands(sequence) {
  const placed = sequence.filter((leaf) => leaf.own !== null);
  for (const leaf of longestRise(placed)) leaf.band = leaf.own;
  let band = null;
  for (const leaf of sequence) {
    if (leaf.band === null) leaf.band = band;
    band = leaf.band;
  }
  for (const leaf of [...sequence].reverse()) {
    if (leaf.band === null) leaf.band = band;
    band = leaf.band;
  }
  for (const leaf of sequence) leaf.band ??= 0;
}

// The longest subsequence whose layers never fall, by patience sorting.
function longestRise(leaves) {
  const tails = [];
  const before = new Map();
  for (const leaf of leaves) {
    let low = 0;
    let high = tails.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (tails[middle].own <= leaf.own) low = middle + 1;
      else high = middle;
    }
    before.set(leaf, low ? tails[low - 1] : null);
    tails[low] = leaf;
  }
  const found = [];
  for (let leaf = tails.at(-1); leaf; leaf = before.get(leaf)) found.push(leaf);
  return found.reverse();
}

// The leaf that makes each value, and the leaves that read each operand of a box.
function connect(side) {
  for (const box of side.boxes) {
    box.node.gives.forEach(([name], i) => {
      const inner = box.node.yields && box.node.yields[i];
      const leaf = box.leaves.find((l) => inner && l.op.gives.some(([n]) => n === inner));
      side.producers.set(name, leaf || box.leaves.at(-1));
    });
  }
  side.edges = [];
  for (const box of side.boxes) {
    box.node.reads.forEach((name, i) => {
      const inner = box.node.takes && box.node.takes[i];
      const readers = inner ? box.leaves.filter((l) => l.op.reads.includes(inner)) : box.leaves;
      side.edges.push({ name, from: side.producers.get(name) || null, to: readers[0] || box.leaves[0] });
    });
  }
}

// Inputs lie beside their first reader, parameters in their layer's band, and what the
// optimizer keeps for them is one chip a layer.
function addChips(side) {
  const readers = new Map();
  for (const edge of side.edges) if (!readers.has(edge.name)) readers.set(edge.name, edge.to);
  const chip = (kind, title, names, ir, locs, band) => {
    const made = { kind, title, names, ir, locs, band, layer: locs.length ? R.locs[locs[0]][2] : null };
    side.chips.push(made);
    return made;
  };
  for (const [name, type] of side.stage.inputs) {
    const reader = readers.get(name);
    chip("input", name, [name], `${name}: ${type}`, [], reader ? reader.band : 0);
  }
  const states = new Map();
  for (const number of side.stage.parameters) {
    const p = R.parameters[number];
    const reader = readers.get(p.name);
    const band = (p.locs.length ? R.locs[p.locs[0]][2] : null) ?? (reader ? reader.band : 0);
    if (p.trainable) {
      const short = p.name.slice(p.name.lastIndexOf("/") + 1);
      chip("parameter", short, [p.name], p.ir, p.locs, band);
    } else if (states.has(band)) {
      const made = states.get(band);
      made.names.push(p.name);
      made.ir += `\n${p.ir}`;
      made.title = `${made.names.length} states`;
    } else {
      states.set(band, chip("state", "1 state", [p.name], p.ir, p.locs, band));
    }
  }
}

// Heights of the bands, the same on both sides, and all x, y, width and height.
function layOut(sides, width, zoom) {
  const gutter = 74;
  const chips = 84;
  const aisle = 24;
  const lanes = sides.reduce((n, side) => n + side.lanes.size, 0);
  const room = width - gutter - sides.length * (chips + aisle) - lanes * aisle - 10;
  const laneWidth = Math.max(128, Math.min(300 / Math.min(1, zoom), Math.floor(room / lanes)));
  let x = gutter;
  for (const side of sides) {
    side.x = x;
    side.chipWidth = chips;
    side.laneX = new Map();
    x += chips + aisle;
    for (const lane of side.lanes.keys()) {
      side.laneX.set(lane, x);
      x += laneWidth + aisle;
    }
    side.right = x;
    side.laneWidth = laneWidth;
  }
  const bands = bandsOf(sides);
  return { bands, width: Math.max(width, x), height: bands.bottom, gutter };
}

function bandsOf(sides) {
  const heights = new Map();
  const grow = (band, height) => heights.set(band, Math.max(heights.get(band) || 24, height));
  for (const side of sides) {
    for (const sequence of side.lanes.values()) {
      const used = new Map();
      sequence.forEach((leaf, i) => {
        leaf.first = i === 0 || sequence[i - 1].box !== leaf.box;
        leaf.last = i === sequence.length - 1 || sequence[i + 1].box !== leaf.box;
        leaf.dy = used.get(leaf.band) || 0;
        used.set(leaf.band, leaf.dy + leafHeight(leaf));
      });
      for (const [band, height] of used) grow(band, height - GAP);
    }
    const counts = new Map();
    for (const chip of side.chips) {
      chip.dy = (counts.get(chip.band) || 0) * (CHIP + 3);
      counts.set(chip.band, (counts.get(chip.band) || 0) + 1);
    }
    for (const [band, count] of counts) grow(band, count * (CHIP + 3));
  }
  const bands = { tops: new Map(), heights, order: [...heights.keys()].sort((a, b) => a - b) };
  let y = HEAD;
  for (const band of bands.order) {
    bands.tops.set(band, y);
    y += heights.get(band) + 2 * BAND;
  }
  bands.bottom = y;
  for (const side of sides) place(side, bands);
  return bands;
}

function leafHeight(leaf) {
  if (!leaf.box.node.body) return ALONE + GAP;
  return OP + (leaf.first ? TITLE : 0) + (leaf.last ? FOOT + GAP : 0);
}

function place(side, bands) {
  for (const [lane, sequence] of side.lanes) {
    for (const leaf of sequence) {
      const fused = Boolean(leaf.box.node.body);
      leaf.x = side.laneX.get(lane);
      leaf.w = side.laneWidth;
      leaf.top = bands.tops.get(leaf.band) + BAND + leaf.dy;
      leaf.y = leaf.top + (fused && leaf.first ? TITLE : 0);
      leaf.h = fused ? OP : ALONE;
    }
  }
  for (const box of side.boxes) {
    const tops = box.leaves.map((leaf) => leaf.top);
    const ends = box.leaves.map((leaf) => leaf.y + leaf.h);
    box.x = box.leaves[0].x;
    box.w = side.laneWidth;
    box.y = Math.min(...tops);
    box.h = Math.max(...ends) - box.y + (box.node.body ? FOOT : 0);
  }
  for (const chip of side.chips) {
    chip.x = side.x;
    chip.w = side.chipWidth;
    chip.h = CHIP;
    chip.y = bands.tops.get(chip.band) + BAND + chip.dy;
  }
}

// ---- edges

// The path of an edge between two rectangles of one side, by where they lie.
function pathOf(from, to, sameLane, adjacent) {
  if (sameLane && adjacent) {
    const down = from.y < to.y;
    const x = from.x + Math.min(18, from.w / 2);
    const start = down ? from.boxBottom : from.boxTop;
    const end = down ? to.boxTop - 2 : to.boxBottom + 2;
    return `M${x} ${start}L${x} ${end}`;
  }
  const y1 = from.y + from.h / 2;
  const y2 = to.y + to.h / 2;
  if (sameLane) {
    const right = from.x + from.w;
    const bulge = 8 + Math.min(10, Math.abs(y2 - y1) / 40);
    return `M${right} ${y1}C${right + bulge} ${y1} ${right + bulge} ${y2} ${right + 2} ${y2}`;
  }
  const forward = to.x > from.x;
  const x1 = forward ? from.x + from.w : from.x;
  const x2 = forward ? to.x - 2 : to.x + to.w + 2;
  const bend = Math.max(10, Math.min(22, Math.abs(x2 - x1) / 2)) * (forward ? 1 : -1);
  return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
}
