"""Record sets from record sets: split, without a noise list, back to pictures.

Records stream from file to file; what is kept in memory grows with the number of images (their
keys) and identities, never with the pictures' bytes. ``benchmarks/records.py`` measures it.
"""
import csv
import itertools
import logging
import os
import shutil
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from unequal.data import decisions, noise_lists
from unequal.data.identities import read_names, write_table
from unequal.data.records import RecordSet, RecordWriter, relabel
from unequal.errors import ArgumentError, InputError
from unequal.system.files import (
    MAX_TABLE,
    bounded_lines,
    open_input,
    replacing,
    temporary_folder,
)
from unequal.system.progress import track
from unequal.system.text import to_cells

logger = logging.getLogger(__name__)
_EXTENSIONS = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"BM": ".bmp", b"RI": ".webp"}


def keys_by_identity(records: RecordSet) -> Tuple[np.ndarray, np.ndarray]:
    """The image keys of each identity.

    Returns
    -------
    keys : numpy.ndarray
        int64, shape (images,): identity after identity, ascending within one.
    ends : numpy.ndarray
        int64, shape (identities,): where each identity's keys end in ``keys``.

    Raises
    ------
    InputError
        When the identity records do not cover every image exactly once.
    """
    ranges = records.identity_ranges
    if len(ranges):
        keys = records.image_keys
        begin, end = np.searchsorted(keys, ranges.T)
        order = np.argsort(begin, kind="stable")
        if begin[order[0]] or end[order[-1]] != len(keys) \
                or (begin[order[1:]] != end[order[:-1]]).any():
            raise InputError(
                f"{records.path}: the identity records do not cover every image exactly once; see "
                f"`unequal inspect {records.directory}`, then pack the set again.")
        return keys, end[order]
    labels = records.labels()
    order = np.argsort(labels, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(labels[order])) + 1, len(order))
    return records.image_keys[order], ends


def walk(records: RecordSet, keys: np.ndarray, ends: np.ndarray
         ) -> Iterator[Tuple[int, int, bytes]]:
    """Yield ``(identity, label, payload)`` for each key, checking that an identity is one class.

    ``keys`` and ``ends`` are those of :func:`keys_by_identity`.

    Raises
    ------
    InputError
        When an identity holds images of two classes, or two identities are of one class.
    """
    taken = np.zeros(records.num_classes, bool)
    begin = 0
    for identity, end in enumerate(ends):
        known = None
        for key in keys[begin:end]:
            label, payload = records.image_payload(key)
            if label != known:
                if known is not None or taken[label]:
                    why = (f"its identity's images before it have {known}" if known is not None
                           else "another identity has it already")
                    raise InputError(
                        f"{records.path}: record {key} has class {label}, but {why}; see `unequal "
                        f"inspect {records.directory}`, then pack the set again.")
                known, taken[label] = label, True
            yield identity, label, payload
        begin = end


def list_lines(records: RecordSet) -> Iterator[Optional[str]]:
    """Lines of the set's ``train.lst``, one an image by ascending key; endless Nones without one.

    Also without a usable one: some tools write lists that do not have one line an image.
    """
    path = os.path.join(records.directory, "train.lst")
    try:
        count = sum(1 for _ in _read_lines(path))
    except FileNotFoundError:
        return itertools.repeat(None)
    if count != len(records):
        logger.warning("%s: left out, it has %d lines for %d images", path, count, len(records))
        return itertools.repeat(None)
    return _read_lines(path)


