"""A plan in which nothing shares bytes runs the same program to the same bits."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from compiled import inputs_for
from seed_networks import SEED_NETWORKS

from convc.backends import backend_named
from convc.ir.liveness import homes
from convc.program import Program
from convc.trust.spread import spread


@pytest.mark.parametrize("name", ["convnet", "normalized", "residual"])
def test_it_means_the_same_and_shares_nothing_but_homes(name: str) -> None:
    step = SEED_NETWORKS[name].model(name, 4).training_step()
    program = step.compile(batch=3, threads=2)
    graph = spread(program.graph)
    last = replace(program.stages[-1], graph=graph)
    apart = Program((*program.stages[:-1], last), backend_named("numpy"))
    inputs = inputs_for(program.graph, 3)
    one, two = program(**inputs), apart(**inputs)
    assert all(np.array_equal(a, two[k]) for k, a in one.items())
    assert graph.arena is not None
    home = homes(program.graph)
    ranges = {
        home.get(b.name, b.name): (b.offset, b.offset + b.size)
        for b in graph.arena.buffers
    }
    for (a, end), (b, stop) in combinations(ranges.values(), 2):
        assert end <= b or stop <= a
    assert max(end for _, end in ranges.values()) <= graph.arena.size
