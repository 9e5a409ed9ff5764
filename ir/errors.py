"""Errors a user may see, all of one family.

::

    ConvcError
    ├── TypeRuleError     an op's own rule is broken by its operands or attributes
    ├── IRSyntaxError     IR text that does not follow the grammar (line, column, caret)
    ├── VerifyError       a graph that is not legal at its stage
    ├── ModelError        a mistake in the user's model, with their file and line
    ├── CompileError      what a pass or a backend cannot do, with the op and its line
    └── RunError          a compiled program that was fed wrongly or produced NaN

Readers of files add their own branches (DataError, CheckpointError, LockfileError).
"""


class ConvcError(Exception):
    """Base of every error that a user's input can cause."""


class TypeRuleError(ConvcError):
    """An op's operands or attributes break its rule; the message has both sides."""


class IRSyntaxError(ConvcError):
    """IR text that does not parse; the message shows line, column and a caret."""

    def __init__(self, reason: str, source: str, line: int, column: int) -> None:
        self.reason, self.line, self.column = reason, line, column
        lines = source.split("\n")  # as the lexer counts them
        shown = lines[line - 1] if 0 < line <= len(lines) else ""
        start = max(0, column - 60)
        excerpt = "".join(
            c if c.isprintable() else " " if c == "\t" else "?"
            for c in shown[start : start + 100]
        )
        caret = " " * (column - 1 - start) + "^"
        super().__init__(
            f"line {line}, column {column}: {reason}\n  {excerpt}\n  {caret}"
        )


class VerifyError(ConvcError):
    """A graph that breaks a rule of its stage; the message underlines the culprit."""


class ModelError(ConvcError):
    """A mistake in the user's model, reported at their file and line."""


class CompileError(ConvcError):
    """A pass or a backend cannot do what is asked; names the op, shapes and line."""


class RunError(ConvcError):
    """A program was fed something it cannot take, or its loss is not finite."""
