"""Every op of a network, as an emitted PyTorch file, gives what the oracle gives."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compiled import faults, inputs_for, parameters_for
from hostile_names import HOSTILE, NET, calls_in, named_everywhere
from op_bench import Case, one_op
from op_programs import PLAIN, STEPS, bench
from pass_bench import graph_of

from convc.backends.torch.emit import emit_torch
from convc.engines.torch_engine import MODES, TorchNetwork
from convc.ir.errors import CompileError
from convc.ir.interpreter import Result, interpret
from convc.ir.ops import OPS
from convc.ir.rounding import bounded
from convc.model import Model
from convc.networks import load_network

GRADIENTS = {name for name in OPS if name.endswith("_grad")} - {"reduce_mean_grad"}
AUTOGRAD = GRADIENTS | {"max_pool2d_argmax"}
"""What PyTorch makes itself."""
NET_GRAPH = graph_of(NET)
FORWARD = [c for c in PLAIN if c.op not in AUTOGRAD]


@pytest.mark.parametrize("case", FORWARD, ids=lambda case: case.id)
def test_an_op_agrees_with_the_oracle(case: Case) -> None:
    """With either order of images in memory; whole numbers give the very same bits."""
    graph, feeds = bench(case)
    bounds = bounded(graph, feeds, {})
    for mode in MODES[:2]:
        network = TorchNetwork(graph, mode)
        found = network(**feeds)
        assert not faults(graph, bounds, Result(found, {}))
        if OPS[case.op].exact:
            _, whole = bench(case, integers=True)
            exact = interpret(graph, whole, {}).outputs
            found = network(**whole)
            assert all(np.array_equal(found[name], exact[name]) for name in exact)


def first_of_each(ops: set[str]) -> list[Case]:
    cases = {c.op: c for c in reversed([*PLAIN, *STEPS])}
    return [cases[op] for op in sorted(ops & cases.keys())]


@pytest.mark.parametrize(
    "case", first_of_each(AUTOGRAD | {"adam", "sgd", "momentum"}), ids=lambda c: c.op
)
def test_what_torch_makes_itself_is_refused_by_name(case: Case) -> None:
    graph = one_op(case.op, case.types, case.attrs)
    with pytest.raises(CompileError, match=case.op) as refused:
        emit_torch(graph, 1)
    assert "as traced" in str(refused.value)


def test_products_in_less_than_fp32_are_refused() -> None:
    attrs = {"precision": "tf32"}
    graph = one_op("matmul", ("f32[N,3]", "f32[3,4]"), attrs)
    with pytest.raises(CompileError, match="tf32"):
        emit_torch(graph, 1)


@pytest.mark.parametrize("name", ["two_conv", "fast", "cs20", "ltfn5_average"])
def test_a_training_pass_agrees_with_the_oracle(name: str) -> None:
    """Loss, right answers and moving averages; dropout draws the same bits."""
    model = model_named(name)
    graph = model.training_step().graph
    rng = np.random.default_rng(3)
    inputs = {
        v.name: rng.random(v.type.bind(4), np.float32)
        for v in graph.inputs
        if v.type.dtype.is_float and v.type.batched
    }
    inputs |= {k: np.float32(v) for k, v in graph.feeds}
    inputs["labels"] = rng.integers(0, 10, 4).astype(np.int32)
    parameters = model.training_step().compile(batch=4).state()
    parameters = {p.value.name: parameters[p.value.name] for p in graph.parameters}
    network = TorchNetwork(graph, "torch")
    network.load(parameters)
    bounds = bounded(graph, inputs, parameters)
    made = network(**inputs)
    updated = {t.name: network.state()[t.name] for t, _ in graph.updates}
    assert not bounds.faults(Result(made, updated))


def model_named(name: str) -> Model:
    network, label = load_network(name)
    return Model(network, name=label)


def test_pytorchs_own_dropout_keeps_as_many() -> None:
    graph = model_named("two_conv").training_step().graph
    source = emit_torch(graph, 128, own_masks=False)
    assert "F.dropout(" in source
    assert "below(" not in source


def test_the_file_runs_on_its_own(tmp_path: Path) -> None:
    path = tmp_path / "two_conv.py"
    path.write_text(emit_torch(model_named("two_conv").graph, 4), "utf-8")
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=True
    )
    assert "ms a pass of 4 images" in done.stdout


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: json.dumps(text)[:40])
def test_no_text_of_the_user_becomes_code(text: str) -> None:
    """As the graph's name, an output, a file and a layer."""
    network = TorchNetwork(named_everywhere(text))
    assert "PWNED" not in calls_in(network.source)
    network.load(parameters_for(NET_GRAPH))
    feeds = inputs_for(NET_GRAPH, 3)
    (found,) = network(**feeds).values()
    bounds = bounded(NET_GRAPH, feeds, parameters_for(NET_GRAPH))
    assert not bounds.faults(Result({"y": found}, {}))


def test_a_graph_after_fusion_is_refused() -> None:
    stages = model_named("two_conv").inference().stages(batch=4)
    with pytest.raises(CompileError, match="as traced, not one at the planned"):
        emit_torch(stages[-1].graph, 4)
