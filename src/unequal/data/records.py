"""Record sets: InsightFace's ``train.rec`` + ``train.idx`` + ``property`` (docs/data.md).

Two kinds exist. In a set *with identity records*, record 0 is a header whose label ``[i0, i1]``
says that keys ``1 .. i0-1`` are images and keys ``i0 .. i1-1`` are identities; an identity record's
label ``[a, b]`` is the half-open key range of its images. In a *plain* set every key is an image.
"""
import hashlib
import itertools
import os
import re
import struct
import warnings
from array import array
from contextlib import suppress
from typing import IO, Any, List, Optional, Set, Tuple, Type

import numpy as np

from unequal.errors import InputError
from unequal.system.files import (
    MAX_TABLE,
    Lock,
    Taken,
    check_name,
    open_input,
    remove_leftovers,
)

MAGIC = 0xCED7230A  # dmlc-core's RecordIO
_RECORD = struct.Struct("<II")  # magic, (continuation flag << 29 | length)
_HEADER = struct.Struct("<IfQQ")  # flag (number of label floats after it, 0: scalar), label, ids
_PLAIN = struct.Struct("<IIIf16x")  # both, of a whole record (whose continuation flag is 0)
_LENGTH_MASK = (1 << 29) - 1
_MAX_RECORD = 1 << 29  # bytes; no writer can write a longer one
_READ_AT_ONCE = 1 << 16  # more than a face needs; a longer record takes further reads
_INDEX_BLOCK = 1 << 22  # bytes of the index that are turned into numbers at once

MAX_CLASSES = 1 << 24  # beyond, float32 labels skip numbers
MAX_SIDE = 4096  # pixels


class DamagedRecord(InputError):
    """One record cannot be read; the others may be sound."""


def read_property(directory: str) -> Tuple[int, int, int]:
    """Return ``(num_classes, height, width)`` from ``directory/property``.

    Raises
    ------
    InputError
        When the file is missing or is not one line of three positive integers that make sense.
    """
    path = os.path.join(directory, "property")
    try:
        with open_input(path, MAX_TABLE, encoding="ascii") as lines:
            fields = lines.readline(200).split(",")
        num_classes, height, width = (int(field) for field in fields)
        if not (1 <= num_classes <= MAX_CLASSES and 1 <= min(height, width)
                and max(height, width) <= MAX_SIDE):
            raise ValueError
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; a record set is a directory with train.rec, train.idx and "
            "property (make one with `unequal pack` or `unequal synth`).") from None
    except ValueError:
        raise InputError(
            f"{path}: expected one line `num_classes,height,width` of positive integers (at most "
            f"{MAX_CLASSES}, {MAX_SIDE} and {MAX_SIDE}), such as `100765,112,112`.") from None
    return num_classes, height, width


def _index_numbers(index: IO[bytes], most: int) -> np.ndarray:
    """The numbers of an open ``.idx``, int64; OverflowError when there are more than ``most``."""
    numbers, count, rest = [np.zeros(0, np.int64)], 0, b""
    # NumPy's own parser, because splitting the text would take 60 bytes a number. It warns about
    # text that is no number.
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for block in itertools.chain(iter(lambda: index.read(_INDEX_BLOCK), b""), (b"\n",)):
            whole = block.rfind(b"\n") + 1
            if not whole:  # 4 MB without a line's end
                raise ValueError("no lines")
            lines, rest = rest + block[:whole], block[whole:]
            if not lines.isspace():  # which NumPy would take for a zero
                numbers.append(np.fromstring(lines, np.int64, sep=" "))
                count += len(numbers[-1])
            if count > most:
                raise OverflowError
    return np.concatenate(numbers)


