# Beyond the notes: a network with a recipe that is made for few seconds on two cores.
# Look at the recipe above it: three epochs are enough for 99.4 % on MNIST.
"""Run it with ``python examples/fast.py [IMAGES]``.

What saves time: digits lie in the middle 20x20 pixels of their images, so a border of 2
is cut off; each block pools before it normalizes, so that batch norm and ReLU work on a
quarter of the numbers. What saves epochs: batch norm allows a learning rate that is 20
times the usual one, which is warmed up and then goes down to zero; Adam forgets old
gradients sooner (beta2), since there are only 1,407 steps; every epoch sees each digit
moved a little, and nothing is dropped out.
"""

import sys
import time

import convc as cc

EPOCHS = 3
BATCH = 128
STEPS = EPOCHS * 469  # batches of 128 in 60,000 images
RATE = cc.Warmup(cc.CosineDecay(0.02, STEPS), warmup_steps=211)


def block(x: cc.Tensor, filters: int, size: int, pool: bool, name: str) -> cc.Tensor:
    """Convolution, perhaps the largest of each 2x2, batch norm, ReLU."""
    with cc.variable_scope(name):
        he = cc.he_normal()
        x = cc.conv2d(x, filters, size, use_bias=False, kernel_initializer=he)
        x = cc.max_pool2d(x, 2) if pool else x
        return cc.relu(cc.batch_norm(x, momentum=0.9))


@cc.recipe(
    epochs=EPOCHS,
    batch=BATCH,
    optimizer=cc.Adam(RATE, beta2=0.99),
    augment=cc.Shifts(pixels=1),
)
def fast(image: cc.Tensor) -> cc.Tensor:
    """Three convolutions with batch norm on 24x24 pixels: 99.4 % in three epochs."""
    x = cc.crop2d(image, 2, name="crop")
    x = block(x, 16, 5, True, "block1")
    x = block(x, 64, 3, True, "block2")
    x = block(x, 128, 3, False, "block3")
    return cc.dense(cc.flatten(x), 10, name="logits")


def main(images: int = 60_000) -> None:
    """Train it as its recipe says, and say how long it took with all that belongs."""
    splits = cc.load_mnist()
    began = time.perf_counter()
    cc.Model(fast).fit(splits.train.first(images), splits.test)
    print(f"{time.perf_counter() - began:.1f} s, tests and compilation included")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
