// Puts the page together: head, views, keys, and the address that remembers them.

const VIEWS = ["graph", "memory", "kernels", "code"];
const DRAW = { graph: drawGraph, memory: drawMemory, kernels: drawRoofline, code: () => {} };
let current = "graph";

function setUpHead() {
  const head = R.head;
  byId("model").textContent = head.model;
  const threads = `${head.threads} thread${head.threads > 1 ? "s" : ""}`;
  byId("what").textContent = `${head.step}, ${head.backend}, batch ${head.batch}, ${threads}`;
  byId("what").title = `${head.target}, convc ${head.version}`;
  const lines = R.source.split("\n").length - 1;
  const facts = [
    ["kernels", String(R.kernels.length), `${R.stages[0].nodes.length} ops as traced`],
    ["lines", lines.toLocaleString("en"), "of generated code"],
    ["arena", bytesText(R.memory.bytes), `${bytesText(R.memory.bound)} must live at once: no plan for these launches takes less`],
    ["compiled in", secondsText(head.compile_seconds), R.stages.map((s) => `${s.name} ${secondsText(s.seconds)}`).join("\n")],
  ];
  if (head.step_seconds) {
    const rate = `${Math.round(head.batch / head.step_seconds).toLocaleString("en")} images/s`;
    facts.push(["a step", secondsText(head.step_seconds), `the sum of its kernels as measured: ${rate}`]);
  } else {
    facts.push(["a step", `≈ ${secondsText(TOTAL_SECONDS)}`, "predicted, not measured"]);
  }
  const cells = facts.map(([name, value, more]) => el("div", "", [el("dt", "", name), el("dd", "", value)], { title: more }));
  byId("facts").replaceChildren(...cells);
}

function showView(name) {
  current = name;
  for (const view of VIEWS) {
    const tab = byId(`tab-${view}`);
    tab.setAttribute("aria-selected", String(view === name));
    tab.setAttribute("tabindex", view === name ? "0" : "-1");
    if (view !== "code") byId(view).hidden = view !== name;
  }
  document.body.classList.toggle("only-code", name === "code");
  hideTip();
  DRAW[name]();
  remember();
}

// The view, the kernel and the stages stand in the address, so that a link leads back to
// them: #graph/%7/0..17, what is not chosen left out.
function remember() {
  const kernel = chosen.kernel === null ? "" : encodeURIComponent(nameOf(R.nodes[R.kernels[chosen.kernel].node]));
  const stages = view.before === 0 && view.after === lastUnplanned() ? "" : `${view.before}..${view.after}`;
  const address = [current, kernel, stages].join("/").replace(/\/+$/, "");
  history.replaceState(null, "", `#${address}`);
}

// Show what the address says; what it says of something that is not there is passed over.
function recall() {
  const [name, kernel, stages] = location.hash.slice(1).split("/");
  const [before, after] = (stages || "").split("..").map(Number);
  if (R.stages[before] && R.stages[after]) [view.before, view.after] = [before, after];
  const index = R.kernels.findIndex((k) => encodeURIComponent(nameOf(R.nodes[k.node])) === kernel);
  if (index >= 0) chosen.kernel = index;
  showView(VIEWS.includes(name) ? name : current);
  if (index >= 0) choose(index);
}

function setUpKeys() {
  byId("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const index = (VIEWS.indexOf(current) + step + VIEWS.length) % VIEWS.length;
    showView(VIEWS[index]);
    byId(`tab-${current}`).focus();
  });
  const keys = {
    g: () => showView("graph"),
    m: () => showView("memory"),
    k: () => showView("kernels"),
    c: () => showView("code"),
    "[": () => stepPass(-1),
    "]": () => stepPass(1),
    "+": () => zoomTo(view.zoom * 1.15),
    "-": () => zoomTo(view.zoom / 1.15),
    0: fitGraph,
    Escape: () => {
      point(null);
      for (const note of document.querySelectorAll(".note[open]")) note.open = false;
    },
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("select, input");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (keys[event.key]) keys[event.key]();
  });
}

function start() {
  setUpHead();
  setUpGraph();
  setUpDock();
  setUpMemory();
  setUpKernels();
  setUpKeys();
  for (const name of VIEWS) byId(`tab-${name}`).addEventListener("click", () => showView(name));
  recall();
  on("choose", remember);
  on("stages", remember);
  on("resize", () => DRAW[current]());
  addEventListener("hashchange", recall);
  addEventListener("resize", () => tell("resize"));
  addEventListener("scroll", hideTip, true);
  document.body.dataset.ready = "yes";
}

start();
