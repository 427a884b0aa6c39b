"""Pictures of people to record sets, and lists of pairs to verification sets (docs/data.md)."""
import functools
import itertools
import logging
import os
import re
from array import array
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

import numpy as np

from unequal.data import alignment, first_look
from unequal.data import pictures as images
from unequal.data.identities import write_names, write_table
from unequal.data.records import RecordWriter
from unequal.errors import ArgumentError, InputError
from unequal.eval.bins import save_bin
from unequal.system.files import MAX_TABLE, below, bounded_lines, open_input
from unequal.system.parallel import ordered_map
from unequal.system.progress import track

ALIGNED = "aligned.csv"  # `unequal align` writes it beside the folders it fills
_BATCH = 32  # pictures a worker takes at once
_SHOWN = 20  # problems repeated on stderr; problems.csv has all
_MAX_PAIRS = 1 << 20  # of a list; the largest published one has 6,000
_FOLDS = 10  # of the verification protocol: consecutive tenths of the pairs
_ANSWERS = {"1": True, "same": True, "true": True, "0": False, "different": False, "diff": False,
            "-1": False, "false": False}

# Control characters, and characters that reverse the direction of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

logger = logging.getLogger(__name__)


Pair = Tuple[str, str, bool]  # paths of two pictures, whether they show one person


class Picture(NamedTuple):
    """A picture to pack, as the folder or the list describes it."""

    name: str  # path below the root
    identity: Union[str, int, None]  # folder, or class of a list; None: in no folder, or empty
    box: Optional[Tuple[float, ...]] = None  # x1, y1, x2, y2
    landmarks: Optional[Tuple[float, ...]] = None  # 5 x's, then 5 y's


class Settings(NamedTuple):
    """How pictures become records."""

    root: str
    size: Tuple[int, int] = (112, 112)  # height, width
    quality: int = 95  # of the JPEGs that have to be written anew
    margin: float = 0.4  # by which a box grows, of its sides


class Converted(NamedTuple):
    """A picture's record, or why there is none."""

    picture: Picture
    data: Optional[bytes]
    problem: Optional[str]


def in_folders(root: str) -> Iterator[Picture]:
    """Yield the pictures of a folder of folders, one folder an identity, both sorted by name.

    Every file counts as a picture unless its name begins with a dot. Memory: the folders' names
    and one folder's files.
    """
    for entry in _entries(root):
        yield from _of_folder(root, entry)


def _entries(root: str) -> List[str]:
    """The entries of a folder of folders, without the list that `unequal align` writes there."""
    return [entry for entry in _seen(os.listdir(root))
            if entry != ALIGNED or os.path.isdir(os.path.join(root, entry))]


def _of_folder(root: str, entry: str) -> Iterator[Picture]:
    empty = True  # or a file, not a folder
    for folder, inner, names in os.walk(os.path.join(root, entry), onerror=_fail):
        inner[:] = _seen(inner)
        for name in _seen(names):
            empty = False
            yield Picture(os.path.relpath(os.path.join(folder, name), root), entry)
    if empty:
        yield Picture(entry, None)


def sample(root: str, count: int) -> Iterator[Picture]:
    """``count`` pictures of a folder of folders, spread over as many folders as possible."""
    return first_look.spread([_of_folder(root, entry) for entry in _entries(root)], count)


def _seen(names: Iterable[str]) -> List[str]:
    return sorted(name for name in names if not name.startswith("."))


def _fail(error: OSError) -> None:
    if not isinstance(error, NotADirectoryError):
        raise error


