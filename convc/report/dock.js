// The user's code and the generated code, side by side: each line leads to the other.

const PYTHON = new RegExp(
  [
    /(?<text>"""[\s\S]*?"""|'''[\s\S]*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')/,
    /(?<comment>#.*)/,
    /(?<word>\b(?:and|as|assert|break|class|continue|def|elif|else|except|finally|for|from|if|import|in|is|lambda|not|or|pass|raise|return|try|while|with|yield|None|True|False)\b)/,
    /(?<number>\b\d[\w.]*)/,
  ].map((part) => part.source).join("|"),
  "g",
);

const linesToKernels = new Map(); // "file:line" -> kernels made from it
const rowOfLine = new Map(); // "file:line" -> its row
const rowOfMade = []; // generated line - 1 -> its row
let asked = null; // the line that a kernel was chosen by

// The spans of each line of a Python text.
function coloured(source) {
  const lines = [[]];
  const add = (text, cls) => {
    text.split("\n").forEach((piece, i) => {
      if (i) lines.push([]);
      if (piece) lines.at(-1).push(cls ? el("span", `py-${cls}`, piece) : piece);
    });
  };
  let end = 0;
  for (const match of source.matchAll(PYTHON)) {
    add(source.slice(end, match.index), "");
    add(match[0], Object.keys(match.groups).find((name) => match.groups[name] !== undefined));
    end = match.index + match[0].length;
  }
  add(source.slice(end), "");
  return lines;
}

function setUpDock() {
  R.kernels.forEach((kernel, i) => {
    for (const [file, line] of linesOf(R.nodes[kernel.node].locs)) {
      const key = `${file}:${line}`;
      linesToKernels.set(key, [...(linesToKernels.get(key) || []), i]);
    }
  });
  drawYours();
  drawMade();
  byId("show-code").addEventListener("click", () => showIr(false));
  byId("show-ir").addEventListener("click", () => showIr(true));
  on("choose", chooseInDock);
  on("point", pointInDock);
  setUpHandle();
}

// ---- the user's code

function drawYours() {
  const layers = layersOfLines();
  const sheets = R.files.map((file, index) => drawFile(file, index, layers));
  byId("yours-code").replaceChildren(...sheets);
  const most = Math.max(0, ...[...linesToKernels.values()].map((kernels) => kernels.length));
  byId("yours-code").style.setProperty("--digits", String(most).length);
  const tabs = R.files.map((file, index) => {
    const button = el("button", "", file.name);
    button.addEventListener("click", () => showFile(index));
    return button;
  });
  byId("yours-tabs").replaceChildren(...(tabs.length > 1 ? tabs : R.files.map((file) => file.name)));
  if (R.files.length) showFile(0);
}

// The layer whose colour a line has: of those that stand on it the one with most kernels.
function layersOfLines() {
  const layers = new Map();
  const most = new Map();
  for (const [file, line, layer] of R.locs) {
    const key = `${file}:${line}`;
    const own = (linesToKernels.get(key) || []).filter((i) => R.nodes[R.kernels[i].node].layer === layer).length;
    if (own <= (most.get(key) ?? -1)) continue;
    layers.set(key, layer);
    most.set(key, own);
  }
  return layers;
}

function drawFile(file, index, layers) {
  const sheet = el("div", "sheet");
  if (!file.lines.length) sheet.append(el("p", "missing", `${file.name} could not be read when this page was written.`));
  const texts = coloured(file.lines.map(([, text]) => text).join("\n"));
  let last = null;
  file.lines.forEach(([number], i) => {
    if (last !== null && number !== last + 1) sheet.append(el("div", "skip", "⋯"));
    last = number;
    sheet.append(drawLine(`${index}:${number}`, number, texts[i] || [], layers.get(`${index}:${number}`)));
  });
  return sheet;
}

function drawLine(key, number, text, layer) {
  const kernels = linesToKernels.get(key) || [];
  const many = kernels.length === 1 ? "1 kernel" : `${kernels.length} kernels`;
  const count = el("span", "count", kernels.length || "", kernels.length ? { title: `${many} from this line` } : {});
  const row = el("div", "row", [el("span", "number", number), count, el("span", "text", text)]);
  rowOfLine.set(key, row);
  if (layer === undefined) return row;
  tint(row, layer);
  row.classList.add("used");
  row.addEventListener("pointerenter", () => tell("point", { layer, locs: [], names: new Set() }));
  row.addEventListener("pointerleave", () => point(null));
  if (!kernels.length) return row;
  row.setAttribute("role", "button");
  row.setAttribute("tabindex", "0");
  return pressable(row, () => {
    const index = asked === key ? kernels.indexOf(chosen.kernel) + 1 : 0;
    asked = key;
    choose(kernels[index % kernels.length]);
  });
}

function showFile(index) {
  const sheets = [...byId("yours-code").children];
  sheets.forEach((sheet, i) => (sheet.hidden = i !== index));
  [...byId("yours-tabs").querySelectorAll("button")].forEach((tab, i) => tab.setAttribute("aria-pressed", String(i === index)));
}

// Bring a row into the middle of its pane, unless it is in sight.
function reveal(pane, row) {
  const top = row.offsetTop;
  const seen = top >= pane.scrollTop && top + row.offsetHeight <= pane.scrollTop + pane.clientHeight;
  if (!seen) pane.scrollTop = top - pane.clientHeight / 3;
}

function markLines(locs, cls) {
  const pane = byId("yours-code");
  for (const row of pane.querySelectorAll(`.${cls}`)) row.classList.remove(cls);
  const lines = linesOf(locs);
  lines.forEach(([file, line], i) => {
    const row = rowOfLine.get(`${file}:${line}`);
    if (!row) return;
    row.classList.add(cls);
    if (i) return;
    showFile(file);
    reveal(pane, row);
  });
}

// The lines of what no kernel runs: marked as if they were chosen.
function showLines(locs) {
  markLines(locs, "chosen");
}

function pointInDock(thing) {
  markLines(thing ? thing.locs : [], "pointed");
  if (!thing && chosen.kernel !== null) return;
  byId("made-code").classList.toggle("pointing", Boolean(thing && thing.layer !== null));
}

// ---- the generated code

function drawMade() {
  const texts = coloured(R.source.replace(/\n$/, ""));
  const rows = texts.map((text, i) => el("div", "row", [el("span", "number", i + 1), el("span", "text", text)]));
  rowOfMade.push(...rows);
  R.kernels.forEach((kernel, i) => {
    for (let line = kernel.first; line <= kernel.last; line++) {
      const row = rows[line - 1];
      tint(row, R.nodes[kernel.node].layer);
      row.classList.add("used");
      row.dataset.kernel = i;
    }
  });
  const sheet = el("div", "sheet", rows);
  sheet.addEventListener("click", (event) => {
    const row = event.target.closest("[data-kernel]");
    if (row && String(getSelection()) === "") choose(Number(row.dataset.kernel));
  });
  sheet.addEventListener("pointerover", (event) => {
    const row = event.target.closest("[data-kernel]");
    const node = row && R.nodes[R.kernels[row.dataset.kernel].node];
    if (node) tell("point", { layer: node.layer, locs: node.locs, names: new Set() });
  });
  sheet.addEventListener("pointerleave", () => point(null));
  byId("made-code").replaceChildren(sheet);
  if (R.kernels.length) byId("made-code").scrollTop = rows[R.kernels[0].first - 1].offsetTop - 4;
  byId("made-says").textContent = `${R.kernels.length} kernels, ${rows.length} lines: choose one`;
}

function chooseInDock(index, locs) {
  const kernel = R.kernels[index];
  const node = R.nodes[kernel.node];
  for (const row of byId("made-code").querySelectorAll(".chosen")) row.classList.remove("chosen");
  for (let line = kernel.first; line <= kernel.last; line++) rowOfMade[line - 1].classList.add("chosen");
  const pane = byId("made-code");
  pane.scrollTop = rowOfMade[kernel.first - 1].offsetTop - 4;
  markLines(node.locs, "chosen");
  const says = [timesText(kernel), howText(kernel)].filter(Boolean).join("  ·  ");
  byId("made-says").textContent = byId("made-says").title = says;
  byId("made-ir").textContent = node.ir;
  fillSiblings(index, locs && locs.length ? locs : node.locs);
}

// The other kernels that come from the same line.
function fillSiblings(index, locs) {
  const key = asked && (linesToKernels.get(asked) || []).includes(index) ? asked : null;
  asked = key || linesOf(locs).map(([f, l]) => `${f}:${l}`)[0] || null;
  const family = (asked && linesToKernels.get(asked)) || [];
  byId("siblings").replaceChildren(...(family.length < 2 ? [] : familyButtons(family, index)));
  if (asked) {
    const [file, line] = asked.split(":");
    const many = `${family.length} kernel${family.length > 1 ? "s" : ""}`;
    byId("yours-says").textContent = family.length ? `line ${line} became ${many}` : "";
  }
}

// A button for each lane, where one kernel of a lane is all there is; else to leaf through.
function familyButtons(family, index) {
  const lanes = family.map(laneOf);
  if (new Set(lanes).size === family.length) {
    return family.map((other, i) => {
      const state = { "aria-pressed": String(other === index), title: titleOf(R.kernels[other]) };
      const button = el("button", "", lanes[i], state);
      button.addEventListener("click", () => choose(other));
      return button;
    });
  }
  const at = family.indexOf(index);
  const step = (text, label, by) => {
    const button = el("button", "", text, { "aria-label": label });
    button.addEventListener("click", () => choose(family[(at + by + family.length) % family.length]));
    return button;
  };
  const where = el("button", "", `${at + 1} of ${family.length}`, { disabled: "" });
  return [step("‹", "The kernel before", -1), where, step("›", "The next kernel", 1)];
}

function showIr(ir) {
  byId("made-ir").hidden = !ir;
  byId("made-code").hidden = ir;
  byId("show-ir").setAttribute("aria-pressed", String(ir));
  byId("show-code").setAttribute("aria-pressed", String(!ir));
}

// ---- the dock's height

const LEAST = 32; // the height of the heads alone

function setUpHandle() {
  const handle = byId("handle");
  const dock = byId("dock");
  let open = dock.offsetHeight; // what it was before it was closed
  const resize = (height) => {
    const now = Math.round(Math.max(LEAST, Math.min(innerHeight - 160, height)));
    document.body.style.setProperty("--dock", `${now}px`);
    handle.setAttribute("aria-valuenow", Math.round((100 * now) / innerHeight));
    tell("resize");
  };
  const isOpen = () => dock.offsetHeight > LEAST + 8;
  const toggle = () => {
    if (isOpen()) open = dock.offsetHeight;
    resize(isOpen() ? LEAST : open);
  };
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    handle.onpointermove = (move) => resize(innerHeight - move.clientY);
    event.preventDefault();
  });
  handle.addEventListener("pointerup", () => (handle.onpointermove = null));
  handle.addEventListener("dblclick", toggle);
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowUp: 32, ArrowDown: -32 }[event.key];
    if (step) resize(dock.offsetHeight + step);
    else if (event.key === "Enter") toggle();
    else return;
    event.preventDefault();
  });
  on("choose", () => isOpen() || toggle());
}
