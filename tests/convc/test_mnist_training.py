"""The whole way on the real data: a tenth of MNIST, one epoch, emitted NumPy."""

import os

import pytest

import convc as cc
from convc.networks import two_conv


@pytest.mark.skipif(
    not os.environ.get("CONVC_DATA"), reason="CONVC_DATA does not name a folder"
)
def test_a_tenth_of_mnist_teaches_the_network_nine_digits_in_ten() -> None:
    """The full run (make mnist) reaches 99 %; this is its first tenth of an epoch."""
    splits = cc.load_mnist()
    model = cc.Model(two_conv)
    history = model.fit(splits.train.first(6400), epochs=1, progress=False)
    loss, accuracy = model.evaluate(splits.test.first(2000))
    assert accuracy >= 0.9
    assert loss < 0.4
    assert len(history.program.source.splitlines()) < 900
