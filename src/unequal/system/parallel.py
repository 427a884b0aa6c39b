"""Independent pieces of work on several processes, results in order."""
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, Callable, Deque, Generator, Iterable

import cv2

from unequal.errors import ArgumentError


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    # If the parent is killed, nothing else ends this process: it holds both ends of the pool's
    # pipes, so it would wait for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)  # the processes are the parallelism


def ordered_map(function: Callable[[Any], Any], items: Iterable[Any],
                processes: int) -> Generator[Any, None, None]:
    """Yield ``function(item)`` for each item, in order; at most 4 results a process are buffered.

    Workers come from a fork server, because a fork of this process would lack MXNet's and OpenCV's
    threads, which may hold locks. So ``function`` must be importable, and a script that calls this
    with more than one process needs the usual ``if __name__ == "__main__":``. With one process
    everything runs in this one.

    Raises
    ------
    InputError
        When a worker was killed.
    """
    if processes == 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("forkserver")
    # The fork server imports the function's module once. A partial has no __module__ in Python 3.8,
    # so take that of its function.
    context.set_forkserver_preload([__name__, getattr(function, "func", function).__module__])
    items = iter(items)
    waiting: Deque[Future] = deque()
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare)
    try:
        waiting.extend(pool.submit(function, item)
                       for item in itertools.islice(items, 4 * processes))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
            yield result
    except BrokenProcessPool:
        raise ArgumentError(f"processes {processes}: a worker process was killed, perhaps for lack "
                            "of memory; use fewer.", "processes") from None
    finally:
        # Let submitted work finish: after a cancel, Python 3.8 may wait here for ever.
        pool.shutdown()
