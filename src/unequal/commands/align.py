"""``unequal align``: faces found in photographs and cut out upright (docs/clean-your-photos.md)."""
import argparse
import csv
import functools
import itertools
import logging
import os
from contextlib import closing
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

import numpy as np

from unequal.commands.arguments import add_picture_options
from unequal.data import alignment, convert
from unequal.data import pictures as images
from unequal.data.detection import Detector, Face, most_central
from unequal.errors import InputError
from unequal.models.embedder import Embedder
from unequal.system.files import MAX_TABLE, Lock, Taken, open_input, replacing
from unequal.system.parallel import ordered_map
from unequal.system.progress import track
from unequal.system.text import from_cell, say, to_cells

logger = logging.getLogger(__name__)

TABLE = convert.ALIGNED
FIELDS = ("path", "result", "faces", "score", "x1", "y1", "x2", "y2", "rule")
RULES = ("largest", "central", "like")
_BATCH = 8  # pictures a worker takes at once
_SHOWN = 20  # problems repeated on stderr; aligned.csv has all


class Settings(NamedTuple):
    """How faces are cut out."""

    root: str
    size: Tuple[int, int] = (112, 112)  # height, width
    faces: str = "largest"
    quality: int = 95

    @property
    def rule(self) -> str:
        """The settings as text, kept in each row so that a folder cannot mix two settings."""
        return f"{self.faces} {self.size[0]}x{self.size[1]}"


class Found(NamedTuple):
    """The result for one picture."""

    name: str  # path below the root
    faces: List[Face]  # the candidates, for `like` all
    crops: List[bytes]  # JPEGs, one a candidate
    total: int  # faces found
    problem: str  # empty when there are crops


@functools.lru_cache(maxsize=1)
def _detector() -> Detector:
    return Detector()


