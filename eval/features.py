"""Files of features, both ways: ``.npy``, ``.npz`` and the MegaFace devkit's ``.bin``.

The devkit's file is OpenCV's matrix: four little-endian int32 ``rows, cols, stride, type`` (stride
in bytes from row to row; type 5 float32, 6 float64), then the rows. It keeps one file a picture, a
column of D rows named ``PICTURE_SUFFIX.bin``, in the folders of the pictures.
"""
import errno
import math
import mmap
import os
import struct
import sys
import tokenize
import zipfile
import zlib
from dataclasses import dataclass, replace
from typing import IO, Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from unequal.errors import ArgumentError, InputError
from unequal.system.files import bounded_lines, open_input, replacing, temporary_folder

_HEADER = struct.Struct("<4i")
_MAX_NAME = 4 * 4096  # bytes of a picture's path in an array of names
_MAX_NAMES = 1 << 29  # characters of all names together
_MAX_COUNT = 1 << 24  # features of a file: each has a name in memory
_MAX_SIZE = 1 << 16  # numbers of a feature
_MAX_NUMBERS = 1 << 27  # of a matrix that is read at once
_MAX_HEADER = 10000  # bytes of the text that begins a .npy array; 128 do
_BLOCK = 1 << 22  # bytes of names that are read at once
# A member of an archive, as numpy writes it: other ways take any memory, or time.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What numpy and zipfile raise for bytes that they did not write.
_DAMAGED = (ValueError, KeyError, EOFError, TypeError, OverflowError, SyntaxError, RecursionError,
            MemoryError, NotImplementedError, RuntimeError, struct.error, tokenize.TokenError,
            zipfile.BadZipFile, zlib.error)
_TYPES: Dict[int, "np.dtype[Any]"] = {5: np.dtype("<f4"), 6: np.dtype("<f8")}

Batch = Tuple[Sequence[str], np.ndarray]  # names, and float32 (some, D)
Writer = Callable[[str, Sequence[int], Iterable[Batch]], None]  # path, (n, D), batches
Header = Tuple[Tuple[int, ...], bool, "np.dtype[Any]"]  # shape, fortran_order, dtype


def _map_mat(path: str) -> np.ndarray:
    """A matrix file of the devkit as an array (rows, cols) that is read when it is looked at."""
    with open_input(path) as file:
        header, length = file.read(_HEADER.size), os.fstat(file.fileno()).st_size
        rows, cols, stride, kind = (_HEADER.unpack(header) if len(header) == _HEADER.size
                                    else (0, 0, 0, 0))
        # The last row may end without the padding of the others.
        expected = _HEADER.size + (rows - 1) * stride
        if kind not in _TYPES or min(rows, cols) < 1 or stride < cols * _TYPES[kind].itemsize \
                or not expected + cols * _TYPES[kind].itemsize <= length <= expected + stride:
            raise InputError(f"{path}: not a feature file of the MegaFace devkit (rows, cols, "
                             "stride, type as int32, type 5 or 6, then the rows), or cut short; "
                             "write it again.")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.ndarray((rows, cols), _TYPES[kind], content, _HEADER.size,
                      (stride, _TYPES[kind].itemsize))


def read_mat(path: str, size: Optional[int] = None) -> np.ndarray:
    """Read a matrix file of the MegaFace devkit.

    Parameters
    ----------
    path : str
    size : int, optional
        How many numbers it must have.

    Returns
    -------
    numpy.ndarray
        float32 or float64 (rows, cols).

    Raises
    ------
    InputError
        When the header makes no sense, the file has another length than it says, or not ``size``
        numbers.
    """
    array = _map_mat(path)
    if size is not None and array.size != size:
        raise InputError(f"{path}: has {array.size} numbers but the first feature of the folder "
                         f"has {size}; all must come from one model.")
    if array.size > _MAX_NUMBERS:
        raise InputError(f"{path}: has {array.size:,} numbers, more than {_MAX_NUMBERS:,}.")
    return array.copy()


def mat_bytes(array: np.ndarray) -> bytes:
    """What a matrix file of the devkit holds; a vector becomes a column, as the devkit has it."""
    array = np.asarray(array)
    array = array[:, None] if array.ndim == 1 else array
    kind = 6 if array.dtype == np.float64 else 5
    data = np.ascontiguousarray(array, _TYPES[kind])
    return _HEADER.pack(*data.shape, data.strides[0], kind) + data.tobytes()


def write_mat(path: str, array: np.ndarray) -> None:
    """Write a matrix file of the devkit, (rows, cols) or a vector; see :func:`mat_bytes`."""
    with replacing(path, binary=True) as file:
        file.write(mat_bytes(array))


