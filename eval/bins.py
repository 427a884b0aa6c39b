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


class _Dtype:
    """Stands for ``numpy.dtype(code, align, copy)`` and its state."""

    def __init__(self, code, *_):
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or code[:1] not in "biuf" or not code[1:].isdigit():
            # Only text is shown: a tuple of tuples of one tuple has no end when it is written out.
            shown = repr(code[:20]) if isinstance(code, str) else "no text"
            raise InputError("an array of type {}, not of plain numbers".format(shown))
        self.value = np.dtype(code)

    def __setstate__(self, state):
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands for an array: made empty by ``_reconstruct``, then given its state."""

    value = None

    def __setstate__(self, state):
        shape, dtype, fortran, data = state[-4:]
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data, dtype, shape, order):
        flat = np.frombuffer(data, dtype.value)
        if any(type(length) is not int or length < 0 for length in shape):
            raise ValueError("shape")  # -1 would mean "whatever fits"
        self.value = flat.reshape(shape, order=order)


def _reconstruct(kind, shape, code):
    return _Array()


def _from_buffer(data, dtype, shape, order):
    array = _Array()
    array.fill(data, dtype, shape, order)
    return array


def _scalar(dtype, data):
    return np.frombuffer(data, dtype.value, 1)[0]


def _encode(text, encoding):
    # How Python 3 writes bytes for Python 2 to read.
    if encoding not in ("latin1", b"latin1"):
        raise ValueError("encoding")
    return text.encode("latin-1")


def _empty_bytes():
    return b""


def _kind():
    raise TypeError("numpy.ndarray is only an argument")


_KNOWN = {
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
# the length that a file merely claims (as the C one does for its memo) nor recurses.
class _Unpickler(pickle._Unpickler):
    dispatch = {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
                for name in _OPCODES}

    size = encoded = 0  # bytes: of the file, and made by `encode` so far

    def find_class(self, module, name):
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise InputError("asks for `{}.{}`".format(module[:60], name[:60])) from None

    def load(self):
        # What the file says of lengths is read as far as a picture can go: the rest may be a hole.
        read, readline = self._file_read, self._file_readline

        def read_part(size):
            if size > _MAX_PART:
                raise ValueError("length")
            return read(size)

        self._file_read = read_part
        self._file_readline = lambda: readline(_MAX_PART)
        return super().load()

    def load_build(self):
        state = self.stack.pop()
        instance = self.stack[-1]
        if not isinstance(instance, (_Array, _Dtype)):
            raise ValueError("BUILD")
        instance.__setstate__(state)
    dispatch[pickle.BUILD[0]] = load_build

    def _short(self, load):
        # Decimal digits cost quadratic time; look before converting.
        readline, self.readline = self.readline, lambda: self._digits(readline())
        try:
            load(self)
        finally:
            self.readline = readline

    @staticmethod
    def _digits(line):
        if len(line) > _MAX_DIGITS + 2:
            raise ValueError("digits")
        return line

    def load_int(self):
        self._short(pickle._Unpickler.load_int)
    dispatch[pickle.INT[0]] = load_int

    def load_long(self):
        self._short(pickle._Unpickler.load_long)
    dispatch[pickle.LONG[0]] = load_long

    def load_put(self):
        self._short(pickle._Unpickler.load_put)
    dispatch[pickle.PUT[0]] = load_put

    def load_get(self):
        self._short(pickle._Unpickler.load_get)
    dispatch[pickle.GET[0]] = load_get

    def load_reduce(self):
        # `encode` copies its text, which may be one and the same a million times.
        if self.stack[-2] is _encode:
            self.encoded += len(self.stack[-1][0])
            if self.encoded > self.size:
                raise ValueError("encode")
        pickle._Unpickler.load_reduce(self)
    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_bytearray8(self):
        length, = struct.unpack("<Q", self.read(8))
        self.append(self.read(length))  # the original reserves the claimed length first
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def _sequence(part):
    part = part.value if isinstance(part, _Array) else part
    if isinstance(part, (tuple, list)) or isinstance(part, np.ndarray) and part.ndim:
        return part
    return None


def _plain(image):
    image = image.value if isinstance(image, _Array) else image
    if isinstance(image, bytes) and image:
        return image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        return image
    return None


def find_sets(data_dir, eval_dir, targets):
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


def load_bin(path):
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
            raise InputError(
                "{}: refused, the pickle {}, which no verification set needs; {}.".format(
                    path, str(error) if str(error).startswith("asks") else "holds " + str(error),
                    advice)) from None
        except OSError:
            raise
        except Exception:  # a malformed pickle can trip over anything
            raise InputError(
                "{}: not a pickle of lists, byte strings, numbers and arrays, or it is truncated; "
                "{}, or copy it again.".format(path, advice)) from None
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise InputError("{}: holds no pair of lists (images, issame); {}.".format(path, advice))
    images, issame = (_sequence(part) for part in content)
    if images is None or issame is None:
        raise InputError("{}: holds no pair of lists (images, issame); {}.".format(path, advice))
    if not len(issame) or len(images) != 2 * len(issame):
        raise InputError(
            "{}: has {} images and {} answers, but every pair needs two images and one answer; "
            "{}.".format(path, len(images), len(issame), advice))
    if len(images) > _MAX_IMAGES:
        raise InputError("{}: has {:,} images, more than {:,}; {}.".format(
            path, len(images), _MAX_IMAGES, advice))
    plain = [_plain(image) for image in images]
    distinct = len(set(map(id, plain)))
    if len(plain) > max(_FREE_IMAGES, _MAX_REPEATS * distinct):
        raise InputError("{}: names {:,} pictures, each {:,} times; give a set whose pictures are "
                         "its own.".format(path, distinct, len(plain) // distinct))
    for number, image in enumerate(plain):
        if image is None:
            raise InputError("{}: image {} is neither a byte string nor a uint8 array; {}.".format(
                path, number, advice))
    for number, same in enumerate(issame):
        if not isinstance(same, (bool, int, np.bool_, np.integer)) or same not in (0, 1):
            raise InputError("{}: the answer of pair {} is neither true nor false; {}.".format(
                path, number, advice))
    return plain, np.array(issame, bool)


def save_bin(path, images, issame):
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
            raise ValueError("{} images do not make {} pairs".format(count, len(issame)))
        file.write(pickle.APPENDS + pickle.EMPTY_LIST + pickle.MARK)
        for same in issame:
            file.write(pickle.NEWTRUE if same else pickle.NEWFALSE)
        file.write(pickle.APPENDS + pickle.TUPLE2 + pickle.STOP)
