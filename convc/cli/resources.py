"""``convc resources``: what the kernels of a model need of a GPU, without one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from convc.cli.group import (
    batch_option,
    input_option,
    load_model,
    lockfile_option,
    model_argument,
    precision_option,
    print_table,
    step_named,
    step_option,
)
from convc.ir.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from convc.backends.gpu.resources import Resources

SPARE = ("instructions", "stores", "loads", "limit")
"""Columns that a narrow terminal can do without, the first to go first."""


@click.command()
@model_argument
@step_option
@click.option(
    "--backend",
    default="triton",
    show_default=True,
    help="triton, or triton:TARGET such as triton:sm_80.",
)
@batch_option
@precision_option
@lockfile_option
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@input_option
def resources(
    model: str,
    step: str,
    backend: str,
    batch: int,
    as_json: bool,
    input_type: str | None,
) -> None:
    """Compile MODEL's kernels for a GPU, say what each of them needs.

    It takes no GPU. A kernel that spills puts registers into memory; blocks is how
    many of its blocks a multiprocessor runs together, limit what keeps it from more;
    loads and stores are instructions by the bytes each thread moves.
    """
    from convc.backends import backend_named
    from convc.backends.gpu.backend import TritonBackend
    from convc.backends.gpu.compiling import compile_source
    from convc.backends.gpu.resources import resources_of
    from convc.runtime.progress import KernelProgress

    chosen = backend_named(backend)
    if not isinstance(chosen, TritonBackend):
        raise CompileError(
            f"resources are those of a GPU's kernels, backend {backend!r} has none; "
            "--backend triton"
        )
    stages = step_named(load_model(model, input_type), step).stages(backend, batch, 1)
    source = chosen.emit(stages[-1].graph).source
    with KernelProgress() as progress:
        compiled = compile_source(source, chosen.device.name, progress=progress)
    found = resources_of(compiled)
    if as_json:
        click.echo(json.dumps([_record(r) for r in found], indent=1))
    else:
        print_table(_table(found), SPARE)
    if faults := [r.fault for r in found if r.fault]:
        raise CompileError("; ".join(faults))


def _record(r: Resources) -> dict[str, Any]:
    return {
        "kernel": r.kernel,
        "target": r.target.name,
        "registers": r.registers,
        "spills": r.spills,
        "stack_bytes": r.stack_bytes,
        "shared_bytes": r.shared_bytes,
        "warps": r.warps,
        "blocks": r.blocks,
        "limit": r.limit,
        "occupancy": r.occupancy,
        "instructions": r.instructions,
        "tensor": r.tensor,
        "bulk": r.bulk,
        "loads": r.loads,
        "stores": r.stores,
        "copies": r.copies,
        "mix": r.mix,
    }


def _table(found: list[Resources]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("kernel", no_wrap=True)
    for heading in ("warps", "registers", "spills", "shared", "blocks"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("limit", no_wrap=True)
    for heading in ("occupancy", "tensor", "loads", "stores", "instructions"):
        table.add_column(heading, justify="right", no_wrap=True)
    for r in found:
        loads = {w: r.loads.get(w, 0) + r.copies.get(w, 0) for w in _widths(r)}
        table.add_row(
            *(r.kernel, str(r.warps), str(r.registers), str(r.spills)),
            *(f"{r.shared_bytes:,}", str(r.blocks), r.limit),
            *(f"{100 * r.occupancy:.0f} %", str(r.tensor)),
            *(_by_width(loads), _by_width(r.stores), f"{r.instructions:,}"),
            style="bold red" if r.spills or r.fault else "",
        )
    return table


def _widths(r: Resources) -> list[int]:
    return sorted({*r.loads, *r.copies}, reverse=True)


def _by_width(counts: Mapping[int, int]) -> str:
    """Instructions times bytes: ``6×16 1×4``."""
    return " ".join(f"{n}×{width}" for width, n in counts.items())
