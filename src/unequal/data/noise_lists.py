"""Formats that say which images are noise; each is read and written here.

A *noise list* has lines ``label index maxP P[label]``, the reference's ``0_noiselist.txt``. A *file
of scores* has a row for every image of a set. ``truth.csv`` says what each image of a drawn set
really shows. A *list of names* (MegaFace's) names pictures by their paths.
"""
import csv
import os
import re
import sys
from array import array
from typing import Dict, Iterable, List, Mapping, Sequence, Set, Tuple

import numpy as np

from unequal.data.pictures import ENDINGS
from unequal.errors import InputError
from unequal.system.files import (
    MAX_TABLE,
    bounded_lines,
    open_input,
    replacing,
)
from unequal.system.text import from_cell, to_cells

_MAX_TRUTH = 1 << 27  # bytes, for about five million images, 200 bytes of memory each
_MAX_NAMES = 1 << 24  # bytes
_MAX_SCORES = 1 << 30  # bytes, for about ten million images
NAME = "0_noiselist.txt"  # the reference's, in --bin-dir
COLUMNS = ("label", "key", "max_probability", "label_probability", "score", "prediction")
KINDS = ("flip", "split", "outlier")


def read_list(path: str) -> Tuple[np.ndarray, np.ndarray]:
    """Read a noise list: lines ``label index maxP P[label]``, the reference's 0_noiselist.txt.

    Returns
    -------
    labels, keys : numpy.ndarray
        int64, shape (lines,); ``index`` is the key of the record. Memory: 16 bytes a line.

    Raises
    ------
    InputError
        When a line makes no sense.
    """
    labels, keys = array("q"), array("q")
    with open_input(path, MAX_TABLE, encoding="ascii", errors="replace") as file:
        for number, line in enumerate(bounded_lines(file, path), 1):
            fields = line.split()
            if not fields:
                continue
            try:
                label, key = (float(field) for field in fields[:2])  # the reference's are floats
                if len(fields) not in (2, 4) or label != int(label) or key != int(key) \
                        or not max(abs(label), abs(key)) < 2 ** 53:
                    raise ValueError
            except (ValueError, OverflowError):
                raise InputError(
                    f"{path}, line {number}: expected `label index maxP P[label]`, such as `17 "
                    "2045 0.0031 0.0002`; give a list that `unequal noise` wrote."
                ) from None
            labels.append(int(label))
            keys.append(int(key))
    return np.array(labels, np.int64), np.array(keys, np.int64)


def write_list(path: str, columns: Mapping[str, np.ndarray], listed: np.ndarray) -> None:
    """Write the noise list: lines ``label index maxP P[label]`` of the images in ``listed``."""
    with replacing(path) as file:
        for row in np.flatnonzero(listed):
            most, own = (float(columns[name][row])
                         for name in ("max_probability", "label_probability"))
            file.write(f"{columns['label'][row]} {columns['key'][row]} {most!r} {own!r}\n")


TABLE = ("key", "path", "label", "kind", "suggested_label", "confidence")


def write_table(path: str, rows: Iterable[Sequence[object]]) -> None:
    """Write the findings with their kinds, a row an image, under the header :data:`TABLE`."""
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TABLE)
        writer.writerows(map(to_cells, rows))


def scores_head(fingerprint: str) -> bytes:
    """The first lines of a file of scores: which set and model it is of, and its columns."""
    return f"# {fingerprint}\n{','.join(COLUMNS)}\n".encode()


def score_rows(columns: Sequence[np.ndarray]) -> bytes:
    """Rows of a file of scores, as bytes; ``columns`` are arrays (n,) in the order of COLUMNS."""
    return "".join(f"{label},{key},{float(most)!r},{float(own)!r},{float(score)!r},{prediction}\n"
        for label, key, most, own, score, prediction in zip(*columns)).encode()


def resume_scores(path: str, head: bytes) -> int:
    """Number of complete rows that an interrupted run with this ``head`` has written.

    An incomplete row at the end is cut off.
    """
    try:
        with open_input(path) as file:
            if file.read(len(head)) != head:
                return 0
            rows, end, place = 0, len(head), len(head)
            for block in iter(lambda: file.read(1 << 20), b""):
                rows += block.count(b"\n")
                if b"\n" in block:
                    end = place + block.rfind(b"\n") + 1
                place += len(block)
        os.truncate(path, end)
        return rows
    except FileNotFoundError:
        return 0


