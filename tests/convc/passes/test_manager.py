"""The manager holds every pass to its contract and says who broke it."""

import json
from dataclasses import replace
from functools import partial
from hashlib import sha256

import pytest
from pass_bench import context, graph_of, stage_after

from convc.ir.builder import GraphBuilder
from convc.ir.errors import CompileError, VerifyError
from convc.ir.graph import Graph
from convc.passes.certificate import Verdict, digest
from convc.passes.check import Checker
from convc.passes.manager import Context, Pass, run_passes

TEXT = """
graph g(%x: f32[N,4]) -> (y=%2) {
  %1 = relu(%x) : f32[N,4]   @ net.py:1 a
  %2 = negate(%1) : f32[N,4]   @ net.py:2 b
}
"""


def keep(graph: Graph, context: Context) -> Graph:
    return graph


def to_fusing(graph: Graph, context: Context) -> Graph:
    return replace(graph, stage="fusing")


FIRST = Pass("first", keep)
SECOND = Pass("second", keep)


def test_every_stage_is_kept_with_its_text_and_time() -> None:
    stages = run_passes(graph_of(TEXT), [FIRST, SECOND], context())
    assert [s.name for s in stages] == ["trace", "first", "second"]
    assert all(s.text == stages[0].text for s in stages)
    assert all(s.seconds >= 0 for s in stages)


def test_a_pass_is_refused_a_graph_at_the_wrong_stage() -> None:
    late = Pass("late", keep, ("kernel", "planned"))
    expected = (
        "pass late needs a graph at the kernel or planned stage, this one is at the "
        r"tensor stage \(after trace, first\)"
    )
    with pytest.raises(CompileError, match=expected):
        run_passes(graph_of(TEXT), [FIRST, late], context())


def test_a_pass_must_leave_the_stage_it_promised() -> None:
    for item in (Pass("moves", to_fusing), Pass("stays", keep, ensures="fusing")):
        expected = f"pass {item.name} failed after trace, first: it left the graph"
        with pytest.raises(CompileError, match=expected):
            run_passes(graph_of(TEXT), [FIRST, item], context())
    moved = run_passes(
        graph_of(TEXT), [Pass("moves", to_fusing, ensures="fusing")], context()
    )
    assert moved[-1].graph.stage == "fusing"


def test_a_graph_that_is_not_legal_is_refused_before_any_pass() -> None:
    graph = graph_of(TEXT)
    broken = replace(graph, nodes=graph.nodes[::-1])
    with pytest.raises(VerifyError, match="%1: f32.N,4. is used before"):
        run_passes(broken, [FIRST], context())


def test_an_illegal_result_is_blamed_on_the_pass_with_the_culprit_underlined() -> None:
    def reverse(graph: Graph, context: Context) -> Graph:
        return replace(graph, nodes=graph.nodes[::-1])

    with pytest.raises(CompileError) as caught:
        run_passes(graph_of(TEXT), [FIRST, Pass("reverse", reverse)], context())
    message = str(caught.value)
    assert message.startswith("pass reverse failed after trace, first: %1: f32[N,4] is")
    assert "\n  %2 = negate(%1) : f32[N,4]   @ net.py:2 b\n  ^^^^" in message


def test_a_user_error_in_a_pass_names_the_pass_and_those_before() -> None:
    def refuse(graph: Graph, context: Context) -> Graph:
        raise CompileError("conv9 is too wide at net.py:9")

    expected = "pass picky failed after trace, first, second: conv9 is too wide"
    passes = [FIRST, SECOND, Pass("picky", refuse)]
    with pytest.raises(CompileError, match=expected):
        run_passes(graph_of(TEXT), passes, context())


def test_a_crash_in_a_pass_names_the_pass_too() -> None:
    """The error stays what it is, with a note."""

    def crash(graph: Graph, context: Context) -> Graph:
        raise KeyError("conv1")

    with pytest.raises(KeyError) as caught:
        run_passes(graph_of(TEXT), [FIRST, Pass("clumsy", crash)], context())
    assert caught.value.__notes__ == ["in pass clumsy, after trace, first"]


