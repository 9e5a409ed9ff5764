"""The emitted file: Python for NumPy alone, deterministic, no user text in its code."""

import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from compiled import State, compiled, inputs_for, ran
from hostile_names import HOSTILE, NET, calls_in, named_everywhere, rename_kernels
from pass_bench import graph_of

from convc.ir import philox
from convc.ir.interpreter import interpret
from convc.model import Model
from convc.networks import NETWORKS, two_conv
from convc.pipeline import LOWERING, Step
from convc.program import Program

STEPS = {
    f"{name}-{kind}": step
    for name, network in NETWORKS.items()
    for kind, step in (
        ("training", Model(network).training_step()),
        ("evaluation", Model(network).evaluation_step()),
        ("inference", Model(network).inference()),
    )
}


@cache
def program_for(name: str, batch: int = 4) -> Program:
    return STEPS[name].compile(batch=batch, threads=2)


@pytest.mark.parametrize("name", STEPS)
def test_the_source_passes_ruff(name: str) -> None:
    """Ruff's own default rules, and no line longer than 88."""
    source = STEPS[name].compile(batch=128, threads=2).source
    rules = ["--isolated", "--extend-select", "E501", "--line-length", "88"]
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", *rules, "-"]
    done = subprocess.run(
        command, input=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


ALONE = """
import hashlib, sys

class OnlyNumpy:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top != "numpy" and top not in sys.stdlib_module_names:
            raise ImportError(f"{name} is out of bounds")

sys.meta_path.insert(0, OnlyNumpy())
sys.path.append(SITE)
import numpy as np
space = {"__name__": "emitted"}
exec(compile(open(SOURCE).read(), SOURCE, "exec"), space)
program = space["Program"]()
data = np.load(DATA)
for name in data.files:
    program.array(name, N)[...] = data[name]
program.run(N)
program.run(N)
digest = hashlib.sha256()
for name in OUTPUTS:
    digest.update(np.array(program.array("-> " + name, N)).tobytes())
for name in PARAMETERS:
    digest.update(np.array(program.array(name)).tobytes())
print(digest.hexdigest())
"""


def run_alone(program: Program, data: State, n: int, at: Path) -> str:
    """The digest of all results after two steps in a Python that has only NumPy."""
    source, arrays = at / "emitted.py", at / "data.npz"
    source.write_text(program.source)
    np.savez(arrays, **data)
    given = {
        "SITE": str(Path(np.__file__).parents[1]),
        "SOURCE": str(source),
        "DATA": str(arrays),
        "N": n,
        "OUTPUTS": [name for name, _ in program.graph.outputs],
        "PARAMETERS": list(program.parameters),
    }
    head = "".join(f"{key} = {value!r}\n" for key, value in given.items())
    # Another choice of kernels in the BLAS library would be other bits.
    blas = {k: v for k, v in os.environ.items() if k.startswith("OPENBLAS_")}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", head + ALONE],
        capture_output=True,
        text=True,
        env=blas | {"OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def digest(arrays: list[np.ndarray]) -> str:
    joined = hashlib.sha256()
    for array in arrays:
        joined.update(np.ascontiguousarray(array).tobytes())
    return joined.hexdigest()


@pytest.mark.parametrize("name", ["two_conv-training", "four_conv-inference"])
def test_it_runs_where_there_is_only_numpy_and_gives_the_same_bits(
    name: str, tmp_path: Path
) -> None:
    """Two fresh processes and this one: two steps, all parameters and outputs."""
    program = program_for(name)
    graph = program.stages[0].graph
    data = {**inputs_for(graph, 3), **program.state()}
    found = {run_alone(program, data, 3, tmp_path) for _ in range(2)}
    ran(program, inputs_for(graph, 3))
    last = ran(program, inputs_for(graph, 3))
    assert found == {digest([*last.outputs.values(), *last.updates.values()])}


def test_the_file_runs_by_itself_and_times_five_steps(tmp_path: Path) -> None:
    path = tmp_path / "strided.py"
    path.write_text(program_for("strided-training").source)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["a step on 4 images"] * 5


@pytest.mark.parametrize("name", ["two_conv-training", "strided-training"])
def test_the_same_source_every_time(name: str) -> None:
    again = STEPS[name].compile(batch=4, threads=2)
    assert again.source == program_for(name).source


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_step_gives_the_same_bits_run_after_run(threads: int) -> None:
    """Whichever worker is first."""
    step = Model(NETWORKS["strided"]).training_step(keep_gradients=True)
    program = step.compile(batch=9, threads=threads)
    feeds, start = inputs_for(step.graph, 9), program.state()
    results = set()
    for _ in range(10):
        program.load(start)
        result = ran(program, feeds)
        arrays = [*result.outputs.values(), *result.updates.values()]
        results.add(digest(arrays))
    assert len(results) == 1


def allocated(program: Program, n: int) -> int:
    """The most bytes that a step has at once beyond what it began with."""
    emitted = program.engine.emitted
    emitted.run(n)  # binds the views
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        emitted.run(n)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "batch"),
    [("two_conv-training", 4), ("two_conv-training", 24), ("strided-training", 128)],
)
def test_a_step_allocates_no_arrays(name: str, batch: int) -> None:
    """Only the buffers in which NumPy's own loops convert operands, at any batch.

    One for each operand of the call that a worker is in, of getbufsize() elements.
    """
    buffers = 2 * 3 * np.getbufsize() * 4
    assert allocated(program_for(name, batch), batch) < buffers + 16 * 1024


