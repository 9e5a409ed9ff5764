"""The summary table: rows, totals, plain and drawn."""

import io

import pytest
from rich.console import Console

from convc.layers import (
    batch_norm,
    conv1d,
    conv2d,
    convolve,
    depthwise_conv2d,
    dropout,
    flatten,
    gelu,
    global_avg_pool2d,
    max_pool3d,
    reshape,
    separable_conv2d,
)
from convc.networks import two_conv
from convc.summary import size, summary_table
from convc.tracing import Tensor, get_variable, trace, variable_scope

TWO_CONV = """\
two_conv
Layer (type)        Output shape       Param #       FLOPs
----------------------------------------------------------
conv1 (conv2d)      f32[N,28,28,32]        832   1,304,576
pool1 (max_pool2d)  f32[N,14,14,32]          0      25,088
conv2 (conv2d)      f32[N,14,14,64]     51,264  20,095,488
pool2 (max_pool2d)  f32[N,7,7,64]            0      12,544
flatten (reshape)   f32[N,3136]              0           0
fc (dense)          f32[N,1024]      3,212,288   6,424,576
dropout (dropout)   f32[N,1024]              0       2,048
logits (dense)      f32[N,10]           10,250      20,490
----------------------------------------------------------
total                                3,274,634  27,884,810
trainable: 3,274,634, other: 0
parameters: 12.5 MiB
values per image: 507.1 KiB before fusion"""


def test_the_plain_table_of_two_conv() -> None:
    assert str(summary_table(trace(two_conv, {"image": "f32[N,28,28,1]"}))) == TWO_CONV


def test_flops_are_those_of_the_textbook() -> None:
    """A convolution is 2 · out · taps · channels, a bias and a relu one each."""
    rows = summary_table(trace(two_conv, {"image": "f32[N,28,28,1]"})).rows
    flops = {row.layer: row.flops for row in rows}
    assert flops["conv1"] == 28 * 28 * 32 * (2 * 25 * 1 + 2)
    assert flops["conv2"] == 14 * 14 * 64 * (2 * 25 * 32 + 2)
    assert flops["fc"] == 1024 * (2 * 3136 + 2)


def test_a_rich_console_draws_the_same_numbers() -> None:
    table = summary_table(trace(two_conv, {"image": "f32[N,28,28,1]"}))
    out = io.StringIO()
    Console(file=out, width=120, force_terminal=True, color_system=None).print(table)
    for word in (
        "conv1 (conv2d)",
        "f32[N,7,7,64]",
        "3,274,634",
        "27,884,810",
        "12.5 MiB",
    ):
        assert word in out.getvalue()
    assert "│" in out.getvalue()


def test_layers_are_named_by_what_they_are() -> None:
    def net(x: Tensor) -> Tensor:
        with variable_scope("low"):
            x = convolve(x, get_variable("w", [3, 3, 1, 4]))
        x = batch_norm(gelu(x), name="bn")
        return dropout(flatten(x) * 2 + 1, keep=0.5)

    rows = summary_table(trace(net, {"x": "f32[N,6,6,1]"})).rows
    assert [(r.layer, r.kind, r.shape, r.count) for r in rows] == [
        ("low", "variables", "", 36),
        ("low/convolve", "conv2d", "f32[N,4,4,4]", 0),
        ("gelu", "expression", "f32[N,4,4,4]", 0),
        ("bn", "batch_norm", "f32[N,4,4,4]", 16),
        ("flatten", "reshape", "f32[N,64]", 0),
        ("multiply", "multiply", "f32[N,64]", 0),
        ("add", "add", "f32[N,64]", 0),
        ("dropout", "dropout", "f32[N,64]", 0),
    ]


def test_layers_of_windows_are_named_by_rank_and_groups() -> None:
    """By what their result is; transposes around an op do not hide it."""

    def net(x: Tensor) -> Tensor:
        x = depthwise_conv2d(separable_conv2d(x, 4, 3, name="s"), 3, name="d")
        x = conv1d(reshape(x, [-1, 4, 4]), 6, 1, groups=2, name="c")
        x = max_pool3d(reshape(x, [-1, 2, 2, 2, 3]), name="p")
        return global_avg_pool2d(reshape(x, [-1, 1, 1, 3]), "g", data_format="NCHW")

    rows = summary_table(trace(net, {"x": "f32[N,6,6,2]"})).rows
    kinds = {r.layer: r.kind for r in rows if r.kind != "reshape"}
    assert kinds == {
        "s": "separable_conv2d",
        "d": "depthwise_conv2d",
        "c": "conv1d",
        "p": "max_pool3d",
        "g": "reduce_mean",
    }


def test_variables_outside_of_all_layers_stand_under_a_name_of_their_own() -> None:
    def net(x: Tensor) -> Tensor:
        return flatten(x + get_variable("w", [6, 6, 1]))

    table = summary_table(trace(net, {"x": "f32[N,6,6,1]"}))
    assert [r.layer for r in table.rows] == ["(variables)", "add", "flatten"]
    assert table.cells()[0] == ("(variables)", "", "36", "0")


def test_shared_parameters_count_once_and_states_apart() -> None:
    def net(x: Tensor) -> Tensor:
        x = conv2d(x, 1, 3, padding="same", name="c")
        return batch_norm(conv2d(x, 1, 3, padding="same", name="c", reuse=True))

    table = summary_table(trace(net, {"x": "f32[N,6,6,1]"}))
    assert [(r.layer, r.count) for r in table.rows] == [("c", 10), ("batch_norm", 4)]
    assert table.foot[0] == "trainable: 12, other: 2"


@pytest.mark.parametrize(
    ("nbytes", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**20, "1.0 MiB"),
        (2**40, "1024.0 GiB"),
    ],
)
def test_sizes_are_for_people(nbytes: int, said: str) -> None:
    assert size(nbytes) == said
