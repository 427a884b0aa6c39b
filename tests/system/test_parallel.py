import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from unequal.errors import InputError
from unequal.system import parallel


def _square(number):
    time.sleep(0.002 * (number % 3))
    return number * number


def _fail(number):
    if number == 5:
        raise InputError("item 5 is bad")
    return number


def _die(number):
    if number == 3:
        os._exit(1)
    return number


@pytest.mark.parametrize("processes", [1, 2])
def test_order(processes):
    assert list(parallel.ordered_map(_square, range(50), processes)) == [
        number * number for number in range(50)]
    assert list(parallel.ordered_map(_square, [], processes)) == []


def test_reads_ahead_only_a_little():
    taken = []
    results = parallel.ordered_map(_square, (taken.append(n) or n for n in range(1000)), 2)
    assert next(results) == 0
    assert len(taken) <= 9
    results.close()
    assert len(taken) <= 9


@pytest.mark.parametrize("processes", [1, 2])
def test_errors_come_through(processes):
    results = parallel.ordered_map(_fail, range(50), processes)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="item 5 is bad"):
        next(results)


def test_killed_worker():
    with pytest.raises(InputError, match="processes 2: a worker process was killed"):
        list(parallel.ordered_map(_die, range(50), 2))


IDLE = """
import functools, time
from unequal.system import parallel
next(parallel.ordered_map(functools.partial(print, flush=True), ["begun"] * 8, 2))
time.sleep(60)
"""


def test_workers_end_with_a_killed_parent():
    """Their standard output ends with the last of them."""
    parent = subprocess.Popen([sys.executable, "-c", IDLE], stdout=subprocess.PIPE,
                              start_new_session=True)
    try:
        assert parent.stdout.readline() == b"begun\n"
        parent.kill()
        parent.communicate(timeout=30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
