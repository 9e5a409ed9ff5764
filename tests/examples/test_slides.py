"""The worked examples of CSCI 1470's slides on convolution, with exactly their numbers.

All are whole numbers, so compiled programs must give them without any error. Where the
slides differ from each other or from the arithmetic, a test says which numbers are
right, and docs/slides.md lists it.
"""

import sys
from math import floor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convc.initializers import constant
from convc.ir.ops.window import resolve_axis
from convc.layers import convolve
from convc.model import Model
from convc.networks import load_network
from convc.sizes import along
from convc.tracing import Tensor, get_variable

Numbers = list[list[int]]

IMAGE = [[2, 0, 1, 3], [7, 1, 1, 0], [0, 2, 5, 0], [0, 5, 1, 4]]
RISE = [[1, 1, 1], [0, 0, 0], [-1, -1, -1]]
"""The image and the kernel of most slides."""
HOMEWORK = [[2, 0, 3, 1], [1, 1, 0, 0], [1, 0, 2, 0], [1, 0, 1, 2]]
SOBEL = [[1, 0, -1], [2, 0, -2], [1, 0, -1]]
"""Those of the slides on padding."""
FIVE = [[2, 0, 3, 1, 1], [1, 1, 0, 0, 2], [4, 3, 2, 0, 1], [1, 0, 5, 2, 0]]
FIVE += [[0, 1, 0, 3, 0]]
"""The image that gets a border of question marks, then of zeros."""


def convolved(
    image: Any, kernel: Any, strides: Any = 1, padding: str = "VALID", on: str = "numpy"
) -> NDArray[np.float32]:
    """One image of one channel under one kernel, by a compiled program."""
    pixels, weights = np.array(image, np.float32), np.array(kernel, np.float32)
    shape = (*weights.shape, 1, 1)

    def slide(x: Tensor) -> Tensor:
        values = constant(weights.reshape(shape))
        filters = get_variable("filter", shape, values, trainable=False)
        return convolve(x, filters, strides, padding)

    height, width = pixels.shape
    model = Model(slide, image=f"f32[N,{height},{width},1]")
    program = model.inference().compile(on, batch=1)
    (output,) = program(image=pixels[None, ..., None]).values()
    return np.asarray(output)[0, ..., 0]


def v(image: Numbers, kernel: Numbers, x: int, y: int) -> int:
    """The formula of the slides: I(x + m, y + n) K(m, n), over columns m and rows n."""
    columns, rows = range(len(kernel[0])), range(len(kernel))
    return sum(image[y + n][x + m] * kernel[n][m] for m in columns for n in rows)


linux = pytest.mark.skipif(sys.platform != "linux", reason="triton is for Linux")


@pytest.mark.parametrize(
    "backend", ["numpy", pytest.param("triton:interpret", marks=linux)]
)
def test_the_first_image_gives_minus_4_minus_3_3_minus_8(backend: str) -> None:
    """Three slides print [[-4,-3],[2,-9]] for the same image and kernel: wrong below.

    The second row is (7 + 1 + 1) - (0 + 5 + 1) = 3 and (1 + 1 + 0) - (5 + 1 + 4) = -8.
    """
    output = convolved(IMAGE, RISE, on=backend).tolist()
    assert output == [[-4, -3], [3, -8]]
    assert output[1] != [2, -9]


@pytest.mark.parametrize(
    ("x", "y", "value"), [(0, 0, -4), (1, 0, -3), (0, 1, 3), (1, 1, -8)]
)
def test_the_formula_gives_each_entry(x: int, y: int, value: int) -> None:
    """Columns are x and m, rows y and n: V(1,0) lies to the right of V(0,0)."""
    assert v(IMAGE, RISE, x, y) == value
    assert convolved(IMAGE, RISE)[y, x] == value


def test_a_pixel_counts_in_as_many_outputs_as_there_are_windows_on_it() -> None:
    """The slide of coloured dots: only the four pixels in the middle have all four."""
    dots = [
        [
            int(np.count_nonzero(convolved(one_pixel(row, column), np.ones((3, 3)))))
            for column in range(4)
        ]
        for row in range(4)
    ]
    assert dots == [[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]]


def one_pixel(row: int, column: int) -> NDArray[np.float32]:
    image = np.zeros((4, 4), np.float32)
    image[row, column] = 1
    return image


