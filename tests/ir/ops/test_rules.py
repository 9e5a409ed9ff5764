"""What the ops refuse, in which words; and that nothing else ever escapes a rule."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_bench import run_op, tensor

from convc.ir.errors import RunError, TypeRuleError
from convc.ir.graph import Attr
from convc.ir.ops import OPS, op_named
from convc.ir.ops.base import AttrSpec
from convc.ir.types import DType, TensorType

X, ROWS = "f32[N,4,5,2]", "f32[N,3]"


def refusal(op: str, types: list[str], **attrs: Attr) -> str:
    """The message with which an op refuses its operands or attributes."""
    tensors = [tensor(t) for t in types]
    with pytest.raises(TypeRuleError) as error:
        OPS[op].infer(tensors, OPS[op].check(tensors, attrs))
    return str(error.value)


POOL = {"window": (2, 2), "strides": (2, 2)}
REFUSED: list[tuple[str, list[str], dict[str, Attr], str]] = [
    # convolution
    ("conv2d", [X, "f64[3,3,2,1]"], {}, "operands must have one float dtype (x: f32"),
    ("conv2d", [ROWS, "f32[3,3,2,1]"], {}, "x must have 4 axes, has 2 (x: f32[N,3], w"),
    ("conv2d", [X, "f32[3,3,2]"], {}, "w must have 4 axes, has 3"),
    ("conv2d", [X, "f32[N,3,2,1]"], {}, "a filter has no batch axis"),
    ("conv2d", [X, "f32[3,3,4,8]"], {}, "input has 2 channels, filter expects 4 (x:"),
    ("conv2d", [X, "f32[5,3,2,1]"], {}, "a window of 5 is larger than its input of 4;"),
    (
        *("conv2d", [X, "f32[3,3,2,1]"], {"dilations": (2, 1)}),
        "a window of 3 with dilation 2 (spans 5) is larger than its input of 4; use a",
    ),
    (
        *("conv2d", [X, "f32[7,1,2,1]"], {"padding": ((1, 1), (0, 0))}),
        "a window of 7 is larger than its input of 6 (4 + padding 1 + 1)",
    ),
    (
        "conv2d",
        [X, "f32[1,1,1,3]"],
        {"groups": 2},
        "2 and 3 are not both multiples of 2",
    ),
    ("conv2d", [X, "f32[1,1,2,2]"], {"groups": 0}, "groups must be at least 1, got 0"),
    ("conv2d", [X, "f32[1,1,2,1]"], {"strides": (0, 1)}, "strides must be at least 1"),
    (
        "conv2d",
        [X, "f32[1,1,2,1]"],
        {"strides": (1,)},
        "strides needs 2 entries, one per",
    ),
    ("conv2d", [X, "f32[1,1,2,1]"], {"padding": "full"}, "padding must be same, valid"),
    ("conv2d", [X, "f32[1,1,2,1]"], {"padding": ((1, -1),) * 2}, "numbers from 0, got"),
    ("conv2d", [X, "f32[1,1,2,1]"], {"padding": ((1, 1),)}, "padding needs 2 entries"),
    (
        *("conv2d_input_grad", ["f32[N,4,5,3]", "f32[1,1,1,3]"]),
        *({"size": (4, 5), "groups": 2}, "2 and 3 are not both multiples of 2"),
    ),
    (
        *("conv2d_input_grad", ["f32[N,4,4,3]", "f32[1,1,2,3]"], {"size": (4, 5)}),
        "dy must be f32[N,4,5,3], is f32[N,4,4,3]",
    ),
    (
        *("conv2d_filter_grad", ["f32[N,4,5,3]", "f32[N,4,5,2]"]),
        *({"kernel": (1, 1), "groups": 2}, "3 and 2 are not both multiples of 2"),
    ),
    # pooling
    ("max_pool2d", ["i32[N,4,4,1]"], POOL, "operands must have one float dtype"),
    (
        *("avg_pool2d", [X], {**POOL, "padding": ((2, 0), (0, 0))}),
        "padding must be smaller than the window of 2, is [2, 0]",
    ),
    (
        *("avg_pool2d_grad", ["f32[N,4,4,1]"]),
        *(
            {**POOL, "padding": ((0, 0), (3, 0)), "size": (4, 4)},
            "padding must be smaller",
        ),
    ),
    (
        *("max_pool2d_argmax", ["f32[N,20,20,1]"]),
        *(
            {"window": (16, 16), "strides": (1, 1)},
            "a window must have at most 255 taps",
        ),
    ),
    (
        *(
            "max_pool2d_grad",
            ["i32[N,2,2,1]", "f32[N,2,2,1]"],
            {**POOL, "size": (4, 4)},
        ),
        "index and dy must be u8 and f32[N,2,2,1]",
    ),
    (
        *("max_pool2d_grad", ["u8[N,2,2,1]", "i32[N,2,2,1]"], {**POOL, "size": (4, 4)}),
        "dy must have one float dtype (index: u8[N,2,2,1], dy: i32[N,2,2,1])",
    ),
    # linear
    (
        "matmul",
        [ROWS, "f32[4,2]"],
        {},
        "the inner dimensions must agree, a has 3, b has 4",
    ),
    (
        "matmul",
        ["f32[4,3]", ROWS],
        {"transpose_b": True},
        "the batch cannot become the",
    ),
    ("matmul", [ROWS, "f32[3]"], {}, "b must have 2 axes, has 1"),
    ("bias_add", [X, "f32[3]"], {}, "x has 2 channels, b has 3"),
    ("bias_add", ["f32[2]", "f32[2]"], {}, "x has 2 channels, b has 2"),
    # elementwise
    ("add", ["f32[2]", "f32[3]"], {}, "shapes do not broadcast, an axis has 2 and 3"),
    (
        "add",
        ["f32[N,3]", "f32[2,3]"],
        {},
        "an axis has N and 2 (x: f32[N,3], y: f32[2,3])",
    ),
    ("add", ["f32[N]", "f32[2,1]"], {}, "the batch N must be axis 0, not axis 1"),
    ("add", ["f32[2]", "i32[2]"], {}, "operands must have one numeric dtype"),
    ("add", ["bool[2]", "bool[2]"], {}, "operands must have one numeric dtype"),
    ("divide", ["i32[2]", "i32[2]"], {}, "operands must have one float dtype"),
    ("equal", ["f32[2]", "i32[2]"], {}, "compared operands must have one dtype"),
    ("relu_grad", ["f32[2]", "f32[1]"], {}, "y and dy must have one shape"),
    ("constant", [], {"value": 0.5, "dtype": "i32"}, "0.5 is no i32"),
    ("constant", [], {"value": 256, "dtype": "u8"}, "256.0 is no u8"),
    ("constant", [], {"value": -1, "dtype": "u8"}, "-1.0 is no u8"),
    ("constant", [], {"value": 2, "dtype": "bool"}, "2.0 is no bool"),
    ("constant", [], {"value": 1e39}, "1e+39 is no f32"),
    ("constant", [], {"value": float("nan")}, "value must be a finite number, got nan"),
    ("constant", [], {"value": float("inf")}, "value must be a finite number, got inf"),
    ("constant", [], {"value": True}, "value must be a finite number, got True"),
    # reductions
    ("reduce_sum", [X], {"axes": ()}, "axes [] must be distinct axes of x"),
    ("reduce_sum", [X], {"axes": (1, 1)}, "axes [1, 1] must be distinct axes of x"),
    ("reduce_sum", [X], {"axes": (4,)}, "axes [4] must be distinct axes of x"),
    ("reduce_sum", ["bool[2]"], {"axes": (0,)}, "cast booleans to a number first"),
    ("reduce_mean", ["i32[2]"], {"axes": (0,)}, "operands must have one float dtype"),
    ("reduce_mean_grad", ["i32[]"], {"shape": (2,), "axes": (0,)}, "one float dtype"),
    ("broadcast_to", ["f32[3]"], {"shape": (2, 3), "axes": (0, 7)}, "distinct axes of"),
    ("broadcast_to", ["f32[3]"], {"shape": (2, 3), "axes": (0, 0)}, "distinct axes of"),
    (
        "broadcast_to",
        ["f32[2]"],
        {"shape": (2, 3), "axes": (0,)},
        "must be the shape of x",
    ),
    ("argmax", ["f32[3]"], {}, "x must have a batch and a class axis"),
    # shapes
    (
        "reshape",
        [X],
        {"shape": ("N", 41)},
        "40 elements per image do not fill f32[N,41]",
    ),
    ("reshape", [X], {"shape": (40,)}, "40 elements per image do not fill f32[40]"),
    ("reshape", ["f32[2]"], {"shape": (2, "N")}, "the batch N must be axis 0"),
    ("transpose", [X], {"perm": (0, 1)}, "perm [0, 1] must order the axes of x"),
    (
        "transpose",
        [ROWS],
        {"perm": (1, 0)},
        "perm [1, 0] must leave the batch in front",
    ),
    ("concat", [ROWS, ROWS], {"axis": 0}, "axis 0 must be a static axis of every x"),
    (
        "concat",
        [ROWS, "f32[N,3,1]"],
        {"axis": 1},
        "operands must have one dtype and rank",
    ),
    (
        "concat",
        [X, "f32[N,4,4,2]"],
        {"axis": 3},
        "may differ along axis 3 only (x0: f32",
    ),
    ("concat", [], {"axis": 0}, "takes 1 operands (x), got 0"),
    (
        *("slice", [ROWS], {"axis": 1, "start": 2, "size": 2}),
        "elements 2 to 4 of axis 1 must exist",
    ),
    ("slice", [ROWS], {"axis": 0, "start": 0, "size": 1}, "of axis 0 must exist"),
    (
        "pad",
        [ROWS],
        {"pads": (1, 0, 0, 0)},
        "pads [1, 0, 0, 0] must be a pair for every",
    ),
    ("pad", [ROWS], {"pads": (0, 0)}, "must be a pair for every axis, 0 for the batch"),
    # normalization, loss, random, optimizers
    (
        "batch_norm",
        [X, *["f32[3]"] * 4],
        {},
        "each of the last four must have 2 elements",
    ),
    (
        *("moving_average", ["f32[2]", "f32[3]"], {"momentum": 0.9}),
        "average and sample must have one type",
    ),
    ("softmax", ["f32[3]"], {}, "x must have a batch and a class axis"),
    (
        "softmax_cross_entropy",
        [ROWS, "i64[N]"],
        {},
        "labels must be i32[N], are i64[N]",
    ),
    (
        *("softmax_cross_entropy", ["i32[N,3]", "i32[N]"], {}),
        "logits must have one float dtype (logits: i32[N,3], labels: i32[N])",
    ),
    (
        *("softmax_cross_entropy_grad", [ROWS, "i32[N]", "f64[N]"], {}),
        "logits and dy must have one float dtype",
    ),
    (
        *(
            "dropout_mask",
            ["i64[]", "i32[]"],
            {"shape": (2,), "keep": 0.5, "stream": 0},
        ),
        "seed and step must be i64 scalars",
    ),
    (
        *("dropout_mask", ["i64[]"] * 2, {"shape": (2,), "keep": 0.0, "stream": 0}),
        "keep must be in (0, 1], is 0.0",
    ),
    (
        *("dropout_mask", ["i64[]"] * 2, {"shape": (2,), "keep": 1.0, "stream": 2**32}),
        "stream must be below 2**32",
    ),
    (
        *("keep_mask", ["i64[]", "i64[]", "f32[2]"], {"shape": (2,), "stream": 0}),
        "keep must be an f32 scalar (seed: i64[], step: i64[], keep: f32[2])",
    ),
    (
        *("apply_keep", [ROWS, ROWS.replace("f32", "bool"), "bf16[]"], {}),
        "keep must be an f32 scalar",
    ),
    ("apply_keep", [ROWS, ROWS, "f32[]"], {}, "mask must be boolean with the shape"),
    ("apply_mask", [ROWS, ROWS], {}, "mask must be boolean with the shape of x"),
    (
        "apply_mask",
        ["i32[2]", "bool[2]"],
        {},
        "x must have one float dtype (x: i32[2], mas",
    ),
    (
        "sgd",
        ["f32[2]", "f32[3]", "f32[]"],
        {},
        "g must be f32[2] (p: f32[2], g: f32[3], lr",
    ),
    ("sgd", ["i32[2]", "i32[2]", "f32[]"], {}, "p must have one float dtype"),
    ("momentum", [*["f32[2]"] * 3, "f64[]"], {}, "lr must be f32[]"),
    ("adam", [*["f32[2]"] * 4, "f32[]", "i32[]"], {}, "step must be i64[]"),
    (
        *("adam", [*["f32[2]"] * 4, "f32[]", "i64[]"], {"beta2": 1.0}),
        "beta1 and beta2 must be below 1",
    ),
]


@pytest.mark.parametrize(("op", "types", "attrs", "rule"), REFUSED)
def test_an_op_says_which_rule_is_broken(
    op: str, types: list[str], attrs: dict[str, Attr], rule: str
) -> None:
    message = refusal(op, types, **attrs)
    assert rule in message
    if not message.startswith(("the batch", "a tensor", "a dimension")):
        assert message.startswith(f"{op}: ")


def test_every_op_with_a_rule_of_its_own_is_refused_somewhere() -> None:
    lenient = {"cast", "copy", "log_softmax", "greater_equal", "reduce_variance"}
    unary = {"negate", "exp", "log", "sqrt", "cos", "tanh", "sigmoid", "relu"}
    binary = {"subtract", "multiply", "maximum", "minimum"}
    assert {op for op, *_ in REFUSED} == set(OPS) - lenient - unary - binary


@pytest.mark.parametrize("op", ["negate", "relu", "tanh", "log_softmax"])
def test_a_function_of_floats_refuses_integers(op: str) -> None:
    assert "operands must have one float dtype (x: i32[2,3])" in refusal(
        op, ["i32[2,3]"]
    )


def test_a_batch_of_no_image_is_refused_before_any_op() -> None:
    with pytest.raises(RunError, match="a batch has at least 1 image, got 0"):
        run_op("relu", [ROWS], [np.ones((0, 3))], batch=0)


def test_an_unknown_op_is_named_with_those_there_are() -> None:
    with pytest.raises(TypeRuleError, match="unknown op 'mish'; known: adam, add, "):
        op_named("mish")


def test_of_equal_taps_the_first_wins() -> None:
    x = np.array([[3.0, 7.0], [7.0, 7.0]]).reshape(1, 2, 2, 1)
    (index,) = run_op("max_pool2d_argmax", ["f32[N,2,2,1]"], [x], batch=1, **POOL)
    assert index.item() == 1


def test_padding_never_wins_a_maximum() -> None:
    x = np.full((1, 1, 1, 1), -5.0)
    attrs: dict[str, Attr] = {"window": (3, 3), "strides": (1, 1), "padding": "same"}
    (y,) = run_op("max_pool2d", ["f32[N,1,1,1]"], [x], batch=1, **attrs)
    (index,) = run_op("max_pool2d_argmax", ["f32[N,1,1,1]"], [x], batch=1, **attrs)
    assert (y.item(), index.item()) == (-5.0, 4)


def test_an_average_does_not_count_padding() -> None:
    x = np.full((1, 2, 2, 1), 6.0)
    attrs: dict[str, Attr] = {"window": (3, 3), "strides": (1, 1), "padding": "same"}
    (y,) = run_op("avg_pool2d", ["f32[N,2,2,1]"], [x], batch=1, **attrs)
    assert np.array_equal(y, x)


def test_of_equal_classes_the_first_is_the_answer() -> None:
    (y,) = run_op("argmax", [ROWS], [np.array([[1.0, 2, 2], [3, 3, 3]])])
    assert y.tolist() == [1, 0]


def test_a_masked_infinity_is_zero() -> None:
    x, mask = np.array([np.inf, 2.0]), np.array([False, True])
    (y,) = run_op("apply_mask", ["f32[2]", "bool[2]"], [x, mask])
    assert y.tolist() == [0.0, 2.0]
    (dx,) = run_op("relu_grad", ["f32[2]", "f32[2]"], [np.array([0.0, 1.0]), x])
    assert dx.tolist() == [0.0, 2.0]


def test_the_exponential_ops_do_not_overflow() -> None:
    x = np.array([[1e30, -1e30, 0.0]])
    (p,) = run_op("softmax", [ROWS], [x], False, batch=1)
    assert p.tolist() == [[1.0, 0.0, 0.0]]
    labels = np.zeros(1, np.int32)
    types = [ROWS, "i32[N]"]
    (loss,) = run_op("softmax_cross_entropy", types, [x, labels], False, batch=1)
    assert loss.tolist() == [0.0]
    (y,) = run_op("sigmoid", ["f32[2]"], [np.array([1e30, -1e30])], False)
    assert y.tolist() == [1.0, 0.0]


def test_casting_to_an_integer_drops_the_fraction() -> None:
    (y,) = run_op("cast", ["f32[4]"], [np.array([1.9, -1.9, 0.5, -0.5])], dtype="i32")
    assert y.tolist() == [1, -1, 0, 0]


DIMS = st.sampled_from([1, 2, 3, 4])
SHAPES = st.builds(
    lambda batched, inner: ("N", *inner) if batched else tuple(inner),
    st.booleans(),
    st.lists(DIMS, max_size=4),
)
TYPES = st.builds(
    TensorType, st.sampled_from([*DType, DType.F32, DType.F32, DType.F32]), SHAPES
)
INTS = st.lists(st.sampled_from([-1, 0, 1, 1, 2, 3]), max_size=4).map(tuple)
ODD: st.SearchStrategy[Attr] = st.sampled_from(
    ["N", "f32", True, -1, 10**17, 1.5, float("nan"), (), (("a",),), ((1, 2), 3)]
)


def attributes(spec: AttrSpec) -> st.SearchStrategy[Any]:
    """Values of an attribute, mostly of its kind."""
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "int": st.integers(-1, 4),
        "float": st.floats(-1, 2),
        "bool": st.booleans(),
        "str": st.sampled_from(spec.choices or ("a",)),
        "ints": INTS | st.just((1, 1)) | st.just((2, 2)),
        "shape": SHAPES,
        "padding": st.sampled_from(["same", "valid", ((1, 0), (0, 1)), ((2, 2),)]),
    }
    return st.one_of(kinds[spec.kind], kinds[spec.kind], kinds[spec.kind], ODD)


@st.composite
def applications(draw: st.DrawFn) -> tuple[str, list[TensorType], dict[str, Attr]]:
    """An op with operands and attributes that may or may not suit it."""
    name = draw(st.sampled_from(sorted(OPS)))
    op = OPS[name]
    same = draw(TYPES)
    types = [draw(st.one_of(st.just(same), st.just(same), TYPES)) for _ in op.operands]
    attrs = {k: draw(attributes(s)) for k, s in op.attrs.items() if draw(st.booleans())}
    attrs |= {
        k: draw(attributes(s))
        for k, s in op.attrs.items()
        if s.required and k not in attrs
    }
    return name, types, attrs


@settings(max_examples=1000)
@given(applications())
def test_no_rule_fails_but_with_its_own_error(
    application: tuple[str, list[TensorType], dict[str, Attr]],
) -> None:
    """And what a rule accepts has a cost and, if small, a reference of that type."""
    name, types, attrs = application
    op = OPS[name]
    try:
        full = op.check(types, attrs)
        results = op.infer(types, full)
    except TypeRuleError:
        return
    assert op.flops(types, full, 2) >= 0
    assert op.reduction(types, full, 2) >= 1
    assume(max(t.elements(2) for t in (*types, *results)) < 10**5)
    arrays = [np.ones(t.bind(2), t.dtype.numpy) for t in types]
    if "labels" in op.operands:
        arrays[op.operands.index("labels")][...] = 0
    with np.errstate(all="ignore"):
        out = op.evaluate(arrays, full, 2)
    for array, result in zip(
        out if isinstance(out, tuple) else (out,), results, strict=True
    ):
        assert np.asarray(array).shape == result.bind(2)


def test_a_label_out_of_range_is_refused_by_the_loss_and_its_gradient() -> None:
    logits, dy = np.zeros((2, 3)), np.ones(2)
    for wrong in (3, -1):
        labels = np.array([0, wrong])
        with pytest.raises(RunError, match=f"from 0 to 2, one is {wrong}"):
            run_op("softmax_cross_entropy", [ROWS, "i32[N]"], [logits, labels])
        types = [ROWS, "i32[N]", "f32[N]"]
        with pytest.raises(RunError, match=f"from 0 to 2, one is {wrong}"):
            run_op("softmax_cross_entropy_grad", types, [logits, labels, dy])
