"""A program is followed kernel by kernel, within bounds that its sums give."""

from collections.abc import Iterator

import numpy as np
import pytest
from compiled import compiled
from pass_bench import graph_of

import convc as cc
from convc.backends.base import EmittedKernel
from convc.ir.errors import RunError
from convc.ir.ops.base import Array
from convc.ir.rounding import bounded, within
from convc.model import Model
from convc.networks import NETWORKS
from convc.optimizers import SGD, Adam, Momentum, Optimizer
from convc.program import Program
from convc.tracing import Tensor
from convc.trust import stepping
from convc.trust.stepping import Compared, Fault, compared, first_fault, raise_fault

Patch = pytest.MonkeyPatch


def network(image: Tensor) -> Tensor:
    x = cc.conv2d(image, 6, 3, padding="same", activation="relu", name="conv1")
    x = cc.max_pool2d(x, 2, name="pool1")
    x = cc.conv2d(x, 5, 3, padding="same", name="conv2")
    x = cc.max_pool2d(x, 3, 2, name="pool2")
    x = cc.dense(cc.flatten(x), 16, activation="relu", name="fc")
    return cc.dense(cc.dropout(x, keep=0.5), 10, name="logits")


def trained(optimizer: Optimizer | None = None, threads: int = 2) -> Program:
    model = Model(network, name="network", image="f32[N,8,8,2]")
    return model.training_step(optimizer=optimizer).compile(batch=4, threads=threads)


@pytest.mark.parametrize("optimizer", [SGD(0.1), Momentum(0.1), Adam()], ids=repr)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_right_program_has_no_fault(optimizer: Optimizer, threads: int) -> None:
    assert first_fault(trained(optimizer, threads)) is None


def test_every_result_of_every_kernel_is_compared() -> None:
    program = trained()
    found = list(compared(program))
    assert all(isinstance(item, Compared) for item in found)
    names = [item.value.name for item in found if isinstance(item, Compared)]
    kernels = [n for n in program.graph.nodes if n.region is not None]
    results = [v.name for n in kernels for v in n.results]
    assert names[: 2 * len(results)] == 2 * results  # on whole and on real numbers
    batched = [v for n in kernels if n.attrs["name"] != "optimizer" for v in n.results]
    assert names[2 * len(results) :] == [v.name for v in batched]  # on a full batch


def test_following_a_program_gives_what_running_it_gives() -> None:
    """The same calls in one thread, in turns: the same bits."""
    one, two = trained(), trained()
    inputs = {
        "image": np.random.default_rng(4).normal(size=(3, 8, 8, 2)).astype(np.float32),
        "labels": np.array([1, 7, 3], np.int32),
    }
    outputs = one(**inputs)
    for name, array in inputs.items():
        two.input(name, 3)[...] = array
    assert [k.node for k in two.stepwise(3)] == [k.node for k in two.kernels]
    for name, value in two.graph.outputs:
        assert np.array_equal(two.peek(value, 3), outputs[name])
    after = two.state()
    assert all(np.array_equal(a, after[k]) for k, a in one.state().items())


def _planted(monkeypatch: Patch, op: str, factor: float) -> list[str]:
    """Let kernels with that op make results that are off by a factor; which do."""
    right = Program.stepwise
    hit: list[str] = []

    def wrong(self: Program, n: int | None = None) -> Iterator[EmittedKernel]:
        nodes = {node.name: node for node in self.graph.nodes}
        for kernel in right(self, n):
            node = nodes[kernel.node]
            assert node.region is not None
            if any(inner.op == op for inner in node.region.nodes):
                for value in node.results:
                    if value.type.dtype.is_float:
                        hit.append(node.name)
                        self.peek(value, n)[...] *= np.float32(factor)
            yield kernel

    monkeypatch.setattr(Program, "stepwise", wrong)
    return hit


OPS = [
    "conv2d",
    "conv2d_filter_grad",
    "matmul",
    "max_pool2d",
    "max_pool2d_grad",
    "softmax_cross_entropy",
    "reduce_sum",
    "apply_mask",
    "adam",
]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("factor", [1 + 1e-4, 1 - 1e-4])
def test_a_relative_error_of_1e_4_fails(
    op: str, factor: float, monkeypatch: Patch
) -> None:
    hit = _planted(monkeypatch, op, factor)
    fault = first_fault(trained())
    assert fault is not None
    assert (fault.kind, fault.node.name) == ("result", hit[0])
    assert "elements are out of bounds" in fault.reason


