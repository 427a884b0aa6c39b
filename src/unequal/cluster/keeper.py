"""Runs one command of `unequal launch` and ends it when the launcher is gone.

Started by its path, here, through ssh or by mpirun, with the standard library only: MXNet would
cost a second and 100 MB. Standard input is the connection to the launcher: a byte now and then
while it is there, :data:`TERMINATE` to pass SIGTERM on. :data:`END`, the end of the input, or
silence ends the command and all it has started.

With :data:`TIMEOUT` in the environment it watches progress as well. The command inherits a pipe,
whose number is in :data:`REPORTS`; a process that uses :mod:`unequal.system.progress` writes a byte
when a batch or a picture is done, and while it waits for other workers. From its first byte on, it
must not be silent for that long; and no process may be stopped (SIGSTOP, a debugger) for that long,
which holds for servers too, that report nothing. The keeper then ends it with :data:`HUNG`. The
worker that hangs is the first to be silent: those that wait for it say that they wait.
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
SILENCE = 30  # seconds without one, and the launcher counts as gone
TERMINATE, END = b"T", b"E"
HUNG = 121  # exit code
TIMEOUT, REPORTS = "UNEQUAL_HANG_TIMEOUT", "UNEQUAL_PROGRESS_PIPE"
_GRACE = 0.25  # share of the timeout more for a silent process: it may wait for a stopped one
_PR_SET_PDEATHSIG = 1


def _ends_with_this_process() -> Optional[Callable[[], None]]:
    """What a new process calls so that the kernel kills it should the keeper be killed."""
    libc, keeper = ctypes.CDLL(None), os.getpid()

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:  # it was killed before
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
    """Whether the command still moves on."""

    def __init__(self, timeout: float, reader: int) -> None:
        self._timeout, self._reader = timeout, reader
        self._reported: Optional[float] = None  # since when
        self._stopped: Optional[float] = None

    def hangs(self, pid: int) -> Optional[str]:
        """What is wrong with process ``pid``, to follow its name; None while it moves on."""
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
    except (OSError, IndexError):  # no /proc, or it has just ended
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
