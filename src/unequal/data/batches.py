"""Batches of training pictures from a record set."""
import math
import weakref
import zlib
from collections import deque
from concurrent.futures import Future, wait
from typing import Deque, Dict, Iterator, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from unequal.data import augmentation as aug
from unequal.data.loading import BatchBuffers, PictureLoader
from unequal.data.records import RecordSet
from unequal.errors import ArgumentError, InputError

DATA_NAME, LABEL_NAME = "data", "softmax_label"

# A part of a batch of all workers: the loader, how many pictures, the sequence of keys and where in
# it they begin, and which of them are this worker's.
_Part = Tuple[PictureLoader, int, np.ndarray, int, range]
# A batch being decoded: its array, the futures of its labels, and its keys.
_Pending = Tuple[mx.nd.NDArray, List["Future[np.ndarray]"], List[np.ndarray]]


class _Order:
    """The order in which a job takes images; it depends on the seed and the epoch only.

    Memory: 16 bytes an image (keys and one epoch's order).
    """

    def __init__(self, records: RecordSet, keys: Optional[np.ndarray], shuffle: bool, seed: int,
                 shuffled_from: int = 0) -> None:
        self.keys = records.image_keys if keys is None else np.asarray(keys, np.int64)
        self._path, self._shuffle, self._seed = records.path, shuffle, seed
        self._shuffled_from = shuffled_from
        self._epoch: Optional[int] = None
        self._order = self.keys

    def batches(self, batch_size: int) -> int:
        """Complete batches, of all workers together, in an epoch."""
        count = len(self.keys) // batch_size
        if not count:
            raise InputError(f"{self._path}: {len(self.keys)} images do not fill one batch of "
                             f"{batch_size}; lower the batch size.")
        return count

    def epoch(self, number: int) -> np.ndarray:
        """Keys in the order of an epoch."""
        if number != self._epoch:
            self._order = self.keys
            if self._shuffle and number >= self._shuffled_from:
                random = np.random.RandomState([self._seed, number])
                self._order = random.permutation(self._order)
            self._epoch = number
        return self._order


