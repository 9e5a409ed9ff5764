"""``convc doctor``: what each backend finds on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from convc.doctor import Finding, Report


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> None:
    """Say what each backend finds on this machine, and how to get what is missing.

    Exits with 0 if the NumPy backend works, whatever else is missing.
    """
    from convc.doctor import examine

    report = examine()
    if as_json:
        click.echo(json.dumps(_record(report), indent=1, ensure_ascii=False))
    else:
        for backend, findings in report.findings.items():
            click.echo(backend)
            for finding in findings:
                _print(finding)
    if not report.works:
        raise SystemExit(1)


def _print(finding: Finding) -> None:
    """One line, and below it how to get what is missing."""
    fine = finding.fine
    mark = click.style("ok" if fine else "no", fg="green" if fine else "yellow")
    first, *rest = finding.says.splitlines()
    click.echo(f"  {mark}  {finding.name:<11}  {first}")
    for line in (*rest, *([] if fine else [f"get it: {finding.remedy}"])):
        click.echo(f"{'':19}{line}")


def _record(report: Report) -> dict[str, object]:
    return {
        "works": report.works,
        "findings": [
            {
                "backend": backend,
                "name": finding.name,
                "fine": finding.fine,
                "says": finding.says,
                "remedy": finding.remedy,
                **finding.facts,
            }
            for backend, findings in report.findings.items()
            for finding in findings
        ],
    }