def _read_index(path: str, size: int) -> Tuple[np.ndarray, np.ndarray]:
    """Keys and offsets of an ``.idx`` file as two int64 arrays sorted by key.

    ``size`` is that of the records' file: an index has no more entries than fit there, so memory
    is bounded however long the index is.
    """
    try:
        with open_input(path) as index:
            numbers = _index_numbers(index, size // _RECORD.size * 2)
    except OverflowError:
        raise InputError(
            f"{path}: has more records than train.rec has room for in {size:,} bytes, which is "
            "truncated or belongs to another set; copy both again.") from None
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; the index belongs beside train.rec (copy it, or pack the set "
            "again).") from None
    except (ValueError, DeprecationWarning):
        numbers = np.zeros(1, np.int64)
    if not len(numbers) or len(numbers) % 2 or numbers.max() == np.iinfo(np.int64).max:
        raise InputError(f"{path}: expected lines of `key<TAB>offset`; the file is damaged or "
                         "empty, copy it again or pack the set again.")
    if numbers.min() < 0:
        raise InputError(f"{path}: has a negative number; the file is damaged, copy it again or "
                         "pack the set again.")
    keys, offsets = numbers[::2], numbers[1::2]
    order = np.argsort(keys, kind="stable")
    keys, offsets = keys[order], offsets[order]
    if (keys[1:] == keys[:-1]).any():
        twice = keys[1:][keys[1:] == keys[:-1]][0]
        raise InputError(f"{path}: key {twice} occurs twice; pack the set again.")
    return keys, offsets


class RecordSet:
    """Random access to a record set, from any number of threads at once.

    Memory grows by 24 bytes a record (key, offset and end as int64) and 24 bytes an identity
    (key and range): about 55 MB for MF2's 2,003,574 head images. Pictures are never kept.
    ``benchmarks/records.py`` measures it.

    Parameters
    ----------
    path : str
        A directory holding ``train.rec``, ``train.idx`` and ``property``.

    Attributes
    ----------
    num_classes : int
        From ``property``; at least the largest label plus one (a denoised set has gaps).
    image_size : tuple of int
        ``(height, width)`` in pixels, from ``property``.
    image_keys : numpy.ndarray
        int64, shape (images,), ascending.
    identity_keys : numpy.ndarray
        int64, shape (identities,), ascending; empty for a plain set.

    Raises
    ------
    InputError
        When a file is missing or damaged; the text names it.
    """

    def __init__(self, path: str) -> None:
        self.directory = path
        self.path = os.path.join(path, "train.rec")
        self.num_classes, height, width = read_property(path)
        self.image_size = (height, width)
        try:
            with open_input(self.path) as file:
                size = os.fstat(file.fileno()).st_size
                self._keys, self._offsets = _read_index(os.path.join(path, "train.idx"), size)
                self._file = os.dup(file.fileno())
        except FileNotFoundError:
            raise InputError(f"{self.path}: no such file; a record set is a directory with "
                             "train.rec, train.idx and property.") from None
        wrong = self._offsets > size - _RECORD.size
        if wrong.any():
            raise InputError(
                f"{self.path}: the index places record {self._keys[wrong][0]} beyond the end of "
                f"the file ({size} bytes): it is truncated, or train.idx belongs to another set; "
                "copy both again.")
        # A record ends where the next one in the file begins: one read fetches it whole.
        by_offset = np.argsort(self._offsets, kind="stable")
        self._ends = np.empty_like(self._offsets)
        self._ends[by_offset[:-1]] = self._offsets[by_offset[1:]]
        self._ends[by_offset[-1]] = size
        self._first = self._keys.item(0)
        self._contiguous = bool(self._keys[-1] - self._first + 1 == len(self._keys))
        self._ranges: Optional[np.ndarray] = None
        flag, label, _ = self.record(self._keys[0])
        if flag == 0 or self._keys[0] != 0:
            self.image_keys = self._keys
            self.identity_keys = np.zeros(0, np.int64)
            return
        if flag != 2:
            raise InputError(
                f"{self.path}: record 0 should be a header of two numbers, the ends of the image "
                f"and identity keys, but has {flag}; pack the set again.")
        if not (np.isfinite(label).all() and 0 <= label[0] <= label[1] < 2 ** 53):
            raise InputError(f"{self.path}: the header says that images end at key {label[0]} and "
                             f"identities at {label[1]}; copy train.rec again.")
        first, last = (int(value) for value in label)
        images = slice(*np.searchsorted(self._keys, (1, first)))
        identities = slice(*np.searchsorted(self._keys, (first, last)))
        self.image_keys = self._keys[images]
        self.identity_keys = self._keys[identities]
        if not len(self.image_keys) or len(self.identity_keys) != last - first \
                or first > self._keys[-1] + 1:
            raise InputError(
                f"{self.path}: the header says that keys 1 to {first - 1} are images and {first} "
                f"to {last - 1} identities, but the index holds {len(self.image_keys)} and "
                f"{len(self.identity_keys)} of these; copy train.rec and train.idx again.")

    def __len__(self) -> int:
        return len(self.image_keys)

    def fingerprint(self) -> str:
        """A short text that identifies the set and changes with it.

        Its hash covers the index and the first 64 bytes (label, beginning of the picture) of a
        thousand records, since reading all bytes of a large set would take too long.
        """
        digest = hashlib.sha256(self._keys.tobytes() + self._offsets.tobytes())
        digest.update(str(self._ends.max()).encode())
        for offset in self._offsets[::max(1, len(self._offsets) // 1000)].tolist():
            digest.update(os.pread(self._file, 64, offset))
        height, width = self.image_size
        return (f"{len(self)} images of {self.num_classes} classes, {height}x{width}, "
                f"{digest.hexdigest()[:12]}")

    def close(self) -> None:
        """Close the file; reading afterwards fails."""
        if self._file >= 0:
            # In this order: once closed, the number may at once be given to another file.
            file, self._file = self._file, -1
            os.close(file)

    def __enter__(self) -> "RecordSet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def identity_ranges(self) -> np.ndarray:
        """Key ranges ``[a, b)`` of the identities' images, int64, shape (identities, 2).

        Empty for a plain set. Read on first use (one small read an identity).

        Raises
        ------
        InputError
            When a range is empty or reaches outside the image keys.
        """
        if self._ranges is None:
            self._ranges = ranges = np.empty((len(self.identity_keys), 2), np.int64)
            for row, key in enumerate(self.identity_keys):
                flag, label, _ = self.record(key)
                if flag != 2:
                    raise InputError(
                        f"{self.path}: record {key} should be an identity (two numbers) but has "
                        f"{flag}; pack the set again.")
                # nan and infinity, which no int64 can hold, become a key that no image has.
                ranges[row] = np.where(np.abs(label) < 2 ** 53, label, -1)
            if len(ranges):
                low, high = self.image_keys[0], self.image_keys[-1] + 1
                begin, end = ranges.T
                wrong = (begin < low) | (end > high) | (begin >= end)
                if wrong.any():
                    row = int(np.argmax(wrong))
                    raise InputError(
                        f"{self.path}: identity record {self.identity_keys[row]} has the key range "
                        f"[{begin[row]}, {end[row]}), which is empty or reaches outside the image "
                        f"keys {low} to {high - 1}; pack the set again.")
        return self._ranges

    def _position(self, key: int) -> int:
        if self._contiguous:
            position = int(key) - int(self._keys.item(0))
            found = 0 <= position < len(self._keys)
        else:
            position = int(np.searchsorted(self._keys, key))
            found = position < len(self._keys) and self._keys[position] == key
        if not found:
            raise InputError(f"{self.path}: the set has no record {key}; its keys run from "
                             f"{self._keys[0]} to {self._keys[-1]}.")
        return position

    def _damaged(self, key: int, offset: int) -> DamagedRecord:
        return DamagedRecord(
            f"{self.path}: record {key} at byte {offset} is damaged: the file is truncated, or "
            "train.idx belongs to another set; copy both again.")

    def payload(self, key: int) -> bytes:
        """The bytes stored under ``key``.

        RecordIO escapes the magic number inside data by splitting the record there: the parts
        carry continuation flags 1, 2 (middle), 3 (last) and are joined with the magic between.
        """
        position = self._position(key)
        offset, end = int(self._offsets[position]), int(self._ends[position])
        block = os.pread(self._file, min(end - offset, _READ_AT_ONCE), offset)
        parts: List[bytes] = []
        cursor = 0

        def up_to(size: int) -> None:
            # Read no more than the record's header announces, however far the next one is.
            nonlocal block
            if len(block) < size <= min(end - offset, _MAX_RECORD):
                more = max(size, min(2 * len(block), end - offset)) - len(block)
                block += os.pread(self._file, more, offset + len(block))
            if len(block) < size:
                raise self._damaged(key, offset)

        while True:
            up_to(cursor + _RECORD.size)
            magic, word = _RECORD.unpack_from(block, cursor)
            flag, length = word >> 29, word & _LENGTH_MASK
            cursor += _RECORD.size
            # A whole record comes alone; parts come as 1 2 ... 2 3.
            expected = (0, 1) if not parts else (2, 3)
            if magic != MAGIC or flag not in expected:
                raise self._damaged(key, offset)
            up_to(cursor + length)
            part = block[cursor:cursor + length]
            if flag == 0:
                return part
            parts.append(part)
            if flag == 3:
                return struct.pack("<I", MAGIC).join(parts)
            cursor += (length + 3) & ~3

    def record(self, key: int) -> Tuple[int, Any, bytes]:
        """Return ``(flag, label, data)`` of any record: label is a float, or an array of ``flag``
        floats when ``flag`` > 0; data are the bytes after it."""
        payload = self.payload(key)
        flag, label, start = self._header(key, payload)
        return flag, label, payload[start:]

    def _header(self, key: int, payload: bytes) -> Tuple[int, Any, int]:
        if len(payload) < _HEADER.size:
            raise self._damaged(key, self._offsets[self._position(key)])
        flag, label, _, _ = _HEADER.unpack_from(payload)
        start = _HEADER.size + 4 * flag
        if start > len(payload):
            raise self._damaged(key, self._offsets[self._position(key)])
        if flag:
            label = np.frombuffer(payload, "<f4", flag, _HEADER.size)
        return flag, label, start

    def image(self, key: int) -> Tuple[int, bytes]:
        """Return ``(label, data)`` of an image record: the class as int and the encoded picture.

        Raises
        ------
        InputError
            When the label is not a whole number in ``[0, num_classes)``.
        """
        # Fast path: an unsplit record with a scalar label, because this runs for every picture of a
        # training. All others take the general path, which also says what is wrong.
        position = key - self._first if self._contiguous else -1
        if not 0 <= position < len(self._keys):
            position = self._position(key)
        offset = self._offsets.item(position)
        size = self._ends.item(position) - offset
        block = os.pread(self._file, size if size < _READ_AT_ONCE else _READ_AT_ONCE, offset)
        if len(block) >= _PLAIN.size:
            magic, length, flag, label = _PLAIN.unpack_from(block)
            end = _RECORD.size + length
            if (magic == MAGIC and not flag and _PLAIN.size <= end <= len(block)
                    and 0 <= label < self.num_classes and label.is_integer()):
                return int(label), block[_PLAIN.size:end]
        label, payload, start = self._image(key)
        return label, payload[start:]

    def image_payload(self, key: int) -> Tuple[int, bytes]:
        """Return ``(label, payload)`` of an image record, for :meth:`RecordWriter.add_payload`."""
        return self._image(key)[:2]

    def _image(self, key: int) -> Tuple[int, bytes, int]:
        payload = self.payload(key)
        flag, label, start = self._header(key, payload)
        if flag:
            label = label[0]
        if not (0 <= label < self.num_classes and label == int(label)):
            raise InputError(
                f"{self.path}: record {key} has label {label}, which is not one of the "
                f"{self.num_classes} classes that {os.path.join(self.directory, 'property')} "
                "allows; correct property or pack the set again.")
        return int(label), payload, start

    def labels(self) -> np.ndarray:
        """Labels of all images in the order of ``image_keys``: int64, shape (images,)."""
        return np.fromiter((self.image(key)[0] for key in self.image_keys), np.int64,
                           len(self.image_keys))


def relabel(payload: bytes, label: int) -> bytes:
    """The payload of an image record with another class (the first number of its label)."""
    flag, = struct.unpack_from("<I", payload)
    place = _HEADER.size if flag else 4
    return payload[:place] + struct.pack("<f", label) + payload[place + 4:]


class RecordWriter:
    """Write a record set; nothing appears under its final name before it is whole.

    Use as a context manager: leaving it normally finishes and renames the files, leaving it by an
    exception removes them. Images come identity by identity (in a plain set: in any order).

    Parameters
    ----------
    directory : str
        Made when missing.
    image_size : tuple of int
        (height, width) for ``property``.
    num_classes : int, optional
        For ``property``; default: the largest label plus one.
    identities : bool
        False writes a plain set: no header, no identity records (what ``mx.io.ImageRecordIter``
        can read).
    first_key : int, optional
        Key of the first image; default 1, or 0 in a plain set.

    One process at a time writes to a directory; what a killed one left there is removed by the
    next. Memory grows by about 100 bytes a class (its first key, and that it was seen), not with
    images.

    Raises
    ------
    InputError
        When another process is writing a set there, or MXNet cannot take the directory's name.
    """

    _NAMES = ("train.rec", "train.idx", "train.lst", "property")

    def __init__(self, directory: str, image_size: Tuple[int, int],
                 num_classes: Optional[int] = None, identities: bool = True,
                 first_key: Optional[int] = None) -> None:
        from mxnet import recordio

        self._recordio = recordio
        self.directory = directory
        self._size = image_size
        self._num_classes = num_classes
        self._identities = identities
        self._starts = array("q")  # first key of each identity
        self._seen: Set[int] = set()
        self._label: Optional[int] = None
        self._key = first_key if first_key is not None else int(identities)
        check_name(directory)
        try:
            self._lock = Lock(os.path.join(directory, ".train.lock"))
        except Taken as other:
            raise InputError(f"{directory}: a set is being written there already ({other}); wait "
                             "for its end, or name another folder.") from None
        self._list: Optional[IO[str]] = None
        self._temporary = {
            name: os.path.join(directory, f".{name}.{os.getpid()}")
            for name in self._NAMES}
        try:
            if self._lock.held:
                remove_leftovers(directory, "|".join(map(re.escape, self._NAMES)))
            self._records = recordio.MXIndexedRecordIO(
                self._temporary["train.idx"], self._temporary["train.rec"], "w")
            if identities:
                self._write(0, self._pair(0, (0, 0)))  # replaced at the end by the real numbers
        except BaseException:
            self._clear()
            raise

    def _clear(self) -> None:
        for path in self._temporary.values():
            with suppress(FileNotFoundError):
                os.remove(path)
        self._lock.release()

    def _write(self, key: int, payload: bytes) -> None:
        self._records.write_idx(key, payload)
        # MXNet keeps the index in memory, for reading: 200 bytes a record. It is in the file too.
        self._records.keys.clear()
        self._records.idx.clear()

    def _pair(self, key: int, pair: Tuple[int, int]) -> Any:
        return self._recordio.pack(self._recordio.IRHeader(0, pair, key, 0), b"")

    def add(self, label: int, data: bytes, path: Optional[str] = None) -> int:
        """Append one image.

        Parameters
        ----------
        label : int
            Class; all images of a class come one after the other.
        data : bytes
            The encoded picture.
        path : str, optional
            Where it came from, for ``train.lst``.

        Returns
        -------
        int
            The image's key.
        """
        header = self._recordio.IRHeader(0, float(label), self._key, 0)
        line = None if path is None else f"1\t{path}\t{label}\n"
        return self.add_payload(label, self._recordio.pack(header, data), line)

    def add_payload(self, label: int, payload: bytes, line: Optional[str] = None) -> int:
        """Append one image as :meth:`RecordSet.payload` gives it, with its line of ``train.lst``.

        The bytes stay as they are, so arrays of labels survive; ``label`` must be the class they
        hold (:func:`relabel` changes it).
        """
        if label != self._label:
            if self._identities and label in self._seen:
                raise ValueError(f"images of class {label} do not come together")
            self._seen.add(label)
            self._label = label
            if self._identities:
                self._starts.append(self._key)
        key = self._key
        self._write(key, payload)
        if line is not None:
            if self._list is None:
                self._list = open(self._temporary["train.lst"], "w", encoding="utf-8",
                                  errors="surrogateescape", newline="\n")
            self._list.write(line)
        self._key += 1
        return key

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._records.close()
            if self._list is not None:
                self._list.close()
            self._clear()

    def _finish(self) -> None:
        if not self._seen:
            raise InputError(f"{self.directory}: no image to write; the record set would be empty.")
        first = self._key
        if self._identities:
            ends = itertools.chain(self._starts[1:], (first,))
            for begin, end in zip(self._starts, ends):
                self._write(self._key, self._pair(self._key, (begin, end)))
                self._key += 1
        self._records.close()
        if self._list is not None:
            self._list.close()
        if self._identities:
            with open(self._temporary["train.rec"], "r+b") as patch:
                patch.seek(_RECORD.size + _HEADER.size)
                patch.write(struct.pack("<ff", first, self._key))
        num_classes = self._num_classes or max(self._seen) + 1
        with open(self._temporary["property"], "w", encoding="ascii") as line:
            line.write(f"{num_classes},{self._size[0]},{self._size[1]}\n")
        whole = [name for name in self._NAMES if os.path.exists(self._temporary[name])]
        for name in whole:
            with open(self._temporary[name], "rb") as written:
                os.fsync(written.fileno())
        # A kill from here on leaves a folder without `property`, which no one takes for a set,
        # instead of new files among those of an earlier set: `property` is renamed last.
        for name in ("property", "train.lst"):
            with suppress(FileNotFoundError):
                os.remove(os.path.join(self.directory, name))
        for name in whole:
            os.replace(self._temporary[name], os.path.join(self.directory, name))
