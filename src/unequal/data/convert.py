"""``unequal pack``: pictures of people to a record set (docs/data.md)."""
import argparse
import functools
import itertools
import logging
import os
from array import array
from typing import NamedTuple, Optional

import numpy as np

from unequal.data import alignment
from unequal.data import pictures as images
from unequal.data.identities import write_names, write_table
from unequal.data.records import RecordWriter
from unequal.errors import InputError
from unequal.system.files import below
from unequal.system.parallel import ordered_map
from unequal.system.progress import track
from unequal.system.runtime import available_cpus

_BATCH = 32  # pictures a worker takes at once
_SHOWN = 20  # problems repeated on stderr; problems.csv has all

log = logging.getLogger(__name__)


class Picture(NamedTuple):
    """A picture to pack, as the folder or the list describes it."""

    name: str  # path below the root
    identity: object  # folder name, or class of a list; None: lies in no folder, or is empty
    box: Optional[tuple] = None  # x1, y1, x2, y2
    landmarks: Optional[tuple] = None  # 5 x's, then 5 y's


class Settings(NamedTuple):
    """How pictures become records."""

    root: str
    size: tuple = (112, 112)  # height, width
    quality: int = 95  # of the JPEGs that have to be written anew
    margin: float = 0.4  # by which a box grows, of its sides


class Converted(NamedTuple):
    """A picture's record, or why there is none."""

    picture: Picture
    data: Optional[bytes]
    problem: Optional[str]


def in_folders(root):
    """Yield the pictures of a folder of folders, one folder an identity, both sorted by name.

    Everything is taken for a picture but names that begin with a dot. Memory: the folders' names
    and one folder's files.
    """
    for entry in _seen(os.listdir(root)):
        empty = True  # or a file, not a folder
        for folder, inner, names in os.walk(os.path.join(root, entry), onerror=_fail):
            inner[:] = _seen(inner)
            for name in _seen(names):
                empty = False
                yield Picture(os.path.relpath(os.path.join(folder, name), root), entry)
        if empty:
            yield Picture(entry, None)


def _seen(names):
    return sorted(name for name in names if not name.startswith("."))


def _fail(error):
    if not isinstance(error, NotADirectoryError):
        raise error


def parse_line(line, where, root):
    """One line of an InsightFace ``.lst`` as ``(label, Picture)``.

    Tab-separated: aligned (1: the picture is a ready face, 0: cut it out), path, label, and maybe
    the box x1, y1, x2, y2, and then maybe five landmarks, x's before y's.

    Raises
    ------
    InputError
        When a field makes no sense, or the path leaves ``root``; ``where`` begins the sentence.
    """
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) not in (3, 7, 17):
        raise InputError(
            "{}: expected 3, 7 or 17 fields separated by tabs (aligned, path, label, box, "
            "landmarks) but found {}; correct the line.".format(where, len(fields)))
    try:
        aligned, label = float(fields[0]), float(fields[2])
        numbers = tuple(float(field) for field in fields[3:])
        if aligned not in (0, 1) or label != int(label) or not 0 <= label < 2 ** 24 \
                or not np.isfinite(numbers).all():
            raise ValueError
    except (ValueError, OverflowError):
        raise InputError(
            "{}: expected aligned (0 or 1), path, label (a whole number) and plain numbers; a list "
            "of MXNet's im2rec has another order (index, label, path).".format(where)) from None
    name = below(root, fields[1], where, "give the folder that holds all pictures with --root")
    if aligned:
        numbers = ()
    return int(label), Picture(name, int(label), numbers[:4] or None, numbers[4:] or None)


def in_list(path, root):
    """Yield the pictures of an InsightFace ``.lst``, by class, within a class as listed.

    Memory: 16 bytes a line, because lists come in any order.
    """
    labels, offsets = array("q"), array("q")
    with open(path, "rb") as lines:
        offset = 0
        for number, line in enumerate(lines, 1):
            if line.strip():
                label, _ = parse_line(line.decode("utf-8", "surrogateescape"),
                                      "{}, line {}".format(path, number), root)
                labels.append(label)
                offsets.append(offset)
            offset += len(line)
        for place in np.argsort(np.array(labels, np.int64), kind="stable"):
            lines.seek(offsets[place])
            line = lines.readline().decode("utf-8", "surrogateescape")
            yield parse_line(line, path, root)[1]


def _face(pixels, picture, settings, reduction):
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


def _reduction(data, picture, settings):
    """How much smaller a JPEG may be decoded and still have twice the pixels that are needed."""
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


def convert(picture, settings, complaints):
    """Read one picture and bring it to size; see :class:`Converted`."""
    path = os.path.join(settings.root, picture.name)
    try:
        if picture.identity is None:
            raise InputError("is not a folder of pictures")
        if any(character in picture.name for character in "\t\r\n"):
            raise InputError("has a tab or a line break in its name, which train.lst cannot hold")
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
        for name in (path, picture.name):  # its problem is listed beside it
            if reason.startswith(name + ": "):
                reason = reason[len(name) + 2:]
        return Converted(picture, None, "{} [{}]".format(reason, said) if said else reason)


def _convert_all(pictures, settings):
    with images.Complaints() as complaints:
        return [convert(picture, settings, complaints) for picture in pictures]


