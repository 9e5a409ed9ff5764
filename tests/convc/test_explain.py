"""The records say what became of a layer: its lines, passes, choices and code."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import convc.layers as cc
from convc import lockfile
from convc.backends import backend_named
from convc.explain import (
    Explanation,
    KernelFacts,
    explain,
    known_layer,
    layers,
    memory_of,
    schedule_text,
    touches,
    user_lines,
)
from convc.ir.errors import ModelError
from convc.ir.graph import Graph, Loc
from convc.lockfile import Entry, Measured, key_of, update_lockfile
from convc.model import Model
from convc.networks import load_network, two_conv
from convc.passes.manager import Refusal, Stage
from convc.plan_table import candidates_of, kernel_times
from convc.program import Program
from convc.roofline import Peaks
from convc.tracing import Tensor, get_variable


def small(image: Tensor) -> Tensor:
    x = cc.conv2d(image, 8, 3, activation="relu", name="conv1")
    x = cc.max_pool2d(x, 2, name="pool1")
    x = cc.dense(cc.flatten(x), 16, activation="relu", name="fc")
    return cc.dense(cc.dropout(x, keep=0.5), 10, name="logits")


@pytest.fixture(scope="module")
def program() -> Program:
    return Model(small).training_step().compile(batch=4, threads=2)


@pytest.fixture(scope="module")
def conv1(program: Program) -> Explanation:
    return explain(program, "conv1", Path(__file__))


def forward(e: Explanation) -> KernelFacts:
    return next(k for k in e.kernels if "conv2d" in dict(k.ops).get(e.layer, ()))


# -- the layer


def test_it_begins_with_the_users_line_and_its_text(conv1: Explanation) -> None:
    (line,) = conv1.lines
    source = Path(__file__).read_text().splitlines()
    assert line.file.endswith("test_explain.py")
    assert line.text == source[line.line - 1].strip()
    assert 'name="conv1"' in line.text


def test_ops_are_those_that_were_traced(conv1: Explanation) -> None:
    assert [text.partition("= ")[2].partition("(")[0] for text in conv1.ops] == [
        "conv2d",
        "bias_add",
        "relu",
    ]
    assert conv1.ops[0].endswith(": f32[N,26,26,8]")
    assert conv1.parameters[1] == "param %conv1/biases : f32[8] = zeros()"


def test_records_are_json_and_come_back_the_same(conv1: Explanation) -> None:
    text = json.dumps(asdict(conv1))
    assert json.loads(text)["kernels"][0]["row"]["leader"] == "conv1"


def test_layers_are_listed_as_the_user_wrote_them(program: Program) -> None:
    names = [row.layer for row in layers(program.stages[0].graph)]
    wanted = ["conv1", "pool1", "flatten", "fc", "dropout", "logits", "loss", "correct"]
    assert names == wanted


def test_variables_outside_of_all_layers_have_a_name_to_ask_for() -> None:
    def net(image: Tensor) -> Tensor:
        return cc.dense(cc.flatten(image + get_variable("w", [28, 28, 1])), 10)

    program = Model(net).training_step().compile(batch=2, threads=1)
    row = layers(program.stages[0].graph)[0]
    e = explain(program, row.layer, Path(__file__))
    assert 'get_variable("w"' in e.lines[0].text
    assert e.parameters == ("param %w : f32[28,28,1] = glorot_uniform()",)
    assert [k.row.name for k in e.kernels] == ["optimizer"]
    assert any("added" in touch.did[0] for touch in e.passes)


def test_an_unknown_layer_is_an_error_with_those_of_like_names(
    program: Program,
) -> None:
    with pytest.raises(ModelError) as caught:
        known_layer(program.stages[0].graph, "conv2")
    assert str(caught.value) == (
        "no layer is called 'conv2'; did you mean conv1?\n  the layers are conv1, "
        "pool1, flatten, fc, dropout, logits, loss, correct"
    )


def test_a_name_like_none_gets_no_suggestion(program: Program) -> None:
    with pytest.raises(ModelError, match="^no layer is called 'zzz'\n"):
        explain(program, "zzz")


# -- the user's lines


def test_a_file_outside_the_current_folder_is_found_by_where_it_was_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the same name in the current folder is not the user's."""
    for folder, width in (("here", 3), ("there", 4)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.py").write_text(
            "from convc.layers import dense, flatten\n\n\n"
            f"def net(x):\n    return dense(flatten(x), {width}, name='out')\n"
        )
    monkeypatch.chdir(tmp_path / "here")
    network, _ = load_network(f"{tmp_path}/there/net.py:net")
    row = known_layer(Model(network).graph, "out")
    (line,) = user_lines(row, tmp_path / "there" / "net.py")
    assert (line.file, line.text) == (
        "net.py",
        "return dense(flatten(x), 4, name='out')",
    )