def cut(name: str, settings: Settings, detector: Detector) -> Found:
    """Find the faces of one picture and cut out the one wanted.

    With ``faces="like"`` all are cut out: only the other pictures of the folder show which one is
    wanted.
    """
    height, width = settings.size
    try:
        data = images.read(os.path.join(settings.root, name))
        pixels = images.decode(data, name)
    except (InputError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Found(name, [], [], 0, reason.replace(f"{name}: ", "", 1))
    faces = detector.faces(pixels)
    if not faces:
        return Found(name, [], [], 0, "no face found")
    chosen = faces
    if settings.faces == "largest":
        chosen = faces[:1]
    elif settings.faces == "central":
        chosen = [faces[most_central(faces, *pixels.shape[:2]) or 0]]
    crops = [images.encode(alignment.align(pixels, face.landmarks, height, width),
                           settings.quality) for face in chosen]
    return Found(name, chosen, crops, len(faces), "")


def _cut_all(names: List[str], settings: Settings) -> List[Found]:
    with images.Complaints():  # what the JPEG library prints about damaged pictures
        return [cut(name, settings, _detector()) for name in names]


def alike(group: List[Found], embedder: Embedder) -> List[int]:
    """Which candidate of each picture is most like the other pictures of its folder.

    The centre of a folder is the mean embedding of its pictures with one face, or of all
    candidates where no picture has one. Memory: the crops of one folder.
    """
    flat = [images.decode(crop, "a crop") for found in group for crop in found.crops]
    if not flat:
        return [0] * len(group)
    features = embedder.transform(flat)
    ends = np.cumsum([len(found.crops) for found in group])
    parts = [features[end - len(found.crops):end] for end, found in zip(ends, group)]
    alone = [part for part in parts if len(part) == 1] or parts
    centre = np.concatenate(alone).sum(axis=0)
    return [int(np.argmax(part @ centre)) if len(part) else 0 for part in parts]


def target_name(name: str) -> str:
    """The name of the cut-out: a JPEG keeps its name, others get ``.jpg`` appended."""
    return name if name.lower().endswith(images.JPEG_ENDINGS) else name + ".jpg"


def read_table(path: str, rule: str) -> Dict[str, List[str]]:
    """The pictures that an earlier run has finished, with their rows; half a line is ignored.

    Raises
    ------
    InputError
        When the folder was made with other settings, or the file is something else.
    """
    rows: Dict[str, List[str]] = {}
    try:
        with open_input(path, MAX_TABLE, encoding="utf-8", errors="surrogateescape",
                        newline="") as file:
            text = file.read()
    except FileNotFoundError:
        return rows
    whole = text[:text.rfind("\n") + 1]
    try:
        for number, row in enumerate(csv.reader(whole.split("\n")[:-1])):
            if number == 0:
                if tuple(row) != FIELDS:
                    raise ValueError
            elif len(row) == len(FIELDS):
                if row[-1] != rule:
                    raise InputError(f"{path}: was made with other settings ({row[-1]}, now "
                                     f"{rule}); give these, or name another OUT.")
                row = list(map(from_cell, row))
                int(row[2])
                rows[row[0]] = row
    except (ValueError, csv.Error):
        raise InputError(
            f"{path}: is not the table of `unequal align`; name another OUT.") from None
    return rows


def _remaining(names: List[str], done: Dict[str, List[str]], settings: Settings) -> List[str]:
    """Pictures still to do; with ``like`` a folder is done as a whole or not at all."""
    if settings.faces == "like":
        open_folders: Set[str] = {os.path.dirname(name) for name in names if name not in done}
        for name in [name for name in done if os.path.dirname(name) in open_folders]:
            del done[name]
    return [name for name in names if name not in done]


def _row(found: Found, number: int, rule: str) -> Tuple:
    if found.problem:
        return (found.name, found.problem, found.total, "", "", "", "", "", rule)
    face = found.faces[number]
    return (found.name, "aligned", found.total, f"{face.score:.4f}",
            *(f"{side:.1f}" for side in face.box), rule)


def _groups(results: Iterable[Found], together: bool) -> Iterator[List[Found]]:
    """One picture at a time, or all of a folder."""
    if not together:
        yield from ([found] for found in results)
        return
    for _, group in itertools.groupby(results, key=lambda found: os.path.dirname(found.name)):
        yield list(group)


def align(source: str, directory: str, settings: Settings, processes: int = 1,
          embedder: Optional[Embedder] = None) -> Tuple[int, int, int]:
    """Cut the faces out of the pictures of a folder (of folders), into the same folders elsewhere.

    ``aligned.csv`` gets a line once a picture's cut-out is on disk, so a killed run continues where
    it was. The order is that of the names, whatever the number of processes.

    Parameters
    ----------
    source, directory : str
        Pictures, in one folder or in one a person; where the cut-outs go.
    settings : Settings
    processes : int
    embedder : Embedder, optional
        For ``faces="like"``.

    Returns
    -------
    aligned, several, failed : int
        Cut-outs written, how many pictures of them had several faces, and pictures without one;
        those of earlier runs included.

    Raises
    ------
    InputError
        When there is no picture, or ``directory`` holds the work of other settings or is being
        written.
    """
    names = [picture.name for picture in convert.in_folders(source)
             if not os.path.isdir(os.path.join(source, picture.name))]
    if not names:
        raise InputError(f"{source}: no picture in it; give a folder of photographs, or one with a "
                         "folder for each person.")
    if settings.faces == "like":
        # Pictures of one folder must come one after the other.
        names.sort(key=lambda name: (os.path.dirname(name), name))
    try:
        lock = Lock(os.path.join(directory, ".aligned.lock"))
    except Taken as other:
        raise InputError(f"{directory}: faces are being cut out there already ({other}); wait for "
                         "its end, or name another folder.") from None
    with closing(lock):
        return _align(names, directory, settings, processes, embedder)


def _align(names: List[str], directory: str, settings: Settings, processes: int,
           embedder: Optional[Embedder]) -> Tuple[int, int, int]:
    """:func:`align`, with the folder locked: two tables in one would lose rows."""
    path = os.path.join(directory, TABLE)
    done = read_table(path, settings.rule)
    todo = _remaining(names, done, settings)
    if done:
        logger.info("%s: going on, %d of %d pictures are done", path, len(done), len(names))
    with replacing(path) as file:  # without the half line that a kill may have left
        csv.writer(file, lineterminator="\n").writerows(map(to_cells, [FIELDS, *done.values()]))
    batches = [todo[start:start + _BATCH] for start in range(0, len(todo), _BATCH)]
    work = functools.partial(_cut_all, settings=settings)
    results = track(itertools.chain.from_iterable(ordered_map(work, batches, processes)),
                    "pictures", len(todo))
    shown = 0
    with open(path, "a", encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        for group in _groups(results, settings.faces == "like"):
            numbers = [0] * len(group) if embedder is None else alike(group, embedder)
            rows = []
            for found, number in zip(group, numbers):
                if not found.problem:
                    target = os.path.join(directory, target_name(found.name))
                    with replacing(target, binary=True) as picture:
                        picture.write(found.crops[number])
                elif shown < _SHOWN:
                    shown += 1
                    logger.warning("%r: %s", found.name, found.problem)
                rows.append(_row(found, number, settings.rule))
                done[found.name] = [str(value) for value in rows[-1]]
            table.writerows(map(to_cells, rows))
            file.flush()
    cuts = [row for row in done.values() if row[1] == "aligned"]
    return len(cuts), sum(int(row[2]) > 1 for row in cuts), len(done) - len(cuts)


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``unequal align``."""
    parser.add_argument("source", metavar="SRC",
                        help="a folder of photographs, or one with a folder for each person")
    parser.add_argument("directory", metavar="OUT",
                        help="where the cut-outs go, in the same folders, beside aligned.csv")
    add_picture_options(parser)
    parser.add_argument("--faces", choices=RULES, default="largest",
                        help="of several faces in a picture: the largest, the most central, or the "
                             "one like the others of the folder, for which --model is needed "
                             "(default %(default)s)")
    parser.add_argument("--model", metavar="PREFIX,EPOCH",
                        help="a checkpoint that compares faces, for --faces like")


def run(options: argparse.Namespace) -> None:
    """``unequal align``."""
    source, directory = options.source, options.directory
    if not os.path.isdir(source):
        raise InputError(f"{source}: no such folder; give a folder of photographs.")
    inside = os.path.join(os.path.realpath(source), "")
    if os.path.join(os.path.realpath(directory), "").startswith(inside):
        raise InputError(f"{directory}: lies inside {source}, where its pictures would be taken "
                         "for photographs; name a folder elsewhere.")
    if (options.faces == "like") != bool(options.model):
        raise InputError("--faces like and --model go together: the model tells which face is like "
                         "the others.")
    _detector()  # fails at once if the extra is missing
    embedder = Embedder.from_checkpoint(options.model) if options.model else None
    settings = Settings(os.path.abspath(source), options.size, options.faces, options.quality)
    aligned, several, failed = align(source, directory, settings, options.processes, embedder)
    say(f"{directory}: {aligned} faces of {settings.size[0]}x{settings.size[1]}; {several} "
        f"pictures had several faces, {failed} pictures have none or cannot be read "
        f"({os.path.join(directory, TABLE)})")
