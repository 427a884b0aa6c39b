"""Problems of a set that show without a model, reported by ``unequal pack``.

Identical pictures under two people, pictures in which no face is found, and pictures that are not
cut to faces.
"""
import itertools
import logging
import os
from array import array
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from unequal.data import pictures as images
from unequal.data.detection import Detector
from unequal.data.identities import write_table
from unequal.data.records import RecordSet
from unequal.errors import InputError
from unequal.system.files import bounded_lines, open_input
from unequal.system.parallel import ordered_map
from unequal.system.progress import track

logger = logging.getLogger(__name__)

TWINS, NO_FACE = "twins.csv", "no_face.csv"
_BATCH = 16  # pictures a worker takes at once
# Median distance of landmarks from their usual place, of the height: 0.02 where one tool cut the
# faces out (the detector's own noise), head shots 0.07, photographs 0.2 (docs/data.md).
_SCATTER = 0.045


class Twins:
    """Identical pictures (the same bytes as packed) under two people: one of them is wrong.

    All pictures of a set are compared. Memory: 20 bytes a picture (40 MB for 2 million), and as
    much again to sort them.
    """

    def __init__(self) -> None:
        self._digests, self._labels = bytearray(), array("i")

    def add(self, data: bytes, label: int) -> None:
        """Add the next picture of the set."""
        self._digests += images.digest(data)
        self._labels.append(label)

    def pairs(self) -> np.ndarray:
        """Pictures with the bytes of an earlier one of another label, int64 (n, 2).

        A row holds the picture's position in the set and that of the first picture with the same
        bytes; sorted by the first column.
        """
        digests = np.frombuffer(bytes(self._digests), "V16").view(">u8").reshape(-1, 2)
        labels = np.frombuffer(self._labels, np.int32)
        order = np.lexsort(digests.T)  # stable: of equal digests the earliest picture comes first
        same = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
        starts = np.flatnonzero(np.concatenate(([True], ~same)))[:len(order)]
        first = order[np.repeat(starts, np.diff(np.append(starts, len(order))))]
        found = labels[order] != labels[first]
        rows = np.column_stack((order, first))[found]
        return np.asarray(rows[np.argsort(rows[:, 0])])

    def write(self, directory: str) -> None:
        """Say how many there are and name them in ``twins.csv``; no table where there are none."""
        pairs = self.pairs()
        names = _names(directory, pairs.ravel())
        rows = [(names[first], names[place]) for place, first in pairs.tolist()]
        path = os.path.join(directory, TWINS)
        if rows:
            logger.warning("%d pictures are under two people (%s and %s first): one is wrong; all "
                           "in %s", len(rows), *rows[0], path)
        write_table(path, ("path", "also"), rows)


def _names(directory: str, places: Iterable[int]) -> Dict[int, str]:
    """Paths in ``train.lst`` of the images at these places of a set that was just written."""
    wanted = set(map(int, places))
    path = os.path.join(directory, "train.lst")
    if not wanted:
        return {}
    with open_input(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return {place: line.split("\t")[1] for place, line in enumerate(bounded_lines(file, path))
                if place in wanted}


def spread(groups: Sequence[Iterator[Any]], count: int) -> Iterator[Any]:
    """At most ``count`` items: the first of each group, then the second of each, and so on.

    With more than ``count`` groups, the first of evenly spaced groups.
    """
    if len(groups) > count:
        groups = [groups[place] for place in np.linspace(0, len(groups) - 1, count).astype(int)]
    rounds = itertools.zip_longest(*groups, fillvalue=None)
    return itertools.islice((item for items in rounds for item in items if item is not None),
                            count)


def look_uncut(paths: Iterable[str], size: Tuple[int, int]) -> bool:
    """Whether most pictures are not face cut-outs: they have another shape or are much larger.

    Only JPEGs and PNGs tell their size without being decoded; other files count as cut-outs.
    """
    count = odd = 0
    height, width = size
    for path in paths:
        try:
            data = images.read(path)
        except (OSError, InputError):
            continue
        high, wide = images.declared_size(data) or (0, 0)
        if not min(high, wide):
            continue
        count += 1
        odd += high > 4 * height or not 0.8 < (high * width) / (wide * height) < 1.25
    return 2 * odd > count


class Faces(NamedTuple):
    """A detector's result for some pictures of a set."""

    looked: int  # how many pictures were searched for a face
    missing: List[str]  # paths of those without a face
    scatter: float  # median distance of the landmarks from their usual places, in heights


_loaded: List[Detector] = []  # of this process


def landmarks(pictures: Sequence[bytes]) -> List[Optional[np.ndarray]]:
    """The five points (5, 2) of the largest face in each encoded picture, divided by its height.

    None without a face, or if the picture cannot be decoded.
    """
    if not _loaded:
        _loaded.append(Detector())
    found: List[Optional[np.ndarray]] = []
    with images.Complaints():
        for data in pictures:
            try:
                pixels = images.decode(data, "a picture")
            except InputError:
                found.append(None)
                continue
            faces = _loaded[0].faces(pixels)  # the largest first
            found.append(faces[0].landmarks / len(pixels) if faces else None)
    return found


def find_faces(directory: str, count: int, processes: int = 1) -> Faces:
    """Look for a face in ``count`` pictures, evenly spread over a record set.

    About 15 ms of processor time a picture of 112x112. Memory: some pictures, and 80 bytes for
    each of ``count``.

    Raises
    ------
    InputError
        When the extra ``[align]`` is not installed.
    """
    with RecordSet(directory) as records:
        keys = records.image_keys
        places = np.unique(np.linspace(0, len(keys) - 1, min(count, len(keys))).astype(np.int64))
        batches = ([records.image(keys[place])[1] for place in places[start:start + _BATCH]]
                   for start in range(0, len(places), _BATCH))
        found = list(track(itertools.chain.from_iterable(ordered_map(landmarks, batches,
                                                                     processes)),
                           "pictures", len(places)))
    points = np.array([value for value in found if value is not None]).reshape(-1, 5, 2)
    scatter = 0.0
    if len(points) >= 10:
        scatter = float(np.median(np.linalg.norm(points - np.median(points, axis=0), axis=2)))
    names = _names(directory, places)
    return Faces(len(places), [names.get(int(place), f"image {keys[place]}") for place, value in
                               zip(places, found) if value is None], scatter)


def say_faces(directory: str, count: int, processes: int = 1) -> Faces:
    """Log the result of :func:`find_faces`, and list pictures without a face in ``no_face.csv``.

    No table is written if all have one.
    """
    faces = find_faces(directory, count, processes)
    path = os.path.join(directory, NO_FACE)
    write_table(path, ("path",), [(name,) for name in faces.missing])
    if faces.missing:
        logger.warning("%d of %d pictures looked at show no face (%s first); all in %s",
                       len(faces.missing), faces.looked, faces.missing[0], path)
    else:
        logger.info("all %d pictures looked at show a face", faces.looked)
    if faces.scatter > _SCATTER:
        logger.warning("the faces do not look aligned: eyes, nose and mouth are not at one place "
                       "(half of them over %.0f%% of the height away from it); `unequal align` "
                       "cuts faces out of photographs so that they are", 100 * faces.scatter)
    return faces
