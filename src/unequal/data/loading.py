"""Pictures of a record set decoded and augmented into batches, by threads."""
import logging
import math
import sys
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import List, Optional, Protocol, Set, Tuple

import mxnet as mx
import numpy as np

from unequal.data import augmentation as aug
from unequal.data import pictures
from unequal.data.planes import Planes
from unequal.data.records import DamagedRecord
from unequal.errors import InputError
from unequal.system import runtime
from unequal.system.mxnet_private import numpy_view, wait_to_write

logger = logging.getLogger(__name__)

_CHUNK = 16  # least pictures of a decoding task, to be worth the cost of a task
_PIXELS = 1 << 22  # bytes of pixels that a thread decodes before it writes them to the batch


class PictureSource(Protocol):
    """A source of pictures: a RecordSet, or any other object with these attributes."""

    path: str  # its name in errors
    image_keys: np.ndarray  # int64 (images,)

    def image(self, key: int) -> Tuple[int, pictures.Encoded]:
        """``(label, picture)``; the picture encoded, or RGB pixels."""
        ...


class BatchBuffers:
    """Float32 NDArrays of one shape, recycled when they are no longer in use.

    The page faults of a new array of a batch's size take a third of the time of decoding. So an
    array is used again once no one else references the NDArray object and the engine has finished
    reading it. A caller who keeps only a *slice* of a batch must copy it.
    """

    def __init__(self, shape: Tuple[int, ...]) -> None:
        self._shape = shape
        self._pool: List[Tuple[mx.nd.NDArray, np.ndarray]] = []  # and its numpy view

    def take(self) -> Tuple[mx.nd.NDArray, np.ndarray]:
        """A free ``(NDArray, numpy view)``; grows by one array when all are in use."""
        for pair in self._pool:
            # 3 references: the tuple's, the view's and that of getrefcount's argument.
            if sys.getrefcount(pair[0]) == 3:
                wait_to_write(pair[0])
                return pair
        array = mx.nd.empty(self._shape)
        self._pool.append((array, numpy_view(array)))
        return self._pool[-1]


class PictureLoader:
    """Decode and augment pictures of a record set into batches, in threads.

    Damaged pictures and records are replaced by the next ones of the sequence and counted; more
    than ``max_damaged`` different ones are an error.

    Parameters
    ----------
    records : unequal.data.records.RecordSet
    augmentation : unequal.data.augmentation.Augmentation
    threads : int, optional
        Default: the processors this process may use.
    max_damaged : int
        Different damaged pictures that are tolerated.

    A loader may be dropped at any time: arrays that its threads write to live until these are done.
    Memory: 4 MB of pixels a thread, or one picture.
    """

    def __init__(self, records: PictureSource, augmentation: aug.Augmentation = aug.NONE,
                 threads: Optional[int] = None, max_damaged: int = 100) -> None:
        self.records = records
        self.augmentation = augmentation
        self.threads = threads or runtime.available_cpus()
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        self._max_damaged = max_damaged
        self._lock = threading.Lock()
        self._damaged: Set[int] = set()
        self._scratch = threading.local()
        self._closed = False

    def abandon(self) -> None:
        """Tell the threads to stop after their current picture; does not wait for them.

        May be called in a finaliser, which Python may run in any thread and at any moment.
        Futures that are not done then raise ``concurrent.futures.CancelledError``.
        """
        self._closed = True

    def close(self) -> None:
        """Stop the threads, and wait for the pictures that they are decoding.

        Afterwards nothing is read from the record set or written to a batch. May be called again,
        but not in a finaliser.
        """
        self.abandon()
        self._pool.shutdown()

    def submit(self, out: np.ndarray, sequence: np.ndarray, start: int,
               draws: Optional[aug.Draws] = None,
               tasks: Optional[int] = None) -> "List[Future[np.ndarray]]":
        """Begin to load ``sequence[start:start + len(out)]`` into ``out``.

        Parameters
        ----------
        out : numpy.ndarray
            float32 (n, 3, H, W), filled with RGB 0-255.
        sequence : numpy.ndarray
            Record keys.
        start : int
            Position in ``sequence``.
        draws : unequal.data.augmentation.Draws, optional
            Of ``n`` pictures, for the augmentation; default: the pictures as they are.
        tasks : int, optional
            Into how many to divide them at most; default: as many as there are threads.

        Returns
        -------
        list of concurrent.futures.Future
            Each gives the labels (float32) of the next few pictures; together all ``n``. They hold
            ``out`` until they are done.

        Raises
        ------
        RuntimeError
            When the loader was closed.
        """
        if self._closed:
            raise RuntimeError("the pictures were closed: make a new iterator or loader")
        count = len(out)
        if draws is None:
            draws = aug.draw(aug.NONE, np.random.RandomState(0), count, *out.shape[2:])
        chunk = max(_CHUNK, math.ceil(count / (tasks or self.threads)))
        batch = Planes(out, draws)
        return [self._pool.submit(self._load, batch, sequence, start, first,
                                  min(first + chunk, count))
                for first in range(0, count, chunk)]

    def _thread_pixels(self, height: int, width: int) -> np.ndarray:
        """Memory of this thread for some pictures, uint8 (n, height, width, 3)."""
        if not hasattr(self._scratch, "pixels"):
            count = max(1, _PIXELS // (3 * height * width))
            self._scratch.pixels = np.empty((count, height, width, 3), np.uint8)
        pixels: np.ndarray = self._scratch.pixels
        return pixels

    def _load(self, batch: Planes, sequence: np.ndarray, start: int, first: int,
              last: int) -> np.ndarray:
        pixels = self._thread_pixels(*batch.out.shape[2:])
        labels: List[int] = []
        for begin in range(first, last, len(pixels)):
            end = min(begin + len(pixels), last)
            # As Python's integers: fetching single elements of an array takes longer than this.
            keys = sequence[start + begin:start + end].tolist()
            if len(keys) < end - begin:
                keys = sequence.take(range(start + begin, start + end), mode="wrap").tolist()
            for place, (key, into) in enumerate(zip(keys, pixels), start + begin):
                if self._closed:
                    raise CancelledError
                try:
                    label, data = self.records.image(key)
                    pictures.decode_into(into, data, key)
                except InputError:
                    label = self._picture(into, sequence, place)
                labels.append(label)
            batch.write(pixels, begin, end)
        if self.augmentation.cutoff:
            for i in range(first, last):
                aug.apply_cutoff(batch.out[i], batch.draws, i, self.augmentation.cutoff)
        return np.array(labels, np.float32)

    def _picture(self, into: np.ndarray, sequence: np.ndarray, position: int) -> int:
        for step in range(len(sequence)):
            key = int(sequence[(position + step) % len(sequence)])
            try:
                label, data = self.records.image(key)
            except DamagedRecord as error:  # a wrong class ends the run
                self._note_damaged(key, error)
                continue
            try:
                pictures.decode_into(into, data, f"{self.records.path}: record {key}")
                return int(label)
            except InputError as error:
                self._note_damaged(key, error)
        raise InputError(f"{self.records.path}: no picture of the set can be decoded.")

    def _note_damaged(self, key: int, error: InputError) -> None:
        with self._lock:
            new = key not in self._damaged
            self._damaged.add(key)
            count = len(self._damaged)
        if not self._max_damaged:
            raise error
        if count > self._max_damaged:
            raise InputError(
                f"{self.records.path}: more than {self._max_damaged} pictures are damaged, the "
                f"last one being record {key}; check the set with `unequal inspect`.") from error
        if new:
            logger.warning("skipped (%d so far): %s", count, error)