def converted(pictures, settings, processes):
    """Yield :class:`Converted` for each picture, in order, from several processes."""
    pictures = iter(pictures)
    batches = iter(lambda: list(itertools.islice(pictures, _BATCH)), [])
    work = functools.partial(_convert_all, settings=settings)
    yield from itertools.chain.from_iterable(ordered_map(work, batches, processes))


def pack(source, directory, settings, processes=1, plain=False):
    """Pack a folder of folders, or an InsightFace ``.lst``, as a record set.

    The order is that of the names (list: of the classes), whatever the number of processes, so the
    same pictures give the same bytes. Folders are numbered from 0 as far as a picture of theirs
    was packed (``identities.csv`` tells which is which), classes of a list keep their numbers.
    JPEGs that need no change are copied byte for byte. A picture that cannot be read is left out
    and one that its decoder complains about is written anew; both are named in ``problems.csv``.

    Parameters
    ----------
    source : str
        The folder or the list.
    directory : str
        Made; an earlier set in it is replaced when the new one is whole.
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
    names, problems, count, label, current = [], [], 0, -1, None
    with RecordWriter(directory, settings.size, identities=not plain) as writer:
        for picture, data, problem in track(converted(pictures, settings, processes), "pictures"):
            if problem is not None:
                kind = "skipped" if data is None else "kept"
                problems.append((picture.name, kind, problem))
                if len(problems) <= _SHOWN:
                    log.warning("%s: %s: %s", kind, picture.name, problem)
            if data is None:
                continue
            if picture.identity != current:
                current = picture.identity
                label = current if listed else label + 1
                names.append(current)
            writer.add(label, data, picture.name)
            count += 1
    path = os.path.join(directory, "problems.csv")
    if len(problems) > _SHOWN:
        log.warning("... and %d more, all in %s", len(problems) - _SHOWN, path)
    write_table(path, ("path", "what", "why"), problems)
    write_names(directory, [] if listed else names)
    skipped = sum(kind == "skipped" for _, kind, _ in problems)
    return count, len(names), skipped, len(problems) - skipped


def image_size(text):
    """``112`` or ``112x96`` (height, width) from the command line."""
    try:
        height, width = (int(side) for side in (text.split("x") * 2)[:2])
        if not (1 <= height <= 4096 and 1 <= width <= 4096 and text.count("x") < 2):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            "{!r} is not a size such as 112 or 112x96 (height x width)".format(text)) from None
    return height, width


def quality(text):
    """1 to 100."""
    if not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError("{!r} is not a quality from 1 to 100".format(text))
    return int(text)


def process_count(text):
    """1 or more."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError("{!r} is not a number of processes".format(text))
    return int(text)


def margin(text):
    """0 or more."""
    try:
        value = float(text)
        if not 0 <= value <= 10:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError("{!r} is not a share from 0 to 10".format(text)) from None
    return value


def add_picture_options(parser):
    """The options of every command that turns pictures into records."""
    parser.add_argument("--size", type=image_size, default=(112, 112), metavar="HEIGHTxWIDTH",
                        help="of the images in pixels, or one number for squares (default 112)")
    parser.add_argument("--quality", type=quality, default=95,
                        help="of the JPEGs written anew, 1 to 100 (default 95)")
    parser.add_argument("--processes", type=process_count, default=available_cpus(),
                        help="default: one a processor, here %(default)s")


def configure(parser):
    """Options of ``unequal pack``."""
    parser.add_argument("source", metavar="SRC",
                        help="a folder with one folder of pictures for each identity, or an "
                             "InsightFace .lst")
    parser.add_argument("directory", metavar="DIR", help="the record set to make")
    add_picture_options(parser)
    parser.add_argument("--margin", type=margin, default=0.4,
                        help="share of its sides by which a listed box without landmarks grows "
                             "(default 0.4)")
    parser.add_argument("--root", help="folder the paths of a list are in (default: the list's)")
    parser.add_argument("--plain", action="store_true",
                        help="without header and identity records, for mx.io.ImageRecordIter")


def run(options):
    """``unequal pack``."""
    source, directory = options.source, options.directory
    listed = os.path.isfile(source)
    if not listed and not os.path.isdir(source):
        raise InputError("{}: no such folder or list; give a folder with one folder of pictures "
                         "for each identity.".format(source))
    if options.root and not listed:
        raise InputError("--root: only a list needs it, and {} is a folder; leave it out.".format(
            source))
    inside = os.path.join(os.path.realpath(source), "")
    if not listed and os.path.join(os.path.realpath(directory), "").startswith(inside):
        raise InputError("{}: lies inside {}, where it would become an identity; name a folder "
                         "elsewhere.".format(directory, source))
    root = os.path.abspath(options.root or (os.path.dirname(source) if listed else source))
    settings = Settings(root, options.size, options.quality, options.margin)
    count, identities, skipped, complained = pack(source, directory, settings, options.processes,
                                                  options.plain)
    print("{}: {} images of {} identities, {}x{}; {} pictures skipped, {} kept with complaints{}"
          .format(directory, count, identities, *options.size, skipped, complained,
                  " (problems.csv)" if skipped or complained else ""))
