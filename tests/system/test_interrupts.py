"""Signals as a request to stop; of whole trainings: tests/whole/test_faults.py."""
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from unequal.system import interrupts


@pytest.fixture(autouse=True)
def not_ignored():
    """Ctrl-C as in a terminal: what a script starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number):
    """A signal to this process, and the thread that notes it has its turn."""
    os.kill(os.getpid(), number)
    for _ in range(500):
        if interrupts.pending():
            return
        time.sleep(0.01)
    raise AssertionError("the signal was not noted within five seconds")


@pytest.mark.parametrize("number, name", [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")])
def test_a_signal_waits_for_check(number, name):
    before = signal.getsignal(number)
    with interrupts.caught():
        interrupts.check()
        assert interrupts.pending() is None
        send(number)
        assert interrupts.pending() == name
        with pytest.raises(interrupts.Interrupted, match=f"^stopped by {name}$"):
            interrupts.check()
    assert interrupts.pending() is None and signal.getsignal(number) == before
    interrupts.check()
    assert "signals" not in {thread.name for thread in threading.enumerate()}


def test_postponed_blocks_do_not_stop():
    with interrupts.caught():
        with interrupts.postponed():
            send(signal.SIGTERM)
            interrupts.check()
            with interrupts.postponed():
                pass
            interrupts.check()  # the outer block holds yet
            with interrupts.postponed(False):
                interrupts.check()
            assert interrupts.pending() == "SIGTERM"
        with interrupts.postponed(False), pytest.raises(interrupts.Interrupted):
            interrupts.check()
        with pytest.raises(interrupts.Interrupted):
            interrupts.check()


def test_an_ignored_signal_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with interrupts.caught():
            os.kill(os.getpid(), signal.SIGTERM)
            send(signal.SIGINT)  # comes after it, and is the only one that came
            assert interrupts.pending() == "SIGINT"
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_arguments_of_the_text():
    error = interrupts.Interrupted("stopped; resume continues", "resume")
    assert str(error) == "stopped; resume continues" and error.arguments == ("resume",)


def test_sigterm_unwinds_and_a_second_one_ends():
    with pytest.raises(interrupts.Terminated):
        with interrupts.unwinding():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
    with pytest.raises(ZeroDivisionError), interrupts.unwinding():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        _ = 1 / 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_sigterm_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with interrupts.unwinding():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_unwinding_in_another_thread_does_nothing():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: interrupts.unwinding().__enter__()).result()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