def parse_line(line: str, where: str, root: str) -> Tuple[int, Picture]:
    """One line of an InsightFace ``.lst`` as ``(label, Picture)``.

    Tab-separated: aligned (1: the picture is a ready face, 0: cut it out), path, label, and maybe
    the box x1, y1, x2, y2, and then maybe five landmarks, x's before y's.

    Raises
    ------
    InputError
        When a field makes no sense, or (ArgumentError) the path leaves ``root``; ``where`` begins
        the sentence.
    """
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) not in (3, 7, 17):
        raise InputError(
            f"{where}: expected 3, 7 or 17 fields separated by tabs (aligned, path, label, box, "
            f"landmarks) but found {len(fields)}; correct the line.")
    try:
        aligned, label = float(fields[0]), float(fields[2])
        numbers = tuple(float(field) for field in fields[3:])
        if aligned not in (0, 1) or label != int(label) or not 0 <= label < 2 ** 24 \
                or not np.isfinite(numbers).all():
            raise ValueError
    except (ValueError, OverflowError):
        raise InputError(
            f"{where}: expected aligned (0 or 1), path, label (a whole number) and plain numbers; "
            "a list of MXNet's im2rec has another order (index, label, path).") from None
    try:
        name = below(root, fields[1], where, "give the folder that holds all pictures with root")
    except InputError as error:
        raise ArgumentError(str(error), "root") from None
    if aligned:
        numbers = ()
    return int(label), Picture(name, int(label), numbers[:4] or None, numbers[4:] or None)


def in_list(path: str, root: str) -> Iterator[Picture]:
    """Yield the pictures of an InsightFace ``.lst``, by class, within a class as listed.

    Memory: 16 bytes a line, because lists come in any order.
    """
    labels, offsets = array("q"), array("q")
    with open_input(path) as lines:
        offset = 0
        for number, line in enumerate(bounded_lines(lines, path), 1):
            if line.strip():
                label, _ = parse_line(line.decode("utf-8", "surrogateescape"),
                                      f"{path}, line {number}", root)
                labels.append(label)
                offsets.append(offset)
            offset += len(line)
        for place in np.argsort(np.array(labels, np.int64), kind="stable"):
            lines.seek(offsets[place])
            line = lines.readline().decode("utf-8", "surrogateescape")
            yield parse_line(line, path, root)[1]


def _face(pixels: np.ndarray, picture: Picture, settings: Settings, reduction: int
          ) -> np.ndarray:
    """The face at its size, from a picture that was decoded ``reduction`` times smaller."""
    height, width = settings.size
    if picture.landmarks is not None:
        points = np.reshape(picture.landmarks, (2, 5)).T
        points = (points + 0.5) / reduction - 0.5  # pixel centres are whole numbers
        return alignment.align(pixels, points, height, width)
    if picture.box is not None:
        box = tuple(side / reduction for side in picture.box)
        return alignment.crop(pixels, box, settings.margin, height, width)
    return alignment.fit(pixels, height, width)


def _reduction(data: bytes, picture: Picture, settings: Settings) -> int:
    """By which factor a JPEG may be decoded smaller and still have twice the size needed."""
    frame = images.jpeg_frame(data)
    if frame is None:
        return 1
    if picture.landmarks is not None:
        sides = np.ptp(np.reshape(picture.landmarks, (2, 5)), axis=1)
        needed = np.ptp(alignment.template(*settings.size), axis=0)
        spare = max(sides) / max(needed)
    elif picture.box is not None:
        left, top, right, bottom = picture.box
        spare = max((right - left) / settings.size[1], (bottom - top) / settings.size[0])
    else:
        spare = max(frame[:2]) / max(settings.size)
    return max([factor for factor in (2, 4, 8) if 2 * factor <= spare], default=1)


def convert(picture: Picture, settings: Settings, complaints: images.Complaints) -> Converted:
    """Read one picture and bring it to size; see :class:`Converted`."""
    path = os.path.join(settings.root, picture.name)
    try:
        if picture.identity is None:
            raise InputError("is not a folder of pictures")
        if _CONTROL.search(picture.name):
            raise InputError("has a tab or a line break in its name, which train.lst cannot hold, "
                             "or another control character")
        data = images.read(path)
        reduction = _reduction(data, picture, settings)
        pixels = images.decode(data, picture.name, reduction=reduction)
        face = _face(pixels, picture, settings, reduction)
        complaint = complaints.take()
        if face is not pixels or complaint or not images.is_plain_jpeg(data, pixels):
            data = images.encode(face, settings.quality)
        return Converted(picture, data, complaint or None)
    except (InputError, OSError) as error:
        said = complaints.take()
        reason = getattr(error, "strerror", None) or str(error)
        for name in (path, picture.name):  # the name is in a column of its own
            if reason.startswith(name + ": "):
                reason = reason[len(name) + 2:]
        return Converted(picture, None, f"{reason} [{said}]" if said else reason)


