"""Batches of training pictures from a record set."""
import logging
import math
import sys
import threading
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import cv2
import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call

from unequal.data import augmentation as aug
from unequal.data import pictures
from unequal.data.records import DamagedRecord
from unequal.errors import ArgumentError, InputError
from unequal.system import runtime
from unequal.system.mxnet_private import numpy_view

logger = logging.getLogger(__name__)

DATA_NAME, LABEL_NAME = "data", "softmax_label"
_CHUNK = 16  # pictures that a decoding task has at least, to pay for itself


class BatchBuffers:
    """Float32 NDArrays of one shape that are used again once nobody holds them.

    A new array of a batch's size costs page faults for a third of the time decoding takes, so
    batches are recycled: when the NDArray object is no longer referenced outside, and the engine
    has finished reading it. Who keeps only a *slice* of a batch must copy it.
    """

    def __init__(self, shape):
        self._shape = shape
        self._pool = []  # (NDArray, its numpy view)

    def take(self):
        """A free ``(NDArray, numpy view)``; grows by one array when all are in use."""
        for pair in self._pool:
            # One reference from the tuple, one from getrefcount's argument.
            if sys.getrefcount(pair[0]) == 2:
                check_call(_LIB.MXNDArrayWaitToWrite(pair[0].handle))
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
    """

    def __init__(self, records, augmentation=aug.NONE, threads=None, max_damaged=100):
        self.records = records
        self.augmentation = augmentation
        self.threads = threads or runtime.available_cpus()
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        self._max_damaged = max_damaged
        self._lock = threading.Lock()
        self._damaged = set()
        self._scratch = threading.local()

    def close(self):
        """Stop the threads."""
        self._pool.shutdown()

    def submit(self, out, sequence, start, draws=None):
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

        Returns
        -------
        list of concurrent.futures.Future
            Each gives the labels (float32) of the next few pictures; together all ``n``.
        """
        count = len(out)
        if draws is None:
            draws = aug.draw(aug.NONE, np.random.RandomState(0), count, *out.shape[2:])
        chunk = max(_CHUNK, math.ceil(count / self.threads))
        return [self._pool.submit(self._load, out, sequence, start, draws, first,
                                  min(first + chunk, count))
                for first in range(0, count, chunk)]

    def _thread_scratch(self, height, width):
        """Memory of this thread for one mirrored picture and one in planes."""
        if not hasattr(self._scratch, "planes"):
            self._scratch.mirrored = np.empty((height, width, 3), np.uint8)
            self._scratch.planes = np.empty((3, height, width), np.uint8)
        return self._scratch.mirrored, self._scratch.planes

    def _load(self, out, sequence, start, draws, first, last):
        height, width = out.shape[2:]
        mirrored, planes = self._thread_scratch(height, width)
        blue_green_red = [planes[2], planes[1], planes[0]]
        labels = np.empty(last - first, np.float32)
        cutoff = self.augmentation.cutoff
        # Python's own numbers: an element of an array takes longer to fetch than all of these.
        keys = sequence.take(range(start + first, start + last), mode="wrap").tolist()
        mirror, color = draws.mirror.tolist(), (draws.gray | draws.jitter).tolist()
        for i, key in enumerate(keys, first):
            try:
                labels[i - first], data = self.records.image(key)
                picture = pictures.decode_bgr(data, key, height, width)
            except InputError:
                labels[i - first], picture = self._picture(sequence, start + i, height, width)
            if mirror[i]:
                picture = aug.flip(picture, mirrored)
            cv2.split(picture, blue_green_red)
            out[i] = planes
            if color[i]:
                aug.apply_color(out[i], draws, i)
            if cutoff:
                aug.apply_cutoff(out[i], draws, i, cutoff)
        return labels

    def _picture(self, sequence, position, height, width):
        for step in range(len(sequence)):
            key = int(sequence[(position + step) % len(sequence)])
            try:
                label, data = self.records.image(key)
            except DamagedRecord as error:  # not a wrong class: that is a mistake, not an accident
                self._note_damaged(key, error)
                continue
            try:
                return label, pictures.decode_bgr(
                    data, "{}: record {}".format(self.records.path, key), height, width)
            except InputError as error:
                self._note_damaged(key, error)
        raise InputError("{}: no picture of the set can be decoded.".format(self.records.path))

    def _note_damaged(self, key, error):
        with self._lock:
            new = key not in self._damaged
            self._damaged.add(key)
            count = len(self._damaged)
        if not self._max_damaged:
            raise error
        if count > self._max_damaged:
            raise InputError(
                "{}: more than {} pictures are damaged, the last one being record {}; check the "
                "set with `unequal inspect`.".format(
                    self.records.path, self._max_damaged, key)) from error
        if new:
            logger.warning("skipped (%d so far): %s", count, error)


