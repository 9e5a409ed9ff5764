"""A compiled program takes what it was compiled for, and says what it cannot take."""

import subprocess
import sys
import traceback
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from compiled import inputs_for, ran
from pass_bench import graph_of

from convc.backends import backend_named
from convc.ir import philox
from convc.ir.errors import CompileError, RunError
from convc.layers import conv2d, dense, dropout, flatten
from convc.memory import MemoryPlan
from convc.model import Model
from convc.pipeline import LOWERING, Step
from convc.program import Program
from convc.tracing import Tensor


def tiny(image: Tensor) -> Tensor:
    x = conv2d(image, 3, 3, padding="same", activation="relu", name="conv1")
    x = dropout(dense(flatten(x), 6, name="fc"), keep=0.5)
    return dense(x, 4, name="logits")


STEP = Model(tiny, image="f32[N,5,4,1]").training_step(keep_gradients=True)


@pytest.fixture
def program() -> Program:
    return STEP.compile(batch=4, threads=2)


def images(n: int = 4) -> np.ndarray:
    return inputs_for(STEP.graph, n)["image"]


def labels(n: int = 4) -> np.ndarray:
    return np.arange(n, dtype=np.int32) % 4


def test_it_says_what_it_was_compiled_for(program: Program) -> None:
    assert (program.batch, program.threads, program.backend) == (4, 2, "numpy")
    assert program.graph is program.stages[-1].graph
    assert program.graph.stage == "planned"
    assert "def conv1" in program.source


def test_inputs_are_live_and_a_call_copies_into_them(program: Program) -> None:
    """A loader may fill them itself: both ways give the same bits."""
    start = program.state()
    called = program(image=images(), labels=labels())
    program.load(start)
    program.input("image")[...] = images()
    np.take(labels(), np.arange(4), out=program.input("labels"))
    filled = program.run()
    assert called.keys() == filled.keys()
    assert all(np.array_equal(called[k], filled[k]) for k in called)


def test_inputs_have_the_batch_in_front(program: Program) -> None:
    for n in (1, 3, 4):
        assert program.input("image", n).shape == (n, 5, 4, 1)
        assert program.input("labels", n).shape == (n,)
    assert program.input("image").shape == (4, 5, 4, 1)


def test_a_step_does_not_change_its_inputs(program: Program) -> None:
    program(image=images(3), labels=labels(3))
    assert np.array_equal(program.input("image", 3), images(3))
    assert np.array_equal(program.input("labels", 3), labels(3))


def test_outputs_are_copies(program: Program) -> None:
    first = program(image=images(), labels=labels())
    kept = {k: v.copy() for k, v in first.items()}
    program(image=-images(), labels=labels()[::-1])
    assert all(np.array_equal(first[k], kept[k]) for k in kept)
    assert first["loss"].shape == ()
    assert first["loss"].dtype == np.float32
    assert first["correct"].dtype == np.int32


def test_parameters_are_live(program: Program) -> None:
    before = program(image=images(), labels=labels())["loss"]
    for name, view in program.parameters.items():
        if name.startswith(("conv", "fc", "logits")):
            view[...] = 0
    after = program(image=images(), labels=labels())["loss"]
    assert before != after
    assert abs(after - np.log(4)) < 1e-6  # all classes alike


def test_state_is_a_copy_that_can_be_loaded(program: Program) -> None:
    start = program.state()
    first = ran(program, {"image": images(), "labels": labels()})
    assert int(program.parameters["training/step"]) == 1
    program.load(start)
    assert int(program.parameters["training/step"]) == 0
    again = ran(program, {"image": images(), "labels": labels()})
    assert all(np.array_equal(first.updates[k], again.updates[k]) for k in start)


def test_initial_values_depend_on_the_seed_alone(program: Program) -> None:
    program.initialize(7)
    first = program.state()
    program(image=images(), labels=labels())
    program.initialize(8)
    assert not np.array_equal(program.state()["fc/kernel"], first["fc/kernel"])
    program.initialize(7)
    assert all(np.array_equal(program.state()[k], first[k]) for k in first)
    assert int(first["training/seed"]) == 7


@pytest.mark.parametrize("n", [0, -1, 5])
def test_a_batch_it_was_not_compiled_for_is_refused(program: Program, n: int) -> None:
    expected = f"runs 1 to 4 images at a time, not {n}"
    with pytest.raises(RunError, match=expected):
        program.run(n)
    with pytest.raises(RunError, match=expected):
        program.input("image", n)
    if n >= 0:
        with pytest.raises(RunError, match=expected):
            program(image=np.zeros((n, 5, 4, 1)), labels=np.zeros(n, np.int32))


def test_unknown_and_missing_inputs_are_named(program: Program) -> None:
    with pytest.raises(RunError, match="no input 'picture', this program has: image, "):
        program.input("picture")
    with pytest.raises(RunError, match="takes image, labels, got image$"):
        program(image=images())
    with pytest.raises(RunError, match="got image, labels, rate"):
        program(image=images(), labels=labels(), rate=1.0)