# -- names


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: json.dumps(text)[:40])
def test_no_text_of_the_user_becomes_code(text: str) -> None:
    """As the graph's name, an output, a file, a layer, and a kernel's own name."""
    graph = named_everywhere(text)
    passes = (*LOWERING[:-2], rename_kernels(text), *LOWERING[-2:])
    feeds = inputs_for(graph, 3)
    state = {
        "kernel": np.ones((3, 3, 2, 3), np.float32),
        "bias": np.ones(3, np.float32),
    }
    expected = interpret(graph, feeds, state, float64=True).outputs[text]
    for program in (compiled(graph, 3), compiled(graph, 3, 2, passes)):
        assert "PWNED" not in calls_in(program.source)
        program.load(state)
        found = ran(program, feeds).outputs[text]
        assert np.allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "text", [t for t in HOSTILE if t.isidentifier() and t.isascii() and len(t) < 99]
)
def test_parameters_and_inputs_may_have_any_name(text: str) -> None:
    """Also one that Python or the emitted file knows."""
    source = NET.replace("%bias", f"%{text}").replace("%image", f"%{text}.in")
    graph = graph_of(source.replace("%kernel", f"%{text}/kernel"))
    program = compiled(graph, 2)
    assert set(program.parameters) == {f"{text}/kernel", text}
    found = ran(program, inputs_for(graph, 2)).outputs["y"]
    assert np.array_equal(found, np.ones((2, 4, 4, 3)))  # exp(relu(0))


def test_an_output_may_have_the_name_of_an_input_or_a_parameter() -> None:
    text = """
    graph g(%x: f32[N,4]) -> (x=%1, w=%2) {
      param %w : f32[4] = ones()
      %1 = negate(%x) : f32[N,4]
      %2 = add(%1, %w) : f32[N,4]
    }
    """
    program = compiled(graph_of(text), 2)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    result = ran(program, {"x": x})
    assert np.array_equal(result.outputs["x"], -x)
    assert np.array_equal(result.outputs["w"], 1 - x)
    assert np.array_equal(result.updates["w"], np.ones(4))


# -- dropout

MASK = """
graph g(%images: u8[N]) -> (mask=%1) {
  state %seed : i64[] = seed()
  state %step : i64[] = zeros()
  %1 = dropout_mask(%seed, %step) {shape=[N,3,5], keep=0.75, stream=77} : bool[N,3,5]
}
"""


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("seed", "step"), [(0, 0), (1, 2**20), (2**40 + 3, 2**33 + 1), (2**63 - 1, 5)]
)
def test_masks_are_the_bits_of_philox(threads: int, seed: int, step: int) -> None:
    """For each image the same, however many there are in the batch."""
    program = compiled(graph_of(MASK), 8, threads)
    program.load({"seed": np.int64(seed), "step": np.int64(step)})
    whole = philox.keep_mask(seed, 77, step, 8 * 15, 0.75).reshape(8, 3, 5)
    for n in (8, 1, 2, 3, 5, 7):
        found = ran(program, {"images": np.zeros(n, np.uint8)}).outputs["mask"]
        assert np.array_equal(found, whole[:n])


def test_every_step_of_training_draws_another_mask() -> None:
    step = Step(
        graph_of(
            MASK.replace(
                "\n}",
                "\n  %o = constant() {value=1.0, dtype=i64} : i64[]"
                "\n  %n = add(%step, %o) : i64[]\n  update %step = %n\n}",
            )
        ),
        LOWERING,
    )
    program = step.compile(batch=4, threads=2)
    program.load({"seed": np.int64(9), "step": np.int64(0)})
    for number in range(3):
        found = ran(program, {"images": np.zeros(4, np.uint8)}).outputs["mask"]
        expected = philox.keep_mask(9, 77, number, 60, 0.75).reshape(4, 3, 5)
        assert np.array_equal(found, expected)


def test_the_training_step_of_the_mnist_network_is_under_900_lines() -> None:
    """A file a person can read from the first line to the last."""
    program = Model(two_conv).training_step().compile(batch=128, threads=2)
    assert len(program.source.splitlines()) < 900


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_that_is_not_finite_spoils_its_own_answer_only(
    name: str, bad: float
) -> None:
    """And none of a later step, though the tiles of both lie in the same bytes."""
    program = program_for(f"{name}-inference")
    images = inputs_for(program.graph, 4)["image"]
    clean = program(image=images)["output"]
    spoilt = images.copy()
    spoilt[1, 13, 14, 0] = bad
    found = program(image=spoilt)["output"]
    assert not np.isfinite(found[1]).any()
    others = [0, 2, 3]
    assert np.array_equal(found[others], clean[others])
    assert np.array_equal(program(image=images)["output"], clean)