@pytest.mark.parametrize("text", ["one line only\n", "\udcff", None])
def test_a_line_that_cannot_be_read_has_no_text(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "gone.py"
    if text is not None:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    row = known_layer(Model(small).graph, "conv1")
    node = replace(row.nodes[0], locs=(Loc("gone.py", 7, "conv1"),))
    row.nodes, row.parameters = [node], []
    (line,) = user_lines(row, file)
    assert (line.file, line.line, line.text) == ("gone.py", 7, "")


# -- passes


def test_passes_that_touched_it_stand_in_order_and_say_what_they_did(
    conv1: Explanation,
) -> None:
    said = {touch.stage: " / ".join(touch.did) for touch in conv1.passes}
    assert list(said)[:3] == ["commute-relu", "differentiate", "apply-optimizer"]
    assert said["commute-relu"].startswith("relu %4 reads max_pool2d %3, not bias_add")
    assert said["differentiate"].startswith("added relu_grad, reduce_sum")
    assert said["apply-optimizer"] == "added 4 states / added adam x2"
    assert said["simplify"] == "deleted conv2d_input_grad"
    fused = "fused conv2d %1, bias_add %2, relu %4 into conv1_conv_bias_pool_relu"
    assert said["fuse-conv"] == fused
    assert "runs optimizer with algorithm=flat" in said["choose-schedule"]


def test_a_pass_that_did_nothing_to_it_is_not_listed(conv1: Explanation) -> None:
    stages = {touch.stage for touch in conv1.passes}
    assert stages.isdisjoint({"trace", "canonicalize", "fuse-dense", "fuse-loss"})


def test_refusals_go_to_the_layers_they_come_from(program: Program) -> None:
    first = program.stages[0]
    locs = first.graph.nodes[0].locs
    refusals = (
        Refusal("%1", "its batch is odd", locs),
        Refusal("%9", "it is another's", (Loc("net.py", 1, "other"),)),
    )
    stages = [first, Stage("fuse-all", first.graph, 0.0, refusals)]
    (touch,) = touches(stages, "conv1")
    assert (touch.did, touch.refused) == ((), (("%1", "its batch is odd"),))


def test_every_change_has_a_phrase() -> None:
    """No pass leaves a phrase empty or with nothing where a name belongs."""
    stages = Model(two_conv).training_step().stages(batch=4, threads=1)
    for row in layers(stages[0].graph):
        for touch in touches(stages, row.layer):
            assert all(len(phrase.split()) > 1 for phrase in touch.did)
            assert touch.did or touch.refused


# -- kernels


def test_kernels_are_those_that_run_its_ops_in_launch_order(
    program: Program, conv1: Explanation
) -> None:
    names = [kernel.row.node for kernel in conv1.kernels]
    order = [kernel.node for kernel in program.kernels]
    assert names == [name for name in order if name in names]
    assert forward(conv1).ops[0][0] == "conv1"
    assert dict(forward(conv1).ops)["pool1"] == ("max_pool2d", "max_pool2d_argmax")
    assert conv1.kernels[-1].row.name == "optimizer"


def test_a_layer_without_a_kernel_has_none(program: Program) -> None:
    assert explain(program, "flatten").kernels == ()


def test_code_is_the_kernels_function_as_emitted(
    program: Program, conv1: Explanation
) -> None:
    lines = program.source.splitlines()
    for kernel in conv1.kernels:
        code = kernel.code
        assert code.lines[0] == f"def {code.function}(mem, n, t):"
        assert lines[code.first - 1 :][: len(code.lines)] == list(code.lines)


def test_the_chosen_schedule_stands_among_its_alternatives(
    program: Program, conv1: Explanation
) -> None:
    kernel = forward(conv1)
    node = next(n for n in program.graph.nodes if n.name == kernel.row.node)
    assert program.graph.arena is not None
    known = candidates_of(node, program.graph.arena, "numpy")
    assert [a.schedule for a in kernel.alternatives] == [
        schedule_text(c.schedule) for c in known
    ]
    (chosen,) = [a for a in kernel.alternatives if a.chosen]
    assert (kernel.origin, chosen.schedule) == ("cost model", kernel.schedule)
    assert chosen.predicted == kernel.row.work.predicted
    assert kernel.cost is not None
    assert kernel.cost.seconds == chosen.predicted
    assert all(a.measured is None for a in kernel.alternatives)


def test_what_was_measured_comes_from_the_lockfile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Model(small).inference()
    backend = backend_named("numpy")
    graph = step.stages(batch=4, threads=1)[-1].graph
    node = next(n for n in graph.nodes if n.attrs.get("name", "").startswith("conv1"))
    found = backend.candidates(replace(node, schedule=None), 4, 1)
    slowest = found[-1].schedule
    measured = (Measured(slowest, 1e-6), Measured(found[0].schedule, 2e-6))
    entry = Entry(key_of(node, 4, backend.target(1)), 5, measured)
    update_lockfile(tmp_path / "convc.lock", [entry])
    with lockfile.using(tmp_path / "convc.lock"):
        program = step.compile(batch=4, threads=1)
    kernel = forward(explain(program, "conv1"))
    assert (kernel.origin, kernel.schedule) == ("lockfile", schedule_text(slowest))
    times = {a.schedule: a.measured for a in kernel.alternatives}
    assert times[schedule_text(found[0].schedule)] == 2e-6
    assert times[kernel.schedule] == 1e-6
    assert list(times.values()).count(None) == len(found) - 2


def test_the_algorithm_comes_first_whatever_the_order() -> None:
    assert schedule_text({"rows": 5, "algorithm": "a", "images": 8}) == (
        schedule_text({"images": 8, "rows": 5, "algorithm": "a"})
    )
    assert schedule_text({"rows": 5, "algorithm": "a"}) == "a, rows=5"


def test_memory_counts_shared_bytes_once(program: Program) -> None:
    """The optimizer's updates lie on its parameters: both are one buffer."""
    graph = program.graph
    node = next(n for n in graph.nodes if n.attrs.get("name") == "optimizer")
    operands = sum(v.type.nbytes(4) for v in node.operands)
    memory = memory_of(node, graph)
    assert memory.values == operands
    assert graph.arena is not None
    assert memory.share == (memory.values + memory.scratch) / graph.arena.size


def test_scratch_is_that_of_all_workers(program: Program) -> None:
    graph = program.graph
    backend = backend_named("numpy")
    node = next(n for n in graph.nodes if scratch_of(graph, n.name))
    per_worker = sum(s.nbytes for s in backend.scratch(node, 2))
    assert memory_of(node, graph).scratch == 2 * per_worker


def scratch_of(graph: Graph, name: str) -> bool:
    buffers = graph.arena.buffers if graph.arena else ()
    return any(b.name.startswith(f"{name}!") for b in buffers)


def test_shares_are_of_measured_time_if_it_is_known(program: Program) -> None:
    times = {kernel.node: 1.0 for kernel in program.kernels}
    found = explain(program, "conv1", None, times, Peaks(1e9, 1e9, 1e9))
    assert {k.share for k in found.kernels} == {1 / len(times)}
    assert all(k.row.work.roof is not None for k in found.kernels)
    assert forward(explain(program, "conv1")).share != 1 / len(times)


def test_kernel_times_are_of_every_kernel_and_leave_the_state(
    program: Program,
) -> None:
    before = program.state()
    times = kernel_times(program)
    assert times.keys() == {kernel.node for kernel in program.kernels}
    assert all(seconds > 0 for seconds in times.values())
    assert all((before[k] == v).all() for k, v in program.state().items())
