"""What a training run has been: one record per epoch, and the program it left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from convc.ir.errors import RunError

if TYPE_CHECKING:
    from convc.program import Program


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images.

    ``loss`` is the mean over the images and ``accuracy`` the share that was right,
    each measured as the image was trained on; the test figures are None where there
    was nothing to test on. ``seconds`` is the training alone.
    """

    number: int
    loss: float
    accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    seconds: float
    images_per_second: float

    def line(self, epochs: int) -> str:
        """The record as a line for a person, in a run of that many epochs."""
        parts = [
            f"epoch {self.number}/{epochs}",
            f"loss {self.loss:.4f}",
            f"accuracy/train {100 * self.accuracy:.2f} %",
        ]
        if self.test_accuracy is not None:
            parts.append(f"accuracy/test {100 * self.test_accuracy:.2f} %")
        parts += [f"{self.seconds:.1f} s", f"{self.images_per_second:.0f} images/s"]
        return "  ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """The record as plain JSON, for a checkpoint."""
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Epoch:
        """The record that ``as_json`` wrote; RunError if it is none."""
        names = [field.name for field in fields(Epoch)]
        if not isinstance(record, Mapping) or sorted(record) != sorted(names):
            raise RunError(
                f"an epoch's record has {', '.join(names)}, and this one is {record!r}"
            )
        return Epoch(**record)


@dataclass(frozen=True, eq=False)
class History:
    """The epochs of a run, those before a resume among them, and what it trained.

    ``program`` holds the trained parameters; ``digest`` is the sha256 of its weights.
    """

    epochs: tuple[Epoch, ...]
    program: Program
    digest: str

    @property
    def loss(self) -> Sequence[float]:
        """The training loss of each epoch."""
        return [epoch.loss for epoch in self.epochs]

    @property
    def accuracy(self) -> Sequence[float]:
        """The training accuracy of each epoch, 0 .. 1."""
        return [epoch.accuracy for epoch in self.epochs]

    @property
    def test_loss(self) -> Sequence[float | None]:
        """The test loss of each epoch, None where nothing was tested."""
        return [epoch.test_loss for epoch in self.epochs]

    @property
    def test_accuracy(self) -> Sequence[float | None]:
        """The test accuracy of each epoch, 0 .. 1, None where nothing was tested."""
        return [epoch.test_accuracy for epoch in self.epochs]
