"""SIGTERM and SIGINT as a request to save and stop, instead of an end in the middle of a batch."""
import logging
import os
import signal
import threading
from contextlib import contextmanager
from typing import Iterator, List, Optional

logger = logging.getLogger(__name__)

# sysexits.h's EX_TEMPFAIL, "try again later": the work is saved and a resume continues it.
EXIT_CODE = 75

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_received: List[str] = []  # names of the signals since `caught` began
_postponed: List[bool] = []  # an entry for each `postponed` block now entered


class Terminated(KeyboardInterrupt):
    """SIGTERM, in a block where it ends the work as Ctrl-C does (:func:`unwinding`)."""


class Interrupted(Exception):
    """A signal asks to stop; the text names the signal and says what was saved.

    ``arguments`` are those of functions in the text, as of :class:`unequal.errors.ArgumentError`.
    """

    def __init__(self, text: str, *arguments: str) -> None:
        super().__init__(text)
        self.arguments = arguments


def pending() -> Optional[str]:
    """Name of the signal that has arrived, or None."""
    return _received[0] if _received else None


def check() -> None:
    """Raise :class:`Interrupted` once a signal has come; long work calls this now and then."""
    if _received and not _postponed:
        raise Interrupted(f"stopped by {_received[0]}")


@contextmanager
def postponed(postpone: bool = True) -> Iterator[None]:
    """In this block :func:`check` does nothing: workers of one job must stop at the same point."""
    if postpone:
        _postponed.append(True)
    try:
        yield
    finally:
        if postpone:
            _postponed.pop()


@contextmanager
def unwinding() -> Iterator[None]:
    """In this block SIGTERM raises :class:`Terminated`, so that temporary files are removed; a
    second one ends the process at once. Does nothing outside of the main thread, or where the
    signal is ignored.
    """
    if (threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL):
        yield
        return

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _watch(reader: int) -> None:
    while True:
        number = os.read(reader, 1)
        if not number:
            return
        if number[0] not in _SIGNALS:
            continue
        if _received:
            os._exit(128 + number[0])
        _received.append(signal.Signals(number[0]).name)
        logger.warning("%s: saving and stopping after this batch; once more to stop at once",
                       _received[0])


@contextmanager
def caught() -> Iterator[None]:
    """In this block a signal is recorded for :func:`check`; a second one ends the process at once
    with 128 + its number. Only for the main thread.

    A thread waits for the signals, because Python runs a handler only when the main thread returns
    from MXNet, which can take a batch. A signal that is ignored stays ignored (``nohup``, a shell's
    ``&``).
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    watch = threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True)
    watch.start()
    previous_writer = signal.set_wakeup_fd(writer)
    for number in _SIGNALS:
        if previous[number] != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # Python itself writes to the pipe
    try:
        yield
    finally:
        for number in _SIGNALS:
            signal.signal(number, previous[number])
        signal.set_wakeup_fd(previous_writer)
        os.close(writer)
        watch.join()
        os.close(reader)
        _received.clear()
