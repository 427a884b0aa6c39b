"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""
import logging
import math
import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import Any, Generator, Iterable, Iterator, Optional, Sized

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 30

bars = True  # False in workers of a job that share a terminal with worker 0


# The pipe to the keeper that `unequal launch` started for this process
# (unequal.cluster.keeper.REPORTS). Removed from the environment, because child processes do not
# inherit the pipe.
_reports: Optional[int] = int(os.environ.pop("UNEQUAL_PROGRESS_PIPE", "-1"))
_last_report = 0.0


def report() -> None:
    """Report progress to the keeper, if there is one; at most twice a second."""
    global _reports, _last_report
    now = time.monotonic()
    if _reports is None or _reports < 0 or now - _last_report < 0.5:
        return
    _last_report = now
    try:
        os.write(_reports, b".")
    except BlockingIOError:
        pass  # the pipe is full: the keeper has enough reports
    except OSError:
        _reports = None  # the keeper has ended


# Of the keeper. Others have been ended by theirs after this time and a quarter.
_hang_timeout = float(os.environ.get("UNEQUAL_HANG_TIMEOUT") or 0)


@contextmanager
def waiting(bounded: bool = True) -> Iterator[None]:
    """In this block the process waits for other workers; a thread calls :func:`report` for it.

    So a worker that waits for a hanging one is not mistaken for it. A hanging worker is ended by
    its own keeper. If the wait continues long after that, a server hangs or all workers wait for
    each other: then, if no other worker may legitimately take longer (``bounded``), the reports
    stop after two hang timeouts, and the keeper ends this process.
    """
    if _reports is None or _reports < 0:
        yield
        return
    done = threading.Event()
    until = time.monotonic() + (2 * _hang_timeout if bounded and _hang_timeout else math.inf)

    def beat() -> None:
        while not done.wait(1) and time.monotonic() < until:
            report()

    report()
    thread = threading.Thread(target=beat, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def end_time(seconds: float) -> str:
    """Local time ``seconds`` from now, to the minute, with the day if that is not today.

    `never` if the time is beyond the calendar.
    """
    try:
        end = time.localtime(time.time() + seconds)
    except (OverflowError, ValueError, OSError):  # beyond the calendar, or nan
        return "never"
    today = end[:3] == time.localtime()[:3]
    return time.strftime("%H:%M" if today else "%a %d %b %H:%M", end)


class Bar:
    """Count work done; use as a context manager.

    On a terminal a tqdm bar with the time remaining; log lines appear above it. Otherwise a log
    line every 30 seconds with the speed and the time it will end.

    Parameters
    ----------
    total : int or None
        How much there is to do; None when unknown.
    label : str
        What is done.
    unit : str
        What is counted, in the plural.
    lines : bool
        False if the work logs lines of its own: then only the bar is shown.
    """

    def __init__(self, total: Optional[int], label: str, unit: str, lines: bool = True) -> None:
        self._total, self._label, self._unit, self._lines = total, label, unit, lines
        self._done = 0
        self._start = self._last = time.monotonic()
        self._bar = self._redirect = None
        if bars and sys.stderr is not None and sys.stderr.isatty():
            self._redirect = logging_redirect_tqdm()
            self._redirect.__enter__()
            self._bar = tqdm(total=total, desc=label, unit=" " + unit, leave=False)

    def update(self, count: int = 1) -> None:
        """Count ``count`` more as done."""
        self._done += count
        report()
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        if self._lines and now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            speed = self._done / (now - self._start)
            rest = "" if self._total is None else (
                f"/{self._total}, ends about {end_time((self._total - self._done) / speed)}")
            logger.info("%s: %d%s (%.1f %s/s)", self._label, self._done, rest, speed, self._unit)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()
            if self._redirect is not None:
                self._redirect.__exit__(None, None, None)


def track(items: Iterable[Any], what: str, total: Optional[int] = None
          ) -> Generator[Any, None, None]:
    """Yield ``items``, counting them in a :class:`Bar`.

    Parameters
    ----------
    items : iterable
    what : str
        Plural noun for what is counted, such as ``"images"``.
    total : int, optional
        How many there will be; default ``len(items)`` where it has one.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Bar(total, what, what) as bar:
        for item in items:
            yield item
            bar.update()
