"""The first Ctrl-C waits, the second does not, and all is as before afterwards."""

import signal
import threading

import pytest

from convc.runtime.interrupt import Interruption


def test_the_first_ctrl_c_is_a_request() -> None:
    with Interruption() as interruption:
        assert not interruption.requested
        signal.raise_signal(signal.SIGINT)
        assert interruption.requested


def test_the_second_ctrl_c_interrupts() -> None:
    with Interruption():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_former_handler_comes_back_also_after_an_error() -> None:
    former = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="inside"), Interruption():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGINT) is former


def test_another_thread_leaves_the_handler_alone() -> None:
    """Python lets only the main thread set one."""
    seen: list[object] = []

    def enter() -> None:
        with Interruption() as interruption:
            seen.append(signal.getsignal(signal.SIGINT))
            seen.append(interruption.requested)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT), False]