def _convert_all(pictures: Sequence[Picture], settings: Settings) -> List[Converted]:
    with images.Complaints() as complaints:
        return [convert(picture, settings, complaints) for picture in pictures]


def converted(pictures: Iterable[Picture], settings: Settings, processes: int
              ) -> Iterator[Converted]:
    """Yield :class:`Converted` for each picture, in order, from several processes."""
    pictures = iter(pictures)
    batches = iter(lambda: list(itertools.islice(pictures, _BATCH)), [])
    work = functools.partial(_convert_all, settings=settings)
    yield from itertools.chain.from_iterable(ordered_map(work, batches, processes))


def hold_out(pictures: Sequence[Picture], settings: Settings, share: float, seed: int = 0
             ) -> Tuple[List[Picture], List[Pair]]:
    """Hold out people for verification: the pictures of all others, and pairs of those held out.

    Any two pictures of a person held out are a pair of the same; as many pairs show two different
    people; at most 3,000 of each kind. Only readable pictures are used; each is read once to know.

    Raises
    ------
    ArgumentError
        When the people held out give fewer than ten pairs of each, or nobody is left.
    """
    people: Dict[Any, List[Picture]] = {}
    for picture in pictures:
        people.setdefault(picture.identity, []).append(picture)
    rng = np.random.RandomState(seed)
    several = sorted(str(name) for name, some in people.items() if name is not None
                     and len(some) > 1)
    count = int(round(share * (len(people) - (None in people))))
    held = set(rng.permutation(several)[:count].tolist())
    groups = [[found.picture.name for found in converted(people[name], settings, 1)
               if found.data is not None] for name in sorted(held)]
    groups = [group for group in groups if group]
    same = [pair for group in groups for pair in itertools.combinations(group, 2)]
    if len(same) > 3000:
        same = [same[place] for place in np.sort(rng.permutation(len(same))[:3000])]
    if len(groups) < 2 or len(same) < 10 or len(held) >= len(people) - (None in people):
        raise ArgumentError(
            f"verify {share:g} holds out {len(groups)} people with {len(same)} pairs of pictures, "
            "but at least two people with ten are needed, and somebody to train on; give another "
            "share.", "verify")
    different: Set[Tuple[str, str]] = set()
    for _ in range(100 * len(same)):
        if len(different) == len(same):
            break
        one, other = np.sort(rng.choice(len(groups), 2, replace=False))
        different.add((groups[one][rng.randint(len(groups[one]))],
                       groups[other][rng.randint(len(groups[other]))]))
    pairs = [(*pair, True) for pair in same] + [(*pair, False) for pair in sorted(different)]
    return [picture for picture in pictures if picture.identity not in held], pairs


def pack(source: str, directory: str, settings: Settings, processes: int = 1, plain: bool = False
         ) -> Tuple[int, int, int, int]:
    """Pack a folder of folders, or an InsightFace ``.lst``, as a record set.

    The order is that of the names (of a list: of the classes), whatever the number of processes, so
    the same pictures give the same bytes. Folders with a readable picture are numbered from 0
    (``identities.csv`` has their names); classes of a list keep their numbers. JPEGs that need no
    change are copied byte for byte. A picture that cannot be read is left out, and one that decodes
    with a warning is encoded again; ``problems.csv`` names both.

    Parameters
    ----------
    source : str
        The folder or the list.
    directory : str
        Created if missing; an earlier set in it is replaced once the new one is complete.
    settings : Settings
    processes : int
    plain : bool
        No header and identity records (for ``mx.io.ImageRecordIter``).

    Returns
    -------
    images, identities, skipped, complained : int

    Raises
    ------
    InputError
        When there is no picture at all, or a line of a list makes no sense.
    """
    listed = os.path.isfile(source)
    pictures = in_list(source, settings.root) if listed else in_folders(source)
    return pack_pictures(pictures, directory, settings, processes, plain, numbered=listed)


