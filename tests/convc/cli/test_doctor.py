"""``convc doctor`` prints what was found and exits with 0 if NumPy works."""

import json

import pytest
from click.testing import CliRunner

from convc import doctor
from convc.cli import main
from convc.doctor import Finding, Report


@pytest.mark.parametrize("works", [True, False])
def test_findings_are_lines_with_remedies_below(
    works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Finding("program", "compiles and runs", "" if works else "ask")
    found = {
        "numpy": [program],
        "triton": [Finding("triton", "not installed", "pip install it")],
    }
    monkeypatch.setattr(doctor, "examine", lambda: Report(found))
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == (0 if works else 1)
    lines = result.stdout.splitlines()
    assert lines[0] == "numpy"
    assert lines[1] == f"  {'ok' if works else 'no'}  program      compiles and runs"
    assert lines[-2:] == [
        "  no  triton       not installed",
        "                   get it: pip install it",
    ]


def test_json_has_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"numpy": [Finding("NumPy", "2.4.6", facts={"version": "2.4.6"})]}
    monkeypatch.setattr(doctor, "examine", lambda: Report(found))
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert json.loads(result.stdout) == {
        "works": True,
        "findings": [
            {
                "backend": "numpy",
                "name": "NumPy",
                "fine": True,
                "says": "2.4.6",
                "remedy": "",
                "version": "2.4.6",
            }
        ],
    }
