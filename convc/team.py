"""Processes that are asked in turn: what is compared runs apart, under one clock.

Each member has a process of its own, so that neither the threads of one library nor
its memory stand in the way of another's. Only one of them works at a time.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from convc.ir.errors import ConvcError, RunError

SECONDS = 900.0
"""How long a member may take for an answer."""
_END = ""
"""Asks a member to end."""

Make = Callable[..., Any]
"""A class, importable by name: in a new process it makes what is asked."""


class MemberError(RunError):
    """A member could not do what it was asked, or is gone."""


@dataclass
class Member:
    """A process, and who it is."""

    name: str
    pipe: Connection
    process: BaseProcess

    def ask(self, method: str, *arguments: Any, seconds: float = SECONDS) -> Any:
        """What the object's method gives.

        MemberError for an error, an answer that does not come in time, or a process
        that died; in the last two cases the process is ended.
        """
        try:
            self.pipe.send((method, arguments))
        except OSError:
            raise self._gone() from None
        return self.answer(seconds)

    def answer(self, seconds: float = SECONDS) -> Any:
        """What comes back next."""
        try:
            if not self.pipe.poll(seconds):
                self.end(0)
                raise MemberError(f"{self.name} did not answer in {seconds:.0f} s")
            kind, body = self.pipe.recv()
        except (EOFError, ConnectionError):
            raise self._gone() from None
        if kind != "done":
            raise MemberError(f"{self.name}: {body}")
        return body

    def _gone(self) -> MemberError:
        self.process.join(5)
        return MemberError(f"{self.name} died with exit code {self.process.exitcode}")

    def end(self, patience: float = 5) -> None:
        """Ask the process to end, and end it if it does not."""
        try:
            if patience:
                self.pipe.send((_END, ()))
                self.process.join(patience)
        except OSError:
            pass
        finally:
            self.process.kill()
            self.process.join()
            self.pipe.close()


@dataclass
class Team:
    """The members that are there, in order, and why others are not."""

    members: list[Member] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def dismiss(self, member: Member, why: str) -> None:
        """A member leaves."""
        self.members.remove(member)
        self.absent[member.name] = why
        member.end(0)


@contextmanager
def team(
    makers: Mapping[str, tuple[Make, Sequence[Any]]], seconds: float = SECONDS
) -> Iterator[Team]:
    """A team of members by name, each made one after the other in its own process.

    One that cannot be made is absent, with the reason; the processes end with the
    context.
    """
    found, context = Team(), multiprocessing.get_context("spawn")
    try:
        for name, (make, arguments) in makers.items():
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, make, tuple(arguments))
            )
            process.start()
            theirs.close()
            member = Member(name, ours, process)
            found.members.append(member)
            try:
                member.answer(seconds)
            except MemberError as error:
                found.dismiss(member, str(error).removeprefix(f"{name}: "))
        yield found
    finally:
        for member in found.members:
            member.end()


def _serve(pipe: Connection, make: Make, arguments: Sequence[Any]) -> None:
    """Make the object, then call its methods as asked until the caller ends."""
    try:
        made, answer = _tried(make, arguments)
        pipe.send(answer)
        while made is not None:
            method, given = pipe.recv()
            if method == _END:
                return
            pipe.send(_tried(getattr(made, method), given)[1])
    except (EOFError, OSError, KeyboardInterrupt):
        return  # the caller is gone


def _tried(call: Make, arguments: Sequence[Any]) -> tuple[Any, tuple[str, Any]]:
    """What a call gives, and the answer that says so; of an object only that it is."""
    try:
        made = call(*arguments)
    except ConvcError as error:
        return None, ("failed", str(error))
    except Exception as error:  # noqa: BLE001 - a library of others may raise anything
        return None, ("failed", f"{type(error).__name__}: {error}")
    return made, ("done", None if isinstance(call, type) else made)
