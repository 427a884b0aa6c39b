"""Runs one command of `unequal launch` and ends it when the launcher is gone.

It is started by its path, here, by ssh or by mpirun, and uses only the standard library: MXNet
would cost a second and 100 MB. Standard input is the connection to the launcher, which sends a byte
every few seconds, and :data:`TERMINATE` to pass SIGTERM on. :data:`END`, the end of the input, or
silence ends the command and everything it has started.

With :data:`TIMEOUT` in the environment the keeper watches progress too. The command inherits a
pipe, whose number is in :data:`REPORTS`. A process that uses :mod:`unequal.system.progress` writes
a byte to it when a batch or a picture is done, and while it waits for other workers. After its
first byte it must not be silent for the length of the timeout. No process may be stopped (SIGSTOP,
a debugger) for that long; this includes servers, which report nothing. Otherwise the keeper ends
the process with :data:`HUNG`. A worker that hangs is the first to fall silent, as the workers that
wait for it report that they wait.
"""
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Callable, List, Optional

BEAT = 5  # seconds between the launcher's bytes
SILENCE = 30  # seconds without a byte after which the launcher counts as gone
TERMINATE, END = b"T", b"E"
HUNG = 121  # exit code
TIMEOUT, REPORTS = "UNEQUAL_HANG_TIMEOUT", "UNEQUAL_PROGRESS_PIPE"
_GRACE = 0.25  # extra share of the timeout for a silent process, which may wait for a stopped one
_PR_SET_PDEATHSIG = 1


def _ends_with_this_process() -> Optional[Callable[[], None]]:
    """A function that a new process calls, so that the kernel kills it if the keeper is killed."""
    libc, keeper = ctypes.CDLL(None), os.getpid()

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:  # the keeper is dead already
            os._exit(1)

    return ask_kernel if sys.platform == "linux" else None


def _stop(number: int, _: Optional[FrameType]) -> None:
    sys.exit(128 + number)


def _signal_group(child: subprocess.Popen, number: int) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        pass


class _Watch:
    """Watches whether the command makes progress."""

    def __init__(self, timeout: float, reader: int) -> None:
        self._timeout, self._reader = timeout, reader
        self._reported: Optional[float] = None  # time of the last report
        self._stopped: Optional[float] = None

    def hangs(self, pid: int) -> Optional[str]:
        """What is wrong with process ``pid``, as the end of a sentence; None if nothing."""
        now = time.monotonic()
        if select.select([self._reader], [], [], 0)[0] and os.read(self._reader, 4096):
            self._reported = now
        if not _is_stopped(pid):
            self._stopped = None
        elif self._stopped is None:
            self._stopped = now
        if self._stopped is not None:
            return (f"has been stopped (SIGSTOP) for {self._timeout:g} s"
                    if now - self._stopped > self._timeout else None)
        if self._reported is not None and now - self._reported > self._timeout * (1 + _GRACE):
            return f"has made no progress for {now - self._reported:g} s"
        return None


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):  # no /proc, or the process has just ended
        return False


def keep(command: List[str]) -> int:
    """Run ``command``; returns its exit code, 128 + N when signal N ended it, or HUNG."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    timeout = float(os.environ.get(TIMEOUT) or 0)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True,
                                 preexec_fn=_ends_with_this_process(), pass_fds=[writer],
                                 env=dict(os.environ, **{REPORTS: str(writer)}))
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    finally:
        os.close(writer)
    watch = _Watch(timeout, reader)
    heard = time.monotonic()
    try:
        while child.poll() is None:
            if select.select([0], [], [], 0.2)[0]:
                received = os.read(0, 4096)
                if not received or END in received:
                    return 1
                heard = time.monotonic()
                if TERMINATE in received:
                    _signal_group(child, signal.SIGTERM)
            elif time.monotonic() - heard > SILENCE:
                print(f"{os.uname().nodename}: nothing heard from the launcher for {SILENCE} s; "
                      "ended", file=sys.stderr)
                return 1
            problem = watch.hangs(child.pid) if timeout else None
            if problem:
                print(f"{os.uname().nodename}: process {child.pid} {problem}, longer than the "
                      "hang timeout; ended", file=sys.stderr)
                return HUNG
        return child.returncode if child.returncode >= 0 else 128 - child.returncode
    finally:
        _signal_group(child, signal.SIGKILL)
        child.wait()
        os.close(reader)


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
