"""Planted bugs are found and named: in rules, passes, emitters and memory plans."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import convc as cc
from convc.backends.base import Emitted
from convc.backends.cpu import emit
from convc.backends.cpu.backend import NumpyBackend
from convc.backends.cpu.kernel import Kernel
from convc.ir.errors import ConvcError
from convc.ir.graph import Graph, Node, Region, Value, substitute
from convc.ir.ops import OPS
from convc.ir.ops.base import Emit
from convc.model import Model
from convc.passes import manager
from convc.passes.manager import Context, Pass
from convc.tracing import Tensor
from convc.trust.bisect import Search
from convc.trust.finding import LONGEST, Finding

Patch = pytest.MonkeyPatch


def network(image: Tensor) -> Tensor:
    x = cc.conv2d(image, 4, 3, 2, padding="same", activation="relu", name="conv1")
    x = cc.max_pool2d(x, 2, name="pool1")
    y = cc.conv2d(x, 4, 3, padding="same", name="conv2", bias_initializer="ones")
    x = cc.concat([y, x], name="both")
    x = cc.dense(cc.flatten(x), 12, activation="relu", name="fc")
    x = cc.dropout(x, keep=0.75, name="drop")
    x = cc.dense(x, 12, name="square")
    return cc.dense(x, 10, name="logits")


def search(kind: str = "training") -> Search:
    model = Model(network, name="network", image="f32[N,8,8,2]")
    steps = {"training": model.training_step, "evaluation": model.evaluation_step}
    return Search(
        steps[kind](), batch=4, threads=2, whole="raise SystemExit('whole')\n"
    )


def found(kind: str = "training") -> Finding:
    finding = search(kind).run()
    assert finding is not None
    return finding


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    for kind in ("training", "evaluation"):
        looked = search(kind)
        assert looked.run() is None
        assert (looked.rules > 8) == (kind == "training")
        assert len(looked.passes) > 10
        assert looked.kernels > 3
        assert looked.values > 1000


def shown(finding: Finding, monkeypatch: Patch) -> None:
    """The repro is short, fails while the bug is there and not when it is gone."""
    assert len(finding.repro.splitlines()) < LONGEST + 1
    code = compile(finding.repro, "repro.py", "exec")
    with pytest.raises(ConvcError):
        exec(code, {})
    monkeypatch.undo()
    exec(code, {})


# -- gradient rules

Rule = Callable[..., Any]


def _relu(b: Emit, node: Node, dy: Value) -> Any:
    return [dy]


def _wrong_tap(b: Emit, node: Node, dy: Value) -> Any:
    (x,) = node.operands
    index = b("max_pool2d_argmax", b("negate", x), **node.attrs)
    return [b("max_pool2d_grad", index, dy, size=x.type.bind(1)[1:3], **node.attrs)]


def _transposed(b: Emit, node: Node, dy: Value) -> Any:
    x, w = node.operands
    dx = b("matmul", dy, w, transpose_b=True)
    if w.type.shape[0] != w.type.shape[1]:
        return [dx, b("matmul", x, dy, transpose_a=True)]
    return [dx, b("matmul", dy, x, transpose_a=True)]


def _no_mean(b: Emit, node: Node, dy: Value) -> Any:
    x, axes = node.operands[0].type, node.attrs["axes"]
    return [b("broadcast_to", dy, shape=x.shape, axes=axes)]


def _unscaled(b: Emit, node: Node, dy: Value) -> Any:
    return [b("apply_mask", dy, node.operands[1], scale=1.0), None]


def _bias_mean(b: Emit, node: Node, dy: Value) -> Any:
    return [dy, b("reduce_mean", dy, axes=tuple(range(dy.type.rank - 1)))]


def _no_labels(b: Emit, node: Node, dy: Value) -> Any:
    logits = node.operands[0]
    spread = b("broadcast_to", dy, shape=logits.type.shape, axes=(1,))
    return [b("multiply", b("softmax", logits), spread), None]


@pytest.mark.parametrize(
    ("op", "rule", "line"),
    [
        ("relu", _relu, "conv1"),
        ("max_pool2d", _wrong_tap, "pool1"),
        ("matmul", _transposed, "square"),
        ("reduce_mean", _no_mean, ""),
        ("apply_mask", _unscaled, "drop"),
        ("bias_add", _bias_mean, "conv1"),
        ("softmax_cross_entropy", _no_labels, ""),
    ],
)
def test_a_wrong_gradient_rule_is_named(
    op: str, rule: Rule, line: str, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(type(OPS[op]), "gradient", lambda self, *given: rule(*given))
    finding = found()
    assert (finding.kind, finding.where, finding.op) == ("gradient rule", op, op)
    assert line in finding.line
    assert "central differences" in finding.reason
    shown(finding, monkeypatch)


# -- passes


def _patched(monkeypatch: Patch, item: str, change: Callable[[Graph], Graph]) -> None:
    """Let the pass called ``item`` make ``change`` on top of what it does."""
    run = manager._run

    def worse(given: Pass, *rest: Any) -> Any:
        if given.name == item:
            right = given.rewrite

            def wrong(graph: Graph, context: Context) -> Graph:
                return change(right(graph, context))

            given = replace(given, rewrite=wrong)
        return run(given, *rest)

    monkeypatch.setattr(manager, "_run", worse)


def _bodies(graph: Graph, change: Callable[[Region], Region]) -> Graph:
    nodes = (
        replace(n, region=change(n.region)) if n.region else n for n in graph.nodes
    )
    return replace(graph, nodes=tuple(nodes))


def without(op: str) -> Callable[[Region], Region]:
    """The change that takes the ops of that kind out of a body."""

    def change(region: Region) -> Region:
        table: dict[str, Value] = {}
        nodes = []
        for node in region.nodes:
            node = substitute(node, table)
            if node.op == op and len(region.nodes) > 1:
                table[node.name] = node.operands[0]
            else:
                nodes.append(node)
        yields = tuple(table.get(v.name, v) for v in region.yields)
        return replace(region, nodes=tuple(nodes), yields=yields)

    return change


def test_a_fusion_that_drops_a_relu_is_named(monkeypatch: Patch) -> None:
    _patched(monkeypatch, "fuse-conv", lambda graph: _bodies(graph, without("relu")))
    finding = found()
    assert (finding.kind, finding.where) == ("pass", "fuse-conv")
    assert finding.op == "relu"
    assert "conv1" in finding.line
    assert "the kernel has no relu" in finding.reason
    shown(finding, monkeypatch)


def test_constants_that_are_merged_though_they_differ_are_named(
    monkeypatch: Patch,
) -> None:
    def scaled(image: Tensor) -> Tensor:
        x = cc.elu(cc.flatten(image) * 0.5 + 0.25, name="first")
        return cc.dense(x, 3, name="logits")

    def merged(graph: Graph) -> Graph:
        constants = [n for n in graph.nodes if n.op == "constant"]
        table = {n.name: constants[0].result for n in constants}
        return replace(graph, nodes=tuple(substitute(n, table) for n in graph.nodes))

    _patched(monkeypatch, "canonicalize", merged)
    model = Model(scaled, name="scaled", image="f32[N,2,2,1]")
    finding = Search(model.inference(), batch=4, threads=1).run()
    assert finding is not None
    assert (finding.kind, finding.where, finding.op) == (
        *("pass", "canonicalize"),
        "constant",
    )
    assert "where it read" in finding.reason
    shown(finding, monkeypatch)


def normed(image: Tensor) -> Tensor:
    x = cc.conv2d(image, 4, 3, padding="same", name="conv1")
    x = cc.relu(cc.batch_norm(x, name="norm1"))
    x = cc.dropout(cc.flatten(x), keep=0.5, name="drop")
    return cc.dense(x, 3, name="logits")


def test_a_wrong_fold_is_blamed_on_what_was_folded(monkeypatch: Patch) -> None:
    """Not on the convolution before it, whose result has to change."""

    def worse(graph: Graph) -> Graph:
        return replace(graph, nodes=tuple(map(_without_root, graph.nodes)))

    _patched(monkeypatch, "fold-batch-norm", worse)
    model = Model(normed, name="normed", image="f32[N,4,4,2]")
    finding = Search(model.inference(), batch=40, threads=1).run()
    assert finding is not None
    assert (finding.kind, finding.where) == ("pass", "fold-batch-norm")
    assert finding.op == "batch_norm"
    shown(finding, monkeypatch)


def _without_root(node: Node) -> Node:
    return replace(node, op="relu") if node.op == "sqrt" else node


def _attrs(op: str, **changes: Any) -> Callable[[Graph], Graph]:
    def change(graph: Graph) -> Graph:
        nodes = (
            replace(n, attrs={**n.attrs, **changes}) if n.op == op else n
            for n in graph.nodes
        )
        return replace(graph, nodes=tuple(nodes))

    return change


@pytest.mark.parametrize(
    ("item", "change", "op", "said"),
    [
        (
            "canonicalize",
            _attrs("conv2d", padding=((1, 0), (1, 0)), strides=(2, 2)),
            "conv2d",
            "",
        ),
        ("apply-optimizer", _attrs("adam", beta1=0.99), "adam", "formula"),
        ("simplify", _attrs("adam", epsilon=1e-3), "adam", "epsilon=1e-08 became"),
        ("simplify", _attrs("apply_mask", scale=1.0), "apply_mask", "became 1.0"),
    ],
)
def test_a_pass_that_changes_an_attribute_is_named(
    item: str, change: Callable[[Graph], Graph], op: str, said: str, monkeypatch: Patch
) -> None:
    _patched(monkeypatch, item, change)
    finding = found()
    assert (finding.kind, finding.where) == ("pass", item)
    assert said in finding.reason
    if item != "apply-optimizer":
        assert finding.op == op


def test_an_optimizer_that_climbs_is_named(monkeypatch: Patch) -> None:
    def climbs(graph: Graph) -> Graph:
        nodes: list[Node] = []
        for node in graph.nodes:
            if node.op == "adam":
                g = node.operands[1]
                up = Value(f"up{g.name}", g.type)
                nodes.append(Node("negate", (g,), (up,)))
                operands = (node.operands[0], up, *node.operands[2:])
                node = replace(node, operands=operands)
            nodes.append(node)
        return replace(graph, nodes=tuple(nodes))

    _patched(monkeypatch, "apply-optimizer", climbs)
    finding = found()
    assert (finding.kind, finding.where) == ("pass", "apply-optimizer")
    assert "the update of conv1/kernel is wrong" in finding.reason


def test_a_pass_that_crashes_is_named(monkeypatch: Patch) -> None:
    def crash(graph: Graph) -> Graph:
        raise KeyError("conv1")

    _patched(monkeypatch, "fuse-loss", crash)
    finding = found()
    assert (finding.kind, finding.where) == ("pass", "fuse-loss")


# -- kernels


def _emitted(monkeypatch: Patch, change: Callable[[Graph], Graph]) -> None:
    """Let the backend write code for another graph than the one it was given."""
    right = NumpyBackend.emit
    monkeypatch.setattr(
        NumpyBackend, "emit", lambda self, graph: right(self, change(graph))
    )


def _inside(op: str, **changes: Any) -> Callable[[Graph], Graph]:
    def change(region: Region) -> Region:
        nodes = (
            replace(n, attrs={**n.attrs, **changes}) if n.op == op else n
            for n in region.nodes
        )
        return replace(region, nodes=tuple(nodes))

    return lambda graph: _bodies(graph, change)


def _reversed_concat(graph: Graph) -> Graph:
    def change(region: Region) -> Region:
        nodes = (
            replace(n, operands=n.operands[::-1]) if n.op == "concat" else n
            for n in region.nodes
        )
        return replace(region, nodes=tuple(nodes))

    return _bodies(graph, change)


@pytest.mark.parametrize(
    ("change", "op", "line"),
    [
        (_inside("conv2d", padding=((1, 0), (0, 1))), "conv2d", "conv1"),
        (lambda g: _bodies(g, without("bias_add")), "bias_add", "conv1"),
        (_reversed_concat, "concat", "both"),
        (lambda g: _bodies(g, without("relu")), "relu", "conv1"),
        (_inside("apply_mask", scale=1.25), "apply_mask", "drop"),
        (_inside("adam", beta2=0.9), "adam", "conv1"),
    ],
)
def test_an_emitter_that_writes_something_else_is_named(
    change: Callable[[Graph], Graph], op: str, line: str, monkeypatch: Patch
) -> None:
    _emitted(monkeypatch, change)
    finding = found()
    assert finding.kind == "kernel"
    assert finding.op == op
    assert line in finding.line
    shown(finding, monkeypatch)


def _edited(monkeypatch: Patch, old: str, new: str) -> None:
    """Let the backend write ``new`` for every ``old`` in its source."""
    right = NumpyBackend.emit

    def wrong(self: NumpyBackend, graph: Graph) -> Emitted:
        emitted = right(self, graph)
        return replace(emitted, source=emitted.source.replace(old, new))

    monkeypatch.setattr(NumpyBackend, "emit", wrong)


@pytest.mark.parametrize(
    ("old", "new", "op"),
    [
        ("borders += [inside[..., :j0, :], inside[..., j1:, :]]", "pass", "conv2d"),
        ("call(db.fill, 0)", "call(db[:0].fill, 0)", "reduce_sum"),
        (
            "call(equal, which, np.uint8(k),",
            "call(equal, which, np.uint8(k % 3),",
            "max_pool2d_grad",
        ),
        ("greater, y[", "np.greater_equal, y[", "relu_grad"),
    ],
)
def test_a_wrong_line_of_a_kernel_is_traced_to_its_op(
    old: str, new: str, op: str, monkeypatch: Patch
) -> None:
    """Memory that is not cleared is the kernel's fault, not the plan's."""
    _edited(monkeypatch, old, new)
    finding = found()
    assert (finding.kind, finding.op) == ("kernel", op)
    shown(finding, monkeypatch)


def test_a_bug_that_only_a_full_batch_shows_is_found(monkeypatch: Patch) -> None:
    _edited(monkeypatch, "(i, min(size, hi - i))", "(i, min(size, hi - i, 3))")
    looked = search("evaluation")
    looked.batch, looked.threads = 5, 1
    finding = looked.run()
    assert finding is not None
    assert (finding.kind, finding.op) == ("kernel", "conv2d")
    shown(finding, monkeypatch)


def test_scratch_that_workers_share_is_found(monkeypatch: Patch) -> None:
    """They make one call each in turn, so that one spoils what the other works on."""
    right = Kernel.private
    monkeypatch.setattr(
        Kernel,
        "private",
        lambda self, *args: right(self, *args).replace("+ t *", "+ 0 *"),
    )
    finding = found("evaluation")
    assert (finding.kind, finding.op) == ("kernel", "conv2d")
    shown(finding, monkeypatch)


def test_a_wrong_runner_of_right_kernels_is_named(monkeypatch: Patch) -> None:
    _edited(monkeypatch, "*kernel(self.memory, n, t)", "*kernel(self.memory, BATCH, t)")
    finding = found()
    assert (finding.kind, finding.where) == ("run of", "network")
    assert "is right when the 2 workers take turns" in finding.reason


def test_a_swapped_stride_in_an_emitter_is_named(monkeypatch: Patch) -> None:
    def uneven(image: Tensor) -> Tensor:
        return cc.conv2d(image, 3, 3, (2, 1), padding="same", name="conv")

    _emitted(monkeypatch, _inside("conv2d", strides=(1, 2)))
    model = Model(uneven, name="uneven", image="f32[N,8,8,2]")
    finding = Search(model.inference(), batch=4, threads=1).run()
    assert finding is not None
    assert (finding.kind, finding.op) == ("kernel", "conv2d")
    shown(finding, monkeypatch)


# -- memory plans


def _stale(graph: Graph) -> Graph:
    """The plan with a value put where another lies that is read later."""
    arena = graph.arena
    assert arena is not None
    buffers = {b.name: b for b in arena.buffers}
    made = {v.name: at for at, n in enumerate(graph.nodes) for v in n.results}
    last = {v.name: at for at, n in enumerate(graph.nodes) for v in n.operands}
    for early, made_at in made.items():
        for late, at in made.items():
            fits = buffers[late].size <= buffers[early].size
            apart = buffers[late].offset != buffers[early].offset
            if made_at < at < last.get(early, 0) and fits and apart:
                moved = replace(buffers[late], offset=buffers[early].offset)
                rest = tuple(moved if b.name == late else b for b in arena.buffers)
                return replace(graph, arena=replace(arena, buffers=rest))
    raise AssertionError("no two values are alive together")


def test_a_plan_that_reuses_a_buffer_too_early_is_named(monkeypatch: Patch) -> None:
    """As the verifier sees it: the plan is refused before it is run."""
    _patched(monkeypatch, "plan-memory", _stale)
    finding = found("evaluation")
    assert (finding.kind, finding.where) == ("pass", "plan-memory")


def test_a_stale_buffer_is_found_by_running_where_no_check_refuses_the_plan(
    monkeypatch: Patch,
) -> None:
    _patched(monkeypatch, "plan-memory", _stale)
    monkeypatch.setattr(manager, "verify", lambda graph: graph)
    monkeypatch.setattr(emit, "check_plan", lambda *given: None)
    finding = found("evaluation")
    assert finding.kind == "memory plan"
    assert "it overwrites %" in finding.reason
    assert "they share bytes" in finding.reason
    assert "with bytes of its own for every value it is right" in finding.reason


def test_what_is_missing_from_a_backend_is_said(monkeypatch: Patch) -> None:
    def refuse(graph: Graph) -> Graph:
        raise ConvcError("nothing of the kind")

    _emitted(monkeypatch, refuse)
    finding = found("evaluation")
    assert (finding.kind, finding.where) == ("backend", "numpy")
    assert "nothing of the kind" in finding.reason