@dataclass(frozen=True)
class Features:
    """Features that are read block by block.

    Attributes
    ----------
    source : str
        What to call them in errors.
    names : list of str
        (n,); about 100 bytes each.
    size : int
        Length D of a feature.
    read : callable
        ``read(count)`` yields consecutive arrays of at most ``count`` rows.
    keep : numpy.ndarray or None
        bool (n,): rows that count; None: all.
    """

    source: str
    names: List[str]
    size: int
    read: Callable[[int], Iterator[np.ndarray]]
    keep: Optional[np.ndarray] = None

    def __len__(self) -> int:
        return len(self.names) if self.keep is None else int(self.keep.sum())

    def without(self, rows: np.ndarray) -> "Features":
        """The same without some rows: bool (n,)."""
        return replace(self, keep=~rows)

    def kept_names(self) -> List[str]:
        """Names of the rows that count."""
        if self.keep is None:
            return self.names
        return [name for name, keep in zip(self.names, self.keep) if keep]

    def blocks(self, count: int) -> Iterator[np.ndarray]:
        """Yield float32 arrays (at most ``count``, D) of unit rows, those that count.

        Raises
        ------
        InputError
            For a feature that is not finite.
        """
        start = 0
        for block in self.read(count):
            end = start + len(block)
            if self.keep is not None:
                block = block[self.keep[start:end]]
            yield unit_rows(block, self.source)
            start = end

    def array(self) -> np.ndarray:
        """All rows that count at once, of unit length: float32 (n, D)."""
        return np.concatenate([np.empty((0, self.size), np.float32)] + list(self.blocks(8192)))


def unit_rows(block: np.ndarray, source: str) -> np.ndarray:
    """Rows of length 1, float32; a row of zeros stays. InputError when one is not finite."""
    block = np.asarray(block, np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", block, block))
    if not np.isfinite(norms).all():
        raise InputError(f"{source}: a feature holds nan or infinity; embed the pictures again.")
    # Most files hold unit rows already; dividing again costs a tenth of an identification.
    if np.abs(norms - 1).max(initial=0) < 1e-6:
        return block
    unit: np.ndarray = block / np.maximum(norms, np.finfo(np.float32).tiny)[:, None]
    return unit


def _check_shape(source: str, shape: Sequence[int]) -> None:
    if shape[0] > _MAX_COUNT or shape[1] > _MAX_SIZE:
        raise InputError(f"{source}: holds {shape[0]:,} features of length {shape[1]:,}, more than "
                         f"{_MAX_COUNT:,} or longer than {_MAX_SIZE:,}; is it what it should be?")


def from_array(array: np.ndarray, names: Optional[Sequence[str]] = None,
               source: str = "features") -> Features:
    """Features in memory, or in a file that is mapped there."""
    if names is None:
        _check_shape(source, (*array.shape[:1], 0, 0))
        names = [str(number) for number in range(len(array))]
    if array.ndim != 2 or len(names) != len(array):
        raise InputError(f"{source}: expected features (n, D) with n names but got shape "
                         f"{array.shape} and {len(names)} names.")
    _check_shape(source, array.shape)

    def read(count: int) -> Iterator[np.ndarray]:
        for start in range(0, len(array), count):
            yield array[start:start + count]

    return Features(source, list(names), array.shape[1], read)


def _open_npy(path: str) -> Features:
    try:
        with open_input(path) as file:
            shape, fortran, dtype = _array_header(file)
            if dtype.kind not in "fiu":
                raise ValueError("not an array of numbers")
            array = np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")
    except _DAMAGED as error:
        raise InputError(f"{path}: not an array numpy can read ({error}).") from None
    names = None
    if os.path.exists(path + ".txt"):
        with open_input(path + ".txt", _MAX_NAMES, encoding="utf-8", errors="surrogateescape",
                        newline="\n") as file:
            names = [line.rstrip("\n") for line in bounded_lines(file, path + ".txt")]
    return from_array(array, names, path)


def _read_npz_block_by_block(path: str, shape: Sequence[int], dtype: "np.dtype[Any]"
                             ) -> Callable[[int], Iterator[np.ndarray]]:
    def read(count: int) -> Iterator[np.ndarray]:
        row = shape[1] * dtype.itemsize
        with open_input(path) as file, zipfile.ZipFile(file) as archive, \
                archive.open("features.npy") as member:
            _array_header(member)
            for start in range(0, shape[0], count):
                rows = min(count, shape[0] - start)
                try:
                    block = np.frombuffer(member.read(rows * row), dtype).reshape(rows, shape[1])
                except _DAMAGED as error:
                    raise InputError(f"{path}: damaged ({error}); write it again with `unequal "
                                     "embed`.") from None
                yield block
    return read


def _array_header(file: IO[bytes]) -> Header:
    """(shape, fortran_order, dtype) of the ``.npy`` array that begins here."""
    start = file.tell()
    version = np.lib.format.read_magic(file)
    length, = struct.unpack("<H" if version == (1, 0) else "<I", file.read(
        2 if version == (1, 0) else 4))
    if length > _MAX_HEADER:
        raise ValueError(f"a header of {length:,} bytes")
    file.seek(start + np.lib.format.MAGIC_LEN)
    reader: Callable[[IO[bytes]], Header] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0}[version]
    return reader(file)


