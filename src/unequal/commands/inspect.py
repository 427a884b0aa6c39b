"""``unequal inspect``: what is in a record set or verification set, and what is wrong with it."""
import argparse
import functools
import hashlib
import itertools
import os
import shutil
from types import ModuleType
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from unequal.commands.arguments import add_processes
from unequal.data import pictures as images
from unequal.data.records import RecordSet
from unequal.errors import InputError, install_hint
from unequal.eval.bins import load_bin
from unequal.system.files import replacing
from unequal.system.parallel import ordered_map
from unequal.system.progress import track
from unequal.system.text import plain, say

_BATCH = 256  # images a worker looks at between two answers
# The pixels that the pictures of a verification set may have in all: this many (ten thousand faces
# of 112x112), and a hundred more for each byte; a face has two or three pixels a byte.
_FREE_PIXELS, _PIXELS_A_BYTE = 1 << 27, 100
_MINER_IMAGES = 3  # the reference's miner takes 3 images of an identity (--images-per-identity)


class Look(NamedTuple):
    """The result of looking at one image record."""

    label: int  # -1: unknown
    digest: int  # 64 bits of the picture's content
    bytes: int
    fault: str  # empty: none


def _look(records: RecordSet, key: int, complaints: images.Complaints) -> Look:
    try:
        label, data = records.image(key)
    except InputError as error:
        return Look(-1, 0, 0, str(error))
    digest = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    source = f"{records.path}: record {key}"
    try:
        images.decode(data, source, *records.image_size)
        said = complaints.take()
        fault = f"{source}: damaged picture, the decoder says: {said}" if said else ""
    except InputError as error:
        complaints.take()
        fault = str(error)
    return Look(label, digest, len(data), fault)


@functools.lru_cache(maxsize=1)
def _opened(directory: str, stamp: int) -> RecordSet:
    # A worker reads the index once, not once a batch; a set that was made again has another stamp.
    return RecordSet(directory)


def _look_at_all(keys: Sequence[int], directory: str, stamp: int) -> List[Look]:
    with images.Complaints() as complaints:
        return [_look(_opened(directory, stamp), key, complaints) for key in keys]


class Report(NamedTuple):
    """What :func:`inspect` found."""

    facts: List[str]
    faults: List[str]
    counts: np.ndarray  # int64: images of each identity that has any


def inspect(directory: str, processes: int = 1) -> Report:
    """Look at every record of a set.

    Faults would stop training or silently harm it: records that cannot be read, pictures that do
    not decode or only with a warning, another size, classes beyond ``property``, identity records
    that miss images, hold another class or share one. All else are facts: gaps in the numbering are
    right in a denoised set, identities with few images are right in a tail.

    Memory: 40 bytes an image.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        When the set cannot be opened at all.
    """
    with RecordSet(directory) as records:
        keys = records.image_keys
        faults = []
        labels = np.empty(len(keys), np.int64)
        digests = np.empty(len(keys), np.uint64)
        size = 0
        batches = [keys[begin:begin + _BATCH] for begin in range(0, len(keys), _BATCH)]
        stamp = os.stat(records.path).st_mtime_ns
        work = functools.partial(_look_at_all, directory=directory, stamp=stamp)
        looks = itertools.chain.from_iterable(ordered_map(work, batches, processes))
        for place, look in enumerate(track(looks, "images", len(keys))):
            labels[place], digests[place] = look.label, look.digest
            size += look.bytes
            if look.fault:
                faults.append(look.fault)
        faults += _missing_keys(records) + _identity_faults(records, labels)
        known = labels >= 0
        classes, counts = np.unique(labels[known], return_counts=True)
        facts = _facts(records, classes, counts, size)
        facts += _duplicates(keys[known], labels[known], digests[known])
        return Report(facts, faults, counts)


def _missing_keys(records: RecordSet) -> List[str]:
    keys = records.image_keys
    gaps = np.flatnonzero(np.diff(keys) != 1)
    return [f"{records.path}: no record between keys {keys[gap]} and {keys[gap + 1]}, where every "
            "key should be an image; pack the set again." for gap in gaps]


