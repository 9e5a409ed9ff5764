"""What 16-bit floats, ``precision`` and ``out`` mean in the ops' references."""

import numpy as np
import pytest
from op_bench import run_op

from convc.autodiff import add_gradients
from convc.ir.builder import GraphBuilder
from convc.ir.errors import TypeRuleError
from convc.ir.graph import Attr, Graph
from convc.ir.interpreter import interpret
from convc.ir.parser import parse
from convc.ir.printer import print_graph
from convc.ir.types import DType

HALVES = (DType.BF16, DType.F16)


@pytest.mark.parametrize("half", HALVES)
def test_a_sum_does_not_stop_where_16_bits_end(half: DType) -> None:
    """4096 ones make 4096, where adding up in 16 bits stops at 256 or 2048."""
    ones = np.ones(4096, half.numpy)
    kind = half.value
    (total,) = run_op("reduce_sum", [f"{kind}[4096]"], [ones], False, axes=(0,))
    assert (total.dtype, float(total)) == (half.numpy, 4096.0)
    rows = [f"{kind}[1,4096]", f"{kind}[4096,1]"]
    arrays = [ones[None], ones[:, None]]
    (product,) = run_op("matmul", rows, arrays, False)
    assert product.tolist() == [[4096.0]]


@pytest.mark.parametrize("half", HALVES)
def test_an_elementwise_op_rounds_once(half: DType) -> None:
    """Not between the five operations of a sigmoid."""
    x = np.array([1 + 2.0**-7, 1 / 3, 100.0], np.float32).astype(half.numpy)
    (y,) = run_op("sigmoid", [f"{half.value}[3]"], [x], False)
    wide = x.astype(np.float32)
    expected = np.tanh(wide * np.float32(0.5)) * np.float32(0.5) + np.float32(0.5)
    assert y.dtype == half.numpy
    assert y.tobytes() == expected.astype(half.numpy).tobytes()


@pytest.mark.parametrize("half", HALVES)
def test_out_f32_is_the_sum_before_it_is_rounded(half: DType) -> None:
    rng = np.random.default_rng(0)
    x, dy = (
        rng.standard_normal((2, 4, 4, c)).astype(np.float32).astype(half.numpy)
        for c in (2, 3)
    )
    types = [f"{half.value}[N,4,4,2]", f"{half.value}[N,4,4,3]"]
    attrs: dict[str, Attr] = {"padding": "same", "kernel": (3, 3)}
    op = "conv2d_filter_grad"
    (kept,) = run_op(op, types, [x, dy], False, **attrs, out="f32")
    (stored,) = run_op(op, types, [x, dy], False, **attrs)
    wide = [a.astype(np.float32) for a in (x, dy)]
    (meant,) = run_op(op, ["f32[N,4,4,2]", "f32[N,4,4,3]"], wide, False, **attrs)
    np.testing.assert_array_equal(kept, meant)
    assert kept.dtype == np.float32
    assert stored.tobytes() == kept.astype(half.numpy).tobytes()
    assert (stored.astype(np.float32) != kept).any()


