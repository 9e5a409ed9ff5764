"""The filters of examples/filters.py are NumPy's correlations, channel by channel."""

import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convc.model import Model

EXAMPLE = Path(__file__).parents[2] / "examples" / "filters.py"
THE = runpy.run_path(str(EXAMPLE))
HEIGHT, WIDTH = 40, 36


def picture(channels: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(channels)
    return rng.integers(0, 256, (HEIGHT, WIDTH, channels), np.uint8)


def correlated(image: NDArray[Any], rows: Any, apart: int, same: bool) -> NDArray[Any]:
    """The sum of shifted images that a 3x3 filter is, in float64."""
    border = apart if same else 0
    padded = np.pad(image.astype(float), [(border, border), (border, border), (0, 0)])
    height, width = (n - 2 * apart for n in padded.shape[:2])
    return sum(
        rows[i][j] * padded[i * apart :][:height, j * apart :][:, :width]
        for i in range(3)
        for j in range(3)
    )


@pytest.mark.parametrize("padding", ["same", "VALID"])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_filter_is_the_correlation_with_its_kernel(
    channels: int, padding: str
) -> None:
    """Exactly, but for the blur: its ninths round, once each and once in each sum."""
    image = picture(channels)
    network = partial(THE["network"], padding=padding)
    model = Model(network, "filters", image=f"f32[N,40,36,{channels}]")
    program = model.inference().compile(batch=1, threads=1)
    results = program(image=image[None].astype(np.float32))
    expected = {
        name: correlated(image, rows, THE["APART"].get(name, 1), padding == "same")
        for name, rows in THE["KERNELS"].items()
    }
    squares = expected["sobel_x"] ** 2 + expected["sobel_y"] ** 2
    expected["sobel"] = np.sqrt(squares.astype(np.float32))
    assert results.keys() == expected.keys()
    for name, wanted in expected.items():
        (got,) = results[name]
        assert got.shape == wanted.shape, name
        slack = 255 * 18 * 2**-24 if name == "blur" else 0
        assert np.abs(got - wanted).max() <= slack, name


def test_sizes_stay_with_same_and_shrink_with_valid() -> None:
    for padding, height, width in (("same", 40, 36), ("valid", 38, 34)):
        network = partial(THE["network"], padding=padding)
        graph = Model(network, "filters", image="f32[N,40,36,1]").graph
        shapes = {name: value.type.inner for name, value in graph.outputs}
        assert shapes.pop("shift") == (
            (40, 36, 1) if padding == "same" else (8, 4, 1)  # 16 pixels at each side
        )
        assert set(shapes.values()) == {(height, width, 1)}


def test_an_outline_is_black_where_nothing_changes() -> None:
    """And sharpening leaves it alone: the one kernel sums to 0, the other to 1."""
    sums = {name: int(np.sum(rows)) for name, rows in THE["KERNELS"].items()}
    assert sums.pop("blur") == 1
    assert sums == {
        "sharpen": 1,
        "edge": 0,
        "outline": 0,
        "sobel_x": 0,
        "sobel_y": 0,
        "emboss": 1,
        "shift": 1,
    }
    flat = np.full((HEIGHT, WIDTH, 1), 77, np.uint8)
    tiles = dict(THE["filtered"](flat))
    inside = {name: set(tile[1:-1, 17:-17].ravel()) for name, tile in tiles.items()}
    assert inside["outline"] == inside["edge"] == inside["sobel"] == {0}
    assert inside["sharpen"] == inside["blur"] == inside["as it is"] == {77}


def test_the_shift_moves_the_picture_to_the_right() -> None:
    image = picture(1)
    moved = dict(THE["filtered"](image))["shift"]
    assert np.array_equal(moved[:, 16:], image[:, :-16, 0])
    assert not moved[:, :16].any()


def test_the_example_writes_a_sheet_of_a_given_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(picture(3)).resize((50, 20)).save(tmp_path / "in.png")
    out = tmp_path / "out.png"
    THE["main"](str(tmp_path / "in.png"), str(out))
    assert capsys.readouterr().out == f"20 pictures written to {out}\n"
    with Image.open(out) as sheet:
        assert sheet.size[0] == 5 * (200 + 6) + 6


def test_without_scikit_learn_it_asks_for_a_picture(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.modules['sklearn'] = None; sys.argv = ['filters.py']; "
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=EXAMPLE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert (
        done.stderr == 'name a picture, or pip install "convc[digits]", which has one\n'
    )