def _identity_faults(records: RecordSet, labels: np.ndarray) -> List[str]:
    try:
        ranges = records.identity_ranges
    except InputError as error:
        return [str(error)]
    if not len(ranges):
        return []
    faults = []
    owner = np.full(len(labels), -1, np.int64)
    first_owner: Dict[int, int] = {}
    spans = np.searchsorted(records.image_keys, ranges)
    for row, (begin, end) in enumerate(spans):
        name = f"{records.path}: identity record {records.identity_keys[row]}"
        if (owner[begin:end] >= 0).any():
            faults.append(f"{name} claims images that identity record "
                          f"{records.identity_keys[owner[begin:end].max()]} has too.")
        owner[begin:end] = row
        found = np.unique(labels[begin:end])
        found = found[found >= 0]
        if len(found) > 1:
            faults.append(f"{name} holds images of the classes "
                          f"{', '.join(map(str, found[:5]))}{', ...' if len(found) > 5 else ''}.")
        elif len(found) and first_owner.setdefault(int(found[0]), row) != row:
            faults.append(f"{name} is of class {found[0]}, as identity record "
                          f"{records.identity_keys[first_owner[int(found[0])]]} is.")
    alone = np.flatnonzero(owner < 0)
    if len(alone):
        faults.append(f"{records.path}: {len(alone)} images belong to no identity record, the "
                      f"first is record {records.image_keys[alone[0]]}.")
    return faults


def _facts(records: RecordSet, classes: np.ndarray, counts: np.ndarray, size: int) -> List[str]:
    kind = "with identity records" if len(records.identity_keys) else "plain, no identity records"
    facts = [
        f"{len(records):,} images of {len(classes):,} identities, "
        f"{'x'.join(map(str, records.image_size))} pixels, {kind}",
        f"{size // max(1, len(records)):,} bytes a picture on average"]
    if not len(classes):
        return facts
    facts.append(f"images per identity: {counts.min()} to {counts.max()}, mean "
                 f"{counts.mean():.1f}, median {np.median(counts):g}")
    missing = records.num_classes - len(classes)
    if missing:
        facts.append(f"{missing:,} of {records.num_classes:,} classes have no image (right in a "
                     "denoised set)")
    few = int((counts < _MINER_IMAGES).sum())
    if few:
        facts.append(f"{few:,} identities have fewer than {_MINER_IMAGES} images, what the tail "
                     "miner takes of each")
    return facts


def _duplicates(keys: np.ndarray, labels: np.ndarray, digests: np.ndarray) -> List[str]:
    order = np.argsort(digests, kind="stable")
    same = digests[order][1:] == digests[order][:-1]
    if not same.any():
        return []
    pairs = np.flatnonzero(same)
    across = labels[order[pairs]] != labels[order[pairs + 1]]
    first = pairs[np.argmax(across)]
    return [f"{len(pairs):,} images repeat the content of another, {int(across.sum()):,} of them "
            f"under another identity (such as records {keys[order[first]]} and "
            f"{keys[order[first + 1]]})"]


def distribution(counts: np.ndarray) -> List[Tuple[str, int]]:
    """Identities by number of images, in classes that double: list of (label, identities)."""
    edges = [1]
    while edges[-1] <= counts.max():
        edges.append(edges[-1] * 2)
    found = np.histogram(counts, edges)[0]
    names = [str(low) if high == low + 1 else f"{low}-{high - 1}"
             for low, high in zip(edges, edges[1:])]
    # The last bin of numpy's histogram includes its upper edge, but no count is that large.
    return list(zip(names, found.tolist()))


def draw(rows: Sequence[Tuple[str, int]], width: int) -> List[str]:
    """Bars of text, ``width`` characters at most."""
    widest = max(len(name) for name, _ in rows)
    figures = max(len(f"{count:,}") for _, count in rows)
    room = max(10, width - widest - figures - 4)
    top = max(count for _, count in rows)
    return [f"{name:>{widest}} {count:>{figures},} {'#' * int(np.ceil(room * count / top))}"
            for name, count in rows]