class _Order:
    """The order in which a job takes images, whatever its workers: by seed and epoch only.

    Memory: 16 bytes an image (keys and one epoch's order).
    """

    def __init__(self, records, keys, shuffle, seed):
        self.keys = records.image_keys if keys is None else np.asarray(keys, np.int64)
        self._path, self._shuffle, self._seed = records.path, shuffle, seed
        self._epoch = self._order = None

    def batches(self, batch_size):
        """How many whole batches, of all workers together, an epoch has."""
        count = len(self.keys) // batch_size
        if not count:
            raise InputError("{}: {} images do not fill one batch of {}; lower the batch size."
                             .format(self._path, len(self.keys), batch_size))
        return count

    def epoch(self, number):
        """Keys in the order of an epoch."""
        if number != self._epoch:
            self._order = self.keys
            if self._shuffle:
                random = np.random.RandomState([self._seed, number])
                self._order = random.permutation(self._order)
            self._epoch = number
        return self._order


class _PictureIter(mx.io.DataIter):
    """Batches decoded ahead. A subclass says which images a batch has (:meth:`_parts`).

    A batch depends on the seed, the epoch and its number only, so that an epoch can be entered at
    any batch (:meth:`seek`). With several workers each has its part of the batch that one worker
    with all the devices would have, augmentation included. Memory: ``prefetch + 2`` batches.
    """

    def __init__(self, batch_size, image_size, batches, seed, parts, prefetch):
        if not 0 <= parts[1] < parts[0]:
            raise ValueError("part_index must be in [0, num_parts)")
        super().__init__(batch_size)
        self.batches = batches  # an epoch
        self._seed, self._workers = seed, parts
        self._random = np.random.RandomState()  # seeded for each batch; a new one takes longer
        self._prefetch = prefetch
        self._data_shape = (batch_size, 3) + tuple(image_size)
        self._buffers = BatchBuffers(self._data_shape)
        self._label_buffers = BatchBuffers((batch_size,))
        self._pending = deque()  # (NDArray, futures, keys) of the batches being decoded
        self.epoch = -1
        self.reset()

    def _parts(self, epoch, batch):
        """Yield ``(loader, count, sequence, start, own)``: a batch of all workers, ``count`` rows
        at a time, of which this worker's are the range ``own``."""
        raise NotImplementedError

    @property
    def provide_data(self):
        return [mx.io.DataDesc(DATA_NAME, self._data_shape, layout="NCHW")]

    @property
    def provide_label(self):
        return [mx.io.DataDesc(LABEL_NAME, (self.batch_size,), layout="N")]

    def fingerprint(self):
        """What the images are, in a few words: a resumed run must have the same."""
        raise NotImplementedError

    def state(self):
        """What a resume needs beside :meth:`seek`: ``{name: numpy.ndarray}``."""
        return {}

    def restore(self, arrays):
        """The reverse of :meth:`state`; ValueError when they are not of this data."""
        if arrays:
            raise ValueError("{} is not of this data".format(", ".join(sorted(arrays))))

    def reset(self):
        """Begin the next epoch."""
        self.seek(self.epoch + 1, 0)

    def seek(self, epoch, batch):
        """Go to a batch of an epoch (both from 0); what :meth:`next` returns is that batch."""
        for _, futures, _ in self._pending:
            for future in futures:
                future.cancel()
        self._drain()
        self.epoch, self._next, self._returned = epoch, batch, batch

    @property
    def position(self):
        """``(epoch, batch)`` that :meth:`next` returns next, for :meth:`seek`."""
        return self.epoch, self._returned

    def _drain(self):
        while self._pending:
            for future in self._pending.popleft()[1]:
                if not future.cancelled():
                    future.exception()  # waits; an error of an abandoned batch is of no interest

    def _submit(self):
        array, view = self._buffers.take()
        self._random.seed([self._seed, self.epoch, self._next, 0])
        futures, keys, row = [], [], 0
        for loader, count, sequence, start, own in self._parts(self.epoch, self._next):
            draws = aug.draw(loader.augmentation, self._random, count, *self._data_shape[2:])
            if not own:
                continue
            draws = aug.Draws(*(values[own.start:own.stop] for values in draws))
            start += own.start
            futures += loader.submit(view[row:row + len(own)], sequence, start, draws)
            keys.append(sequence[start:start + len(own)])
            row += len(own)
        self._pending.append((array, futures, np.concatenate(keys)))
        self._next += 1

    def next(self):
        """The next batch; raises StopIteration after the epoch's last."""
        while self._next < self.batches and len(self._pending) <= self._prefetch:
            self._submit()
        if not self._pending:
            raise StopIteration
        array, futures, keys = self._pending.popleft()
        label, view = self._label_buffers.take()
        np.concatenate([future.result() for future in futures], out=view)
        self._returned += 1
        return mx.io.DataBatch([array], [label], pad=0, index=keys)

    def close(self):
        """Stop the decoding threads."""
        self._drain()


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

    def __init__(self, records, batch_size, augmentation=aug.NONE, *, keys=None, shuffle=True,
                 seed=0, num_parts=1, part_index=0, threads=None, prefetch=2):
        self._order = _Order(records, keys, shuffle, seed)
        self.records, self.keys = records, self._order.keys
        batches = self._order.batches(batch_size * num_parts)
        self._loader = PictureLoader(records, augmentation, threads)
        super().__init__(batch_size, records.image_size, batches, seed, (num_parts, part_index),
                         prefetch)

    def fingerprint(self):
        return "{}, {} used ({:08x})".format(self.records.fingerprint(), len(self.keys),
                                            zlib.crc32(self.keys.tobytes()))

    def _parts(self, epoch, batch):
        workers, number = self._workers
        count = workers * self.batch_size
        yield (self._loader, count, self._order.epoch(epoch), batch * count,
               range(number * self.batch_size, (number + 1) * self.batch_size))

    def close(self):
        super().close()
        self._loader.close()


