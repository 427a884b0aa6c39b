"""Writing files so that a reader never meets half of one."""
import os
import re
from contextlib import contextmanager, suppress

from unequal.errors import InputError


def below(root, name, where, advice):
    """A path that some list names, normalised and relative to ``root``.

    Normalised, because ``link/../x`` is elsewhere when ``link`` is a symbolic link. Links below
    ``root`` themselves are followed when the file is opened: the folder is the user's.

    Raises
    ------
    InputError
        When the path is not below ``root``; ``where`` begins and ``advice`` ends the sentence.
    """
    inside = os.path.relpath(os.path.join(root, name), root)
    if "\0" in name or inside.split(os.sep)[0] in (os.pardir, os.curdir):
        raise InputError("{}: the path {!r} leaves {}; {}.".format(where, name, root, advice))
    return inside


@contextmanager
def replacing_path(path):
    """Give the name of a temporary file beside ``path`` to write and close; when the block ends
    well, flush that to disk and rename it to ``path``.

    A block left by an exception leaves whatever stood at ``path`` before. A process that is killed
    leaves the temporary file too: :func:`remove_leftovers`.
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
        _flush_directory(directory or os.curdir)
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary)


def _flush_directory(path):
    """Have the names in a directory survive a power failure, where its file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(directory, names):
    """Remove the temporary files of writers that were killed.

    Parameters
    ----------
    directory : str
        May be missing.
    names : str
        Regular expression for the whole names of the files that were being written. Nobody else
        may be writing them now.
    """
    directory = directory or os.curdir
    with suppress(FileNotFoundError):
        for name in os.listdir(directory):
            if re.fullmatch(r"\.(?:{})\.\d+".format(names), name):
                os.remove(os.path.join(directory, name))


@contextmanager
def replacing(path, binary=False):
    """:func:`replacing_path` with the temporary file open for writing.

    Text is UTF-8, and file names that are not (surrogate escapes) come out as the bytes they were.
    """
    how = {"mode": "wb"} if binary else {
        "mode": "w", "encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}
    with replacing_path(path) as temporary, open(temporary, **how) as file:
        yield file
