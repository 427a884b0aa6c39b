"""Files: opened so that a hostile one cannot block us, written so that none is left incomplete."""
import errno
import fcntl
import functools
import io
import logging
import os
import re
import shutil
import stat
from contextlib import contextmanager, suppress
from typing import IO, Any, Dict, Iterator, List, Optional

from unequal.errors import InputError

logger = logging.getLogger(__name__)

MAX_TABLE = 1 << 28  # bytes of a list or table that is kept in memory
MAX_LINE = 1 << 18  # characters; a path has at most 4096 bytes, a cell of a CSV file 131,072


def open_input(path: str, limit: Optional[int] = None, *, optional: bool = False,
               **how: Any) -> IO[Any]:
    """Open an untrusted file for reading.

    It must be a plain file of at most ``limit`` bytes: opening a pipe would block, a device may
    never end, and a sparse file can hold any number of zeros.

    Parameters
    ----------
    path : str
    limit : int, optional
        Bytes; None when the caller reads it in blocks of its own choice.
    optional : bool
        The file is one of many; the error then says to leave it out.
    how
        ``encoding``, ``errors``, ``newline`` of a text file; without them the file is binary.

    Raises
    ------
    InputError
        When it is no plain file, or a longer one.
    OSError
        When it cannot be opened.
    """
    file = open(path, "rb", opener=_without_waiting)
    try:
        facts = _plain(file, path, optional)
        if limit is not None and facts.st_size > limit:
            remedy = ("make it smaller or leave it out" if optional else
                      "is it what it should be? Make it smaller, or remove it")
            raise InputError(f"{path}: has {facts.st_size:,} bytes, more than {limit:,}; {remedy}.")
        return io.TextIOWrapper(file, **how) if how else file
    except BaseException:
        file.close()
        raise


def open_append(path: str, **how: Any) -> IO[Any]:
    """Open a file to add to, made where it is missing; what is there must be a plain file.

    Parameters
    ----------
    path : str
    how
        As for ``open``; with an ``encoding`` it is text.

    Raises
    ------
    InputError
        When it is no plain file.
    OSError
        When it cannot be opened.
    """
    try:
        file = open(path, "a" if "encoding" in how else "ab", opener=_without_waiting, **how)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe that nobody reads
            raise _not_plain(path) from None
        raise
    try:
        _plain(file, path)
    except BaseException:
        file.close()
        raise
    return file


def _not_plain(path: str, optional: bool = False) -> InputError:
    remedy = "leave it out" if optional else "give one, or remove it"
    return InputError(f"{path}: is not a plain file; {remedy}.")


def _plain(file: IO[Any], path: str, optional: bool = False) -> os.stat_result:
    facts = os.fstat(file.fileno())
    if not stat.S_ISREG(facts.st_mode):
        raise _not_plain(path, optional)
    return facts


def _without_waiting(path: str, flags: int) -> int:
    # Without this flag, opening a pipe would wait for its other end.
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


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


def below(root: str, name: str, where: str, advice: str) -> str:
    """A path from an untrusted list, normalised and relative to ``root``.

    It is normalised because ``link/../x`` lies elsewhere when ``link`` is a symbolic link. Links
    below ``root`` are followed when the file is opened, since that folder is the user's.

    Raises
    ------
    InputError
        When the path is not below ``root``; ``where`` begins and ``advice`` ends the sentence.
    """
    inside = os.path.relpath(os.path.join(root, name), root)
    if "\0" in name or inside.split(os.sep)[0] in (os.pardir, os.curdir):
        raise InputError(f"{where}: the path {name!r} leaves {root}; {advice}.")
    return inside