class _PictureIter(mx.io.DataIter):
    """Batches decoded ahead. A subclass says which images a batch has (:meth:`_parts`).

    A batch depends only on the seed, the epoch and its number, so that training can begin at any
    batch of an epoch (:meth:`seek`). Several workers share the batches that one worker with all
    devices would have, augmentation included. Memory: ``prefetch + 2`` batches.

    The iterator may be dropped, and an epoch left, at any time. Call :meth:`close` before the
    record set is closed: it waits until nothing is decoded any more.
    """

    def __init__(self, loaders: Sequence[PictureLoader], batch_size: int,
                 image_size: Sequence[int], batches: int, seed: int, parts: Tuple[int, int],
                 prefetch: int) -> None:
        if not 0 <= parts[1] < parts[0]:
            raise ValueError("part_index must be in [0, num_parts)")
        super().__init__(batch_size)
        self._loaders = loaders
        for loader in loaders:
            weakref.finalize(self, loader.abandon)  # when dropped, stop decoding ahead
        self.batches = batches  # of an epoch
        self._seed, self._workers = seed, parts
        self._random = np.random.RandomState()  # seeded again for each batch; faster than a new one
        self._prefetch = prefetch
        self._data_shape = (batch_size, 3) + tuple(image_size)
        self._buffers = BatchBuffers(self._data_shape)
        self._label_buffers = BatchBuffers((batch_size,))
        self._pending: Deque[_Pending] = deque()
        self.epoch = -1
        self.reset()

    def _parts(self, epoch: int, batch: int) -> Iterator[_Part]:
        """Yield the parts of a batch of all workers: ``(loader, count, sequence, start, own)``.

        A part is ``count`` keys of ``sequence`` from ``start`` on; the range ``own`` of them is
        this worker's.
        """
        raise NotImplementedError

    @property
    def provide_data(self) -> List[mx.io.DataDesc]:
        """``[DataDesc]`` of the pictures: (batch_size, 3, height, width)."""
        return [mx.io.DataDesc(DATA_NAME, self._data_shape, layout="NCHW")]

    @property
    def provide_label(self) -> List[mx.io.DataDesc]:
        """``[DataDesc]`` of the classes: (batch_size,)."""
        return [mx.io.DataDesc(LABEL_NAME, (self.batch_size,), layout="N")]

    def fingerprint(self) -> str:
        """A short text that identifies the images; a resumed run must have the same."""
        raise NotImplementedError

    def state(self) -> Dict[str, np.ndarray]:
        """Arrays that a resume needs in addition to :meth:`seek`: ``{name: numpy.ndarray}``."""
        return {}

    def restore(self, arrays: Dict[str, np.ndarray]) -> None:
        """The reverse of :meth:`state`; ValueError when they are not of this data."""
        if arrays:
            raise ValueError(f"{', '.join(sorted(arrays))} is not of this data")

    def reset(self) -> None:
        """Begin the next epoch."""
        self.seek(self.epoch + 1, 0)

    def seek(self, epoch: int, batch: int) -> None:
        """Go to a batch of an epoch (both from 0); what :meth:`next` returns is that batch."""
        self._drain()
        self.epoch, self._next, self._returned = epoch, batch, batch

    @property
    def position(self) -> Tuple[int, int]:
        """``(epoch, batch)`` that :meth:`next` returns next, for :meth:`seek`."""
        return self.epoch, self._returned

    def _drain(self) -> None:
        """Discard the batches decoded ahead; afterwards no thread writes to their arrays."""
        running = [future for _, futures, _ in self._pending for future in futures
                   if not future.cancel()]
        wait(running)  # errors of discarded batches are ignored
        self._pending.clear()

    def _submit(self) -> None:
        array, view = self._buffers.take()
        self._random.seed([self._seed, self.epoch, self._next, 0])
        futures: List["Future[np.ndarray]"] = []
        keys: List[np.ndarray] = []
        # Before anything can fail: an array with unfinished futures must stay in use.
        self._pending.append((array, futures, keys))
        row = 0
        for loader, count, sequence, start, own in self._parts(self.epoch, self._next):
            draws = aug.draw(loader.augmentation, self._random, count, *self._data_shape[2:])
            if not own:
                continue
            if len(own) < count:
                draws = aug.Draws(*(values[own.start:own.stop] for values in draws))
            start += own.start
            # Few tasks, since each wakes two threads; other batches keep the rest of them busy.
            tasks = math.ceil(loader.threads / max(1, self._prefetch))
            futures += loader.submit(view[row:row + len(own)], sequence, start, draws, tasks)
            keys.append(sequence[start:start + len(own)])
            row += len(own)
        self._next += 1

    def next(self) -> mx.io.DataBatch:
        """The next batch.

        Returns
        -------
        mxnet.io.DataBatch
            ``data`` [float32 (N, 3, H, W)], ``label`` [float32 (N,)], ``index``: the record keys,
            int64 (N,).

        Raises
        ------
        StopIteration
            After the epoch's last.
        InputError
            When too many pictures are damaged.
        """
        while self._next < self.batches and len(self._pending) <= self._prefetch:
            self._submit()
        if not self._pending:
            raise StopIteration
        array, futures, keys = self._pending.popleft()
        label, view = self._label_buffers.take()
        try:
            np.concatenate([future.result() for future in futures], out=view)
        except BaseException:
            wait(futures)  # only then may another batch use the array
            raise
        self._returned += 1
        return mx.io.DataBatch([array], [label], pad=0, index=np.concatenate(keys))

    def close(self) -> None:
        """Stop the decoding threads; nothing is decoded any more when this returns."""
        self._drain()
        for loader in self._loaders:
            loader.close()


class FaceIter(_PictureIter):
    """Shuffled, augmented batches: ``data`` (N, 3, H, W), RGB 0-255, and ``softmax_label`` (N,).

    The order and the augmentation of a batch depend on the seed, the epoch and the batch's number
    only, so that an epoch can be entered at any batch (:meth:`seek`). An incomplete last batch is
    dropped, as in the reference. Beyond the record set's index, memory is 16 bytes an image (keys
    and their order) and ``prefetch + 2`` batches.

    Parameters
    ----------
    records : unequal.data.records.RecordSet
    batch_size : int
        Of this worker.
    augmentation : unequal.data.augmentation.Augmentation
    keys : numpy.ndarray, optional
        The images to use; default all.
    shuffled_from : int
        The first epoch that ``shuffle`` applies to; earlier ones have the order of ``keys``.
    shuffle : bool
        A new order each epoch; False: the order of ``keys``.
    seed : int
    num_parts, part_index : int
        Workers of a job and this one's number. Of each ``num_parts * batch_size`` images of the
        common order, each takes its ``batch_size``: no overlap, reshuffled across workers each
        epoch, and the same number of batches for all.
    threads : int, optional
        Decoding threads; default: the processors this process may use.
    prefetch : int
        Batches decoded ahead.

    Raises
    ------
    InputError
        When there are fewer images than a batch needs, or too many damaged ones.
    """

    def __init__(self, records: RecordSet, batch_size: int,
                 augmentation: aug.Augmentation = aug.NONE, *,
                 keys: Optional[np.ndarray] = None, shuffle: bool = True, seed: int = 0,
                 shuffled_from: int = 0,
                 num_parts: int = 1, part_index: int = 0, threads: Optional[int] = None,
                 prefetch: int = 2) -> None:
        self._order = _Order(records, keys, shuffle, seed, shuffled_from)
        self.records, self.keys = records, self._order.keys
        batches = self._order.batches(batch_size * num_parts)
        super().__init__([PictureLoader(records, augmentation, threads)], batch_size,
                         records.image_size, batches, seed, (num_parts, part_index), prefetch)

    def fingerprint(self) -> str:
        return (f"{self.records.fingerprint()}, {len(self.keys)} used "
                f"({zlib.crc32(self.keys.tobytes()):08x})")

    def _parts(self, epoch: int, batch: int) -> Iterator[_Part]:
        workers, number = self._workers
        count = workers * self.batch_size
        yield (self._loaders[0], count, self._order.epoch(epoch), batch * count,
               range(number * self.batch_size, (number + 1) * self.batch_size))


