"""The kernels around a training step gather and note, and compile for GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs triton: pip install 'convc[triton]'")

import torch

from convc.engines.feeding import keep_record, take_batch

ROOT = Path(__file__).parents[3]
COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from convc.engines import feeding

pointers = dict(number="*i32", order="*i32", pictures="*fp32", answers="*i32")
pointers |= dict(images="*i32", image="*fp32", label="*i32", loss="*fp32")
pointers |= dict(correct="*i32", losses="*fp32", corrects="*i32")
numbers = dict(TOTAL=60000, BATCH=128, ROW=784, BLOCK=1024, COUNT=469)
for target in ("cuda", 80, 32), ("cuda", 90, 32), ("hip", "gfx942", 64):
    target = GPUTarget(*target)
    for kernel in feeding.take_batch, feeding.keep_record:
        names = kernel.arg_names
        signature = {n: pointers.get(n, "constexpr") for n in names}
        constants = {n: numbers[n] for n in names if n in numbers}
        made = triton.compile(ASTSource(kernel, signature, constants), target=target)
        print(target.arch, kernel.__name__, len(made.kernel) > 0)
"""


def tensor(array: object, kind: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(np.asarray(array), dtype=kind)


@pytest.mark.parametrize("block", [2, 4, 8])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_batch_is_taken_in_order_and_nothing_else_is_touched(
    number: int, block: int
) -> None:
    """Batches of 4 of 10 images with 5 pixels; the third has two, the fourth none."""
    pictures = np.arange(50, dtype=np.float32).reshape(10, 5)
    answers, order = np.arange(10) * 3, np.random.default_rng(0).permutation(10)
    image, label = torch.full((4, 5), -1.0), torch.full((4,), -1, dtype=torch.int32)
    images = tensor([99])
    take_batch[(4 * -(-5 // block),)](
        tensor([number]),
        tensor(order),
        torch.from_numpy(pictures),
        tensor(answers),
        images,
        image,
        label,
        TOTAL=10,
        BATCH=4,
        ROW=5,
        BLOCK=block,
    )
    rows = order[4 * number : 4 * number + 4]
    n = len(rows)
    assert images.item() == n
    assert np.array_equal(image[:n], pictures[rows])
    assert np.array_equal(label[:n], answers[rows])
    assert (image[n:] == -1).all()
    assert (label[n:] == -1).all()


def test_a_record_is_noted_in_its_place_and_none_behind_the_epoch() -> None:
    number = tensor([1])
    losses, corrects = torch.zeros(4), torch.zeros(4, dtype=torch.int32)
    for step in range(3):  # the log of this epoch has places for three
        loss, correct = tensor(step + 0.5, torch.float32), tensor(step + 7)
        keep_record[(1,)](number, loss, correct, losses, corrects, COUNT=3)
    assert losses.tolist() == [0, 0.5, 1.5, 0]
    assert corrects.tolist() == [0, 7, 8, 0]
    assert number.item() == 4


def test_both_compile_for_gpus(tmp_path: Path) -> None:
    """In another process, for in this one Triton interprets."""
    script = tmp_path / "compile.py"
    script.write_text(COMPILE)
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        env={**kept, "PYTHONPATH": path, "TRITON_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{target} {kernel} True"
        for target in (80, 90, "gfx942")
        for kernel in ("take_batch", "keep_record")
    ]