def test_refusals_stay_with_the_pass_that_left_them() -> None:
    def refuse(graph: Graph, context: Context) -> Graph:
        context.refuse(graph.nodes[0], "it is read twice", "conv1")
        return graph

    stages = run_passes(
        graph_of(TEXT), [Pass("a", refuse), FIRST, Pass("b", refuse)], context()
    )
    noted = [tuple(map(str, s.refusals)) for s in stages]
    assert noted == [(), ("conv1: it is read twice",), (), ("conv1: it is read twice",)]
    (refusal,) = stages[1].refusals
    assert refusal.locs == stages[0].graph.nodes[0].locs


def _with_op(old: str, new: str) -> Pass:
    def rewrite(graph: Graph, context: Context) -> Graph:
        nodes = (replace(n, op=new) if n.op == old else n for n in graph.nodes)
        return replace(graph, nodes=tuple(nodes))

    return Pass(f"{old}-to-{new}", rewrite)


def test_check_mode_catches_a_rewrite_that_changes_the_meaning() -> None:
    wrong = _with_op("relu", "exp")
    with pytest.raises(CompileError) as caught:
        run_passes(graph_of(TEXT), [FIRST, wrong], context(), check=True)
    message = str(caught.value)
    assert message.startswith("pass relu-to-exp failed after trace, first: output y")
    assert "elements differ, first at (" in message
    assert "before" in message
    assert "after" in message


def test_without_check_mode_a_legal_graph_is_believed() -> None:
    stages = run_passes(graph_of(TEXT), [_with_op("relu", "exp")], context())
    assert [s.checked for s in stages] == [False, False]


def test_a_pass_may_have_a_check_of_its_own() -> None:
    def negated(checker: Checker, before: Graph, after: Graph) -> Verdict:
        (old, new) = (checker.run(g, *checker.data(g)) for g in (before, after))
        assert (old.outputs["y"] != new.outputs["y"]).any()
        return Verdict("own", 12, note="y is another")

    meant = replace(_with_op("relu", "exp"), check=negated)
    stages = run_passes(graph_of(TEXT), [FIRST, meant], context(), check=True)
    assert [str(s.verdict) for s in stages] == [
        "not checked",
        "equal on 24 values",
        "y is another: equal on 12 values",
    ]


def test_every_stage_has_a_certificate_of_what_was_checked() -> None:
    stages = run_passes(graph_of(TEXT), [FIRST, SECOND], context(), check=True)
    given = sha256(stages[0].text.encode()).hexdigest()
    assert stages[1].certificate.record() == {
        "pass": "first",
        "before": given,
        "after": given,
        "verdict": "equal on 24 values",
        "checked": True,
        "method": "equal",
        "values": 24,
        "worst": 0.0,
        "note": "",
    }
    assert json.dumps(stages[0].certificate.record())
    assert not stages[0].certificate.verdict


def test_the_certificate_hashes_both_sides() -> None:
    moved = Pass("moves", to_fusing, ensures="fusing")
    certificate = run_passes(graph_of(TEXT), [moved], context())[-1].certificate
    assert certificate.before == digest(graph_of(TEXT))
    assert certificate.after == digest(to_fusing(graph_of(TEXT), context()))
    assert not certificate.record()["checked"]


PARAMETERS = """
graph g(%x: f32[N,2]) -> (y=%1) {
  param %w : f32[2] = zeros()
  state %m : f32[2] = zeros()
  %1 = add(%x, %w) : f32[N,2]
  %2 = add(%w, %m) : f32[2]
  %3 = subtract(%w, %m) : f32[2]
  update %w = %2
  update %m = %3
}
"""


