"""visualize, as a person runs it."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from convc.cli import main
from convc.cli.use import expected_weights
from convc.data.batches import Dataset, Splits
from convc.initializers import initial_state
from convc.model import Model
from convc.networks import load_network
from convc.runtime.checkpoint import save_weights
from convc.runtime.metrics import MetricsLog

NETWORK = """
import convc.layers as cc


def gray(image):
    x = cc.conv2d(image, 3, 3, activation="relu", name="conv")
    return cc.dense(cc.flatten(cc.max_pool2d(x, 2, name="pool")), 10, name="logits")


def flat(image):
    return gray(cc.reshape(image, [-1, 28, 28, 1]))


def colour(image):
    return cc.conv2d(image, 2, 3, name="conv")
"""


def convc(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="convc")


@pytest.fixture(autouse=True)
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with networks, and two test images in MNIST's place."""
    (tmp_path / "net.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    images = np.stack([np.full((28, 28, 1), v, np.float32) for v in (0.25, 0.5)])
    data = Dataset(images, np.array([4, 7], np.int32), "two images")
    monkeypatch.setattr("convc.data.mnist.load_mnist", lambda _: Splits(data, data))


def weights(function: str, image: str = "f32[N,28,28,1]") -> str:
    """A weight file with a network's first values."""
    model = Model(load_network(f"net.py:{function}")[0], image=image)
    values = initial_state(model.graph, seed=0)
    save_weights(
        f"{function}.st", {name: values[name] for name in expected_weights(model)}
    )
    return f"{function}.st"


def test_filters_maps_and_image_are_written_and_listed() -> None:
    done = convc("visualize", "net.py:gray", "--weights", weights("gray"), "-o", "out")
    assert done.exit_code == 0, done.output
    written = sorted(p.relative_to("out").as_posix() for p in Path("out").rglob("*.*"))
    assert written == [
        "filters/conv.png",
        "image.png",
        "maps/conv.png",
        "maps/pool.png",
    ]
    for name in written:
        with Image.open(f"out/{name}") as picture:
            size = "x".join(map(str, picture.size))
        (line,) = (x for x in done.stdout.splitlines() if f"out/{name} " in x)
        assert size in line.split()
    assert "conv: 3 filters of 3x3; gray is 0" in done.stdout
    assert "pool: 3 maps of 13x13; black is 0" in done.stdout
    assert "image 0 of two images, a 4" in done.stdout


def test_index_chooses_the_test_image() -> None:
    command = ("visualize", "net.py:gray", "--weights", weights("gray"), "-o", "out")
    assert "image 1 of two images, a 7" in convc(*command, "--index", "1").stdout
    with Image.open("out/image.png") as picture:
        assert picture.getpixel((20, 20)) == (128, 128, 128)
    refused = convc(*command, "--index", "2")
    assert refused.exit_code == 1
    assert "two images holds 2 images, 0 to 1, and --index is 2" in refused.stderr


def test_an_image_file_is_read_as_predict_reads_it() -> None:
    np.save("x.npy", np.full((28, 28), 255, np.uint8))
    command = ("visualize", "net.py:gray", "--weights", weights("gray"), "-o", "out")
    done = convc(*command, "--image", "x.npy")
    assert done.exit_code == 0, done.output
    with Image.open("out/image.png") as picture:
        assert picture.getpixel((20, 20)) == (255, 255, 255)


def test_a_network_of_flat_images_sees_the_same() -> None:
    """Its image is a row of 784 numbers, and the picture is a square all the same."""
    for function, kind in (("gray", "f32[N,28,28,1]"), ("flat", "f32[N,784]")):
        file = weights(function, kind)
        spec = ("visualize", f"net.py:{function}", "--input", kind, "--weights", file)
        done = convc(*spec, "-o", function)
        assert done.exit_code == 0, done.output
    for name in ("image.png", "maps/pool.png"):
        assert Path("gray", name).read_bytes() == Path("flat", name).read_bytes()


def test_images_of_other_sizes_are_scaled_and_may_have_colours() -> None:
    Image.new("RGB", (50, 40), (255, 0, 0)).save("red.png")
    kind = "f32[N,12,10,3]"
    spec = ("visualize", "net.py:colour", "--input", kind, "-o", "out", "--weights")
    command = (*spec, weights("colour", kind))
    done = convc(*command, "--image", "red.png")
    assert done.exit_code == 0, done.output
    assert "conv: 2 filters of 3x3, their inputs as red, green and blue" in done.stdout
    assert "conv: 2 maps of 10x8" in done.stdout
    with Image.open("out/image.png") as picture:
        assert picture.getpixel((20, 20)) == (255, 0, 0)
    refused = convc(*command)
    assert refused.exit_code == 1
    assert "like the network's image, [12, 10, 3]; give one" in refused.stderr


def test_a_run_is_drawn_without_weights() -> None:
    with MetricsLog("run", tensorboard=False) as log:
        log.log("loss/train", 0.5, 0)
        log.log("accuracy/train", 0.75, 0)
    done = convc("visualize", "net.py:gray", "--run", "run", "-o", "out")
    assert done.exit_code == 0, done.output
    assert [p.name for p in Path("out").iterdir()] == ["curves.png"]
    assert "run: loss and accuracy of 1 epoch" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --weights, --run, or both"),
        (("--run", "a", "--index", "1"), "--image and --index are for feature maps"),
        (
            ("--weights", "w", "--image", "a", "--index", "1"),
            "--image and --index name two images",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(
    options: tuple[str, ...], message: str
) -> None:
    refused = convc("visualize", "net.py:gray", "-o", "out", *options)
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert not Path("out").exists()


def test_weights_of_another_network_are_refused_and_nothing_is_written() -> None:
    file = weights("colour", "f32[N,12,10,3]")
    refused = convc("visualize", "net.py:gray", "--weights", file, "-o", "out")
    assert refused.exit_code == 1
    assert "logits/kernel" in refused.stderr
    assert not Path("out").exists()
