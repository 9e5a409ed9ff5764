"""An epoch's record is a line for a person and plain JSON for a checkpoint."""

import json
from typing import Any

import pytest

from convc.ir.errors import RunError
from convc.runtime.history import Epoch

TESTED = Epoch(2, 0.123, 0.961, 0.05, 0.9854, 31.0, 1935.2)
UNTESTED = Epoch(1, 0.5, 0.9, None, None, 2.0, 100.0)


def test_the_line_of_an_epoch_has_every_figure() -> None:
    assert TESTED.line(5) == (
        "epoch 2/5  loss 0.1230  accuracy/train 96.10 %  accuracy/test 98.54 %  "
        "31.0 s  1935 images/s"
    )


def test_the_line_of_an_epoch_without_a_test_leaves_it_out() -> None:
    assert "accuracy/test" not in UNTESTED.line(1)


@pytest.mark.parametrize("epoch", [TESTED, UNTESTED])
def test_a_record_comes_back_from_json(epoch: Epoch) -> None:
    assert Epoch.from_json(json.loads(json.dumps(epoch.as_json()))) == epoch


@pytest.mark.parametrize("record", [None, 3, {}, {"number": 1}, {"x": 1}])
def test_what_is_no_record_is_refused(record: Any) -> None:
    with pytest.raises(RunError, match="an epoch's record has number, loss"):
        Epoch.from_json(record)