@pytest.mark.parametrize(
    ("op", "types", "attrs", "message"),
    [
        (
            *("conv2d", ["bf16[N,4,4,1]", "bf16[3,3,1,2]"], {"precision": "tf32"}),
            "conv2d: precision=tf32 is for f32 operands (x: bf16[N,4,4,1]",
        ),
        (
            *("matmul", ["f64[N,4]", "f64[4,2]"], {"precision": "tf32"}),
            "matmul: precision=tf32 is for f32 operands (a: f64[N,4], b: f64[4,2])",
        ),
        (
            *("matmul", ["f32[N,4]", "f32[4,2]"], {"precision": "fp8"}),
            "matmul: precision is one of ieee, tf32, got 'fp8'",
        ),
        (
            *("matmul", ["f32[N,4]", "f32[4,2]"], {"out": "f32"}),
            "matmul: out=f32 is for operands of 16 bits (a: f32[N,4], b: f32[4,2])",
        ),
        (
            *("reduce_sum", ["i32[N,4]"], {"axes": (0,), "out": "f32"}),
            "reduce_sum: out=f32 is for operands of 16 bits (x: i32[N,4])",
        ),
        (
            *("matmul", ["f16[N,4]", "bf16[4,2]"], {}),
            "matmul: operands must have one float dtype (a: f16[N,4], b: bf16[4,2])",
        ),
        ("constant", [], {"value": 70000.0, "dtype": "f16"}, "70000.0 is no f16"),
        ("constant", [], {"value": 1e39, "dtype": "bf16"}, "1e+39 is no bf16"),
    ],
)
def test_what_does_not_fit_is_refused(
    op: str, types: list[str], attrs: dict[str, Attr], message: str
) -> None:
    with pytest.raises(TypeRuleError) as error:
        run_op(op, types, [np.zeros(1)] * len(types), **attrs)
    assert message in str(error.value)


TEXT = """graph g(%x: bf16[N,4,4,2], %w: f32[3,3,2,3]) -> (y=%4) {
  %1 = cast(%x) {dtype=f32} : f32[N,4,4,2]
  %2 = conv2d(%1, %w) {precision=tf32} : f32[N,2,2,3]
  %3 = cast(%2) {dtype=f16} : f16[N,2,2,3]
  %4 = reduce_sum(%3) {axes=[0,1,2], out=f32} : f32[3]
}
"""


def test_types_and_attributes_are_printed_and_read_back() -> None:
    """Products are exact by default, which is not printed."""
    graph = parse(TEXT)
    assert print_graph(graph) == TEXT
    assert graph.nodes[1].attrs["precision"] == "tf32"
    plain = parse(TEXT.replace(" {precision=tf32}", ""))
    assert plain.nodes[1].attrs["precision"] == "ieee"


def squared(dtype: str, op: str, **attrs: Attr) -> Graph:
    """The sum of a product's squares, with the gradients of both its operands."""
    b = GraphBuilder("g")
    shapes = ("[2,5,5,2]", "[3,3,2,3]") if op == "conv2d" else ("[2,4]", "[4,3]")
    types = parse(f"graph g(%x: {dtype}{shapes[0]}, %w: {dtype}{shapes[1]}) -> () {{}}")
    x, w = (b.input(v.name, v.type) for v in types.inputs)
    y = b(op, x, w, **attrs)
    total = b("reduce_sum", b("multiply", y, y), axes=tuple(range(y.type.rank)))
    for value, gradient in zip((x, w), add_gradients(b, total, [x, w]), strict=True):
        assert gradient is not None
        assert gradient.type == value.type
        b.output(f"gradient/{value.name}", gradient)
    return b.finish()


@pytest.mark.parametrize("op", ["conv2d", "matmul"])
def test_gradients_of_a_product_in_tf32_are_products_in_tf32(op: str) -> None:
    graph = squared("f32", op, precision="tf32")
    products = [n for n in graph.nodes if "precision" in n.attrs]
    assert len(products) == 3
    assert {n.attrs["precision"] for n in products} == {"tf32"}


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("op", ["conv2d", "matmul"])
def test_gradients_have_the_dtype_of_their_operands(op: str, dtype: str) -> None:
    """That of a sum that stays f32 is rounded before it goes on."""
    kept: dict[str, Attr] = {"out": "f32"} if op == "matmul" else {}
    plain, other = squared(dtype, op), squared(dtype, op, **kept)
    rng = np.random.default_rng(0)
    feeds = {v.name: rng.integers(-2, 3, v.type.bind(1)) for v in plain.inputs}
    arrays = {k: a.astype(DType(dtype).numpy) for k, a in feeds.items()}
    first, second = (interpret(g, arrays, {}).outputs for g in (plain, other))
    for name in first:
        assert first[name].dtype == DType(dtype).numpy
        assert first[name].tobytes() == second[name].tobytes()
