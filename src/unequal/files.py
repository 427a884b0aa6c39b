"""Writing files so that a reader never meets half of one."""
import os
from contextlib import contextmanager, suppress


@contextmanager
def replacing(path, binary=False):
    """Open a temporary file beside ``path``; rename it to ``path`` when the block ends well.

    A block left by an exception leaves whatever stood at ``path`` before. Text is UTF-8, and file
    names that are not (surrogate escapes) come out as the bytes they were.
    """
    directory, name = os.path.split(path)
    if directory:
        os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, ".{}.{}".format(name, os.getpid()))
    how = {"mode": "wb"} if binary else {
        "mode": "w", "encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}
    try:
        with open(temporary, **how) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary)
