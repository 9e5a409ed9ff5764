"""A browser, and the page of the four-conv network in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium
from report_page import Page

from convc.model import Model
from convc.networks import four_conv
from convc.report.data import Facts, Record, record
from convc.roofline import Peaks


@pytest.fixture(scope="package")
def four_conv_record() -> Record:
    """The training step of the four-conv network as if it had been measured."""
    program = Model(four_conv).training_step().compile(batch=128, threads=2)
    times = {k.node: 0.01 * (i + 1) for i, k in enumerate(program.kernels)}
    peaks = Peaks(gemm=2e11, memory=2e10, cache=1e11)
    return record(program, Facts("training", 0.25, times, peaks))


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(browser: Any, tmp_path: Path, four_conv_record: Record) -> Page:
    return Page(browser, tmp_path / "report.html", four_conv_record)
