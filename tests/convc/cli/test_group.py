"""Every error is one line on stderr with an exit code; --help is quick."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.table import Table

from convc import __version__
from convc.cli import main
from convc.cli.group import load_model, print_table
from convc.ir.errors import ModelError
from convc.networks import built_in
from convc.optimizers import OPTIMIZERS
from convc.passes.choose_precision import PRECISIONS
from convc.plan_table import SPARE, plan_table

ROOT = Path(__file__).parents[3]


def convc(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="convc")


def test_help_lists_the_commands_in_the_order_one_meets_them() -> None:
    result = convc("--help")
    assert result.exit_code == 0
    lines = result.stdout.partition("Commands:")[2].splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    first = ["train", "evaluate", "predict", "race", "visualize", "summary"]
    assert listed[:6] == first
    assert listed.index("plan") < listed.index("compile")
    assert len(result.stdout.splitlines()) < 40
    assert all(name in result.stdout for name in built_in())


def test_help_names_every_optimizer() -> None:
    """The command line lists them by hand, so as to import nothing for --help."""
    assert f"[{'|'.join(OPTIMIZERS)}]" in convc("train", "--help").stdout


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "predict", "summary", "show", "compile"]
)
def test_every_command_has_help(command: str) -> None:
    result = convc(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: convc {command} ")


def test_help_imports_click_and_nothing_heavy() -> None:
    code = (
        "import sys; from convc.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'networkx', 'rich', 'safetensors', 'pooch', 'PIL'}\n"
        "sys.exit(', '.join(heavy & {m.split('.')[0] for m in sys.modules}) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, b"")


def test_the_version_is_that_of_the_package() -> None:
    assert convc("--version").stdout == f"convc {__version__}\n"


def test_an_error_is_one_line_on_stderr_and_no_traceback() -> None:
    result = convc("summary", "three_conv")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: no network is called 'three_conv'")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_full_disk_behind_the_output_is_an_error_and_no_traceback() -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "convc", "show", "strided", "--after", "trace"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr.startswith("error: [Errno 28] ")
    assert len(result.stderr.splitlines()) == 1


def test_with_convc_debug_an_error_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONVC_DEBUG", "1")
    assert isinstance(convc("summary", "three_conv").exception, ModelError)


def test_a_mistake_in_the_users_network_shows_their_line(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import convc.layers as cc\n\n\n"
        "def net(image):\n    return cc.dense(image, 10)\n"
    )
    result = convc("summary", f"{file}:net")
    assert result.exit_code == 1
    assert f"at {file}:5" in result.stderr


def test_an_exception_in_the_users_network_shows_their_line(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("def net(image):\n    return image.depth\n")
    result = convc("summary", f"{file}:net")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: net failed: AttributeError: 'Tensor' object has no attribute "
        f"'depth'\n  at {file}:2\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["summary"],
        ["nothing"],
        ["train", "two_conv", "--epochs", "0"],
        ["train", "two_conv", "--batch", "many"],
        ["train", "two_conv", "--optimizer", "newton"],
        ["train", "two_conv", "--learning-rate", "-1"],
        ["train", "two_conv", "--seed", "-1"],
        ["train", "two_conv", "--resume"],
        ["train", "two_conv", "--checkpoint-every", "5"],
        ["train", "two_conv", "--weights-out", "no/such/folder/w.safetensors"],
        ["train", "two_conv", "--backend", "numpy", "--interpret"],
        ["evaluate", "two_conv"],
        ["predict", "x.png"],
        ["predict", "two_conv", "--weights", "w"],
        ["show", "two_conv", "--list", "--after", "trace"],
        ["show", "two_conv", "--step", "forwards"],
        ["compile", "two_conv"],
    ],
)
def test_a_command_that_cannot_be_meant_ends_with_2(arguments: list[str]) -> None:
    result = convc(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: convc")


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("convc.loading.load_network", interrupted)
    result = convc("summary", "two_conv")
    assert (result.exit_code, result.stderr) == (130, "error: interrupted\n")


@pytest.mark.parametrize(
    ("columns", "gone"), [(120, []), (80, ["size"]), (50, ["size", "depth"])]
)
def test_a_table_loses_columns_for_a_narrow_terminal_and_says_which(
    columns: int,
    gone: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    table = Table(box=None)
    for heading in ("name", "size", "depth", "time"):
        table.add_column(heading, no_wrap=True)
    table.add_row(*("x" * 20 for _ in range(4)))
    print_table(table, spare=("size", "depth", "name"))
    text = capsys.readouterr().out
    assert text.count("x" * 20) == 4 - len(gone)
    assert (f"no room for: {', '.join(gone)}" in text) == bool(gone)
    assert all(heading not in text.splitlines()[0] for heading in gone)


def test_a_table_that_is_no_terminals_has_every_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    plan = plan_table(load_model("strided").training_step().stages(batch=4, threads=1))
    print_table(plan, SPARE)
    text = capsys.readouterr().out
    assert all(heading in text for heading in SPARE)
    assert "no room" not in text


def test_a_type_that_is_none_is_refused() -> None:
    with pytest.raises(ModelError, match=r"f32\[N,28,28,1\]"):
        load_model("two_conv", "float[28]")


def test_help_names_every_precision() -> None:
    assert f"[{'|'.join(PRECISIONS)}]" in convc("train", "--help").stdout


def test_exact_shows_sums_where_transforms_were_chosen() -> None:
    asked = ("two_conv", "--batch", "128", "--threads", "2", "--after", "plan-memory")
    text = "algorithm=dft"
    assert text in convc("show", *asked).stdout
    assert text not in convc("show", *asked, "--exact").stdout


@pytest.mark.parametrize("command", ["show", "explain", "plan", "train", "tune"])
def test_what_is_asked_for_in_less_is_never_compiled_in_fp32(command: str) -> None:
    asked = ("--precision", "tf32", "--batch", "4", "--threads", "1")
    layer = ("conv1",) if command == "explain" else ()
    result = convc(command, "strided", *layer, *asked)
    assert result.exit_code == 1
    assert "the numpy backend computes in f32 and f64, not conv2d(f32" in result.stderr
