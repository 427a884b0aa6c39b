"""Writing files so that a reader never meets half of one."""
import os
from contextlib import contextmanager, suppress


@contextmanager
def replacing_path(path):
    """Give the name of a temporary file beside ``path`` to write and close; when the block ends
    well, flush that to disk and rename it to ``path``.

    A block left by an exception leaves whatever stood at ``path`` before.
    """
    directory, name = os.path.split(path)
    if directory:
        os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, ".{}.{}".format(name, os.getpid()))
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary)


@contextmanager
def replacing(path, binary=False):
    """:func:`replacing_path` with the temporary file open for writing.

    Text is UTF-8, and file names that are not (surrogate escapes) come out as the bytes they were.
    """
    how = {"mode": "wb"} if binary else {
        "mode": "w", "encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}
    with replacing_path(path) as temporary, open(temporary, **how) as file:
        yield file