@pytest.mark.parametrize(
    ("name", "exact"), [("two_conv", True), ("strided", False), ("four_conv", True)]
)
def test_no_result_of_any_kernel_may_be_off_by_1e_4(
    name: str, exact: bool, monkeypatch: Patch
) -> None:
    """In the built-in networks, whose sums have up to thousands of terms.

    With the convolutions as sums: the bounds of transforms are several times wider.
    """
    last: list[bool] = []

    def noted(actual: Array, reference: Array, bound: Array) -> bool:
        factors = np.float32(1 + 1e-4), np.float32(1 - 1e-4)
        off = [within(actual * f, reference, bound) for f in factors]
        last[:] = [actual.dtype.kind != "f" or not any(off)]
        return within(actual, reference, bound)

    monkeypatch.setattr(stepping, "within", noted)
    model = Model(NETWORKS[name], name=name, exact=exact)
    step = model.training_step(optimizer=SGD(0.1))
    told: dict[str, bool] = {}
    for item in compared(step.compile(batch=4, threads=2)):
        assert isinstance(item, Compared)
        told[item.value.name] = told.get(item.value.name, False) or last[0]
    assert [value for value, wrong in told.items() if not wrong] == []


PRODUCT = """
graph g(%x: f32[N,{size},{size},8]) -> (y=%1) {{
  param %w : f32[5,5,8,4] = zeros()
  %1 = conv2d(%x, %w) {{padding=same}} : f32[N,{size},{size},4]
}}
"""


@pytest.mark.parametrize("size", [4, 9])
def test_half_precision_in_and_single_in_sums_passes_its_own_bound(size: int) -> None:
    """A compiled kernel on halves does; it does not pass the bound of float32.

    The sums have 200 terms. On whole numbers, which halves hold, the bound is 0 in
    both, and the smallest error fails.
    """
    graph = graph_of(PRODUCT.format(size=size))
    program = compiled(graph, 2)
    rng = np.random.default_rng(5)
    x = rng.uniform(0.5, 1, (2, size, size, 8)).astype(np.float32)
    w = rng.uniform(0.5, 1, (5, 5, 8, 4)).astype(np.float32)
    halves = [a.astype(np.float16).astype(np.float32) for a in (x, w)]
    program.load({"w": halves[1]})
    made = program(x=halves[0])["y"]
    half, single = (
        bounded(graph, {"x": x}, {"w": w}, unit) for unit in (2.0**-11, 2.0**-24)
    )
    assert within(made, half.outputs["y"], half.output_bounds["y"])
    assert not within(made, single.outputs["y"], single.output_bounds["y"])
    inputs, parameters = {"x": np.rint(4 * x)}, {"w": np.rint(4 * w)}
    program.load(parameters)
    exact = program(x=inputs["x"].astype(np.float32))["y"]
    whole = bounded(graph, inputs, parameters, 2.0**-11)
    assert within(exact, whole.outputs["y"], whole.output_bounds["y"])


def test_the_bound_grows_with_the_sum_and_with_its_terms() -> None:
    def bound(size: int, scale: float) -> float:
        graph = graph_of(PRODUCT.format(size=size))
        rng = np.random.default_rng(6)
        x = scale * rng.normal(size=(1, size, size, 8))
        w = rng.normal(size=(5, 5, 8, 4))
        found = bounded(graph, {"x": x}, {"w": w})
        return float(np.median(found.output_bounds["y"]))

    assert bound(9, 8.0) == pytest.approx(8 * bound(9, 1.0))
    assert bound(9, 1.0) > 2 * bound(1, 1.0)


def test_a_value_that_is_overwritten_is_named_with_who_reads_it(
    monkeypatch: Patch,
) -> None:
    program = trained()
    right = Program.stepwise

    def scribbles(self: Program, n: int | None = None) -> Iterator[EmittedKernel]:
        for number, kernel in enumerate(right(self, n)):
            if number == 2:
                self.peek(self.graph.parameters[0].value)[...] += 1
            yield kernel

    monkeypatch.setattr(Program, "stepwise", scribbles)
    fault = first_fault(program)
    assert fault is not None
    assert (fault.kind, fault.value) == ("overwritten", "conv1/kernel")
    assert "it overwrites %conv1/kernel, which" in fault.reason
    assert "outside the bytes it was given" in fault.reason


def test_what_a_kernel_raises_is_its_fault(monkeypatch: Patch) -> None:
    def fails(self: Program, n: int | None = None) -> Iterator[EmittedKernel]:
        raise ValueError("no such shape")
        yield

    monkeypatch.setattr(Program, "stepwise", fails)
    fault = first_fault(trained())
    assert isinstance(fault, Fault)
    assert fault.kind == "error"
    assert fault.reason == "it raised ValueError: no such shape"
    with pytest.raises(RunError, match="on whole numbers and 3 images: it raised Val"):
        raise_fault(trained())