class UnequalIter(_PictureIter):
    """Step 4's batches: head images, and ``images_per_identity`` images of each tail identity.

    ``data`` (N, 3, H, W) and ``softmax_label`` (N,), N = (head_size + tail_size) / num_parts, laid
    out so that each device's slice is its share of the head followed by its share of the tail. The
    head goes on from epoch to epoch, each image once before any comes again; the tail is
    :attr:`tail`, which the training loop sets before each epoch (:mod:`unequal.training.tail`).
    Damaged tail
    images are replaced by the next ones of the batch's sequence. Memory: as :class:`FaceIter`, and
    :attr:`tail`.

    Parameters
    ----------
    head, tail : unequal.data.records.RecordSet
        Pictures of one size. Tail labels are those of the tail's own set.
    head_size, tail_size : int
        Images a batch, over all devices of all workers (``--batch-size1``, ``--batchsize_id``).
    devices : int
        Of this worker.
    images_per_identity : int
        Tail images are kept together by so many.
    batches : int
        An epoch.
    augmentation, seed, num_parts, part_index, threads, prefetch
        As for :class:`FaceIter`.

    Raises
    ------
    InputError
        When sizes do not divide, pictures differ in size, or the head does not fill a batch.
    """

    def __init__(self, head, tail, head_size, tail_size, augmentation=aug.NONE, *, devices=1,
                 images_per_identity=3, batches=100, seed=0, num_parts=1, part_index=0,
                 threads=None, prefetch=2):
        if head.image_size != tail.image_size:
            raise InputError("{} has pictures of {}x{} but {} of {}x{}; pack them alike.".format(
                tail.path, *tail.image_size, head.path, *head.image_size))
        everywhere = devices * num_parts
        for name, size, step in (("head_size", head_size, everywhere),
                                 ("tail_size", tail_size, everywhere * images_per_identity)):
            if size < step or size % step:
                raise ArgumentError(
                    f"{name} {size} must be a multiple of {step} ({everywhere} device(s)"
                    + ("" if step == everywhere else
                       f" times images_per_identity {images_per_identity}") + ").",
                    name, "images_per_identity")
        self._sizes, self._devices = (head_size, tail_size), devices
        self._order = _Order(head, None, True, seed)
        self._head_batches = self._order.batches(head_size)
        self._loaders = [PictureLoader(records, augmentation, threads) for records in (head, tail)]
        # Keys of the tail images of an epoch's batches: int64 (batches, tail_size).
        self.tail = None
        super().__init__((head_size + tail_size) // num_parts, head.image_size, batches, seed,
                         (num_parts, part_index), prefetch)

    def fingerprint(self):
        return "; ".join(loader.records.fingerprint() for loader in self._loaders)

    def state(self):
        """The epoch's tail keys."""
        return {} if self.tail is None else {"tail": self.tail}

    def restore(self, arrays):
        """The reverse of :meth:`state`."""
        tail = arrays.get("tail")
        if set(arrays) - {"tail"}:
            super().restore({name: arrays[name] for name in set(arrays) - {"tail"}})
        if tail is not None and (tail.shape != (self.batches, self._sizes[1])
                                 or tail.dtype != np.int64):
            raise ValueError("tail is {} of shape {}".format(tail.dtype, tail.shape))
        self.tail = tail

    def _parts(self, epoch, batch):
        head_epoch, head_batch = divmod(epoch * self.batches + batch, self._head_batches)
        order = self._order.epoch(head_epoch)
        workers, number = self._workers
        for device in range(workers * self._devices):
            for loader, size, sequence, start in (
                    (self._loaders[0], self._sizes[0], order, head_batch * self._sizes[0]),
                    (self._loaders[1], self._sizes[1], self.tail[batch], 0)):
                share = size // self._devices // workers
                yield (loader, share, sequence, start + device * share,
                       range(share if device // self._devices == number else 0))

    def close(self):
        super().close()
        for loader in self._loaders:
            loader.close()