def _read_lines(path: str) -> Iterator[str]:
    with open_input(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        yield from bounded_lines(file, path)


def check_different(source: str, *targets: str) -> None:
    """Refuse to write a set over the one that is read, or two into one place."""
    places = [os.path.realpath(path) for path in (source,) + targets]
    if len(set(places)) < len(places):
        raise InputError(f"{', '.join((source, *targets))}: every set needs a folder of its own; "
                         "name others.")


def split(directory: str, head: str, tail: str, head_min_images: int = 10
          ) -> List[Tuple[int, int]]:
    """Split a set into identities with many images and the rest (the paper's head and tail).

    Each side is numbered from 0 in the order of the source; ``identities.csv`` beside each says
    which class of the source a class was (column ``source``), and its name. Records keep everything
    but their class. A plain set (images in any order) becomes two, identity by identity.

    Parameters
    ----------
    directory, head, tail : str
    head_min_images : int
        An identity with so many images or more is head. The paper's "pic9" is 10.

    Returns
    -------
    list of tuple
        (images, identities) of head and tail.

    Raises
    ------
    InputError
        When one side would be empty, or the source is damaged.
    """
    check_different(directory, head, tail)
    with RecordSet(directory) as records:
        keys, ends = keys_by_identity(records)
        counts = np.diff(ends, prepend=0)
        is_head = counts >= head_min_images
        if is_head.all() or not is_head.any():
            raise ArgumentError(
                f"head_min_images {head_min_images}: {tail if is_head.all() else head} would be "
                f"empty, the identities of {directory} have {counts.min()} to {counts.max()} "
                "images; choose a number between.", "head_min_images")
        names = read_names(directory)
        lines = list_lines(records)
        # A plain set is not ordered by identity, but its list is ordered by key.
        ordered = bool((keys[1:] > keys[:-1]).all())
        if not ordered and not isinstance(lines, itertools.repeat):
            logger.warning("%s: train.lst left out, the images do not come identity by identity",
                           directory)
            lines = itertools.repeat(None)
        identities = len(records.identity_ranges) > 0
        digits = len(str(records.num_classes - 1))
        # Rows of identities.csv: tail, head.
        maps: Tuple[List[Tuple[int, int, str]], ...] = ([], [])
        with RecordWriter(head, records.image_size, identities=identities) as head_writer, \
                RecordWriter(tail, records.image_size, identities=identities) as tail_writer:
            writers = (tail_writer, head_writer)
            previous = None
            for identity, label, payload in track(walk(records, keys, ends), "images", len(keys)):
                side = int(is_head[identity])
                if identity != previous:
                    previous = identity
                    name = names.get(label, str(label).zfill(digits))
                    maps[side].append((len(maps[side]), label, name))
                new = len(maps[side]) - 1
                writers[side].add_payload(new, relabel(payload, new),
                                          _relabel_line(next(lines), new))
        for target, rows in zip((tail, head), maps):
            write_table(os.path.join(target, "identities.csv"), ("label", "source", "name"), rows)
    return [(int(counts[side].sum()), int(side.sum())) for side in (is_head, ~is_head)]


def _relabel_line(line: Optional[str], label: int) -> Optional[str]:
    if line is None:
        return None
    fields = line.rstrip("\n").split("\t")
    return "\t".join(fields[:2] + [str(label)] + fields[3:]) + "\n"


def denoise(directory: str, noise_list: str, out: str) -> Tuple[int, int, int]:
    """Copy a set without the images of a noise list.

    Classes keep their numbers and ``property`` its count, so a classifier trained on the whole set
    still fits. An identity without images loses its identity record. Records are copied byte for
    byte (their ``id`` holds the old key) and get new keys without gaps. With an empty list the
    result equals the source, byte for byte.

    Returns
    -------
    images, identities, dropped : int

    Raises
    ------
    InputError
        When the list belongs to another set, or names every image.
    """
    check_different(directory, out)
    with RecordSet(directory) as records:
        labels, noise = noise_lists.read_list(noise_list)
        missing = noise[~np.isin(noise, records.image_keys)]
        if len(missing):
            raise InputError(f"{noise_list}: names the image {missing[0]}, which {directory} does "
                             "not have; give the list that was made from this set.")
        if len(np.unique(noise)) == len(records):
            raise InputError(f"{noise_list}: names every image of {directory}; lower the threshold "
                             "it was made with.")
        identities = len(records.identity_ranges) > 0
        if identities:
            keys, ends = keys_by_identity(records)
            images = (found[1:] for found in walk(records, keys, ends))
        else:  # any order, no identity records to check
            images = (records.image_payload(key) for key in records.image_keys)
        if not len(noise):
            logger.warning("%s: is empty; %s is a copy of the set", noise_list, out)
        noisy = np.isin(records.image_keys, noise)
        expected = dict(zip(noise.tolist(), labels.tolist()))
        left = np.zeros(records.num_classes, bool)
        with RecordWriter(out, records.image_size, records.num_classes, identities,
                          first_key=int(records.image_keys[0])) as writer:
            for key, drop, line, (label, payload) in zip(
                    records.image_keys, noisy, list_lines(records),
                    track(images, "images", len(noisy))):
                if not drop:
                    writer.add_payload(label, payload, line)
                    left[label] = True
                elif expected[int(key)] != label:
                    raise InputError(
                        f"{noise_list}: says that image {key} has class {expected[int(key)]}, but "
                        f"in {directory} it has {label}; give the list that was made from this "
                        "set.")
        _copy_names(directory, out)
        return int((~noisy).sum()), int(left.sum()), int(noisy.sum())


class Applied(NamedTuple):
    """What :func:`apply_decisions` made."""

    images: int
    identities: int
    dropped: int
    relabelled: int
    head: int  # identities with ten images or more (the paper's "pic9")


def is_decisions(path: str) -> bool:
    """Whether a file is one of decisions (:mod:`unequal.data.decisions`), not a noise list."""
    with open_input(path) as file:
        return bool(file.readline(100).strip() == ",".join(decisions.FIELDS).encode())


def _decided_labels(path: str, records: RecordSet, old: np.ndarray) -> np.ndarray:
    """Each image's class as decided, -1 where it is dropped; ``old`` are the set's."""
    decided = (decisions.read_decisions(path) if is_decisions(path) else
               {int(key): decisions.Decision(int(key), "drop")
                for key in noise_lists.read_list(path)[1]})
    new = old.copy()
    places = dict(zip(records.image_keys.tolist(), range(len(old))))
    for decision in decided.values():
        place = places.get(decision.key)
        if place is None or (decision.label or 0) >= records.num_classes:
            raise InputError(
                f"{path}: names the image {decision.key}"
                f"{'' if place is None else f' and the class {decision.label}'}, which "
                f"{records.directory} does not have; give the decisions that were "
                "made on this set.")
        if decision.decision == "drop":
            new[place] = -1
        elif decision.decision == "relabel":
            new[place] = decision.label
    return new


def apply_decisions(directory: str, path: str, out: str, renumber: bool = False) -> Applied:
    """Copy a set with decisions applied: dropped images left out, relabelled ones in their class.

    ``changes.csv`` in the new set has a row for each image that was dropped or relabelled (``key``,
    ``path``, ``label``, ``decision``, ``new_label``, ``new_key``; keys and labels without ``new``
    are the source's). Images come identity by identity, in the source's order of identities; a
    record keeps everything but its class. Memory: 40 bytes an image, and the lines of
    ``train.lst``.

    Parameters
    ----------
    directory, path, out : str
        ``path`` is a file of decisions, or a noise list (each image on it is dropped).
    renumber : bool
        Number the classes that have images anew from 0; ``identities.csv`` then tells the number
        each had (column ``source``). Otherwise they keep their numbers and ``property`` its count.

    Raises
    ------
    InputError
        When the decisions belong to another set, or leave no image.
    """
    check_different(directory, out)
    with RecordSet(directory) as records:
        keys, old = records.image_keys, records.labels()
        new = _decided_labels(path, records, old)
        left = np.unique(new[new >= 0])
        if not len(left):
            raise InputError(f"{path}: drops every image of {directory}; keep some.")
        changed = np.flatnonzero(new != old)
        if not len(changed):
            logger.warning("%s: changes nothing; %s is a copy", path, out)
        first = np.full(records.num_classes, len(keys))
        np.minimum.at(first, old, np.arange(len(keys)))  # where each class begins
        identities = len(records.identity_ranges) > 0
        kept = np.flatnonzero(new >= 0)
        if identities:
            kept = kept[np.lexsort((kept, new[kept], first[new[kept]]))]
        numbers = np.arange(records.num_classes)
        if renumber:
            numbers[left] = np.arange(len(left))
        lines = list(itertools.islice(list_lines(records), len(keys)))
        new_keys = np.full(len(keys), -1)
        with RecordWriter(out, records.image_size, None if renumber else records.num_classes,
                          identities, first_key=int(keys[0])) as writer:
            for place in track(kept, "images", len(kept)):
                _, payload = records.image_payload(keys[place])
                label = int(numbers[new[place]])
                if label != old[place]:
                    payload = relabel(payload, label)
                    lines[place] = _relabel_line(lines[place], label)
                new_keys[place] = writer.add_payload(label, payload, lines[place])
        _write_changes(os.path.join(out, "changes.csv"), [
            (int(keys[place]), _path(lines[place]), int(old[place]),
             "drop" if new[place] < 0 else "relabel",
             "" if new[place] < 0 else int(numbers[new[place]]),
             "" if new[place] < 0 else int(new_keys[place])) for place in changed])
        if renumber:
            names = read_names(directory)
            digits = len(str(records.num_classes - 1))
            write_table(os.path.join(out, "identities.csv"), ("label", "source", "name"),
                        [(number, int(label), names.get(int(label), str(label).zfill(digits)))
                         for number, label in enumerate(left)])
        else:
            _copy_names(directory, out)
        dropped = int((new < 0).sum())
        return Applied(len(kept), len(left), dropped, len(changed) - dropped,
                       int((np.bincount(new[kept]) >= 10).sum()))


def _path(line: Optional[str]) -> str:
    return line.rstrip("\n").split("\t")[1] if line and line.count("\t") > 1 else ""


def _write_changes(path: str, rows: Iterable[Sequence[object]]) -> None:
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("key", "path", "label", "decision", "new_label", "new_key"))
        writer.writerows(map(to_cells, rows))


