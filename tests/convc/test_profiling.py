"""A profile accounts for a step: kernels, waiting, gaps; its trace can be opened."""

import json

import numpy as np
import pytest

from convc.model import Model
from convc.networks import strided
from convc.profiling import Profile, profile
from convc.program import Program
from convc.roofline import Peaks


def program(threads: int = 2, backend: str = "numpy") -> Program:
    model = Model(strided, image="f32[N,8,8,1]")
    return model.training_step().compile(backend, 4, threads)


@pytest.mark.parametrize(
    ("threads", "backend"), [(2, "numpy"), (1, "triton:interpret")]
)
def test_every_kernel_of_every_step_is_spanned(threads: int, backend: str) -> None:
    """Begin before end, one after the other; parameters stay what they are."""
    made = program(threads, backend)
    before = made.state()
    spans = made.spans(3)
    assert spans.shape == (3, len(made.kernels), threads, 2)
    assert (spans[..., 0] <= spans[..., 1]).all()
    begins, ends = spans[..., 0].min(axis=2), spans[..., 1].max(axis=2)
    assert (begins[:, 1:] >= ends[:, :-1]).all()
    assert (begins[1:, 0] >= ends[:-1, -1]).all()
    assert all(np.array_equal(before[k], a) for k, a in made.state().items())


class Clock(Program):
    """Two kernels on two workers, three steps of 10 s, at known times."""

    def spans(self, rounds: int = 5, n: int | None = None) -> np.ndarray:
        one = [[[0, 2], [0, 4]], [[5, 8], [6, 7]]]
        more = len(self.kernels) - 2
        rest = [[[8, 8], [8, 8]]] * more
        step = np.array(one + rest, float)
        return np.stack([step + 10 * i for i in range(3)])


def test_times_waits_and_gaps_are_what_the_clock_says() -> None:
    made = program()
    made.__class__ = Clock
    found = profile(made, 3, Peaks(1e6, 1e6, 1e6))
    first, second, third = found.kernels[:3]
    assert (first.seconds, first.wait, first.gap) == (4, 1, 2)
    assert (second.seconds, second.wait, second.gap) == (3, 0.5, 1)
    assert (third.seconds, third.wait, third.gap) == (0, 0, 0)
    assert found.seconds == 7
    assert first.flops == first.row.work.flops / 4
    assert first.bandwidth == first.row.work.nbytes / 4
    most = max(first.row.work.flops, first.row.work.nbytes)
    assert first.roof == pytest.approx(most / 1e6 / 4)


def test_kernels_and_gaps_make_up_the_step() -> None:
    """On a quiet clock: together no longer than the steps that were spanned."""
    made = program()
    found = profile(made, 5)
    assert found.step > 0
    spans = found.spans
    step = np.median(spans[:, -1].max(axis=(1, 2)) - spans[:, 0].min(axis=(1, 2)))
    inside = sum(k.seconds for k in found.kernels)
    inside += sum(k.gap for k in found.kernels[1:])
    assert inside == pytest.approx(step, rel=0.5)
    assert [k.row.node for k in found.kernels] == [k.node for k in made.kernels]
    assert all(k.roof is None for k in found.kernels)


def test_the_trace_has_an_event_for_each_worker_and_kernel() -> None:
    found: Profile = profile(program(), 2)
    body = json.loads(found.trace())
    events = [e for e in body["traceEvents"] if e["ph"] == "X"]
    assert len(events) == found.spans[..., 0].size
    assert {e["tid"] for e in events} == {0, 1}
    assert min(e["ts"] for e in events) == 0
    assert all(e["dur"] >= 0 for e in events)
    (one,) = [e for e in events if e["name"] == "loss" and e["args"]["step"] == 1][:1]
    assert one["args"]["layers"] == "loss, correct"
    named = [e["args"]["name"] for e in body["traceEvents"] if e["ph"] == "M"]
    assert named == ["strided, batch 4, 2 threads, numpy", "worker 0", "worker 1"]
