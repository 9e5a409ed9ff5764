"""The record holds what the program holds, in plain values."""

import json
from typing import Any

import pytest

from convc.model import Model
from convc.networks import four_conv, strided
from convc.program import Program
from convc.report.data import Facts, record
from convc.roofline import Peaks


@pytest.fixture(scope="module")
def program() -> Program:
    return Model(strided).training_step().compile(batch=4, threads=1)


@pytest.fixture(scope="module")
def made(program: Program) -> dict[str, Any]:
    return record(program, Facts("training"))


def test_it_is_json_and_says_everything_by_itself(made: dict[str, Any]) -> None:
    assert json.loads(json.dumps(made, allow_nan=False)) == json.loads(
        json.dumps(made)
    ), "no NaN, no tuples as keys"


def test_stages_list_the_nodes_of_their_graphs(
    made: dict[str, Any], program: Program
) -> None:
    assert [s["name"] for s in made["stages"]] == [s.name for s in program.stages]
    for shown, stage in zip(made["stages"], program.stages, strict=True):
        nodes = [made["nodes"][number] for number in shown["nodes"]]
        for node, real in zip(nodes, stage.graph.nodes, strict=True):
            assert [name for name, _ in node["gives"]] == [v.name for v in real.results]
            assert "\n".join(f"  {line}" for line in node["ir"].split("\n")) in (
                stage.text
            )
        parameters = [made["parameters"][n]["name"] for n in shown["parameters"]]
        assert parameters == [p.value.name for p in stage.graph.parameters]
        assert len(shown["lanes"]) == len(nodes)


def test_a_node_has_one_number_as_long_as_it_does_not_change(
    made: dict[str, Any],
) -> None:
    irs = [node["ir"] for node in made["nodes"]]
    assert len(set(irs)) == len(irs)
    before, after = made["stages"][:2]
    assert before["nodes"] == after["nodes"], "canonicalize finds nothing to do here"


def test_locations_lead_to_the_users_lines(made: dict[str, Any]) -> None:
    (file,) = made["files"]
    texts = dict(file["lines"])
    for node in made["nodes"]:
        for number in node["locs"]:
            _, line, layer = made["locs"][number]
            name = made["layers"][layer]
            assert name in texts[line] or name in ("flatten", "loss", "correct")


def test_ops_lead_to_the_kernel_that_runs_them(
    made: dict[str, Any], program: Program
) -> None:
    trace = made["stages"][0]
    ends = dict(
        zip(
            (made["nodes"][n]["op"] for n in trace["nodes"]),
            trace["became"],
            strict=True,
        )
    )
    kernel = made["kernels"][made["runs"][ends["conv2d"]]]
    body = [op["op"] for op in made["nodes"][kernel["node"]]["body"]]
    assert "conv2d" in body
    assert made["runs"][ends["reshape"]] is None, "a view is nobody's work"


def test_kernels_have_their_lines_their_work_and_their_times(
    program: Program,
) -> None:
    measured = {k.node: 0.25 for k in program.kernels}
    peaks = Peaks(gemm=1e11, memory=1e10, cache=1e11)
    made = record(program, Facts("training", 0.1, measured, peaks))
    lines = made["source"].splitlines()
    for shown, kernel in zip(made["kernels"], program.kernels, strict=True):
        assert lines[shown["first"] - 1].startswith(f"def {kernel.function}(")
        assert shown["measured"] == 0.25
        assert shown["predicted"] > 0
        assert shown["nbytes"] > 0
    assert made["head"]["step_seconds"] == 0.25 * len(program.kernels)
    assert made["peaks"]["gemm"] == 1e11


def test_memory_has_every_buffer_and_the_bound(
    made: dict[str, Any], program: Program
) -> None:
    memory, arena = made["memory"], program.graph.arena
    assert arena is not None
    assert [b["name"] for b in memory["buffers"]] == [b.name for b in arena.buffers]
    assert memory["bytes"] == program.memory.arena_bytes >= memory["bound"]
    assert memory["bound"] == max(memory["live"])
    assert len(memory["live"]) == len(program.graph.nodes) + 1
    kinds = {b["kind"] for b in memory["buffers"]}
    assert kinds >= {"input", "parameter", "state", "value", "scratch", "update"}


def test_what_serves_every_layer_is_of_none(made: dict[str, Any]) -> None:
    layers = {
        node["title"]: node["layer"]
        for node in (made["nodes"][kernel["node"]] for kernel in made["kernels"])
    }
    assert layers["optimizer"] is None
    assert layers["conv1_conv_bias_relu"] == made["layers"].index("conv1")


def test_changes_of_a_pass_are_those_of_the_diff(made: dict[str, Any]) -> None:
    stages = {stage["name"]: stage for stage in made["stages"]}
    assert stages["trace"]["changes"] == []
    fused = [c for c in stages["fuse-conv"]["changes"] if c[0] == "fused"]
    assert any(subject.startswith("conv2d ") for _, subject, _, _ in fused)


def test_the_record_of_the_four_conv_training_step_is_small() -> None:
    program = Model(four_conv).training_step().compile(batch=128, threads=2)
    assert len(json.dumps(record(program, Facts("training")))) < 700_000