def _copy_names(directory: str, out: str) -> None:
    try:
        with open_input(os.path.join(directory, "identities.csv"), MAX_TABLE) as source, \
                replacing(os.path.join(out, "identities.csv"), binary=True) as target:
            shutil.copyfileobj(source, target)
    except FileNotFoundError:
        write_table(os.path.join(out, "identities.csv"), (), ())


def unpack(directory: str, out: str) -> int:
    """Write every image of a record set to ``out/identity/key.jpg``, the bytes as stored.

    Identities are called as in ``identities.csv``, or by number. Returns the number of images.

    Raises
    ------
    InputError
        When ``out`` holds something already, or a record is damaged; then nothing is left there.
    """
    out = os.path.normpath(out)
    if os.path.lexists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise InputError(f"{out}: exists already and is not an empty folder; name another.")
    with RecordSet(directory) as records:
        names = read_names(directory)
        digits = len(str(records.num_classes - 1))
        key_digits = len(str(records.image_keys[-1]))
        made: Dict[int, str] = {}  # label -> folder
        with temporary_folder(out) as temporary:
            for key in track(records.image_keys, "images"):
                label, data = records.image(key)
                if label not in made:
                    folder = names.get(label, str(label).zfill(digits))
                    made[label] = _make_folder(temporary, folder, directory)
                name = str(key).zfill(key_digits) + _EXTENSIONS.get(data[:2], ".bin")
                with open(os.path.join(made[label], name), "wb") as file:
                    file.write(data)
            os.replace(temporary, out)
        return len(records)


def _make_folder(parent: str, name: str, directory: str) -> str:
    path = os.path.join(parent, name)
    try:
        os.mkdir(path)
    except FileExistsError:  # the number of one class may be the name of another
        table = os.path.join(directory, "identities.csv")
        raise InputError(f"{table}: two classes would share the folder {name}; correct or remove "
                         "the file.") from None
    return path
