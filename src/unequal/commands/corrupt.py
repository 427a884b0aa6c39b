"""``unequal corrupt``: known label noise in a clean record set, with the truth beside it."""
import argparse
import itertools
import os
from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from unequal.data import noise_lists
from unequal.data.copying import check_different
from unequal.data.identities import read_names, write_names
from unequal.data.records import RecordSet, RecordWriter, relabel
from unequal.errors import InputError
from unequal.system.files import bounded_lines, open_input
from unequal.system.progress import track
from unequal.system.text import say

NEIGHBOURS = 5  # people a structured flip chooses among
_BLOCK = 4096  # pictures compared with all class centres at once


class Plan(NamedTuple):
    """What OUT holds, an entry a picture, ordered by label.

    Attributes
    ----------
    source : numpy.ndarray
        int64: row of the picture in the clean set, or (outliers) in the strangers' set.
    labels : numpy.ndarray
        int64: the label it gets.
    true : numpy.ndarray
        int64: the class it shows; -1 for an outlier.
    kinds : numpy.ndarray
        str: ``clean``, ``flip`` or ``outlier``.
    """

    source: np.ndarray
    labels: np.ndarray
    true: np.ndarray
    kinds: np.ndarray


def uniform_flips(rng: np.random.Generator, labels: np.ndarray,
                  flipped: np.ndarray) -> np.ndarray:
    """New labels for the pictures ``flipped``: a permutation of their labels that fits no picture.

    So every class keeps its number of pictures, and wrong labels occur in proportion to the size of
    their class.

    Raises
    ------
    InputError
        When more than half of the flipped pictures are of one class: not all can get another.
    """
    own = labels[flipped]
    if len(own) and 2 * np.bincount(own).max() > len(own):
        raise InputError(f"{np.bincount(own).max()} of {len(own)} pictures to flip are of class "
                         f"{np.bincount(own).argmax()}, so they cannot all get another label; flip "
                         "more, or spread the pictures over more classes.")
    # Sort the pictures by class, in a random order of classes and of pictures within them. Shifting
    # by the size of the largest class then gives every picture another class.
    ranks = rng.permutation(own.max() + 1) if len(own) else np.zeros(0, np.int64)
    order = np.lexsort((rng.random(len(own)), ranks[own]))
    shift = np.bincount(own).max() if len(own) else 0
    new = np.empty_like(own)
    new[order] = np.roll(own[order], shift)
    # After the shift a whole class has only a few wrong labels: mix by exchanging random pairs.
    for _ in range(20):
        partner = rng.permutation(len(own))
        first, second = partner[:len(own) // 2], partner[len(own) // 2:len(own) // 2 * 2]
        good = (new[second] != own[first]) & (new[first] != own[second])
        first, second = first[good], second[good]
        new[first], new[second] = new[second], new[first]
    return new


def structured_flips(rng: np.random.Generator, labels: np.ndarray, flipped: np.ndarray,
                     features: np.ndarray, num_classes: int) -> np.ndarray:
    """New labels of the pictures ``flipped``: people whom a model confuses with the one shown.

    Each gets one of the :data:`NEIGHBOURS` other classes whose centres (mean features) are nearest
    to it, one as likely as the other. ``features`` are of unit length, (pictures, D); memory is
    4 * D bytes a class and 16 KiB a class for the comparison.
    """
    sums = np.zeros((num_classes, features.shape[1]), np.float32)
    np.add.at(sums, labels, features)
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    centres = np.divide(sums, length, out=np.zeros_like(sums), where=length > 0)
    absent = length[:, 0] == 0
    choices = min(NEIGHBOURS, num_classes - 1 - int(absent.sum()))
    new = np.empty(len(flipped), np.int64)
    for start in range(0, len(flipped), _BLOCK):
        rows = flipped[start:start + _BLOCK]
        similar = features[rows] @ centres.T
        similar[:, absent] = -np.inf
        similar[np.arange(len(rows)), labels[rows]] = -np.inf
        near = np.argpartition(-similar, choices - 1, axis=1)[:, :choices]
        # Sorted by class number, since the order that a partition leaves differs by processor.
        near.sort(axis=1)
        new[start:start + len(rows)] = near[np.arange(len(rows)),
                                            rng.integers(choices, size=len(rows))]
    return new


def plan(labels: np.ndarray, num_classes: int, flip: float, outliers: float, strangers: int,
         seed: int, features: Optional[np.ndarray] = None) -> Plan:
    """Decide what each picture of the noisy set shows.

    Parameters
    ----------
    labels : numpy.ndarray
        int64, (images,), of the clean set.
    num_classes : int
    flip, outliers : float
        Shares of all pictures of the noisy set, as `unequal synth` counts them. Outliers are added
        to the clean pictures, so no clean one is lost to them.
    strangers : int
        Pictures to take outliers from.
    seed : int
    features : numpy.ndarray, optional
        float32, (images, D), unit rows: flips are structured.

    Raises
    ------
    InputError
        When the shares or the strangers do not allow it.
    """
    for name, share in (("flip", flip), ("outliers", outliers)):
        if not 0 <= share < 1:
            raise InputError(f"{name} {share}: must be a share from 0 to below 1.")
    if flip + outliers >= 1:
        raise InputError(f"flip {flip} and outliers {outliers}: nothing clean would remain; lower "
                         "one.")
    if len(np.unique(labels)) < 2:
        raise InputError("the set has only one class; there is no other label to give.")
    rng = np.random.default_rng(seed)
    added = int(round(len(labels) * outliers / (1 - outliers)))
    if added > strangers:
        raise InputError(f"{added} pictures of strangers are needed, but there are only "
                         f"{strangers}; lower the share of outliers or give more.")
    total = len(labels) + added
    flipped = np.sort(rng.permutation(len(labels))[:int(round(total * flip))])
    given, kinds = labels.copy(), np.full(total, "clean", "U7")
    if len(flipped):
        given[flipped] = (uniform_flips(rng, labels, flipped) if features is None else
                          structured_flips(rng, labels, flipped, features, num_classes))
    kinds[:len(labels)][flipped], kinds[len(labels):] = "flip", "outlier"
    source = np.concatenate((np.arange(len(labels)), rng.permutation(strangers)[:added]))
    # Each label gets strangers in proportion to its pictures.
    given = np.concatenate((given, labels[rng.integers(len(labels), size=added)]))
    true = np.concatenate((labels, np.full(added, -1)))
    order = np.lexsort((rng.random(total), given))  # by label, in random order within one
    return Plan(source[order], given[order], true[order], kinds[order])


def _paths(directory: str, keys: np.ndarray) -> List[Optional[str]]:
    """Where each picture came from, of ``train.lst``; Nones without a list of one line each."""
    path = os.path.join(directory, "train.lst")
    try:
        with open_input(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            # Read no more lines than there are pictures, however long the list is.
            paths = [fields[1] if len(fields) > 1 else None
                     for fields in (line.rstrip("\n").split("\t") for line in itertools.islice(
                         bounded_lines(file, path), len(keys) + 1))]
    except FileNotFoundError:
        paths = []
    return paths if len(paths) == len(keys) else [None] * len(keys)


def corrupt(directory: str, out: str, *, flip: float = 0.0, outliers: float = 0.0,
            strangers: Optional[str] = None, model: Optional[str] = None,
            seed: int = 0) -> Tuple[int, int, int]:
    """Write a copy of a clean set with known wrong labels, and ``OUT/truth.csv``.

    Parameters
    ----------
    directory, out : str
        The clean set, and the one to make. Classes keep their numbers and names; pictures keep
        their bytes and are numbered anew.
    flip, outliers : float
        See :func:`plan`.
    strangers : str, optional
        A record set of people who are not in ``directory``; outliers need it.
    model : str, optional
        ``'prefix,epoch'``: flips are structured, by this model's features.
    seed : int

    Returns
    -------
    clean, flips, outliers : int
        Pictures of each kind.

    Raises
    ------
    InputError
        When the shares make no sense, or pictures have different sizes.

    Notes
    -----
    ``truth.csv`` has the columns of `unequal synth`: ``key,label,true_identity,kind``. Memory: 40
    bytes a picture; with a model 4 * D bytes a picture more.
    """
    check_different(directory, out, *([strangers] if strangers else []))
    if outliers and not strangers:
        raise InputError(f"outliers need people who are not in {directory}: give a record set of "
                         "strangers.")
    with RecordSet(directory) as clean, RecordSet(strangers or directory) as others:
        if others.image_size != clean.image_size:
            sizes = ["x".join(map(str, one.image_size)) for one in (others, clean)]
            raise InputError(f"{strangers}: pictures of {sizes[0]}, but {directory} has "
                             f"{sizes[1]}; make one of them anew.")
        features = None
        if model:
            from unequal.models.embedder import Embedder
            features = Embedder.from_checkpoint(model, clean.image_size).transform(clean)
        planned = plan(clean.labels(), clean.num_classes, flip, outliers,
                       len(others) if strangers else 0, seed, features)
        paths = (_paths(directory, clean.image_keys),
                 _paths(others.directory, others.image_keys))
        rows = []
        with RecordWriter(out, clean.image_size, clean.num_classes) as writer:
            for row, label, true, kind in track(zip(*planned), "images", len(planned.labels)):
                strange = kind == "outlier"
                records = others if strange else clean
                _, payload = records.image_payload(records.image_keys[row])
                path = paths[strange][row]
                line = None if path is None else f"1\t{path}\t{label}\n"
                rows.append((writer.add_payload(label, relabel(payload, label), line), label, true,
                             kind))
        names = read_names(directory)
        write_names(out, [names.get(label, str(label)) for label in range(clean.num_classes)]
                    if names else [])
        noise_lists.write_truth(os.path.join(out, "truth.csv"), *zip(*rows))
    clean_ones, flips, strangers_ = (int((planned.kinds == kind).sum())
                                     for kind in ("clean", "flip", "outlier"))
    return clean_ones, flips, strangers_


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``unequal corrupt``."""
    parser.add_argument("directory", metavar="DIR", help="the clean record set")
    parser.add_argument("out", metavar="OUT", help="the noisy one to make, with truth.csv")
    parser.add_argument("--flip", type=float, default=0.0, metavar="R",
                        help="share of OUT's pictures that get another person's label "
                             "(default 0)")
    parser.add_argument("--outliers", type=float, default=0.0, metavar="R",
                        help="share of OUT's pictures that show a stranger; they are added "
                             "(default 0)")
    parser.add_argument("--strangers", metavar="DIR",
                        help="record set of people who are not in DIR, for --outliers")
    parser.add_argument("--structured", action="store_true",
                        help=f"flip to the people that --model confuses, {NEIGHBOURS} of them, "
                             "instead of anybody")
    parser.add_argument("--model", metavar="P,E", help="for --structured")
    parser.add_argument("--seed", type=int, default=0, help="default 0")


def run(options: argparse.Namespace) -> None:
    """``unequal corrupt``."""
    if bool(options.model) != options.structured:
        raise InputError("--structured and --model P,E go together: the model says who is "
                         "confused with whom; give both or neither.")
    if options.outliers and not options.strangers:
        raise InputError(f"--outliers {options.outliers}: give a record set of people who are not "
                         f"in {options.directory} with --strangers.")
    if options.seed < 0:
        raise InputError(f"--seed {options.seed}: must be 0 or more.")
    counts = corrupt(options.directory, options.out, flip=options.flip, outliers=options.outliers,
                     strangers=options.strangers, model=options.model, seed=options.seed)
    say(f"{options.out}: {counts[0]} clean images, {counts[1]} flipped, {counts[2]} outliers "
        "(truth.csv)")
