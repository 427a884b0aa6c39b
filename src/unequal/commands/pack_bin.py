"""``unequal pack-bin``: a verification set from a list of pairs (docs/data.md)."""
import logging
import os

import numpy as np

from unequal.data.convert import Picture, Settings, add_picture_options, converted
from unequal.errors import InputError
from unequal.eval.bins import save_bin
from unequal.system.files import below
from unequal.system.progress import track

_FOLDS = 10  # of the verification protocol: consecutive tenths of the pairs
_SHOWN = 20  # bad pictures named on stderr
_EXTENSIONS = (".jpg", ".png", ".jpeg", ".bmp", ".pgm", ".ppm", ".webp")
_ANSWERS = {"1": True, "same": True, "true": True, "0": False, "different": False, "diff": False,
            "-1": False, "false": False}

log = logging.getLogger(__name__)


def _lfw_picture(root, name, number):
    """``Ann_Lee/Ann_Lee_0007`` with the extension it has below ``root``."""
    stem = os.path.join(name, "{}_{:04d}".format(name, int(number)))
    for extension in _EXTENSIONS:
        if os.path.isfile(os.path.join(root, stem + extension)):
            return stem + extension
    return stem + _EXTENSIONS[0]


def _lfw_pair(fields, root):
    if len(fields) == 3:
        (name, one, two), other = fields, fields[0]
    elif len(fields) == 4:
        name, one, other, two = fields
    else:
        raise ValueError
    return _lfw_picture(root, name, one), _lfw_picture(root, other, two), len(fields) == 3


def _plain_pair(fields, root):
    first, second, answer = fields
    return first, second, _ANSWERS[answer.lower()]


def read_pairs(path, root):
    """Read a list of pairs.

    Two forms are known. LFW's ``pairs.txt``: a first line of one or two numbers, then ``name i j``
    (same person) or ``name i name j``, meaning ``name/name_000i.jpg``. And a plain list: ``path
    path answer``, paths below ``root``, the answer ``1``, ``same``, ``0`` or ``different``. Fields
    are separated by tabs where a line has one, else by spaces.

    Returns
    -------
    pairs : list of tuple
        (first path, second path, same).
    is_lfw : bool

    Raises
    ------
    InputError
        When a line makes no sense or a path leaves ``root``.
    """
    pairs, is_lfw = [], False
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            line = line.strip()
            fields = line.split("\t") if "\t" in line else line.split()
            if number == 1 and 1 <= len(fields) <= 2 and all(map(str.isdigit, fields)):
                is_lfw = True
                continue
            if not fields:
                continue
            try:
                first, second, same = (_lfw_pair if is_lfw else _plain_pair)(fields, root)
            except (ValueError, KeyError):
                raise InputError("{}, line {}: expected {}; correct the line.".format(
                    path, number,
                    "`name i j` or `name i name j`, as after LFW's first line" if is_lfw else
                    "`path path answer`, the answer 1, same, 0 or different, or a first line of "
                    "numbers as in LFW's pairs.txt")) from None
            pairs.append(tuple(below(root, name, "{}, line {}".format(path, number),
                                     "give the folder that holds all pictures")
                               for name in (first, second)) + (same,))
    if not pairs:
        raise InputError("{}: holds no pair; give LFW's pairs.txt or a list of `path path answer`."
                         .format(path))
    return pairs, is_lfw


def fold_counts(issame):
    """Same and different pairs in each tenth: int, shape (10, 2), as verification cuts them."""
    return np.array([[fold.sum(), len(fold) - fold.sum()]
                     for fold in np.array_split(np.asarray(issame, bool), _FOLDS)])


def _uneven(issame):
    return (np.ptp(fold_counts(issame), axis=0) > 1).any()


def spread(issame):
    """An order in which every fold has its share of both kinds, give or take one pair.

    As in LFW's list a fold has its same pairs first; each kind keeps its own order.
    """
    issame = np.asarray(issame, bool)
    same = np.array_split(np.flatnonzero(issame), _FOLDS)
    sizes = [len(fold) for fold in np.array_split(issame, _FOLDS)]
    ends = np.cumsum([size - len(fold) for size, fold in zip(sizes, same)])
    different = np.split(np.flatnonzero(~issame), ends[:-1])
    return np.concatenate([part for fold in zip(same, different) for part in fold])


def pack_pairs(path, root, out, settings, processes=1):
    """Write a verification set.

    A plain list whose tenths are unevenly mixed is put in another order (:func:`spread`); LFW's
    order is part of its protocol and stays. A set with pictures missing would give figures that
    compare with nothing, so every picture must be readable.

    Returns
    -------
    pairs, same : int

    Raises
    ------
    InputError
        When pictures cannot be read (the first are logged), or there are too few pairs.
    """
    pairs, is_lfw = read_pairs(path, root)
    same = [answer for _, _, answer in pairs]
    if len(pairs) < _FOLDS:
        raise InputError("{}: has {} pairs, but verification needs {} folds of at least one; add "
                         "some.".format(path, len(pairs), _FOLDS))
    if not is_lfw and _uneven(same):
        pairs = [pairs[place] for place in spread(same)]
        same = [answer for _, _, answer in pairs]
        log.info("%s: pairs put in another order, so that each fold has its share of same and "
                 "different ones", path)
    counts = fold_counts(same)
    if np.ptp(counts):
        log.info("%s: the folds cannot be all alike: %d same and %d different pairs in %d folds "
                 "make %d to %d same and %d to %d different ones each", path, sum(same),
                 len(same) - sum(same), _FOLDS, counts[:, 0].min(), counts[:, 0].max(),
                 counts[:, 1].min(), counts[:, 1].max())
    pictures = [Picture(name, "") for pair in pairs for name in pair[:2]]

    def good():
        bad = set()
        for picture, data, problem in track(converted(pictures, settings, processes), "pictures",
                                            len(pictures)):
            if problem is not None and picture.name not in bad and len(bad) < _SHOWN:
                log.warning("%s: %s: %s", "unreadable" if data is None else "kept", picture.name,
                            problem)
            if data is None:
                bad.add(picture.name)
            if not bad:
                yield data
        if bad:
            raise InputError(
                "{}: {} pictures of {} cannot be read ({} first); complete the folder or take "
                "their pairs out of the list.".format(root, len(bad), path, sorted(bad)[0]))

    save_bin(out, good(), same)
    return len(same), sum(same)


def configure(parser):
    """Options of ``unequal pack-bin``."""
    parser.add_argument("pairs", metavar="PAIRS",
                        help="LFW's pairs.txt, or lines `path path answer` (same or different)")
    parser.add_argument("source", metavar="SRC", help="the folder the pictures are in")
    parser.add_argument("out", metavar="OUT.bin", help="the verification set to make")
    add_picture_options(parser)


def run(options):
    """``unequal pack-bin``."""
    if not os.path.isdir(options.source):
        raise InputError("{}: no such folder; give the one the pictures are in.".format(
            options.source))
    settings = Settings(options.source, options.size, options.quality)
    count, same = pack_pairs(options.pairs, options.source, options.out, settings,
                             options.processes)
    print("{}: {} pairs, {} same and {} different".format(options.out, count, same, count - same))