def test_check_mode_compares_updates() -> None:
    def swap(graph: Graph, context: Context) -> Graph:
        (w, a), (m, b) = graph.updates
        return replace(graph, updates=((w, b), (m, a)))

    expected = (
        "update of w changed: 1 of 2 elements differ, first at .0,.: "
        "0.0 before, 2.0 after"
    )
    with pytest.raises(CompileError, match=expected):
        stage_after(Pass("swap", swap), of=PARAMETERS)


def test_check_mode_refuses_a_pass_that_keeps_no_output() -> None:
    def forget(graph: Graph, context: Context) -> Graph:
        return replace(graph, outputs=(), updates=())

    with pytest.raises(CompileError, match="kept none of the outputs"):
        stage_after(Pass("forget", forget), of=PARAMETERS)


def test_check_mode_notices_a_changed_shape() -> None:
    def flatten(graph: Graph, context: Context) -> Graph:
        b = GraphBuilder(graph.name, graph)
        b.outputs = [("y", b("reduce_sum", graph.output("y"), axes=(1,)))]
        return b.finish()

    with pytest.raises(CompileError, match=r"changed its shape from \(3, 2\) to \(3,"):
        stage_after(Pass("flatten", flatten), of=PARAMETERS)


def test_check_mode_feeds_inputs_that_a_pass_adds() -> None:
    """As an optimizer does whose learning rate is set for each run."""

    def rated(graph: Graph, context: Context) -> Graph:
        b = GraphBuilder(graph.name, graph)
        rate = b.input("rate", graph_of("graph g(%r: f32[]) -> () {}").inputs[0].type)
        b.output("scaled", b("multiply", graph.output("y"), rate))
        return b.finish()

    assert stage_after(Pass("rated", rated), of=PARAMETERS).checked


def test_check_mode_takes_nan_for_equal_to_nan() -> None:
    text = """
    graph g(%x: f32[N,4]) -> (y=%2) {
      %1 = negate(%x) : f32[N,4]
      %2 = sqrt(%1) : f32[N,4]
    }
    """
    assert stage_after(FIRST, of=text).checked


def test_the_difference_shown_is_no_nan_that_both_have() -> None:
    text = """
    graph g(%x: f32[N,4]) -> (y=%2) {
      %1 = sqrt(%x) : f32[N,4]
      %2 = relu(%1) : f32[N,4]
    }
    """
    with pytest.raises(CompileError, match="elements differ, first at") as caught:
        stage_after(_with_op("relu", "exp"), of=text)
    assert "nan" not in str(caught.value)


SCALED = """
graph g(%x: f32[N,4]) -> (y=%2) {
  param %w : f32[4,3] = zeros()
  %k = constant() {value=3.0, dtype=f32} : f32[]
  %1 = multiply(%x, %k) : f32[N,4]
  %2 = matmul(%1, %w) : f32[N,3]
}
"""


def _scale_later(graph: Graph, context: Context, by: float = 3.0) -> Graph:
    """(k x) w = k (x w), but for rounding."""
    b = GraphBuilder(graph.name, replace(graph, nodes=(), outputs=()))
    x, w = graph.inputs[0], graph.parameters[0].value
    y = b("matmul", x, w)
    b.output("y", b("multiply", y, b.constant(by, y.type)))
    return b.finish()


def test_a_pass_that_rounds_elsewhere_is_held_to_the_derived_bound() -> None:
    loose = Pass("scale-later", _scale_later, exact=False)
    verdict = stage_after(loose, of=SCALED).verdict
    assert verdict.method == "bound"
    assert verdict.values == 2 * 9
    assert 0 < verdict.worst < 1


def test_a_pass_that_is_not_exact_may_not_be_wrong() -> None:
    for wrong in (2.0, 3.0 * (1 + 1e-12)):
        loose = Pass("scale", partial(_scale_later, by=wrong), exact=False)
        with pytest.raises(CompileError, match="times what rounding allows"):
            stage_after(loose, of=SCALED)