def _member_header(archive: zipfile.ZipFile, name: str) -> Header:
    """:func:`_array_header` of a member, which must be as long as the header says."""
    if archive.getinfo(name).compress_type not in _COMPRESSIONS:
        raise ValueError(f"{name} is compressed in a way that numpy does not write")
    with archive.open(name) as member:
        header = _array_header(member)
        size = member.tell() + math.prod(header[0]) * header[2].itemsize
    if archive.getinfo(name).file_size != size:
        raise ValueError(f"{name} is not as long as it says")
    return header


def _read_strings(archive: zipfile.ZipFile, name: str) -> List[str]:
    """The texts of a member, which are short even where each may be long.

    Memory: their characters, at most ``_MAX_NAMES`` of them, whatever room the array gives each.
    """
    result: List[str] = []
    left = _MAX_NAMES
    with archive.open(name) as member:
        (count,), _, dtype = _array_header(member)
        rows = max(1, _BLOCK // max(1, dtype.itemsize))
        for start in range(0, count, rows):
            some = min(rows, count - start)
            data = member.read(some * dtype.itemsize)
            if np.frombuffer(data, dtype.byteorder + "u4").max(initial=0) > sys.maxunicode:
                raise ValueError("names hold what is no character")  # numpy would not notice
            texts = np.frombuffer(data, dtype).tolist()
            if len(texts) != some:
                raise ValueError("names are cut short")
            left -= sum(map(len, texts))
            if left < 0:
                raise ValueError(f"names of more than {_MAX_NAMES:,} characters")
            result += texts
    return result


def _open_npz(path: str) -> Features:
    try:
        with open_input(path) as file, zipfile.ZipFile(file) as archive:
            shape, fortran, dtype = _member_header(archive, "features.npy")
            names_shape, _, names_type = _member_header(archive, "names.npy")
            if names_shape != shape[:1] or names_type.kind != "U" \
                    or names_type.itemsize > _MAX_NAME:
                raise ValueError(f"names are {names_type} of shape {names_shape}")
            if len(shape) == 2:
                _check_shape(path, shape)
            names = _read_strings(archive, "names.npy")
    except _DAMAGED as error:
        raise InputError(f"{path}: no arrays `features` and `names` that numpy can read ({error}); "
                         "write it with `unequal embed`.") from None
    if len(shape) != 2 or fortran or dtype.kind != "f" or len(names) != shape[0]:
        raise InputError(f"{path}: expected float features (n, D) with n names but found {dtype} "
                         f"of shape {shape} and {len(names)} names.")
    return Features(path, names, shape[1], _read_npz_block_by_block(path, shape, dtype))


def _open_mat(path: str) -> Features:
    array = _map_mat(path)
    return from_array(array.T if array.shape[1] == 1 else array, source=path)


def _open_tree(path: str) -> Features:
    names = sorted(os.path.relpath(os.path.join(folder, name), path)
                   for folder, _, files in os.walk(path) for name in files
                   if name.endswith(".bin"))
    if not names:
        raise InputError(f"{path}: no .bin feature file in this folder.")
    first = os.path.join(path, names[0])
    size = _map_mat(first).size
    _check_shape(first, (len(names), size))

    def read(count: int) -> Iterator[np.ndarray]:
        for start in range(0, len(names), count):
            some = names[start:start + count]
            block = np.empty((len(some), size), np.float32)
            for row, name in zip(block, some):
                row[:] = read_mat(os.path.join(path, name), size).ravel()
            yield block

    return Features(path, names, size, read)


_OPENERS = {".npy": _open_npy, ".npz": _open_npz, ".bin": _open_mat}


def open_features(path: str) -> Features:
    """Features of a file (by its ending) or of a folder of devkit files.

    ``.npy`` arrays and ``.npz`` members are read block by block, a folder file by file; only a
    single devkit matrix is read at once.

    Raises
    ------
    InputError
        When they cannot be read; the text names the file.
    """
    if os.path.isdir(path):
        return _open_tree(path)
    ending = os.path.splitext(path)[1]
    if ending not in _OPENERS:
        raise InputError(f"{path}: features are .npy, .npz or .bin files, or a folder of the "
                         "MegaFace devkit's .bin files.")
    return _OPENERS[ending](path)


def identities(names: Sequence[str], source: str = "features") -> np.ndarray:
    """Who each picture shows: the folder it lies in, as in FaceScrub and ``unequal embed``.

    Parameters
    ----------
    names : list of str
        ``FOLDER/PICTURE``.
    source : str
        Where they are from, for the error.

    Returns
    -------
    numpy.ndarray
        str (n,).

    Raises
    ------
    InputError
        When a name has no folder.
    """
    folders = [os.path.basename(os.path.dirname(name)) for name in names]
    for name, folder in zip(names, folders):
        if not folder:
            raise InputError(f"{source}: the name {name!r} does not tell who is shown, as "
                             "IDENTITY/PICTURE does; embed pictures that lie in a folder for each "
                             "person.")
    return np.array(folders, str)


def _write_array(file: IO[bytes], shape: Sequence[int], dtype: Any,
                 parts: Iterable[np.ndarray]) -> None:
    """Write a ``.npy`` array of ``shape`` into an open file from consecutive parts of its rows."""
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)})
    for part in parts:
        file.write(np.ascontiguousarray(part, dtype).tobytes())


