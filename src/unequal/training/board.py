"""TensorBoard: numbers while a run goes on; at its end suspected pictures and the embedding.

An observer (:mod:`unequal.training.observers`): it reads the saved checkpoint and the record set
and makes no collective call. At the end the other workers wait for worker 0, as they do while it
verifies.
"""
import logging
import os
import shutil
from contextlib import suppress
from typing import Any, List, NamedTuple

import cv2
import numpy as np

from unequal.data import copying, pictures
from unequal.data.records import RecordSet
from unequal.errors import ArgumentError, InputError, install_hint
from unequal.eval import noise_scores
from unequal.models import noise_scan
from unequal.models.embedder import Embedder
from unequal.training.observers import Observer, scalars
from unequal.training.setup import Run

logger = logging.getLogger(__name__)

IMAGES, OF_A_CLASS = 1000, 50  # looked at, in all and at most of one class
SUSPECTS, ABREAST = 24, 4  # cards on the picture, and how many stand side by side
THUMBNAIL = 48  # pixels of a picture of the projector: 1,000 of them fit into its 8192 x 8192


class Sample(NamedTuple):
    """Some whole classes of a set as a model sees them."""

    keys: np.ndarray  # int64 (n,)
    labels: np.ndarray  # int64 (n,)
    features: np.ndarray  # float32 (n, D), rows of length 1
    pixels: List[np.ndarray]  # uint8 (H, W, 3), RGB
    found: noise_scores.Findings  # its classes are places in ``classes``
    classes: np.ndarray  # int64 (k,): labels, ascending


def chosen_keys(records: RecordSet) -> np.ndarray:
    """Keys of at most :data:`IMAGES` images of classes evenly spread over a set, int64.

    Classes are whole (at most :data:`OF_A_CLASS` images each), because an image is compared with
    the other images of its class. Memory: 16 bytes an image of the set.
    """
    keys, ends = copying.keys_by_identity(records)
    sizes = np.minimum(np.diff(ends, prepend=0), OF_A_CLASS)
    count = min(len(ends), max(2, int(IMAGES / max(1.0, sizes.mean()))))
    some = np.unique(np.linspace(0, len(ends) - 1, count).astype(int))
    begins = np.append(0, ends[:-1])
    parts = [keys[begins[place]:][:sizes[place]] for place in some]
    return np.sort(np.concatenate(parts)[:IMAGES])


def sample(run: Run, checkpoint: str) -> Sample:
    """Embed a few classes of the run's set and look for wrong labels among them.

    Memory: the checkpoint, and :data:`IMAGES` decoded pictures (38 MB at 112x112).

    Raises
    ------
    InputError
        When the set has one class only, or the checkpoint cannot be read.
    """
    keys = chosen_keys(run.records)
    embedder = Embedder.from_checkpoint(checkpoint, run.records.image_size, run.devices,
                                        64 * len(run.devices), argument="prefix")
    plain, _ = embedder.embed(run.records, keys, label="TensorBoard's pictures")
    features = plain / (np.linalg.norm(plain, axis=1, keepdims=True) + 1e-12)
    labels, digests = noise_scan.labels_and_digests(run.records, keys)
    pixels = [pictures.decode(run.records.image(int(key))[1], f"{run.records.path}: record {key}",
                              *run.records.image_size) for key in keys]
    classes, places = np.unique(labels, return_inverse=True)
    found = noise_scores.find(features, places, classes=len(classes), digests=digests)
    return Sample(keys, labels, features, pixels, found, classes)


def suspect_rows(some: Sample) -> np.ndarray:
    """Rows of the suspected pictures, the surest first; at most :data:`SUSPECTS`."""
    rows = np.flatnonzero(some.found.kinds != "")
    return rows[np.argsort(-some.found.confidence[rows], kind="stable")][:SUSPECTS]