def check_name(path: str) -> None:
    """Raise InputError for the name of a file or folder that MXNet's writers cannot take."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: is not UTF-8 text, and MXNet can write no such file; choose "
                         "another name.") from None


@contextmanager
def replacing_path(path: str) -> Iterator[str]:
    """Give the name of a temporary file beside ``path`` to write and close; when the block ends
    well, flush that to disk and rename it to ``path``.

    A block left by an exception leaves whatever stood at ``path`` before. What a killed process was
    writing for ``path`` is removed by the next one that writes there, or by
    :func:`remove_leftovers`.

    Raises
    ------
    InputError
        When a device, pipe or socket stands there: a rename would put a file in its place (root may
        do so even to /dev/null).
    """
    with suppress(OSError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise _not_plain(path)
    directory, name = os.path.split(path)
    make_directory(directory)
    remove_dead(directory, name)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}")
    try:  # a signal may come as soon as the file is there
        with in_work(temporary):
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
            _flush_directory(directory or os.curdir)
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary)


@contextmanager
def in_work(path: str) -> Iterator[None]:
    """Create an empty file, or take an existing directory, and hold a lock on it in this block.

    :func:`remove_dead` removes only what nobody has locked. On file systems without locks it
    removes nothing.
    """
    while True:
        flags = os.O_DIRECTORY if os.path.isdir(path) else os.O_RDWR | os.O_CREAT
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for nobody but `remove_dead`
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        os.close(descriptor)  # another process removed it before it was locked
    try:
        yield
    finally:
        os.close(descriptor)


@functools.lru_cache(64)
def _temporaries(directory: str) -> Dict[str, List[str]]:
    """Files and folders called ``.NAME.PID`` in a directory, by NAME.

    Listed once a process: listing a large directory at each write would take longer than writing.
    """
    found: Dict[str, List[str]] = {}
    with suppress(OSError):
        for entry in os.listdir(directory):
            match = re.fullmatch(r"\.(.+)\.\d+", entry, re.DOTALL)
            if match:
                found.setdefault(match.group(1), []).append(os.path.join(directory, entry))
    return found


def remove_dead(directory: str, name: str, folder: bool = False) -> None:
    """Remove files (or, with ``folder``, a folder) ``.NAME.PID`` whose writer is dead.

    The writer is dead if nobody holds the lock of :func:`in_work`, on any host.
    """
    kind = os.O_RDONLY | os.O_DIRECTORY if folder else os.O_RDWR
    for path in _temporaries(os.path.abspath(directory)).pop(name, ()):
        with suppress(OSError):
            descriptor = os.open(path, kind | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if folder:
                    shutil.rmtree(path)
                elif stat.S_ISREG(os.fstat(descriptor).st_mode):
                    os.remove(path)
            finally:
                os.close(descriptor)


@contextmanager
def temporary_folder(path: str) -> Iterator[str]:
    """Make an empty folder beside ``path``, to be filled and perhaps renamed to ``path``.

    It is removed at the end of the block. A folder that a killed process left is removed by the
    next process with the same ``path``.
    """
    parent, name = os.path.split(os.path.normpath(path))
    # No one else uses such a name, so a folder of that name that is left over may be removed.
    remove_dead(parent, name + ".unequal", folder=True)
    temporary = os.path.join(parent, f".{name}.unequal.{os.getpid()}")
    try:
        os.makedirs(temporary)
        with in_work(temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_directory(path: str) -> None:
    """Make a directory and missing ones above it, and flush their names to disk."""
    made = []
    while path and not os.path.isdir(path):
        made.append(path)
        path = os.path.dirname(path)
    for one in reversed(made):
        with suppress(FileExistsError):  # another process was faster, or it is `a/..`
            os.mkdir(one)
        _flush_directory(os.path.dirname(one) or os.curdir)


class Taken(Exception):
    """Another process holds a lock; the text says which, as far as it is known."""


class Lock:
    """A lock that ends with the process that holds it, whatever ends that: `flock` on a file.

    The file holds the host and the process. It is removed when the lock is released; a killed
    process leaves it behind, unlocked. On a network file system the lock holds between hosts if the
    server supports that (NFS since Linux 2.6.12). Where locks are not supported, a warning says so
    and the process continues without one.

    Parameters
    ----------
    path : str
        Its directory is made.

    Attributes
    ----------
    held : bool
        False where the file system has no locks.

    Raises
    ------
    Taken
        When another process has it.
    """

    def __init__(self, path: str) -> None:
        make_directory(os.path.dirname(path))
        self._path, self.held = path, True
        while True:
            # O_NOFOLLOW: somebody who can write here could have put a symbolic link in its place.
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK,
                                       0o666)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                words = os.read(self._descriptor, 300).decode("ascii", "replace").split()
                os.close(self._descriptor)
                raise Taken(f"process {words[1]} on {words[0]}" if len(words) == 2
                            else "another process") from None
            except OSError as error:
                self.held = False
                logger.warning("%s: cannot be locked here (%s); nothing prevents a second run",
                               path, error.strerror)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._descriptor), os.stat(path)):
                    break
            os.close(self._descriptor)  # the holder has removed the file meanwhile; try again
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.uname().nodename} {os.getpid()}\n".encode())

    def close(self) -> None:
        """:meth:`release`, for ``contextlib.closing``."""
        self.release()

    def release(self) -> None:
        """Give it back; may be called again."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.remove(self._path)
            os.close(self._descriptor)
            self._descriptor = -1


def _flush_directory(path: str) -> None:
    """Flush the names in a directory to disk, if its file system supports that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_as(path: str, older: str) -> None:
    """Keep the file at ``path``, if there is one, under the name ``older``, before it is replaced.

    By a hard link; where the file system has none the file is renamed.
    """
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


def remove_leftovers(directory: str, names: str) -> None:
    """Remove the temporary files of writers that were killed.

    Parameters
    ----------
    directory : str
        May be missing.
    names : str
        Regular expression for the full names of the files that were being written. No other
        process may be writing them now.
    """
    directory = directory or os.curdir
    with suppress(FileNotFoundError):
        for name in os.listdir(directory):
            if re.fullmatch(rf"\.(?:{names})\.\d+", name):
                os.remove(os.path.join(directory, name))


@contextmanager
def replacing(path: str, binary: bool = False) -> Iterator[IO[Any]]:
    """:func:`replacing_path` with the temporary file open for writing.

    Text is UTF-8; in file names that are not (surrogate escapes) the original bytes are written.
    """
    how: Dict[str, Any] = {"mode": "wb"} if binary else {
        "mode": "w", "encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}
    with replacing_path(path) as temporary, open(temporary, **how) as file:
        yield file
