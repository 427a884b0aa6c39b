"""A drawn data set in MF2's format, with known label noise.

The faces are drawn (see :mod:`unequal.synthetic.faces`): they serve to try and to test the method,
and say nothing about people. What is written into the directory:

``MF2_pic9_head``, ``MF2_pic9_tail``
    Record sets with identity records: head identities have more than 9 pictures, tail identities
    3 to 9. Nobody is in both.
``truth.csv``
    What each head picture really shows: ``key,label,true_identity,kind``, one row a picture, key
    and label as in ``MF2_pic9_head/train.rec``. ``true_identity`` is the number of the person
    shown, which is the smallest label that belongs to the person. By ``kind``:

    - ``clean``: the person of this label; ``true_identity`` equals ``label``.
    - ``split``: the label is a person's second one; ``true_identity`` is the first, so ``label``
      and ``true_identity`` together are the two labels of one person.
    - ``flip``: another person of the head set, ``true_identity``, under this label.
    - ``outlier``: a stranger seen once, or no face at all; ``true_identity`` is -1.
``eval_dataset/{lfw,cfp_fp,agedb_30}.bin``
    Verification sets of unseen people: both pictures nearly frontal; one frontal and one turned
    by 45 to 70 degrees; one young and one old. Ten folds with their own people each, in every
    fold as many pairs of one person as of two.
``validation_dataset/{lfw,cfp_fp,agedb_30}.bin``
    The same of yet other people. Choose settings on these, and never on the pairs you report.
``identification/probes``, ``identification/distractors``
    Only with ``--distractors N``: record sets of 50 unseen people with 5 pictures each, and of N
    more people with one picture each, for ``unequal identify``.

One seed gives the same bytes (with the same versions of numpy and OpenCV), however many processes
draw.
"""
import contextlib
import functools
import itertools
import os
import pickle
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Tuple, Type, Union

import cv2
import numpy as np

from unequal.data import noise_lists
from unequal.data.records import RecordWriter
from unequal.errors import ArgumentError
from unequal.synthetic import faces
from unequal.synthetic.faces import draw_face
from unequal.system.files import temporary_folder
from unequal.system.parallel import ordered_map
from unequal.system.progress import track

__all__ = ["KINDS", "draw_face", "make_dataset"]

KINDS = ("clean", "flip", "split", "outlier")
_CLEAN, _FLIP, _SPLIT, _OUTLIER = range(len(KINDS))
HEAD_MIN, TAIL_MIN, TAIL_MAX = 10, 3, 9  # "pic9": head identities have more than 9 pictures
FOLDS = 10
# Verification set -> situations of the first and the second picture of a pair.
TARGETS = {
    "lfw": ("frontal", "frontal"),
    "cfp_fp": ("front", "profile"),
    "agedb_30": ("young", "old"),
}
_NO_FACE = -1
_CHUNK = 64  # pictures drawn in one go by a process
# Where random numbers come from: (seed, stream, number) names each generator, so that no picture
# depends on how many were drawn before it.
_PEOPLE, _PLAN, _HEAD, _TAIL = range(4)
_EVAL, _VALIDATION = 10, 20  # one stream more for each target
_PROBES, _DISTRACTORS = 30, 31
PROBE_PEOPLE, PROBE_IMAGES = 50, 5
_SEARCHED_FROM = 1 << 40  # number of the first person to identify: beyond all strangers


class Pictures(NamedTuple):
    """Pictures of one set, in order."""

    people: np.ndarray  # int64 (n,): who is shown, or _NO_FACE
    situations: np.ndarray  # int8 (n,): in which situation, index into faces.SITUATIONS


class Head(NamedTuple):
    """Head pictures, by label; see :func:`plan_head`."""

    pictures: Pictures
    labels: np.ndarray  # int64 (n,)
    true_identities: np.ndarray  # int64 (n,): -1 for a stranger or no face
    kinds: np.ndarray  # int8 (n,): index into KINDS


class Tail(NamedTuple):
    """Pictures without noise, by label."""

    pictures: Pictures
    labels: np.ndarray  # int64 (n,)


class Pairs(NamedTuple):
    """A verification set."""

    pictures: Pictures  # two a pair
    same: np.ndarray  # bool (pairs,)


Planned = Union[Head, Tail, Pairs]
Chunk = Tuple[int, int, np.ndarray, np.ndarray]  # stream, number of the first, people, situations