def cards(some: Sample, rows: np.ndarray) -> np.ndarray:
    """Suspects, each beside typical pictures of its label and of the suggested one.

    Returns
    -------
    numpy.ndarray
        uint8 (H, W, 3): :data:`ABREAST` cards of three pictures a line; grey where there is none.
    """
    height, width = some.pixels[0].shape[:2]
    gap = max(2, width // 16)
    lines = -(-len(rows) // ABREAST)
    sheet = np.full((lines * (height + gap), ABREAST * (3 * width + gap), 3), 127, np.uint8)
    typical = {}
    for place, label in enumerate(some.classes):
        own = np.flatnonzero((some.labels == label) & (some.found.kinds == ""))
        if len(own):
            typical[place] = own[some.found.own[own].argmax()]
    for card, row in enumerate(rows):
        label = int(np.searchsorted(some.classes, some.labels[row]))
        y, x = card // ABREAST * (height + gap), card % ABREAST * (3 * width + gap)
        for column, shown in enumerate((row, typical.get(label),
                                        typical.get(int(some.found.suggested[row])))):
            if shown is not None:
                sheet[y:y + height, x + column * width:][:, :width] = some.pixels[shown]
    return sheet


def table(some: Sample, rows: np.ndarray) -> str:
    """The captions of :func:`cards`, row by row from the left, as a Markdown table."""
    lines = ["Each card: the suspect, a typical picture of its label, one of the suggested label.",
             "", "| card | image | label | kind | suggested label | confidence |",
             "|---|---|---|---|---|---|"]
    for card, row in enumerate(rows, 1):
        place = int(some.found.suggested[row])
        suggested = some.classes[place] if place >= 0 else ""
        lines.append(f"| {card} | {some.keys[row]} | {some.labels[row]} | "
                     f"{some.found.kinds[row]} | {suggested} | {some.found.confidence[row]:.2f} |")
    return "\n".join(lines)


def thumbnails(some: Sample) -> np.ndarray:
    """The pictures small and square, float32 (n, 3, :data:`THUMBNAIL`, :data:`THUMBNAIL`), 0 to 1.
    """
    small = np.stack([cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
                      for image in some.pixels])
    return small.transpose(0, 3, 1, 2).astype(np.float32) / 255


class TensorBoard(Observer):
    """Losses, learning rate, speed and accuracies, written by tensorboardX; at the end of training
    the suspected pictures (tab Images, the list in tab Text) and the embedding of up to
    :data:`IMAGES` pictures (tab Projector), by the best checkpoint.

    Parameters
    ----------
    directory : str
    run : unequal.training.setup.Run
        A run made by hand, whose ``records`` are no :class:`RecordSet`, gets the numbers only.

    Raises
    ------
    ArgumentError
        When tensorboardX is missing.
    """

    def __init__(self, directory: str, run: Run) -> None:
        try:
            import tensorboardX
        except ImportError:
            raise ArgumentError("tensorboard needs tensorboardX; "
                                f"{install_hint('tensorboard')}.", "tensorboard") from None
        self._library, self._directory, self._run = tensorboardX, directory, run
        self._writer: Any = None

    def notify(self, event: str, **fields: Any) -> None:
        """Write the numbers of ``train`` and ``verify``; at the ``end`` the pictures."""
        if event in ("start", "resume"):  # remove what a killed run wrote after its last state
            self._writer = self._library.SummaryWriter(
                self._directory, purge_step=fields["step"] + 1 if event == "resume" else None)
        for name, value in scalars(event, fields):
            self._writer.add_scalar(name, value, fields["step"])
        if event == "end" and isinstance(self._run.records, RecordSet):
            self._show(fields["step"], fields["best_epoch"] or 0)
        if event in ("verify", "stop", "end"):
            self._writer.flush()

    def _show(self, step: int, epoch: int) -> None:
        try:
            some = sample(self._run, f"{self._run.config.prefix},{epoch}")
        except InputError as error:  # training itself has succeeded, so this is only a warning
            logger.warning("no pictures for TensorBoard: %s", error)
            return
        rows = suspect_rows(some)
        if len(rows):
            self._writer.add_image("suspects", cards(some, rows), step, dataformats="HWC")
            self._writer.add_text("suspects", table(some, rows), step)
        earlier = os.path.join(self._directory, f"{step:05d}", "embedding")
        if os.path.isdir(earlier):  # an earlier run's: tensorboardX would append to its list
            shutil.rmtree(earlier)
            with suppress(FileNotFoundError):
                os.remove(os.path.join(self._directory, "projector_config.pbtxt"))
        said = zip(some.labels.tolist(), some.keys.tolist(),
                   (kind or "-" for kind in some.found.kinds.tolist()))
        self._writer.add_embedding(some.features, list(said), thumbnails(some), step, "embedding",
                                   ["label", "image", "suspected"])

    def close(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
