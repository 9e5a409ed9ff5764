# Follows CS 20SI (2017), CS 20 (2018) and CSCI 1470: convolutions without training.
# Look at ``KERNELS``, at ``network``, and at the sheet of pictures that it writes.
"""Run it with ``python examples/filters.py [PICTURE [OUTPUT]]``.

Without a picture it takes that of a temple which comes with scikit-learn.
"""

import sys
from pathlib import Path

import numpy as np

import convc as cc
from convc.pictures.sheet import labelled, pillow

KERNELS: dict[str, list[list[float]]] = {
    "blur": [[1 / 9] * 3] * 3,
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
    "edge": [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
    # The slides print 5 in the middle, which sharpens; with 4 outlines alone are left.
    "outline": [[0, -1, 0], [-1, 4, -1], [0, -1, 0]],
    "sobel_x": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "sobel_y": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "emboss": [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
    "shift": [[0, 0, 0], [1, 0, 0], [0, 0, 0]],
}
# Taps that lie 16 pixels apart shift by 16 pixels, which can be seen.
APART = {"shift": 16}
WIDTH = 200


def network(image: cc.Tensor, padding: str = "same") -> dict[str, cc.Tensor]:
    """The image under every kernel, each channel by itself."""
    results = {}
    for name, rows in KERNELS.items():
        apart = APART.get(name, 1)
        results[name] = cc.depthwise_convolve(image, rows, 1, padding, apart, name)
    x, y = results["sobel_x"], results["sobel_y"]
    results["sobel"] = cc.sqrt(x * x + y * y)
    return results


def filtered(pixels: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """A picture [H,W,C] of bytes and what the filters make of it, with labels."""
    height, width, channels = pixels.shape
    model = cc.Model(network, image=f"f32[N,{height},{width},{channels}]")
    program = model.inference().compile(batch=1)
    results = program(image=pixels[None].astype(np.float32))
    shown = [(k, np.clip(np.rint(v[0]), 0, 255)) for k, v in results.items()]
    tiles = [("as it is", pixels), *shown]
    return [(label, np.squeeze(tile).astype(np.uint8)) for label, tile in tiles]


def main(picture: str = "", output: str = "filters.png") -> None:
    """Filter a picture in gray and in colour, and save all results on one sheet."""
    if not picture:
        try:
            import sklearn.datasets as samples
        except ImportError:
            sys.exit('name a picture, or pip install "convc[digits]", which has one')
        picture = str(Path(samples.__file__).parent / "images" / "china.jpg")
    image, *_ = pillow()  # or the error that says how to get it
    colour = image.open(picture).convert("RGB")
    colour = colour.resize((WIDTH, round(WIDTH * colour.height / colour.width)))
    gray = np.asarray(colour.convert("L"))[..., None]
    tiles = filtered(gray) + filtered(np.asarray(colour))
    labelled(tiles, columns=5).save(output)
    print(f"{len(tiles)} pictures written to {output}")


if __name__ == "__main__":
    main(*sys.argv[1:])
