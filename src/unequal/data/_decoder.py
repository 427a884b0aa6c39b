"""The process of :mod:`unequal.data.expendable`: decodes pictures from stdin until it is closed.

Run as a script; it imports nothing of this package, so that it starts quickly and stays small.
"""
import os
import resource
import signal
import struct
import sys
import tempfile

import cv2
import numpy as np

REQUEST = struct.Struct("<Qi")  # bytes of the picture, OpenCV's flag
ANSWER = struct.Struct("<iiI")  # height and width (0: not a picture), bytes of messages


def _limit(memory: int) -> None:
    """Bound the memory that is taken from here on; a crash leaves no core file."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Serve: memory in bytes and processor seconds a picture are the arguments."""
    memory, seconds = int(sys.argv[1]), float(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    questions, answers = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    said = tempfile.TemporaryFile()
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    cv2.setNumThreads(1)
    _limit(memory)
    while True:
        head = questions.read(REQUEST.size)
        if len(head) < REQUEST.size:
            return
        size, flag = REQUEST.unpack(head)
        data = np.frombuffer(questions.read(size), np.uint8)
        # Ends the process (SIGPROF) when the processor time is used up.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            pixels = cv2.imdecode(data, flag)
        except (cv2.error, MemoryError):
            pixels = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        text = os.pread(said.fileno(), 1 << 16, 0)
        os.ftruncate(said.fileno(), 0)
        os.lseek(said.fileno(), 0, os.SEEK_SET)
        height, width = (0, 0) if pixels is None else pixels.shape[:2]
        answers.write(ANSWER.pack(height, width, len(text)) + text)
        if pixels is not None:
            answers.write(np.ascontiguousarray(pixels).data.cast("B"))
        answers.flush()


if __name__ == "__main__":
    main()
