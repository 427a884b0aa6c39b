"""Speed of the training iterator on 112x112 JPEGs compared with its peers, in one run.

    python benchmarks/iterator.py [--pictures 4000] [--rounds 3]

Images a second of

- FaceIter with step 2's augmentation (mirror) and with step 3's (grey, jitter, mirror);
- the reference's method for both: one picture at a time by mx.image and mx.nd, one Python thread;
- mx.io.ImageRecordIter on the same pictures (in a plain set: it cannot read header records);
- cv2.imdecode alone and simplejpeg alone, from memory: FaceIter is judged against the faster one.

All but the reference's method may use one thread a processor; ImageRecordIter takes at most half of
them, less one (it prints how many). The pictures are synthetic faces, JPEG of quality 95, 5 kB.
Processor time is printed too because it depends less on other load on the machine.
"""
import argparse
import os
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Sequence

import unequal  # noqa: F401  first: it prepares MXNet

import mxnet as mx  # isort: skip
import cv2
import numpy as np
from _common import alternate, compare, table, timed

from unequal.data import augmentation
from unequal.data import pictures as images
from unequal.data.batches import FaceIter
from unequal.data.records import RecordSet, RecordWriter
from unequal.synthetic import faces
from unequal.system import runtime

try:
    import simplejpeg
except ImportError:  # no wheels for this machine
    simplejpeg = None

SIZE, BATCH = 112, 100
THREADS = runtime.available_cpus()


def write_sets(directory: str, count: int) -> List[bytes]:
    """Write a set with identity records and one without; return the pictures, ``count`` JPEGs."""
    rng = np.random.default_rng(0)
    drawn = [images.encode(faces.draw_face(faces.sample_identity(rng), faces.sample_view(rng),
                                           SIZE), 95)
             for _ in range(min(count, 1000))]
    pictures = [drawn[place % len(drawn)] for place in range(count)]
    for name, identities in (("set", True), ("plain", False)):
        with RecordWriter(os.path.join(directory, name), (SIZE, SIZE),
                          identities=identities) as writer:
            for place, data in enumerate(pictures):
                writer.add(place // 20, data)
    return pictures


class Ours:
    """FaceIter over the set with identity records."""

    def __init__(self, directory: str, changes: augmentation.Augmentation) -> None:
        self._iterator = FaceIter(RecordSet(directory), BATCH, changes, prefetch=2)

    def __call__(self) -> int:
        count = 0
        for batch in self._iterator:
            batch.data[0].wait_to_read()
            count += BATCH
        self._iterator.reset()  # decoding starts with the next call
        return count


class Reference:
    """The reference's method: read, decode, augment, transpose, copy, each by an NDArray."""

    def __init__(self, directory: str, augmenters: Sequence[mx.image.Augmenter],
                 keys: Sequence[int]) -> None:
        self._record = mx.recordio.MXIndexedRecordIO(
            os.path.join(directory, "train.idx"), os.path.join(directory, "train.rec"), "r")
        self._augmenters = augmenters
        self._keys = keys
        self._random = np.random.RandomState(0)

    def __call__(self) -> int:
        for start in range(0, len(self._keys) - BATCH + 1, BATCH):
            data, label = mx.nd.empty((BATCH, 3, SIZE, SIZE)), mx.nd.empty(BATCH)
            for row, key in enumerate(self._keys[start:start + BATCH]):
                header, encoded = mx.recordio.unpack(self._record.read_idx(key))
                picture = mx.image.imdecode(encoded)
                for augmenter in self._augmenters:
                    picture = augmenter(picture)
                if self._random.rand() < 0.5:
                    picture = mx.nd.flip(picture, axis=1)
                data[row][:] = mx.nd.transpose(picture, axes=(2, 0, 1))
                label[row][:] = header.label
            data.wait_to_read()
        return len(self._keys) // BATCH * BATCH


class Sometimes(mx.image.Augmenter):
    """An augmenter used with a probability."""

    def __init__(self, augmenter: mx.image.Augmenter, probability: float) -> None:
        super().__init__()
        self._augmenter, self._probability = augmenter, probability

    def __call__(self, picture: mx.nd.NDArray) -> mx.nd.NDArray:
        return self._augmenter(picture) if np.random.rand() < self._probability else picture


class Native:
    """mx.io.ImageRecordIter with its own decoding threads."""

    def __init__(self, directory: str) -> None:
        self._iterator = mx.io.ImageRecordIter(
            path_imgrec=os.path.join(directory, "train.rec"),
            path_imgidx=os.path.join(directory, "train.idx"),
            data_shape=(3, SIZE, SIZE), batch_size=BATCH, rand_mirror=True, shuffle=True,
            preprocess_threads=THREADS, round_batch=False)

    def __call__(self) -> int:
        count = 0
        self._iterator.reset()  # here, not at the end: it starts decoding in the background
        for batch in self._iterator:
            batch.data[0].wait_to_read()
            count += BATCH
        return count


class Bare:
    """Decoding alone; each thread decodes its share of the pictures."""

    def __init__(self, decode: Callable[[Any], Any], pictures: Sequence[Any]) -> None:
        self._decoder, self._pictures = decode, pictures
        self._pool = ThreadPoolExecutor(THREADS)

    def _decode(self, first: int) -> None:
        decode = self._decoder
        for data in self._pictures[first::THREADS]:
            decode(data)

    def __call__(self) -> int:
        list(self._pool.map(self._decode, range(THREADS)))
        return len(self._pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    jitter = mx.image.ColorJitterAug(0.2, 0.2, 0.2)
    with tempfile.TemporaryDirectory() as scratch:
        pictures = write_sets(scratch, options.pictures)
        records = os.path.join(scratch, "set")
        few = range(1, options.pictures // 4 + 1)  # the reference's method is slow
        works: Dict[str, Callable[[], int]] = {
            "FaceIter": Ours(records, augmentation.Augmentation()),
            "FaceIter colour": Ours(records, augmentation.COLOR),
            "reference step 2": Reference(records, [], few),
            "reference step 3": Reference(
                records, [mx.image.CastAug(), mx.image.RandomGrayAug(0.2), Sometimes(jitter, 0.2)],
                few),
            "ImageRecordIter": Native(os.path.join(scratch, "plain")),
            "cv2.imdecode": Bare(lambda data: cv2.imdecode(data, cv2.IMREAD_COLOR),
                                 [np.frombuffer(data, np.uint8) for data in pictures]),
        }
        if simplejpeg is not None:
            works["simplejpeg"] = Bare(simplejpeg.decode_jpeg, pictures)
        peers = {name: timed(work) for name, work in works.items()}
        for peer in peers.values():  # warm-up
            peer()
        print(f"{len(pictures):,} pictures of {np.mean([len(data) for data in pictures]):,.0f} "
              f"bytes, {THREADS} threads")
        rates = alternate(peers, options.rounds)
    table(rates, "images")
    compare(rates, "FaceIter", "reference step 2", 8)
    compare(rates, "FaceIter colour", "reference step 3", 8)
    compare(rates, "FaceIter", "ImageRecordIter", 4)
    bare = min(set(rates) & {"cv2.imdecode", "simplejpeg"},
               key=lambda name: statistics.median(rates[name].cpu))
    compare(rates, "FaceIter", bare, 0.8, by_processor=True)
    compare(rates, "FaceIter colour", bare, 0.8, by_processor=True)


if __name__ == "__main__":
    main()
