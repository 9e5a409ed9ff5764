"""What check mode found out about a pass, and for which two graphs it holds."""

from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from convc.ir.graph import Graph
from convc.ir.printer import print_graph


@dataclass(frozen=True)
class Verdict:
    """How a pass was checked, and what came out.

    ``method`` is "equal", "bound", "gradients", "optimizer", "evaluation", or "none"
    where check mode was off; ``values`` is how many numbers were compared; ``worst`` is
    the largest error in units of its bound, 0 where all are equal bit for bit.
    """

    method: str
    values: int = 0
    worst: float = 0.0
    note: str = ""

    def __bool__(self) -> bool:
        return self.method != "none"

    def __str__(self) -> str:
        if not self:
            return "not checked"
        said = f"equal on {self.values:,} values"
        if self.worst:
            said = (
                f"within bound on {self.values:,} values, worst {self.worst:.2g} of it"
            )
        lead = f"{self.note}: " if self.note else ""
        return lead + said


NOT_CHECKED = Verdict("none")
"""The verdict where check mode is off."""


@dataclass(frozen=True)
class Certificate:
    """A pass, SHA-256 of the IR text before and after it, and the verdict."""

    name: str
    before: str
    after: str
    verdict: Verdict

    def record(self) -> dict[str, Any]:
        """The certificate as a JSON object: strings and numbers by name.

        ``pass``, ``before``, ``after``, ``verdict`` (for people), ``checked`` and the
        verdict's own fields.
        """
        return {
            "pass": self.name,
            "before": self.before,
            "after": self.after,
            "verdict": str(self.verdict),
            "checked": bool(self.verdict),
            **asdict(self.verdict),
        }


def digest(graph: Graph) -> str:
    """SHA-256 of the graph's text, in hexadecimal."""
    return sha256(print_graph(graph).encode()).hexdigest()