def test_the_output_is_smaller_than_the_input() -> None:
    image = [[2, 0, 1, 3], [0, 1, 1, 0], [0, 0, 2, 0], [0, 1, 1, 1]]
    assert convolved(image, RISE).tolist() == [[1, 2], [0, -1]]


@pytest.mark.parametrize("padding", ["VALID", "Valid", "valid"])
def test_the_valid_example_in_any_letter_case(padding: str) -> None:
    output = convolved(HOMEWORK, SOBEL, padding=padding)
    assert output.tolist() == [[0, 1], [-1, -1]]


@pytest.mark.parametrize("padding", ["SAME", "Same", "same"])
def test_the_homework_with_same_padding(padding: str) -> None:
    """All sixteen printed numbers are right, and VALID's four are in the middle."""
    output = convolved(HOMEWORK, SOBEL, padding=padding)
    assert output.tolist() == [
        [-1, -1, -1, 6],
        [-2, 0, 1, 5],
        [-1, -1, -1, 5],
        [0, -1, -4, 4],
    ]
    assert np.array_equal(output[1:3, 1:3], convolved(HOMEWORK, SOBEL))


@pytest.mark.parametrize("image", [FIVE, HOMEWORK])
def test_same_is_valid_on_an_image_with_a_border_of_zeros(image: Numbers) -> None:
    bordered = np.pad(np.array(image), 1)
    same = convolved(image, RISE, padding="SAME")
    assert np.array_equal(same, convolved(bordered, RISE))
    assert same.shape == np.array(image).shape


def test_a_padding_pixel_masks_the_kernel() -> None:
    """In the corner only the four weights count that lie on the image."""
    (corner, *_), *_ = convolved(FIVE, SOBEL, padding="SAME")
    assert corner == 2 * 0 + 0 * -2 + 1 * 0 + 1 * -1
    assert corner == np.sum(np.array(FIVE)[:2, :2] * np.array(SOBEL)[1:, 1:])


def test_a_stride_of_2_takes_every_second_window() -> None:
    image = [[2, 0, 3, 1, 0], [2, 4, 5, 2, 3], [0, 0, 3, 3, 1], [2, 9, 9, 7, 8]]
    image += [[3, 4, 7, 2, 1]]
    ones = np.ones((3, 3))
    output = convolved(image, ones, strides=[1, 2, 2, 1])
    assert output.tolist() == [[19, 21], [37, 41]]
    assert np.array_equal(output, convolved(image, ones)[::2, ::2])


@pytest.mark.parametrize(
    ("size", "stride", "padding", "derivation"),
    [
        (4, 1, "valid", "(4 - 3 + 2*0)/1 + 1 = 2"),
        (4, 1, "same", "(4 - 3 + 2*1)/1 + 1 = 4"),
        (5, 2, "valid", "(5 - 3 + 2*0)/2 + 1 = 2"),
        (5, 1, "same", "(5 - 3 + 2*1)/1 + 1 = 5"),
    ],
)
def test_output_sizes_follow_the_formula(
    size: int, stride: int, padding: str, derivation: str
) -> None:
    """A larger stride makes 2x2 of 5x5 too, where stride 1 makes it of 4x4."""
    assert along(resolve_axis("conv2d", size, 3, stride, 1, padding)) == derivation
    output = convolved(np.zeros((size, size)), RISE, stride, padding)
    assert output.shape == (int(derivation.split(" = ")[1]),) * 2


@pytest.mark.parametrize(
    ("kind", "side", "derivation"),
    [
        ("f32[N,28,28,1]", 14, "(28 - 5 + 1 + 2)/2 + 1 = 14"),
        ("f32[N,32,32,3]", 16, "(32 - 5 + 1 + 2)/2 + 1 = 16"),
    ],
)
def test_the_layers_for_mnist_and_cifar(kind: str, side: int, derivation: str) -> None:
    """[5,5,1,16] and [5,5,3,16], strides [1,2,2,1], SAME.

    The slides' formula has one p for both sides. For these no p serves: 28 - 5 + 2p is
    odd, as is 32 - 5 + 2p. SAME puts one zero before and two after.
    """
    channels = int(kind[-2])

    def layer(image: Tensor) -> Tensor:
        kernel = get_variable("filter", [5, 5, channels, 16], "zeros")
        return convolve(image, kernel, [1, 2, 2, 1], "SAME", name="conv")

    model = Model(layer, image=kind)
    assert model.graph.output("output").type.inner == (side, side, 16)
    assert [size.formula for size in model.summary().derivations()] == [derivation]
    assert all((28 - 5 + 2 * p) % 2 == (32 - 5 + 2 * p) % 2 == 1 for p in range(5))
    assert floor((28 - 5 + 2 * 2) / 2) + 1 == 14