def read_scores(path: str) -> Dict[str, np.ndarray]:
    """The columns of a file of scores, as :func:`score_records` returns them.

    Raises
    ------
    InputError
        When it is none.
    """
    try:
        with open_input(path, _MAX_SCORES, encoding="ascii") as file:
            lines = bounded_lines(file, path, 1000)
            if next(lines, "")[:1] != "#" or next(lines, "").strip() != ",".join(COLUMNS):
                raise ValueError
            table = np.loadtxt(lines, delimiter=",", ndmin=2)
            if table.shape[1] != len(COLUMNS):
                raise ValueError
    except ValueError:
        raise InputError(f"{path}: not a whole file of scores; `unequal noise --scores` writes "
                         "one.") from None
    columns = dict(zip(COLUMNS, table.T))
    return {name: column.astype(np.int64) if name in ("label", "key", "prediction") else column
            for name, column in columns.items()}


def write_truth(path: str, keys: Iterable[int], labels: Iterable[int],
                true_identities: Iterable[int], kinds: Iterable[str]) -> None:
    """Write a ``truth.csv``: a row an image, in the order given."""
    with replacing(path) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("key", "label", "true_identity", "kind"))
        rows.writerows(map(to_cells, zip(keys, labels, true_identities, kinds)))


def read_truth(path: str) -> Dict[int, Tuple[int, str]]:
    """``{key: (true identity, kind)}`` of a ``truth.csv`` (`unequal synth`)."""
    try:
        with open_input(path, _MAX_TRUTH, encoding="utf-8", newline="") as file:
            return {int(row["key"]): (int(row["true_identity"]), sys.intern(from_cell(row["kind"])))
                    for row in csv.DictReader(bounded_lines(file, path))}
    except (KeyError, ValueError, TypeError, AttributeError, csv.Error):
        raise InputError(f"{path}: expected the columns key, label, true_identity, kind, as "
                         "`unequal synth` writes them.") from None


def read_names(path: str) -> List[str]:
    """Names in a noise list: one a line, the second column where there are tabs; ``#`` comments.

    The form of the lists published with InsightFace's MegaFace evaluation.
    """
    names = []
    with open_input(path, _MAX_NAMES, encoding="utf-8", errors="surrogateescape") as file:
        for line in bounded_lines(file, path):
            columns = line.strip().split("\t")
            if columns[0] and not line.startswith("#"):
                names.append(columns[min(1, len(columns) - 1)])
    return names


# .jpg, .png_r50.bin, .png.bin, .bin; a dot before them belongs to the name (A.J._Buckley_1.jpg).
_PICTURE = "|".join(map(re.escape, (*ENDINGS, ".gif")))  # .gif: named by lists, never read here
_ENDING = re.compile(rf"((?:{_PICTURE})(_[^/]*)?)?(\.bin)?$", re.IGNORECASE)


def _stem(name: str) -> str:
    """A name without the endings of pictures and of the devkit's feature files."""
    return _ENDING.sub("", os.path.normpath(name), count=1)


def noisy(names: Sequence[str], noise: Iterable[str]) -> Tuple[np.ndarray, int]:
    """Which names a noise list refers to.

    An entry refers to every name whose last folders and file name equal it. File endings such as
    ``.jpg`` or the devkit's ``.png_r50.bin`` are ignored: ``A/A_1.jpg`` refers to ``set/A/A_1.png``
    but not to ``set/B/A_1``.

    Parameters
    ----------
    names, noise : list of str

    Returns
    -------
    noisy : numpy.ndarray
        bool (names,).
    unknown : int
        How many entries refer to no name at all.
    """
    wanted = {_stem(entry) for entry in noise}
    depths = sorted({entry.count(os.sep) + 1 for entry in wanted})
    result = np.zeros(len(names), bool)
    met: Set[str] = set()
    for number, name in enumerate(names):
        parts = _stem(name).split(os.sep)
        found = {os.sep.join(parts[-depth:]) for depth in depths} & wanted
        result[number] = bool(found)
        met |= found
    return result, len(wanted - met)