def _rng(*name: int) -> np.random.Generator:
    return np.random.default_rng(name)


def _long_tail(count: int, mean: float) -> np.ndarray:
    """``count`` whole numbers >= HEAD_MIN with the given mean, falling off exponentially."""
    quantiles = -np.log1p(-(np.arange(count) + 0.5) / count)
    exact = HEAD_MIN + quantiles * (mean - HEAD_MIN) / quantiles.mean()
    # Rounding the running sum keeps the total.
    return np.diff(np.rint(np.cumsum(exact)), prepend=0).astype(np.int64)


def plan_head(rng: np.random.Generator, identities: int, mean_images: float, noise: float,
              outliers: float, split: float, strangers_from: int) -> Head:
    """Decide what each head picture shows.

    Parameters
    ----------
    rng : numpy.random.Generator
    identities : int
        Number of labels.
    mean_images : float
        Mean number of pictures a label, at least HEAD_MIN.
    noise, outliers : float
        Shares of all pictures that are flips and outliers.
    split : float
        Share of the people that have two labels.
    strangers_from : int
        People with this number and above are free to be strangers.

    Returns
    -------
    Head
        Arrays over the pictures, ordered by label.
    """
    owner = np.arange(identities)
    # At least two people remain, so that a flip can show another one.
    splits = min(int(split * identities / (1 + split) + 0.5), identities // 2, identities - 2)
    first, second = np.sort(rng.permutation(identities)[:2 * splits].reshape(-1, 2), axis=1).T
    owner[second] = first
    people = np.unique(owner)

    labels = np.repeat(np.arange(identities), rng.permutation(_long_tail(identities, mean_images)))
    shown = owner[labels]
    kinds = np.where(shown == labels, _CLEAN, _SPLIT).astype(np.int8)
    order = rng.permutation(len(labels))
    flips = np.sort(order[:int(noise * len(labels) + 0.5)])
    strange = np.sort(order[len(flips):][:int(outliers * len(labels) + 0.5)])
    # A person other than the label's own: any number of steps on, short of a full turn.
    own = np.searchsorted(people, shown[flips])
    shown[flips] = people[(own + rng.integers(1, len(people), len(flips))) % len(people)]
    kinds[flips] = _FLIP
    true_identities = shown.copy()
    kinds[strange] = _OUTLIER
    true_identities[strange] = -1
    shown[strange] = strangers_from + np.arange(len(strange))
    shown[strange[rng.random(len(strange)) < 0.5]] = _NO_FACE
    situations = np.full(len(labels), faces.SITUATIONS.index("any"), np.int8)
    return Head(Pictures(shown, situations), labels, true_identities, kinds)


def plan_tail(rng: np.random.Generator, identities: int, first_person: int) -> Tail:
    """Tail pictures, ordered by label: 3 to 9 an identity, fewer being more frequent."""
    counts = np.arange(TAIL_MIN, TAIL_MAX + 1)
    share = 1 / counts
    labels = np.repeat(np.arange(identities),
                       rng.choice(counts, identities, p=share / share.sum()))
    situations = np.full(len(labels), faces.SITUATIONS.index("any"), np.int8)
    return Tail(Pictures(first_person + labels, situations), labels)


def plan_identification(distractors: int) -> Dict[str, Planned]:
    """Probes, PROBE_IMAGES a person, and distractors, one a person; each person is a label."""
    sets: Dict[str, Planned] = {}
    first = _SEARCHED_FROM
    for name, people, images in (("probes", PROBE_PEOPLE, PROBE_IMAGES),
                                 ("distractors", distractors, 1)):
        labels = np.repeat(np.arange(people), images)
        situations = np.full(len(labels), faces.SITUATIONS.index("any"), np.int8)
        sets["identification/" + name] = Tail(Pictures(first + labels, situations), labels)
        first += people
    return sets


def plan_pairs(rng: np.random.Generator, target: str, pairs: int, people: np.ndarray) -> Pairs:
    """Pairs of a verification set: FOLDS folds of their own people, half of each fold's pairs of
    one person (these come first, as in LFW)."""
    half = pairs // FOLDS // 2
    shown: List[np.ndarray] = []
    for fold in np.array_split(rng.permutation(people), FOLDS):
        same = np.resize(fold, half)
        left = rng.integers(len(fold), size=half)
        right = (left + rng.integers(1, len(fold), half)) % len(fold)
        shown += [np.stack((same, same), axis=1), np.stack((fold[left], fold[right]), axis=1)]
    situations = [faces.SITUATIONS.index(name) for name in TARGETS[target]]
    return Pairs(
        Pictures(np.concatenate(shown).ravel(), np.tile(np.array(situations, np.int8), pairs)),
        np.tile(np.repeat((True, False), half), FOLDS))


def _draw_chunk(seed: int, size: int, chunk: Chunk) -> List[bytes]:
    """Encoded pictures of a ``_chunks`` item."""
    stream, start, people, situations = chunk
    encoded = []
    for number, (person, situation) in enumerate(zip(people, situations), start):
        rng = _rng(seed, stream, number)
        if person == _NO_FACE:
            picture = faces.draw_clutter(rng, size)
        else:
            identity = faces.sample_identity(_rng(seed, _PEOPLE, int(person)))
            view = faces.sample_view(rng, faces.SITUATIONS[situation])
            picture = draw_face(identity, view, size)
        _, jpeg = cv2.imencode(".jpg", picture[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))
        encoded.append(jpeg.tobytes())
    return encoded


def _chunks(sets: Dict[str, Planned]) -> Iterator[Chunk]:
    """All pictures of all sets in pieces."""
    for name, planned in sets.items():
        people, situations = planned.pictures
        for start in range(0, len(people), _CHUNK):
            stop = start + _CHUNK
            yield _STREAMS[name], start, people[start:stop], situations[start:stop]


def _check(condition: bool, message: str, *arguments: str) -> None:
    """Raise ArgumentError unless ``condition``; the message names the arguments."""
    if not condition:
        raise ArgumentError(message, *arguments)


def make_dataset(directory: str, *, seed: int = 0, image_size: int = 32,
                 head_identities: int = 120, head_images: float = 24, tail_identities: int = 300,
                 eval_identities: int = 300, eval_pairs: int = 600, noise: float = 0.30,
                 outliers: float = 0.10, split: float = 0.05, distractors: int = 0,
                 processes: int = 1) -> None:
    """Draw the built-in data set into ``directory`` (see the module's text for what it holds).

    Parameters
    ----------
    directory : str
        Must not exist, or be empty. Appears when everything is drawn.
    seed : int
        At least 0.
    image_size : int
        Height and width in pixels, 16 to 512.
    head_identities : int
        Number of head labels, at least 2.
    head_images : float
        Mean number of pictures a head label, at least 10; the numbers are long-tailed.
    tail_identities : int
        Number of tail labels, with 3 to 9 pictures each.
    eval_identities : int
        People in the verification sets (and as many others in the validation sets), at least 20.
    eval_pairs : int
        Pairs in each verification set, a multiple of 20.
    noise : float
        Share of the head pictures that show another head identity, 0 to 1.
    outliers : float
        Share of the head pictures that show a stranger or no face, 0 to 1.
    split : float
        Share of the head's people whose pictures lie under two labels, 0 to 1.
    distractors : int
        Strangers in the identification set; 0: no such set. The rest does not depend on it.
    processes : int
        How many draw; see :func:`unequal.system.parallel.ordered_map` for what more than one asks
        of a script.

    Raises
    ------
    InputError
        When an argument is out of range or ``directory`` is not empty.

    Notes
    -----
    Drawing takes about 2 ms a picture of 32x32 on one core. Memory grows by about 80 bytes a
    head or tail picture, plus the pictures of one verification set.
    """
    _check(seed >= 0, f"seed {seed}: must be 0 or more.", "seed")
    _check(16 <= image_size <= 512, f"image_size {image_size}: must be from 16 to 512 pixels.",
           "image_size")
    _check(head_identities >= 2, f"head_identities {head_identities}: must be 2 or more.",
           "head_identities")
    _check(HEAD_MIN <= head_images <= 1e6,
           f"head_images {head_images}: must be from 10 (head identities have more than 9 "
           "pictures) to 1e6.", "head_images")
    _check(tail_identities >= 1, f"tail_identities {tail_identities}: must be 1 or more.",
           "tail_identities")
    _check(eval_identities >= 2 * FOLDS, f"eval_identities {eval_identities}: must be 20 or more, "
           "two for each of ten folds.", "eval_identities")
    _check(eval_pairs >= 2 * FOLDS and eval_pairs % (2 * FOLDS) == 0,
           f"eval_pairs {eval_pairs}: must be a multiple of 20, ten folds with as many pairs of "
           "one person as of two.", "eval_pairs")
    for name, rate in (("noise", noise), ("outliers", outliers), ("split", split)):
        _check(0 <= rate <= 1, f"{name} {rate}: must be a share from 0 to 1.", name)
    _check(noise + outliers <= 1, f"noise {noise} and outliers {outliers}: together more than 1; "
           "lower one.", "noise", "outliers")
    _check(distractors >= 0, f"distractors {distractors}: must be 0 or more.", "distractors")
    directory = os.path.abspath(directory)
    if os.path.exists(directory):
        _check(os.path.isdir(directory), f"{directory}: is a file; name a new directory.")
        _check(not os.listdir(directory),
               f"{directory}: is not empty; name a new directory, or remove this one.")

    sets = _plan(seed, head_identities, head_images, tail_identities, eval_identities, eval_pairs,
                 noise, outliers, split)
    if distractors:
        sets.update(plan_identification(distractors))
    total = sum(len(planned.pictures.people) for planned in sets.values())
    batches = ordered_map(functools.partial(_draw_chunk, seed, image_size), _chunks(sets),
                          processes)
    with temporary_folder(directory) as building:
        with contextlib.closing(batches), contextlib.closing(
                track(itertools.chain.from_iterable(batches), "pictures", total)) as drawn:
            for name, planned in sets.items():
                count = len(planned.pictures.people)
                _WRITERS[type(planned)](building, name, planned,
                                        itertools.islice(drawn, count), image_size)
        os.replace(building, directory)


_STREAMS = {"MF2_pic9_head": _HEAD, "MF2_pic9_tail": _TAIL,
            "identification/probes": _PROBES, "identification/distractors": _DISTRACTORS}
for _number, _target in enumerate(TARGETS):
    _STREAMS["eval_dataset/" + _target] = _EVAL + _number
    _STREAMS["validation_dataset/" + _target] = _VALIDATION + _number


def _plan(seed: int, head_identities: int, head_images: float, tail_identities: int,
          eval_identities: int, eval_pairs: int, noise: float, outliers: float, split: float
          ) -> Dict[str, Planned]:
    """Every set by name. People are numbered through: head, tail, evaluation, validation,
    strangers."""
    tail_from = head_identities
    eval_from = tail_from + tail_identities
    validation_from = eval_from + eval_identities
    strangers_from = validation_from + eval_identities

    def rng(name: str) -> np.random.Generator:
        return _rng(seed, _PLAN, _STREAMS[name])

    sets: Dict[str, Planned] = {
        "MF2_pic9_head": plan_head(rng("MF2_pic9_head"), head_identities, head_images, noise,
                                   outliers, split, strangers_from),
        "MF2_pic9_tail": plan_tail(rng("MF2_pic9_tail"), tail_identities, tail_from),
    }
    for folder, first in (("eval_dataset/", eval_from), ("validation_dataset/", validation_from)):
        for target in TARGETS:
            sets[folder + target] = plan_pairs(rng(folder + target), target, eval_pairs,
                                               np.arange(first, first + eval_identities))
    return sets


def _write_records(building: str, name: str, labels: np.ndarray, drawn: Iterable[bytes],
                   size: int) -> List[int]:
    with RecordWriter(os.path.join(building, name), (size, size)) as writer:
        return [writer.add(int(label), jpeg) for label, jpeg in zip(labels, drawn)]


def _write_head(building: str, name: str, head: Head, drawn: Iterable[bytes], size: int) -> None:
    keys = _write_records(building, name, head.labels, drawn, size)
    noise_lists.write_truth(os.path.join(building, "truth.csv"), keys, head.labels,
                            head.true_identities, (KINDS[kind] for kind in head.kinds))


def _write_tail(building: str, name: str, tail: Tail, drawn: Iterable[bytes], size: int) -> None:
    _write_records(building, name, tail.labels, drawn, size)


def _write_pairs(building: str, name: str, pairs: Pairs, drawn: Iterable[bytes], _: int) -> None:
    path = os.path.join(building, name + ".bin")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        # Protocol 2: the last one that Python 2, and so the original code, can read.
        pickle.dump((list(drawn), pairs.same.tolist()), file, protocol=2)


_WRITERS: Dict[Type[Any], Callable[..., None]] = {
    Head: _write_head, Tail: _write_tail, Pairs: _write_pairs}