def test_the_built_in_strided_network_has_that_layer() -> None:
    graph = Model(load_network("strided")[0]).graph
    assert graph.parameter("conv1/kernel").value.type.inner == (5, 5, 1, 16)
    assert graph.nodes[0].results[0].type.inner == (14, 14, 16)


CURVE = np.zeros((7, 7), int)
"""The curve detector as it was meant: seven columns."""
CURVE[0, 5] = CURVE[1, 4] = CURVE[2:6, 3] = 30
MOUSE = np.zeros((7, 7), int)
"""What it sees on the back of the mouse, printed with an eighth, empty column."""
MOUSE[0, 6], MOUSE[1, 4:7], MOUSE[2, 3:5], MOUSE[3:7, 3:5] = 30, 50, (20, 50), 50
HEAD = np.zeros((7, 7), int)
"""What it sees elsewhere on the mouse."""
HEAD[1, 1], HEAD[2, [0, 2]], HEAD[3, :2] = 40, 40, (40, 20)
HEAD[4, 1], HEAD[5, 2], HEAD[6, [0, 1, 3]] = 50, 50, (25, 25, 50)


def test_the_curve_detector_answers_6600_to_a_curve() -> None:
    """(50*30) + (50*30) + (50*30) + (20*30) + (50*30), as the slide adds up."""
    assert 50 * 30 + 50 * 30 + 50 * 30 + 20 * 30 + 50 * 30 == 6600
    assert convolved(MOUSE, CURVE).tolist() == [[6600]]


def test_the_curve_detector_answers_nothing_to_no_curve() -> None:
    assert convolved(HEAD, CURVE).tolist() == [[0]]


@pytest.mark.parametrize("second", [4, 5])
def test_the_curve_detector_as_printed_would_answer_7500(second: int) -> None:
    """The grids have eight columns, and the 30 of the first row in the seventh.

    There the receptive field has a 30 too, so that a sixth product, 30*30 = 900, is
    missing from the sum. (In one of the two prints the second row is shifted too.)
    """
    printed = np.zeros((7, 8), int)
    printed[0, 6] = printed[1, second] = printed[2:6, 3] = 30
    field = np.pad(MOUSE, [(0, 0), (0, 1)])
    assert convolved(field, printed).tolist() == [[6600 + 30 * 30]]


def test_blur_is_the_mean_of_nine_pixels() -> None:
    """With ninths as weights, on multiples of 9; so written nothing is rounded."""
    image = 9 * np.array(FIVE)
    ones = convolved(image, np.ones((3, 3)))
    assert (ones / 9).tolist() == [
        [sum(FIVE[y + n][x + m] for m in range(3) for n in range(3)) for x in range(3)]
        for y in range(3)
    ]
    blurred = convolved(image, np.full((3, 3), 1 / 9))
    # A ninth and each of nine sums round by half a unit in the last place.
    assert np.abs(blurred - ones / 9).max() <= 10 * 2**-24 * ones.max() / 9


def test_the_outline_kernel_as_printed_sharpens() -> None:
    """Its weights sum to 1: what is even keeps its gray, while an outline is black.

    With 4 in the middle they sum to 0; the printed kernel adds the image to that.
    """
    printed = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])
    even = np.full((5, 5), 7)
    assert convolved(even, printed).tolist() == [[7] * 3] * 3
    outline = printed - np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert convolved(even, outline).tolist() == [[0] * 3] * 3
    middle = np.array(FIVE)[1:4, 1:4]
    assert np.array_equal(convolved(FIVE, printed), convolved(FIVE, outline) + middle)
    assert convolved(FIVE, printed).tolist() == [
        [1, -6, -3],
        [8, 2, -5],
        [-10, 21, 2],
    ]


def test_the_shift_kernel_moves_the_image_to_the_right() -> None:
    """It takes the left neighbour: by one pixel, and zeros come in at the left edge."""
    shift = [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    moved = convolved(FIVE, shift, padding="SAME")
    assert moved.tolist() == [[0, *row[:-1]] for row in FIVE]
