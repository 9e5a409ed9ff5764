"""A small emitted file, for tests of what happens to such files."""

from pathlib import Path

SAMPLE = """
import torch
import triton
import triton.language as tl


@triton.jit
def product(images, v_x, v_w, v_y):
    n_images = tl.load(images)
    m = tl.program_id(0) * 128 + tl.arange(0, 128)
    k = tl.arange(0, 32)
    j = tl.arange(0, 64)
    rows = (m < n_images)[:, None]
    total = tl.zeros((128, 64), dtype=tl.float32)
    for k0 in range(0, 256, 32):
        a = tl.load(v_x + m[:, None] * 256 + (k0 + k)[None, :], mask=rows, other=0.0)
        b = tl.load(v_w + (k0 + k)[:, None] + j[None, :] * 256)
        total = tl.dot(a, b, total, input_precision="tf32")
    tl.store(v_y + m[:, None] * 64 + j[None, :], total, mask=rows)


@triton.jit
def scale(images, v_y, v_z):
    n_images = tl.load(images)
    i = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    y = tl.load(v_y + i, mask=i < n_images * 64, other=0.0)
    tl.store(v_z + i, y * 0.5, mask=i < n_images * 64)


LAUNCHES = [
    (product, 8, ("!images", "x", "w", "y"), 4, 3),
    (scale, 64, ("!images", "y", "z"), 4, 1),
    (scale, 64, ("!images", "z", "y"), 4, 1),
]
PLACES = {
    "!images": ("int32", 0, 1),
    "x": ("float32", 16, 262144),
    "w": ("float32", 1048592, 16384),
    "y": ("float32", 1114128, 65536),
    "z": ("float32", 1376272, 65536),
}


class Program:
    def __init__(self):
        self.arena = torch.zeros(1638416, dtype=torch.uint8)
"""
"""A product in tf32 and two element-wise launches that share their kernel."""

ONLY_SCALE = SAMPLE.replace("    (product, 8,", "    #")
"""The same without the product, which takes longest to compile."""


def entry_in(folder: Path) -> Path:
    """The one entry that lies in a cache folder."""
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found
