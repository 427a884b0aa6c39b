"""Files: opened so that no one else's can hold us up, written so that no one meets half of one."""
import io
import os
import re
import stat
from contextlib import contextmanager, suppress
from typing import IO, Any, Iterator, Optional

from unequal.errors import InputError

MAX_TABLE = 1 << 28  # bytes of a list or table that is kept in memory
MAX_LINE = 1 << 18  # characters; a path has at most 4096 bytes, a cell of a CSV file 131,072


def open_input(path: str, limit: Optional[int] = None, **how: Any) -> IO[Any]:
    """Open a file to read that may come from anyone.

    A pipe in its place would be waited for, a device may never end, and a few bytes of a sparse
    file are any number of zeros: so it must be a plain file, of at most ``limit`` bytes.

    Parameters
    ----------
    path : str
    limit : int, optional
        Bytes; None when the caller reads it in blocks of its own choice.
    how
        ``encoding``, ``errors``, ``newline`` of a text file; none of them: bytes.

    Raises
    ------
    InputError
        When it is no plain file, or a longer one.
    OSError
        When it cannot be opened.
    """
    file = open(path, "rb", opener=_without_waiting)
    try:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise InputError(f"{path}: is not a plain file; give one, or remove it.")
        if limit is not None and facts.st_size > limit:
            raise InputError(f"{path}: has {facts.st_size:,} bytes, more than {limit:,}; is it "
                             "what it should be? Make it smaller, or remove it.")
        return io.TextIOWrapper(file, **how) if how else file
    except BaseException:
        file.close()
        raise


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # else opening a pipe waits for its other end


def bounded_lines(file: IO[Any], path: str, limit: int = MAX_LINE) -> Iterator[Any]:
    """Yield the lines of an open file, bytes or text; none may be longer than ``limit``.

    ``for line in file`` would keep a line of any length in memory.

    Raises
    ------
    InputError
        At a longer line.
    """
    for number, line in enumerate(iter(lambda: file.readline(limit + 1), file.read(0)), 1):
        if len(line) > limit:
            raise InputError(f"{path}, line {number}: is longer than {limit:,} characters; the "
                             "file is damaged, copy it again or correct the line.")
        yield line


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


def keep_as(path: str, older: str) -> None:
    """Give the file at ``path``, if there is one, the name ``older`` too: it is about to be
    replaced. Where the file system has no second names it is renamed."""
    if not os.path.exists(path):
        return
    directory, name = os.path.split(older)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}")
    try:
        with suppress(FileNotFoundError):
            os.remove(temporary)
        try:
            os.link(path, temporary)
        except OSError:
            os.replace(path, older)
        else:
            os.replace(temporary, older)
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary)


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