def test_a_misshapen_input_is_refused_with_both_sides(program: Program) -> None:
    expected = r"%image is f32\[N,5,4,1\], got an array of shape \(4, 4, 5, 1\)"
    with pytest.raises(RunError, match=expected):
        program(image=images().reshape(4, 4, 5, 1), labels=labels())
    with pytest.raises(RunError, match=r"%labels is i32\[N\], got .* \(4, 4\)"):
        program(image=images(), labels=np.eye(4, dtype=np.int32))


def test_inputs_that_disagree_on_the_batch_are_refused(program: Program) -> None:
    with pytest.raises(
        RunError, match=r"one batch size, got image \(3, 5, 4, 1\), lab"
    ):
        program(image=images(3), labels=labels(4))


def test_another_kind_of_number_is_refused(program: Program) -> None:
    """Numbers of another width are converted."""
    with pytest.raises(RunError, match="%labels is i32, an array of float64 does not"):
        program(image=images(), labels=labels().astype(float))
    wide = program(image=images().astype(float), labels=labels().astype(np.int64))
    assert wide.keys() == dict(program.graph.outputs).keys()


@pytest.mark.parametrize("wrong", [-1, 4, 2**31 - 1])
def test_a_label_out_of_range_is_refused(program: Program, wrong: int) -> None:
    """Also when a loader filled the live input; nothing has been updated then."""
    bad = labels()
    bad[2] = wrong
    start = program.state()
    with pytest.raises(RunError, match=f"%labels holds labels 0 to 3.*{wrong}"):
        program(image=images(), labels=bad)
    program.input("labels")[...] = bad
    with pytest.raises(RunError, match="holds labels 0 to 3"):
        program.run()
    assert all(np.array_equal(start[k], program.state()[k]) for k in start)


def test_labels_behind_the_images_of_a_small_batch_do_not_matter(
    program: Program,
) -> None:
    program.input("labels")[...] = [0, 1, 99, -5]
    program.run(2)


def test_a_missing_parameter_is_named_and_nothing_is_loaded(program: Program) -> None:
    start = program.state()
    half = {k: v + 1 for k, v in start.items() if k != "fc/kernel"}
    with pytest.raises(RunError, match=r"parameter fc/kernel \(f32\[60,6\]\) was not"):
        program.load(half)
    assert all(np.array_equal(start[k], program.state()[k]) for k in start)


def test_a_misshapen_parameter_is_named_and_nothing_is_loaded(
    program: Program,
) -> None:
    start = program.state()
    wrong = {**{k: v + 1 for k, v in start.items()}, "fc/kernel": np.ones((6, 60))}
    with pytest.raises(
        RunError, match=r"fc/kernel is f32\[60,6\], got shape \(6, 60\)"
    ):
        program.load(wrong)
    assert all(np.array_equal(start[k], program.state()[k]) for k in start)


def test_parameters_of_others_are_ignored(program: Program) -> None:
    """So an evaluation program takes the weights of a training program."""
    evaluation = Model(tiny, image="f32[N,5,4,1]").evaluation_step().compile(batch=4)
    evaluation.load(program.state())
    assert set(evaluation.parameters) < set(program.parameters)
    found = evaluation(image=images(), labels=labels())
    assert set(found) == {"loss", "correct"}


def test_an_unplanned_graph_is_no_program(program: Program) -> None:
    stage = replace(program.stages[-1], graph=STEP.graph)
    with pytest.raises(CompileError, match="needs a planned graph; run plan-memory"):
        Program((stage,), backend_named("numpy"))


def test_an_arena_that_no_machine_has_room_for_is_refused_with_its_size() -> None:
    wanted = r"no room for one arena of [\d,]+ bytes .* for batch 99999999999: .* fewer"
    with pytest.raises(CompileError, match=wanted):
        STEP.compile(batch=99_999_999_999, threads=1)


def test_an_error_in_emitted_code_shows_the_emitted_line(program: Program) -> None:
    """Its text is where tracebacks look for it."""
    with pytest.raises(KeyError) as caught:
        program.engine.emitted.array("nothing")
    shown = "".join(traceback.format_exception(caught.value))
    assert "<convc " in shown
    assert "= ARRAYS[name]" in shown


def test_programs_do_not_share_memory() -> None:
    one, two = (STEP.compile(batch=4, threads=1) for _ in range(2))
    one.parameters["fc/kernel"][...] = 3
    assert not (two.parameters["fc/kernel"] == 3).any()


def test_a_program_of_scalars_runs_without_images() -> None:
    text = """
    graph g(%x: f32[]) -> (y=%2) {
      state %n : i64[] = zeros()
      %1 = constant() {value=1.0, dtype=i64} : i64[]
      %3 = add(%n, %1) : i64[]
      %2 = exp(%x) : f32[]
      update %n = %3
    }
    """
    program = Step(graph_of(text), LOWERING).compile(batch=1, threads=2)
    for count in (1, 2, 3):
        assert program(x=0.0)["y"] == 1
        assert program.parameters["n"] == count


def test_infinities_and_nan_pass_through_without_a_warning(program: Program) -> None:
    """The trainer looks at the loss; the program is no judge."""
    bad = images()
    bad[0, 0, 0, 0] = np.nan
    assert np.isnan(program(image=bad, labels=labels())["loss"])


