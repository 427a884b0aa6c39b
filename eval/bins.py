"""Verification sets: ``lfw.bin`` and its like, a pickle of ``(images, issame)`` (docs/data.md).

A pickle is a program, and these files come from the internet. :func:`load_bin` therefore runs
only the opcodes that build lists, tuples, bytes, strings, booleans and numbers, and knows by name
only what numpy arrays and scalars are made of, each replaced by a stand-in of ours. Nothing the
file names is ever imported or called.
"""
import logging
import os
import pickle
import struct
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np

from unequal.errors import InputError
from unequal.system.files import open_input, replacing

logger = logging.getLogger(__name__)

_MAX_IMAGES = 1 << 21  # one picture can stand in the lists any number of times
# A picture is in several pairs, each of which means work for a decoder and a network.
_FREE_IMAGES, _MAX_REPEATS = 20000, 64
_MAX_BYTES = 1 << 32  # of the file; the largest published one has 0.3 GB
_MAX_PART = 1 << 28  # bytes of one picture
_MAX_DIGITS = 20  # of a number written in decimal: no honest one here is larger than a file


Image = Union[bytes, np.ndarray]  # encoded; an array of three dimensions: pixels


class _Dtype:
    """Stands for ``numpy.dtype(code, align, copy)`` and its state."""

    def __init__(self, code: object, *_: object) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or code[:1] not in "biuf" or not code[1:].isdigit():
            # Only text is shown: a tuple of tuples of one tuple has no end when it is written out.
            shown = repr(code[:20]) if isinstance(code, str) else "no text"
            raise InputError(f"an array of type {shown}, not of plain numbers")
        self.value: "np.dtype[Any]" = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands for an array: made empty by ``_reconstruct``, then given its state."""

    value: Optional[np.ndarray] = None

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, data = state[-4:]
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: bytes, dtype: _Dtype, shape: Any, order: Any) -> None:
        flat = np.frombuffer(data, dtype.value)
        if any(type(length) is not int or length < 0 for length in shape):
            raise ValueError("shape")  # -1 would mean "whatever fits"
        self.value = flat.reshape(shape, order=order)


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    return _Array()


def _from_buffer(data: bytes, dtype: _Dtype, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.fill(data, dtype, shape, order)
    return array


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.value, 1)[0]


def _encode(text: str, encoding: object) -> bytes:
    # How Python 3 writes bytes for Python 2 to read.
    if encoding not in ("latin1", b"latin1"):
        raise ValueError("encoding")
    return text.encode("latin-1")


def _empty_bytes() -> bytes:
    return b""


def _kind() -> None:
    raise TypeError("numpy.ndarray is only an argument")


_KNOWN: Dict[Tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _kind,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty_bytes,
    ("builtins", "bytes"): _empty_bytes,
}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN.update({
        (_core + ".multiarray", "_reconstruct"): _reconstruct,
        (_core + ".multiarray", "scalar"): _scalar,
        (_core + ".numeric", "_frombuffer"): _from_buffer,
    })

# No opcode of classes (OBJ, INST, NEWOBJ), of extension codes, of persistent ids, of dictionaries
# and sets, of out-of-band buffers; DUP has no use here.
_OPCODES = """
    PROTO FRAME STOP MARK POP POP_MARK PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE
    BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    GLOBAL STACK_GLOBAL REDUCE BUILD""".split()


# The pure-Python unpickler: its opcodes are a table that can be cut down, and it neither reserves
# the length that a file merely claims (as the C one does for its memo) nor recurses. Any, because
# type checkers know its public methods only.
_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):
    dispatch = {getattr(pickle, name)[0]: _PythonUnpickler.dispatch[getattr(pickle, name)[0]]
                for name in _OPCODES}

    size = encoded = 0  # bytes: of the file, and made by `encode` so far
    _file_read: Callable[[int], bytes]
    _file_readline: Callable[..., bytes]
    readline: Callable[[], bytes]

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise InputError(f"asks for `{module[:60]}.{name[:60]}`") from None

    def load(self) -> Any:
        # What the file says of lengths is read as far as a picture can go: the rest may be a hole.
        read, readline = self._file_read, self._file_readline

        def read_part(size: int) -> bytes:
            if size > _MAX_PART:
                raise ValueError("length")
            return read(size)

        self._file_read = read_part
        self._file_readline = lambda: readline(_MAX_PART)
        return super().load()

    def load_build(self) -> None:
        state = self.stack.pop()
        instance = self.stack[-1]
        if not isinstance(instance, (_Array, _Dtype)):
            raise ValueError("BUILD")
        instance.__setstate__(state)
    dispatch[pickle.BUILD[0]] = load_build

    def _short(self, load: Callable[[Any], None]) -> None:
        # Decimal digits cost quadratic time; look before converting.
        readline, self.readline = self.readline, lambda: self._digits(readline())
        try:
            load(self)
        finally:
            self.readline = readline

    @staticmethod
    def _digits(line: bytes) -> bytes:
        if len(line) > _MAX_DIGITS + 2:
            raise ValueError("digits")
        return line

    def load_int(self) -> None:
        self._short(_PythonUnpickler.load_int)
    dispatch[pickle.INT[0]] = load_int

    def load_long(self) -> None:
        self._short(_PythonUnpickler.load_long)
    dispatch[pickle.LONG[0]] = load_long

    def load_put(self) -> None:
        self._short(_PythonUnpickler.load_put)
    dispatch[pickle.PUT[0]] = load_put

    def load_get(self) -> None:
        self._short(_PythonUnpickler.load_get)
    dispatch[pickle.GET[0]] = load_get

    def load_reduce(self) -> None:
        # `encode` copies its text, which may be one and the same a million times.
        if self.stack[-2] is _encode:
            self.encoded += len(self.stack[-1][0])
            if self.encoded > self.size:
                raise ValueError("encode")
        _PythonUnpickler.load_reduce(self)
    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_bytearray8(self) -> None:
        length, = struct.unpack("<Q", self.read(8))
        self.append(self.read(length))  # the original reserves the claimed length first
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def _sequence(part: object) -> Union[None, Sequence[Any], np.ndarray]:
    part = part.value if isinstance(part, _Array) else part
    if isinstance(part, (tuple, list)):
        return part
    return part if isinstance(part, np.ndarray) and part.ndim else None


def _plain(image: object) -> Optional[Image]:
    image = image.value if isinstance(image, _Array) else image
    if isinstance(image, bytes) and image:
        return image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        return image
    return None


def find_sets(data_dir: str, eval_dir: str, targets: Iterable[str]) -> Dict[str, str]:
    """Where the verification sets lie.

    Parameters
    ----------
    data_dir : str
        The training set's directory.
    eval_dir : str
        When not empty, the only place that is searched. Otherwise ``data_dir``, ``./eval_dataset``
        and ``data_dir/../eval_dataset``, in this order.
    targets : iterable of str
        Names such as ``lfw``.

    Returns
    -------
    dict
        Name -> path of ``NAME.bin``, in the order of ``targets``, without those that are nowhere;
        a log line says which these are.
    """
    places = [eval_dir] if eval_dir else [
        data_dir, "eval_dataset", os.path.join(data_dir, os.pardir, "eval_dataset")]
    found = {}
    for name in filter(None, map(str.strip, targets)):
        paths = [os.path.join(place, name + ".bin") for place in places]
        path = next(filter(os.path.isfile, paths), None)
        if path is None:
            logger.warning("%s.bin is in none of %s: not verified", name,
                           ", ".join(os.path.normpath(place) for place in places))
        else:
            found[name] = path
    return found


def load_bin(path: str) -> Tuple[List[Image], np.ndarray]:
    """Read a verification set written by Python 2 or 3.

    Parameters
    ----------
    path : str
        Pickle of ``(images, issame)``. It is untrusted: nothing in it is executed.

    Returns
    -------
    images : list of bytes or numpy.ndarray
        Encoded pictures, two consecutive ones a pair; uint8 arrays stay arrays (one dimension:
        encoded; three: pixels).
    issame : numpy.ndarray
        bool, shape (pairs,): whether a pair shows one person.

    Memory: the size of the file, once.

    Raises
    ------
    InputError
        When the file is anything else, or damaged.
    """
    advice = "give a verification set as `unequal pack-bin` or InsightFace write it"
    with open_input(path, _MAX_BYTES) as file:
        try:
            unpickler = _Unpickler(file, encoding="bytes")
            unpickler.size = os.fstat(file.fileno()).st_size
            content = unpickler.load()
        except InputError as error:
            what = str(error) if str(error).startswith("asks") else f"holds {error}"
            raise InputError(f"{path}: refused, the pickle {what}, which no verification set "
                             f"needs; {advice}.") from None
        except OSError:
            raise
        except Exception:  # a malformed pickle can trip over anything
            raise InputError(
                f"{path}: not a pickle of lists, byte strings, numbers and arrays, or it is "
                f"truncated; {advice}, or copy it again.") from None
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise InputError(f"{path}: holds no pair of lists (images, issame); {advice}.")
    images, issame = (_sequence(part) for part in content)
    if images is None or issame is None:
        raise InputError(f"{path}: holds no pair of lists (images, issame); {advice}.")
    if not len(issame) or len(images) != 2 * len(issame):
        raise InputError(
            f"{path}: has {len(images)} images and {len(issame)} answers, but every pair needs two "
            f"images and one answer; {advice}.")
    if len(images) > _MAX_IMAGES:
        raise InputError(f"{path}: has {len(images):,} images, more than {_MAX_IMAGES:,}; "
                         f"{advice}.")
    found = list(map(_plain, images))
    distinct = len(set(map(id, found)))
    if len(found) > max(_FREE_IMAGES, _MAX_REPEATS * distinct):
        raise InputError(f"{path}: names {distinct:,} pictures, each {len(found) // distinct:,} "
                         "times; give a set whose pictures are its own.")
    plain: List[Image] = []
    for number, image in enumerate(found):
        if image is None:
            raise InputError(f"{path}: image {number} is neither a byte string nor a uint8 array; "
                             f"{advice}.")
        plain.append(image)
    for number, same in enumerate(issame):
        if not isinstance(same, (bool, int, np.bool_, np.integer)) or same not in (0, 1):
            raise InputError(f"{path}: the answer of pair {number} is neither true nor false; "
                             f"{advice}.")
    return plain, np.array(issame, bool)


def save_bin(path: str, images: Iterable[Image], issame: Sequence[bool]) -> None:
    """Write a verification set in the form of the published ``lfw.bin``.

    That form (pickle protocol 2, byte strings as Python 2's ``str``) is what every reader of the
    published sets takes: ``pickle.load(file)`` in Python 2, ``pickle.load(file,
    encoding="bytes")`` in Python 3.

    Parameters
    ----------
    path : str
        Appears only when whole.
    images : iterable of bytes or numpy.ndarray
        Encoded pictures (uint8 arrays of one dimension are taken as bytes); read one at a time.
    issame : sequence of bool
        One answer for two images; read after the images.

    Raises
    ------
    ValueError
        When the lengths do not fit.
    """
    with replacing(path, binary=True) as file:
        count = 0
        file.write(pickle.PROTO + b"\x02" + pickle.EMPTY_LIST + pickle.MARK)
        for image in images:
            count += 1
            data = image if isinstance(image, bytes) else np.asarray(image, np.uint8).tobytes()
            file.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        if not count or count != 2 * len(issame):
            raise ValueError(f"{count} images do not make {len(issame)} pairs")
        file.write(pickle.APPENDS + pickle.EMPTY_LIST + pickle.MARK)
        for same in issame:
            file.write(pickle.NEWTRUE if same else pickle.NEWFALSE)
        file.write(pickle.APPENDS + pickle.TUPLE2 + pickle.STOP)