def _drawn(text: str, font_manager: ModuleType) -> str:
    """``text`` for a picture: dollars escaped, letters that the font lacks written as escapes."""
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return "".join(letter if font.get_char_index(ord(letter)) else ascii(letter)[1:-1]
                   for letter in plain(text)).replace("$", r"\$")


def plot(counts: np.ndarray, directory: str, path: str) -> None:
    """Draw images per identity, most frequent first (the long tail), to a picture file.

    Raises
    ------
    InputError
        When matplotlib is missing, or does not know the kind of file.
    """
    try:
        from matplotlib import font_manager
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot: needs matplotlib; " + install_hint("plots") + ".") from None
    figure = Figure(figsize=(7, 4))
    axes = figure.add_subplot()
    axes.fill_between(np.arange(1, len(counts) + 1), np.sort(counts)[::-1], step="mid")
    axes.set(yscale="log", xlabel="identity, by number of images", ylabel="images",
             title=_drawn(os.path.basename(os.path.abspath(directory)), font_manager))
    kind = os.path.splitext(path)[1].lstrip(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise InputError(f"--plot {path}: name a picture file, such as images.png.")
    with replacing(path, binary=True) as file:
        figure.savefig(file, format=kind, bbox_inches="tight")


def inspect_bin(path: str) -> Report:
    """Look at a verification set: a :class:`Report` with ``counts`` empty."""
    pictures, issame = load_bin(path)
    faults, sizes, pixels = [], set(), 0
    # A picture that is in several pairs is looked at once.
    distinct: Dict[int, Tuple[int, images.Encoded]] = {}
    for place, data in enumerate(pictures):
        distinct.setdefault(id(data), (place, data))
    most = _FREE_PIXELS + _PIXELS_A_BYTE * sum(
        data.nbytes if isinstance(data, np.ndarray) else len(data)
        for _, data in distinct.values())
    with images.Complaints() as complaints:
        for place, data in track(distinct.values(), "pictures", len(distinct)):
            source = f"{path}: picture {place}"
            try:
                size = images.decode(data, source).shape[:2]
                sizes.add(size)
                pixels += size[0] * size[1]
                said = complaints.take()
                if said:
                    faults.append(f"{source}: damaged picture, the decoder says: {said}")
            except InputError as error:
                complaints.take()
                faults.append(str(error))
            if pixels > most:
                raise InputError(f"{path}: its pictures hold more than {most:,} pixels, too many "
                                 "for their bytes; give a set of faces.")
    if len(sizes) > 1:
        faults.append(f"{path}: the pictures have {len(sizes)} different sizes; pack it again.")
    same = int(issame.sum())
    facts = [f"{len(issame):,} pairs, {same:,} same and {len(issame) - same:,} different"]
    facts += ["x".join(map(str, sizes.pop())) + " pixels"] if len(sizes) == 1 else []
    folds = [int(fold.sum()) for fold in np.array_split(issame, 10)]
    facts.append("same pairs in each of 10 folds: " + " ".join(map(str, folds)))
    return Report(facts, faults, np.zeros(0, np.int64))


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``unequal inspect``."""
    parser.add_argument("directory", metavar="DIR", help="a record set, or a verification set .bin")
    parser.add_argument("--plot", metavar="FILE",
                        help="draw images per identity to a picture file (needs matplotlib)")
    add_processes(parser)


def run(options: argparse.Namespace) -> int:
    """``unequal inspect``: facts, then one line for each fault; 1 when there is any."""
    if os.path.isfile(options.directory):
        report = inspect_bin(options.directory)
    else:
        report = inspect(options.directory, options.processes)
    say(*report.facts)
    if len(report.counts):
        say("identities by number of images:")
        say(*draw(distribution(report.counts), shutil.get_terminal_size().columns))
    if options.plot and len(report.counts):
        plot(report.counts, options.directory, options.plot)
    for fault in report.faults:
        say("fault: " + " ".join(fault.split()))
    return 1 if report.faults else 0