def test_the_memory_plan_is_told_in_one_line(program: Program) -> None:
    plan = program.memory
    weights = sum(v.nbytes for v in program.parameters.values())
    assert plan.parameter_bytes == weights
    assert plan.parameter_bytes + plan.activation_bytes == plan.arena_bytes
    assert f"one arena of {plan.arena_bytes:,} bytes" in str(plan)
    assert "for batch 4" in str(plan)
    assert "\n" not in str(plan)
    assert MemoryPlan.of(STEP.graph) == MemoryPlan(0, 0, 0, 0, 0)


def test_a_run_that_uses_more_than_the_plan_is_stopped(program: Program) -> None:
    program.engine.emitted.memory.used = program.memory.arena_bytes + 1
    with pytest.raises(RunError, match="bytes, its plan says"):
        program(image=images(), labels=labels())


def test_the_blas_library_is_held_to_one_thread_while_programs_live() -> None:
    """But not by those for one image alone; the last that goes gives it back."""
    code = (
        "import gc, convc as cc\n"
        "from threadpoolctl import ThreadpoolController\n"
        "import numpy\n"
        "pools = ThreadpoolController().select(user_api='blas')\n"
        "count = lambda: (gc.collect(), [p['num_threads'] for p in pools.info()])[1]\n"
        "pools.limit(limits=2)\n"
        "model = cc.Model(lambda image: cc.dense(cc.flatten(image), 3),"
        " image='f32[N,2,2,1]')\n"
        "assert set(count()) == {2}, count()\n"
        "a, b = (model.inference().compile(batch=2) for _ in range(2))\n"
        "assert set(count()) == {1}, count()\n"
        "c = model.inference().compile(batch=1, threads=2)\n"
        "assert set(count()) == {1}, count()\n"
        "del a\n"
        "assert set(count()) == {1}, count()\n"
        "del b\n"
        "assert set(count()) == {2}, count()\n"
        "d = model.inference().compile(batch=2)\n"
        "assert set(count()) == {1}, count()\n"
        "del c, d\n"
        "assert set(count()) == {2}, count()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_timing_kernels_names_each_and_leaves_the_program_as_it_was(
    program: Program,
) -> None:
    """The next step gives the same bits as if nothing had been timed."""
    start = program.state()
    expected = program(image=images(), labels=labels())
    program.load(start)
    seconds = program.time_kernels(rounds=2)
    assert list(seconds) == [k.node for k in program.kernels]
    assert min(seconds.values()) > 0
    again = program(image=images(), labels=labels())
    assert all(np.array_equal(expected[k], again[k]) for k in expected)


FED = """
graph g(%x: f32[N,64], %share: f32[] = 0.5) -> (y=%y) {
  state %s : i64[] = zeros()
  state %t : i64[] = zeros()
  %m = keep_mask(%s, %t, %share) {shape=[N,64], stream=5} : bool[N,64]
  %y = apply_keep(%x, %m, %share) : f32[N,64]
}
"""


@pytest.fixture(params=["numpy", "triton:interpret"])
def fed(request: pytest.FixtureRequest) -> Program:
    return Step(graph_of(FED), LOWERING).compile(request.param, batch=4, threads=1)


def kept(share: float, n: int) -> np.ndarray:
    """What dropout of this share makes of ones."""
    mask = philox.keep_mask(0, 5, 0, 64 * n, share).reshape(n, 64)
    return mask / np.float32(share)


def test_an_input_holds_what_it_is_fed_until_it_is_given_another(fed: Program) -> None:
    ones = np.ones((4, 64), np.float32)
    assert np.array_equal(fed(x=ones)["y"], kept(0.5, 4))
    assert np.array_equal(fed(x=ones[:3], share=0.25)["y"], kept(0.25, 3))
    assert np.array_equal(fed(x=ones)["y"], kept(0.25, 4))
    fed.input("share")[...] = 1
    assert np.array_equal(fed(x=ones)["y"], ones)
    with pytest.raises(RunError, match="this program takes x, share, got share"):
        fed(share=0.5)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, np.nan])
def test_a_share_that_cannot_be_kept_is_refused(fed: Program, share: float) -> None:
    rule = "%share is the share that dropout keeps, above 0 and at most 1"
    with pytest.raises(RunError, match=f"{rule} .*; got {share:g}"):
        fed(x=np.ones((1, 64), np.float32), share=share)


def test_an_emitted_file_feeds_itself(fed: Program) -> None:
    space: dict[str, Any] = {"__name__": "emitted"}
    exec(compile(fed.source, "emitted", "exec"), space)
    assert space["FEEDS"] == {"share": 0.5}
    place = {} if fed.backend == "numpy" else {"device": "cpu"}
    assert float(space["Program"](**place).array("share")) == 0.5


def test_steps_on_a_whole_data_set_want_a_share_that_can_be_kept(fed: Program) -> None:
    fed.input("share")[...] = 2
    with pytest.raises(RunError, match="%share is the share that dropout keeps"):
        fed.resident(("x", np.ones((4, 64), np.float32)), ("y", labels()))
