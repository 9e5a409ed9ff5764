"""The built-in networks, and loading one from a file."""

import inspect
import sys
from pathlib import Path

import numpy as np
import pytest

from convc.initializers import initial_state
from convc.ir.errors import ModelError
from convc.ir.interpreter import interpret
from convc.ir.verifier import verify
from convc.model import Model, inputs_of
from convc.networks import (
    EXAMPLES,
    NETWORKS,
    four_conv,
    load_network,
    strided,
    two_conv,
)
from convc.tracing import trace

IMAGE = {"image": "f32[N,28,28,1]"}

OWN = """
from helping import size
from convc.layers import dense, flatten

def net(image):
    return dense(flatten(image), size())

def _private(image):
    return image

answer = 42
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "helping.py").write_text(
        "def size():\n    return 7\n", encoding="utf-8"
    )
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("network", "count"),
    [(two_conv, 3_274_634), (four_conv, 321_738), (strided, 31_786)],
)
def test_a_network_gives_ten_logits_and_is_short(network: object, count: int) -> None:
    assert callable(network)
    graph = verify(trace(network, IMAGE))
    assert str(graph.output("output").type) == "f32[N,10]"
    sizes = [p.value.type.elements(1) for p in graph.parameters if p.trainable]
    assert sum(sizes) == count
    assert len(inspect.getsourcelines(network)[0]) <= 20


def test_a_network_runs() -> None:
    graph = trace(strided, IMAGE)
    images = np.zeros((3, 28, 28, 1))
    result = interpret(graph, {"image": images}, initial_state(graph, 0))
    assert np.all(result.outputs["output"] == 0)


def test_a_builtin_network_is_loaded_by_name() -> None:
    for name, network in NETWORKS.items():
        assert load_network(name) == (network, name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_network_of_an_example_is_built_in_and_compiles(name: str) -> None:
    network, given = load_network(name)
    assert (network.__name__, given) == (name, name)
    step = Model(network).training_step()
    assert "training/step" in step.compile(batch=2, threads=1).parameters
    files = {loc.file for node in step.graph.nodes for loc in node.locs}
    assert f"examples/{EXAMPLES[name]}.py" in files


def test_a_network_says_what_it_takes() -> None:
    network, _ = load_network("csci1470_cifar")
    assert inputs_of(network) == {"inputs": "f32[N,32,32,3]"}
    assert str(Model(network).image) == "f32[N,32,32,3]"
    asked = Model(network, inputs="f32[N,8,8,3]")
    assert str(asked.image) == "f32[N,8,8,3]"
    assert inputs_of(strided) == {"image": "f32[N,28,28,1]"}


def test_a_function_of_a_file_is_loaded_with_its_neighbours(folder: Path) -> None:
    for spec in (f"{folder / 'own.py'}:net", str(folder / "own.py")):
        network, name = load_network(spec)
        graph = trace(network, IMAGE, name)
        assert (graph.name, str(graph.output("output").type)) == ("net", "f32[N,7]")
        assert graph.nodes[-1].locs[0].file == "own.py"


def test_an_error_in_the_model_names_the_users_file(folder: Path) -> None:
    path = folder / "bad.py"
    path.write_text(
        "from convc.layers import dense\n\ndef net(x):\n    return dense(x, 3)\n",
        encoding="utf-8",
    )
    network, name = load_network(f"{path}:net")
    with pytest.raises(ModelError, match=rf"flatten\(x\) first\n.*\n  at {path}:4$"):
        trace(network, IMAGE, name)


def test_an_unknown_network_is_told_those_there_are() -> None:
    for spec in ("three_conv", "", "three.conv:net"):
        with pytest.raises(
            ModelError, match=r"built in are two_conv, .* file.py:function"
        ):
            load_network(spec)


def test_a_missing_file_is_told_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"there is no file .*no.py \(looked for it in"
    ):
        load_network(f"{tmp_path / 'no.py'}:net")


def test_a_missing_function_is_told_those_there_are(folder: Path) -> None:
    for wanted in ("nets", "answer"):
        with pytest.raises(
            ModelError, match=f"no function '{wanted}'; it defines net$"
        ):
            load_network(f"{folder / 'own.py'}:{wanted}")
    (folder / "empty.py").write_text("", encoding="utf-8")
    with pytest.raises(ModelError, match="no function 'net'; it defines none"):
        load_network(f"{folder / 'empty.py'}:net")


def test_a_file_of_many_functions_needs_a_name(folder: Path) -> None:
    source = OWN + "\ndef second(image):\n    return image\n"
    (folder / "many.py").write_text(source, encoding="utf-8")
    with pytest.raises(
        ModelError, match="one function .* it defines net, second; write"
    ):
        load_network(str(folder / "many.py"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def net(:\n", r"SyntaxError: .*\n  at .*broken.py:1"),
        (
            "\nimport no_such_module\n",
            r"ModuleNotFoundError: No .*\n  at .*broken.py:2",
        ),
        ("def f():\n    1 / 0\nf()\n", r"ZeroDivisionError: .*\n  at .*broken.py:2"),
    ],
)
def test_a_file_that_fails_is_named_with_its_line(
    folder: Path, source: str, said: str
) -> None:
    path = folder / "broken.py"
    path.write_text(source, encoding="utf-8")
    with pytest.raises(ModelError, match=f"{path} failed: {said}"):
        load_network(f"{path}:net")
    assert "network_broken" not in sys.modules
