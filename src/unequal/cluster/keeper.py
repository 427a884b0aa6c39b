"""Runs one command of `unequal launch` and ends it when the launcher is gone.

Started by its path, here, through ssh or by mpirun, with the standard library only: MXNet would
cost a second and 100 MB. Standard input is the connection to the launcher: a byte now and then
while it is there, :data:`TERMINATE` to pass SIGTERM on. :data:`END`, the end of the input, or
silence ends the command and all it has started.
"""
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

BEAT = 5  # seconds between the launcher's bytes
SILENCE = 30  # seconds without one, and the launcher counts as gone
TERMINATE, END = b"T", b"E"
_PR_SET_PDEATHSIG = 1


def _ends_with_this_process():
    """What a new process calls so that the kernel kills it should the keeper be killed."""
    libc, keeper = ctypes.CDLL(None), os.getpid()

    def ask_kernel():
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:  # it was killed before
            os._exit(1)

    return ask_kernel if sys.platform == "linux" else None


def _stop(number, _):
    sys.exit(128 + number)


def _signal_group(child, number):
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        pass


def keep(command):
    """Run ``command``; returns its exit code, 128 + N when signal N ended it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True,
                                 preexec_fn=_ends_with_this_process())
    except OSError as error:
        print("{}: {}".format(command[0], error.strerror), file=sys.stderr)
        return 127
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
                print("{}: nothing heard from the launcher for {} s; ended".format(
                    os.uname().nodename, SILENCE), file=sys.stderr)
                return 1
        return child.returncode if child.returncode >= 0 else 128 - child.returncode
    finally:
        _signal_group(child, signal.SIGKILL)
        child.wait()


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
