"""Members of a team answer, fail, hang and die without harm to the others."""

import os
import time

import pytest

from convc.ir.errors import CompileError
from convc.team import MemberError, team


class Worker:
    """Does what a test wants, in a process of its own."""

    def __init__(self, name: str) -> None:
        if name == "absent":
            raise CompileError("it is not installed")
        self.name, self.count = name, 0

    def counted(self, step: int) -> tuple[str, int, int]:
        self.count += step
        return self.name, self.count, os.getpid()

    def fail(self) -> None:
        raise ValueError("the number is 3")

    def hang(self) -> None:
        time.sleep(60)

    def die(self) -> None:
        os._exit(3)


def test_each_member_keeps_what_it_made_in_a_process_of_its_own() -> None:
    with team({"a": (Worker, ["a"]), "b": (Worker, ["b"])}) as those:
        found = [m.ask("counted", 2) for m in those.members for _ in range(2)]
        processes = [m.process for m in those.members]
    assert [f[:2] for f in found] == [("a", 2), ("a", 4), ("b", 2), ("b", 4)]
    pids = {f[2] for f in found}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert not any(p.is_alive() for p in processes)


def test_one_that_cannot_be_made_is_absent_with_the_reason() -> None:
    with team({"absent": (Worker, ["absent"]), "a": (Worker, ["a"])}) as those:
        assert [m.name for m in those.members] == ["a"]
        assert those.absent == {"absent": "it is not installed"}


def test_an_error_is_told_and_the_member_goes_on() -> None:
    with team({"a": (Worker, ["a"])}) as those:
        (member,) = those.members
        with pytest.raises(MemberError, match="a: ValueError: the number is 3"):
            member.ask("fail")
        assert member.ask("counted", 1)[1] == 1


def test_one_that_hangs_is_ended_in_time() -> None:
    with team({"a": (Worker, ["a"])}) as those:
        (member,) = those.members
        with pytest.raises(MemberError, match="a did not answer in 1 s"):
            member.ask("hang", seconds=1)
        assert not member.process.is_alive()
        those.dismiss(member, "too slow")


def test_one_that_dies_is_told_with_its_exit_code() -> None:
    with team({"a": (Worker, ["a"])}) as those:
        (member,) = those.members
        with pytest.raises(MemberError, match="a died with exit code 3"):
            member.ask("die")
        with pytest.raises(MemberError, match="a died"):
            member.ask("counted", 1)
        those.dismiss(member, "dead")
        assert those.absent == {"a": "dead"}
