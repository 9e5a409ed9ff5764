"""Blocks are the layers of a step; each direction is a graph that does its part."""

import numpy as np
import pytest

from convc.directions import (
    DIRECTIONS,
    FORWARD,
    INPUT,
    WEIGHT,
    Block,
    blocks_of,
    work_of,
)
from convc.ir.verifier import verify
from convc.model import Model
from convc.networks import built_in, load_network, two_conv
from convc.passes.samples import Samples


def blocks(name: str) -> list[Block]:
    network, label = load_network(name)
    return list(blocks_of(Model(network, name=label)))


def test_blocks_are_the_layers_with_parameters_and_what_follows() -> None:
    found = [(b.layer, b.others, b.directions) for b in blocks("two_conv")]
    assert found == [
        ("conv1", ("pool1",), (FORWARD, WEIGHT)),
        ("conv2", ("pool2", "flatten"), DIRECTIONS),
        ("fc", ("dropout",), DIRECTIONS),
        ("logits", ("loss", "correct"), DIRECTIONS),
    ]


@pytest.mark.parametrize("name", built_in())
def test_every_direction_of_every_network_is_a_graph(name: str) -> None:
    """It verifies, has what it should, and reads no cotangent going forward."""
    for block in blocks(name):
        for direction in block.directions:
            graph = verify(block.graph(direction))
            given = {v.name for v in graph.inputs}
            if direction == FORWARD:
                assert not given & set(block.cotangents.values())
            else:
                assert set(dict(graph.outputs)) == set(block.gradients[direction])
                assert given & set(block.cotangents.values())
            assert work_of(block, direction, 4)[1] > 0


def test_directions_do_not_compute_what_the_forward_one_has_made() -> None:
    """The gradients of a convolution contain no convolution of the forward pass."""
    conv = blocks("two_conv")[1]
    ops = {d: [n.op for n in conv.graph(d).nodes] for d in DIRECTIONS}
    assert ops[FORWARD].count("conv2d") == 1
    assert "max_pool2d_argmax" in ops[FORWARD]
    assert "conv2d_input_grad" in ops[INPUT]
    assert "conv2d_filter_grad" in ops[WEIGHT]
    for direction in (INPUT, WEIGHT):
        assert "conv2d" not in ops[direction]
        assert "max_pool2d_argmax" not in ops[direction]


def test_the_work_of_a_direction_is_that_of_its_ops() -> None:
    conv = blocks("two_conv")[1]
    products = 2 * 14 * 14 * 25 * 32 * 64
    for direction in DIRECTIONS:
        flops, nbytes = work_of(conv, direction, 3)
        assert 3 * products <= flops <= 1.02 * 3 * products
        assert nbytes >= 4 * (25 * 32 * 64 + 3 * 14 * 14 * 32)


def test_samples_are_the_same_in_every_process() -> None:
    block = next(iter(blocks_of(Model(two_conv))))
    one, other = (Samples(whole=False, batch=2).of(block.joint)[0] for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in one)
