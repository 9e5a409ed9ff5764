"""The emitted file: Triton and torch alone, no user text in its code, for people."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from compiled import inputs_for
from emitted_programs import emitted as program_of
from hostile_names import HOSTILE, NET, calls_in, named_everywhere, rename_kernels
from pass_bench import graph_of

from convc.backends import backend_named
from convc.ir.interpreter import interpret
from convc.model import Model
from convc.networks import NETWORKS
from convc.pipeline import LOWERING, Step

STEPS = {
    f"{name}-{kind}": step
    for name, network in NETWORKS.items()
    for kind, step in (
        ("training", Model(network).training_step()),
        ("tf32", Model(network, precision="tf32").training_step()),
        ("bf16", Model(network, precision="bf16").training_step()),
        ("inference", Model(network).inference()),
    )
}


@cache
def source_of(name: str, target: str = "sm_90", batch: int = 128) -> str:
    graph = STEPS[name].stages(f"triton:{target}", batch)[-1].graph
    return backend_named(f"triton:{target}").emit(graph).source


@pytest.mark.skipif(find_spec("ruff") is None, reason="ruff is not installed")
@pytest.mark.parametrize("name", STEPS)
def test_the_source_passes_ruff(name: str) -> None:
    """Ruff's own default rules, and no line longer than 88."""
    rules = ["--isolated", "--extend-select", "E501", "--line-length", "88"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", *rules, "-"],
        input=source_of(name),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", STEPS)
def test_kernels_take_pointers_only_and_know_the_rest(name: str) -> None:
    """No number is passed when a step is launched, and none is a constexpr."""
    tree = ast.parse(source_of(name))
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    launched = re.findall(r"^    \((\w+), \d+, \($", source_of(name), re.M)
    assert launched
    for function in functions:
        arguments = [a.arg for a in function.args.args]
        if function.name in launched:
            assert all(a.endswith("_ptr") for a in arguments)
        assert "constexpr" not in ast.unparse(function)


@pytest.mark.parametrize("name", ["two_conv-training", "four_conv-training"])
def test_kernels_are_named_after_their_layers_and_say_where_they_are_from(
    name: str,
) -> None:
    graph = STEPS[name].stages("triton:sm_90", 128)[-1].graph
    emitted = backend_named("triton:sm_90").emit(graph)
    lines = emitted.source.split("\n")
    nodes = {n.name: n for n in graph.nodes}
    for place in emitted.kernels:
        text = lines[place.first - 1 : place.last]
        assert f"def {place.function}(" in "\n".join(text)
        assert place.function == nodes[place.node].attrs["name"]
        for loc in nodes[place.node].locs:
            assert f"{loc.line} {loc.layer}" in " ".join(text).replace(" # ", " ")
    named = [place.function for place in emitted.kernels]
    assert any(name.startswith("conv1_conv_bias") for name in named)


def test_the_two_conv_step_is_few_launches_in_a_file_that_can_be_read() -> None:
    source = source_of("two_conv-tf32")
    assert len(re.findall(r"^    \(\w+, \d+, \($", source, re.M)) <= 12
    assert len(source.splitlines()) < 1000


def test_the_same_source_every_time() -> None:
    again = Model(NETWORKS["two_conv"]).training_step()
    graph = again.stages("triton:sm_90", 128)[-1].graph
    source = backend_named("triton:sm_90").emit(graph).source
    assert source == source_of("two_conv-training")


ALONE = """
import sys
class Neither:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("convc", "networkx", "ml_dtypes"):
            raise ImportError(f"{name} is out of bounds")
sys.meta_path.insert(0, Neither())
import runpy
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_the_file_runs_without_convc_and_times_three_steps(tmp_path: Path) -> None:
    """Where there is no GPU in Triton's interpreter, which the environment asks for."""
    path = tmp_path / "strided.py"
    path.write_text(source_of("strided-training", "interpret", 2))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == ["a step on 2 images"] * 3


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
    for program in (program_of(graph, 3), program_of(graph, 3, passes=passes)):
        assert "PWNED" not in calls_in(program.source)
        program.load(state)
        assert np.allclose(program(**feeds)[text], expected, rtol=1e-5)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: json.dumps(text)[:40])
def test_a_kernel_has_a_name_that_ptx_knows(text: str) -> None:
    """The grammar of identifiers in NVIDIA's PTX ISA, section 4.4."""
    passes = (*LOWERING[:-2], rename_kernels(text), *LOWERING[-2:])
    tree = ast.parse(program_of(named_everywhere(text), 3, passes=passes).source)
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert names
    for name in names:
        assert re.fullmatch(r"[a-zA-Z]\w*|[_$%]\w+", name, re.ASCII), name


@pytest.mark.parametrize(
    "text", ["class", "tl", "n_images", "row", "acc", "pid", "torch", "start", "k", "p"]
)
def test_parameters_and_inputs_may_have_any_name(text: str) -> None:
    """Also one that Python or the emitted file knows."""
    source = NET.replace("%bias", f"%{text}").replace("%image", f"%{text}.in")
    graph = graph_of(source.replace("%kernel", f"%{text}/kernel"))
    program = program_of(graph, 2)
    values = [p.value for p in graph.parameters]
    program.load({v.name: np.zeros(v.type.bind(1)) for v in values})
    found = program(**inputs_for(graph, 2))["y"]
    assert np.array_equal(found, np.ones((2, 4, 4, 3)))  # exp(relu(0))


def test_a_graph_without_a_plan_is_refused() -> None:
    graph = Step(graph_of(NET), LOWERING).stages("triton:sm_90", 2)[-2].graph
    with pytest.raises(Exception, match="only a planned graph can be emitted"):
        backend_named("triton:sm_90").emit(graph)
