"""Decode pictures that may crash their decoder, or take its memory or time, in another process.

There is one such process. It starts at the first such picture and again after it has died, and may
take 1 GiB of memory and 20 seconds of processor time a picture. Threads take turns.
"""
import atexit
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Any, Optional

import cv2
import numpy as np

from unequal.data import _decoder
from unequal.errors import InputError

MEMORY = 1 << 30  # bytes beyond what the process has when it starts
SECONDS = 20.0  # of processor time a picture

# Not `python FILE`: Python would then search the file's folder first, where other modules of ours
# lie. With -c it searches the working folder, which may hold anything: so that is the root folder.
_START = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"

# The folders with the two packages it needs, wherever this process found them.
_PACKAGES = [os.path.abspath(os.path.join(os.path.dirname(str(package.__file__)), os.pardir))
             for package in (cv2, np)]

_lock = threading.Lock()
_process: Any = None  # subprocess.Popen; None before the first picture and after a crash


def _started() -> Any:
    global _process
    if _process is None:
        _process = subprocess.Popen(
            [sys.executable, "-c", _START, os.path.abspath(_decoder.__file__), str(MEMORY),
             str(SECONDS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=os.sep,
            # OpenCV writes a temporary file for some decoders (HDR), which a crash would leave
            # behind. Without a folder for it, OpenCV fails and the picture counts as damaged.
            env=dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1",
                     OPENCV_TEMP_PATH=os.devnull,
                     PYTHONPATH=os.pathsep.join(_PACKAGES)))
    return _process


def _end() -> None:
    global _process
    if _process is not None:
        _process.kill()
        with suppress(BrokenPipeError):  # the rest of a request to a process that has died
            _process.stdin.close()
        _process.stdout.close()
        _process.wait()
        _process = None


def _forget() -> None:
    """In a forked child: start another process, or it would read its parent's answers."""
    global _process, _lock
    _process, _lock = None, threading.Lock()


atexit.register(_end)
os.register_at_fork(after_in_child=_forget)


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def imdecode(data: bytes, flag: int, source: object) -> Optional[np.ndarray]:
    """``cv2.imdecode(data, flag)`` in the other process; None for what is no picture.

    What the decoder prints comes out on this process's stderr.

    Parameters
    ----------
    data : bytes
        An encoded picture of any format that OpenCV knows.
    flag : int
        A flag that gives three channels (``cv2.IMREAD_COLOR``, ``IMREAD_REDUCED_COLOR_2``, ...).
    source : object
        What to call the picture in an error.

    Raises
    ------
    InputError
        When the decoder crashed or took too long.
    """
    with _lock:
        process = _started()
        try:
            process.stdin.write(_decoder.REQUEST.pack(len(data), flag))
            process.stdin.write(data)
            process.stdin.flush()
            height, width, said = _decoder.ANSWER.unpack(
                _exactly(process.stdout, _decoder.ANSWER.size))
            if said:
                os.write(2, _exactly(process.stdout, said))
            if not height:
                return None
            pixels = np.frombuffer(bytearray(_exactly(process.stdout, height * width * 3)),
                                   np.uint8)
            return pixels.reshape(height, width, 3)
        except (BrokenPipeError, EOFError):
            code = process.wait()
            _end()
        except BaseException:  # an unread answer would be taken for the next picture's
            _end()
            raise
    if code == -signal.SIGPROF:
        why = f"takes more than {SECONDS:g} seconds to decode"
    elif code < 0:
        why = f"crashes its decoder ({signal.Signals(-code).name})"
    else:
        why = f"ended its decoder (code {code})"
    raise InputError(f"{source}: the picture {why}; leave it out, or write it anew as JPEG or PNG.")