class UnequalIter(_PictureIter):
    """Step 4's batches: head images, and ``images_per_identity`` images of each tail identity.

    ``data`` (N, 3, H, W) and ``softmax_label`` (N,), N = (head_size + tail_size) / num_parts, laid
    out so that each device's slice is its share of the head followed by its share of the tail. The
    head continues across epochs, so that each image comes once before any is repeated. The tail is
    :attr:`tail`, which the training loop sets before each epoch (:mod:`unequal.training.tail`);
    damaged tail images are replaced by the next ones of the batch. Memory: as :class:`FaceIter`,
    and :attr:`tail`.

    Parameters
    ----------
    head, tail : unequal.data.records.RecordSet
        Pictures of one size. Tail labels are those of the tail's own set.
    head_size, tail_size : int
        Images a batch, over all devices of all workers (``--batch-size1``, ``--batchsize_id``).
    devices : int
        Of this worker.
    images_per_identity : int
        Consecutive tail images that belong to one identity; a device's share is a multiple.
    batches : int
        An epoch.
    augmentation, seed, num_parts, part_index, threads, prefetch
        As for :class:`FaceIter`.

    Raises
    ------
    InputError
        When sizes do not divide, pictures differ in size, or the head does not fill a batch.
    """

    def __init__(self, head: RecordSet, tail: RecordSet, head_size: int, tail_size: int,
                 augmentation: aug.Augmentation = aug.NONE, *, devices: int = 1,
                 images_per_identity: int = 3, batches: int = 100, seed: int = 0,
                 num_parts: int = 1, part_index: int = 0, threads: Optional[int] = None,
                 prefetch: int = 2) -> None:
        if head.image_size != tail.image_size:
            (height, width), (other_height, other_width) = tail.image_size, head.image_size
            raise InputError(f"{tail.path} has pictures of {height}x{width} but {head.path} of "
                             f"{other_height}x{other_width}; pack them alike.")
        everywhere = devices * num_parts
        for name, size, step in (("head_size", head_size, everywhere),
                                 ("tail_size", tail_size, everywhere * images_per_identity)):
            if size < step or size % step:
                raise ArgumentError(
                    f"{name} {size} must be a multiple of {step} ({everywhere} device(s)"
                    + ("" if step == everywhere else
                       f" times images_per_identity {images_per_identity}") + ").",
                    name, "images_per_identity")
        self._sets, self._sizes, self._devices = (head, tail), (head_size, tail_size), devices
        self._order = _Order(head, None, True, seed)
        self._head_batches = self._order.batches(head_size)
        # Keys of the tail images of an epoch's batches: int64 (batches, tail_size).
        self.tail: Optional[np.ndarray] = None
        super().__init__([PictureLoader(records, augmentation, threads)
                          for records in (head, tail)],
                         (head_size + tail_size) // num_parts, head.image_size, batches, seed,
                         (num_parts, part_index), prefetch)

    def fingerprint(self) -> str:
        return "; ".join(records.fingerprint() for records in self._sets)

    def state(self) -> Dict[str, np.ndarray]:
        """The epoch's tail keys."""
        return {} if self.tail is None else {"tail": self.tail}

    def restore(self, arrays: Dict[str, np.ndarray]) -> None:
        """The reverse of :meth:`state`."""
        tail = arrays.get("tail")
        if set(arrays) - {"tail"}:
            super().restore({name: arrays[name] for name in set(arrays) - {"tail"}})
        if tail is not None and (tail.shape != (self.batches, self._sizes[1])
                                 or tail.dtype != np.int64):
            raise ValueError(f"tail is {tail.dtype} of shape {tail.shape}")
        self.tail = tail

    def _parts(self, epoch: int, batch: int) -> Iterator[_Part]:
        head_epoch, head_batch = divmod(epoch * self.batches + batch, self._head_batches)
        order = self._order.epoch(head_epoch)
        workers, number = self._workers
        tail = self.tail
        assert tail is not None, "the tail is set before an epoch"
        for device in range(workers * self._devices):
            for loader, size, sequence, start in (
                    (self._loaders[0], self._sizes[0], order, head_batch * self._sizes[0]),
                    (self._loaders[1], self._sizes[1], tail[batch], 0)):
                share = size // self._devices // workers
                yield (loader, share, sequence, start + device * share,
                       range(share if device // self._devices == number else 0))
