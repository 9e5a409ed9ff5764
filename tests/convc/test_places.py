"""The user's line: found through convc's own frames and other machinery."""

import contextlib
import functools
import inspect
import runpy
from pathlib import Path

import pytest

from convc.model import Model
from convc.networks import load_network, strided
from convc.places import Place, file_of, files_called, here, mistake
from convc.tracing import Tensor, trace, variable_scope


def this_line() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def test_here_is_the_line_that_calls() -> None:
    assert here() == Place(__file__, this_line())


def test_machinery_between_is_skipped() -> None:
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: None)
        assert functools.reduce(lambda _, __: here(), [1], None) is not None

    def net(x: Tensor) -> Tensor:
        with contextlib.ExitStack() as stack:
            stack.enter_context(variable_scope("a"))
            stack.enter_context(variable_scope("1"))
        return x

    with pytest.raises(Exception, match=f"at {__file__}:"):
        trace(net, {"x": "f32[N]"})


def test_a_builtin_network_is_the_users_code() -> None:
    graph = trace(strided, {"image": "f32[N,28,28,1]"})
    lines, first = inspect.getsourcelines(strided)
    assert {Path(n.locs[0].file).name for n in graph.nodes} == {"networks.py"}
    assert all(first < n.locs[0].line < first + len(lines) for n in graph.nodes)


def test_an_example_that_is_built_in_is_the_users_code() -> None:
    network, name = load_network("flat784")
    model = Model(network, name=name)
    assert {Path(n.locs[0].file).name for n in model.graph.nodes} == {"flat784.py"}
    assert "convolve" in {n.locs[0].layer for n in model.graph.nodes}


def test_only_calls_by_the_code_given_count() -> None:
    def boundary() -> Place | None:
        return here(until=boundary.__code__)

    assert boundary() is None


def test_a_short_place_is_relative_or_a_base_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Place(str(tmp_path / "a" / "m.py"), 3).short == "a/m.py"
    assert Place("/elsewhere/m.py", 3).short == "m.py"
    assert Place("<stdin>", 3).short == "<stdin>"


def test_a_mistake_has_rule_layer_and_line() -> None:
    error = str(mistake("a rule; a remedy", "conv1")).splitlines()
    assert error[:2] == ["a rule; a remedy", "  in layer conv1"]
    assert error[2] == f"  at {__file__}:{this_line() - 2}"


def test_a_program_called_convc_is_not_the_users_code(tmp_path: Path) -> None:
    """The console script stands outside the package, and is no line of a model."""
    source = "from convc.places import here\nfound = here()\n"
    for name in ("convc", "model"):
        (tmp_path / name).write_text(source, encoding="utf-8")
    program = runpy.run_path(str(tmp_path / "convc"), run_name="__main__")
    model = runpy.run_path(str(tmp_path / "model"), run_name="__main__")
    assert program["found"].file == __file__
    assert model["found"] == Place(str(tmp_path / "model"), 2)


def test_a_function_knows_its_file_through_its_wrappers() -> None:
    @functools.wraps(strided)
    def wrapped(image: Tensor) -> Tensor:
        return strided(image)

    assert file_of(wrapped) == Path(inspect.getfile(strided))
    assert file_of(len) is None


def test_a_file_is_found_among_those_that_were_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "never_run.py").write_text("")
    assert list(files_called("never_run.py")) == []
    assert list(files_called("never_run.py", Path("/elsewhere/never_run.py"))) == [
        Path("/elsewhere/never_run.py")
    ]
    short = Place(inspect.getfile(strided), 1).short
    assert list(files_called(short)) == [Path(inspect.getfile(strided))]
    assert list(files_called("secrets.txt", tmp_path / "secrets.txt")) == []