def _write_npy(path: str, shape: Sequence[int], batches: Iterable[Batch]) -> None:
    with replacing(path, binary=True) as file, replacing(path + ".txt") as lines:
        def rows() -> Iterator[np.ndarray]:
            for names, features in batches:
                lines.writelines(name + "\n" for name in names)
                yield features

        _write_array(file, shape, np.float32, rows())


def _write_npz(path: str, shape: Sequence[int], batches: Iterable[Batch]) -> None:
    every: List[str] = []

    def rows() -> Iterator[np.ndarray]:
        for names, features in batches:
            every.extend(names)
            yield features

    with replacing(path, binary=True) as file, zipfile.ZipFile(file, "w") as archive:
        writes: Tuple[Tuple[str, Callable[[IO[bytes]], None]], ...] = (
            ("features.npy", lambda member: _write_array(member, shape, np.float32, rows())),
            ("names.npy", lambda member: np.save(member, np.array(every, str))))
        for name, write in writes:
            # A fixed date: the same features are the same bytes.
            with archive.open(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), "w",
                              force_zip64=True) as member:
                write(member)


def _filled(path: str) -> InputError:
    return InputError(f"{path}: is not empty; name a new folder, or remove this one.")


def _write_tree(path: str, shape: Sequence[int], batches: Iterable[Batch]) -> None:
    path = path.rstrip(os.sep)
    if os.path.isdir(path) and os.listdir(path):
        raise _filled(path)
    with temporary_folder(path) as building:
        for names, features in batches:
            for name, feature in zip(names, features):
                # Never outside of the folder, wherever the picture came from.
                inside = os.path.normpath(os.sep + name).lstrip(os.sep)
                target = os.path.join(building, inside + ".bin")
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, "wb") as file:
                    file.write(mat_bytes(feature))
        try:
            os.replace(building, path)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise _filled(path) from None  # meanwhile


def writer(path: str) -> Writer:
    """The function that writes features to ``path``, by its ending; InputError for another."""
    if path.endswith(os.sep):
        return _write_tree
    writers = {".npy": _write_npy, ".npz": _write_npz}
    ending = os.path.splitext(path)[1]
    if ending not in writers:
        raise ArgumentError(
            f"path {path}: end the name in .npy (features; names in a .txt beside it), .npz "
            f"(features and names) or {os.sep} (a folder of the MegaFace devkit's files).", "path")
    return writers[ending]


def write_features(path: str, shape: Sequence[int], batches: Iterable[Batch]) -> None:
    """Write features as they come, so that memory does not grow with them; whole or not at all.

    Parameters
    ----------
    path : str
        ``.npy``: the features, and their names in ``path + ".txt"``, one a line. ``.npz``: arrays
        ``features`` float32 (n, D) and ``names`` str (n,). A path that ends in a slash: a folder
        of the MegaFace devkit's feature files, ``NAME.bin``.
    shape : tuple of int
        (n, D).
    batches : iterable of tuple
        ``(names, features)``: a list of str and float32 (some, D).

    Raises
    ------
    InputError
        For another ending, or a folder that is not empty.
    """
    writer(path)(path, shape, batches)