def pack_pictures(pictures: Iterable[Picture], directory: str, settings: Settings,
                  processes: int = 1, plain: bool = False, numbered: bool = False
                  ) -> Tuple[int, int, int, int]:
    """:func:`pack` for any iterable of :class:`Picture`, sorted by identity.

    With ``numbered`` a picture's identity is its class; otherwise identities are names, which are
    numbered from 0 in their order.
    """
    names: List[str] = []
    problems: List[Tuple[str, str, str]] = []
    count, label, current = 0, -1, None
    twins = first_look.Twins()
    with RecordWriter(directory, settings.size, identities=not plain) as writer:
        for picture, data, problem in track(converted(pictures, settings, processes), "pictures"):
            if problem is not None:
                kind = "skipped" if data is None else "kept"
                problems.append((picture.name, kind, problem))
                if len(problems) <= _SHOWN:
                    logger.warning("%s: %s: %s", kind, picture.name, problem)
            if data is None:
                continue
            if picture.identity != current:
                current = picture.identity
                label = int(current) if numbered else label + 1
                names.append(str(current))
            writer.add(label, data, picture.name)
            twins.add(data, label)
            count += 1
    twins.write(directory)
    path = os.path.join(directory, "problems.csv")
    if len(problems) > _SHOWN:
        logger.warning("... and %d more, all in %s", len(problems) - _SHOWN, path)
    write_table(path, ("path", "what", "why"), problems)
    write_names(directory, [] if numbered else names)
    skipped = sum(kind == "skipped" for _, kind, _ in problems)
    return count, len(names), skipped, len(problems) - skipped


def _lfw_picture(root: str, name: str, number: str) -> str:
    """``Ann_Lee/Ann_Lee_0007`` with the extension it has below ``root``."""
    stem = os.path.join(name, f"{name}_{int(number):04d}")
    for extension in images.ENDINGS:
        if os.path.isfile(os.path.join(root, stem + extension)):
            return stem + extension
    return stem + images.ENDINGS[0]


def _lfw_pair(fields: Sequence[str], root: str) -> Pair:
    if len(fields) == 3:
        (name, one, two), other = fields, fields[0]
    elif len(fields) == 4:
        name, one, other, two = fields
    else:
        raise ValueError
    return _lfw_picture(root, name, one), _lfw_picture(root, other, two), len(fields) == 3


def _plain_pair(fields: Sequence[str], root: str) -> Pair:
    first, second, answer = fields
    return first, second, _ANSWERS[answer.lower()]


def read_pairs(path: str, root: str) -> Tuple[List[Pair], bool]:
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
    pairs: List[Pair] = []
    is_lfw = False
    with open_input(path, MAX_TABLE, encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(bounded_lines(file, path), 1):
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
                expected = (
                    "`name i j` or `name i name j`, as after LFW's first line" if is_lfw else
                    "`path path answer`, the answer 1, same, 0 or different, or a first line of "
                    "numbers as in LFW's pairs.txt")
                raise InputError(f"{path}, line {number}: expected {expected}; correct the "
                                 "line.") from None
            first, second = (below(root, name, f"{path}, line {number}",
                                   "give the folder that holds all pictures")
                             for name in (first, second))
            pairs.append((first, second, same))
            if len(pairs) > _MAX_PAIRS:
                raise InputError(f"{path}: has more than {_MAX_PAIRS:,} pairs; give fewer.")
    if not pairs:
        raise InputError(f"{path}: holds no pair; give LFW's pairs.txt or a list of `path path "
                         "answer`.")
    return pairs, is_lfw


def fold_counts(issame: Sequence[bool]) -> np.ndarray:
    """Same and different pairs in each tenth: int, shape (10, 2), as verification cuts them."""
    return np.array([[fold.sum(), len(fold) - fold.sum()]
                     for fold in np.array_split(np.asarray(issame, bool), _FOLDS)])


def _uneven(issame: Sequence[bool]) -> bool:
    return bool((np.ptp(fold_counts(issame), axis=0) > 1).any())


def spread(issame: Sequence[bool]) -> np.ndarray:
    """An order in which all folds have the same number of pairs of each kind, plus or minus one.

    As in LFW's list, a fold's pairs of the same person come first; each kind keeps its order.
    """
    answers = np.asarray(issame, bool)
    same = np.array_split(np.flatnonzero(answers), _FOLDS)
    sizes = [len(fold) for fold in np.array_split(answers, _FOLDS)]
    ends = np.cumsum([size - len(fold) for size, fold in zip(sizes, same)])
    different = np.split(np.flatnonzero(~answers), ends[:-1])
    return np.concatenate([part for fold in zip(same, different) for part in fold])


def pack_pairs(path: str, root: str, out: str, settings: Settings, processes: int = 1
               ) -> Tuple[int, int]:
    """Write a verification set.

    A plain list whose tenths are mixed unequally is put in another order (:func:`spread`); LFW's
    order is part of its protocol and stays. Every picture must be readable, since accuracies on a
    set with missing pairs cannot be compared.

    Returns
    -------
    pairs, same : int

    Raises
    ------
    InputError
        When pictures cannot be read (the first are logged), or there are too few pairs.
    """
    pairs, is_lfw = read_pairs(path, root)
    return write_pairs(pairs, path, root, out, settings, processes, keep_order=is_lfw)


def write_pairs(pairs: List[Pair], path: str, root: str, out: str, settings: Settings,
                processes: int = 1, keep_order: bool = False) -> Tuple[int, int]:
    """:func:`pack_pairs` of pairs that were read already, ``(first path, second path, same)``.

    ``path`` names their list in messages; ``keep_order``: the folds are the published ones.
    """
    same = [answer for _, _, answer in pairs]
    if len(pairs) < _FOLDS:
        raise InputError(f"{path}: has {len(pairs)} pairs, but verification needs {_FOLDS} folds "
                         "of at least one; add some.")
    if not keep_order and _uneven(same):
        pairs = [pairs[place] for place in spread(same)]
        same = [answer for _, _, answer in pairs]
        logger.info("%s: pairs put in another order, so that each fold has its share of same and "
                    "different ones", path)
    counts = fold_counts(same)
    if np.ptp(counts):
        logger.info("%s: the folds cannot be all alike: %d same and %d different pairs in %d folds "
                    "make %d to %d same and %d to %d different ones each", path, sum(same),
                    len(same) - sum(same), _FOLDS, counts[:, 0].min(), counts[:, 0].max(),
                    counts[:, 1].min(), counts[:, 1].max())
    pictures = [Picture(name, "") for pair in pairs for name in pair[:2]]

    def good() -> Iterator[bytes]:
        bad: Set[str] = set()
        for picture, data, problem in track(converted(pictures, settings, processes), "pictures",
                                            len(pictures)):
            if problem is not None and picture.name not in bad and len(bad) < _SHOWN:
                logger.warning("%s: %s: %s", "unreadable" if data is None else "kept",
                               picture.name, problem)
            if data is None:
                bad.add(picture.name)
            if not bad:
                yield data
        if bad:
            raise InputError(
                f"{root}: {len(bad)} pictures of {path} cannot be read ({sorted(bad)[0]} first); "
                "complete the folder or take their pairs out of the list.")

    save_bin(out, good(), same)
    return len(same), sum(same)
