"""Cost of mining compared with the network: one epoch of step 4, 100 bags and 100 batches.

    python benchmarks/mining_epoch.py [--bag-size 900] [--rounds 2]
    OMP_NUM_THREADS=1 python benchmarks/mining_epoch.py --only n8

Three comparisons on a synthetic tail set of 112x112 JPEGs (n8: 32x32), three images an identity:

- host: all work but the network's: embeddings are rows of a fixed array. Mining, then the epoch's
  augmented batches of head and tail images. The peer is the reference's method: one picture
  at a time by mx.image and mx.nd in one Python thread, distances row by row, a sort of all pairs, a
  list searched for every pair. Goal: an eighth of the peer's time.
- n8, r50: mining with its network. The peer is the network alone on decoded batches in memory, with
  the same embedder and batch size. Goal: at most 1.1 times the peer's time.

The recipe's bags have 3,600 images (--bag-size 3600). A tenth of a bag and as many head images make
a batch.
"""
import argparse
import os
import tempfile
from typing import Callable, Dict, Optional, Sequence, Tuple, Type

import unequal  # noqa: F401  first: it prepares MXNet

import mxnet as mx  # isort: skip
import numpy as np
from _common import alternate, compare, table, timed
from iterator import Sometimes
from mining import IMAGES, row_by_row

from unequal.data import augmentation, pictures
from unequal.data.batches import UnequalIter
from unequal.data.records import RecordSet, RecordWriter
from unequal.models.embedder import Embedder
from unequal.symbols import networks
from unequal.synthetic import faces
from unequal.training.tail import Miner

BAGS = 100


def write_set(directory: str, identities: int, side: int) -> str:
    """Write a tail set that repeats 200 synthetic faces; return its directory."""
    rng = np.random.default_rng(0)
    drawn = [pictures.encode(faces.draw_face(faces.sample_identity(rng), faces.sample_view(rng),
                                           side), 95)
             for _ in range(200)]
    with RecordWriter(directory, (side, side)) as writer:
        for place in range(identities * IMAGES):
            writer.add(place // IMAGES, drawn[place % len(drawn)])
    return directory


def embedder(network: str, side: int, batch: int, size: int = 512,
             kind: Type[Embedder] = Embedder) -> Embedder:
    """An embedder of random weights: the values of weights do not change its speed."""
    symbol = networks.get_symbol(network, size)
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", (1, 3, side, side))], for_training=False)
    mx.random.seed(0)
    module.init_params(mx.init.Xavier())
    arg_params, aux_params = module.get_params()
    return kind(symbol, arg_params, aux_params, (side, side), batch_size=batch)


class Instant(Embedder):
    """An embedder whose network takes no time: embeddings are rows of a fixed array."""

    rows = np.random.RandomState(0).randn(20000, 512).astype(np.float32)
    _on_device = mx.nd.array(rows)
    _place = 0

    def _queue(self, module: mx.mod.Module, data: mx.nd.NDArray, flip: bool
               ) -> Tuple[mx.nd.NDArray, Optional[mx.nd.NDArray]]:
        start = self._place % (len(self.rows) - len(data))
        self._place += len(data)
        rows = self._on_device[start:start + len(data)]
        return rows, rows if flip else None


class Ours:
    """Our mining of ``bags`` bags, and the batches made of them."""

    def __init__(self, records: RecordSet, options: argparse.Namespace, bags: int) -> None:
        self._miner = Miner(records, options.bag_size // 10 // IMAGES, IMAGES, options.bag_size,
                            bags)
        self._embedder = embedder("n8", records.image_size[0], options.batch, kind=Instant)
        self._batches = UnequalIter(records, records, options.bag_size // 10,
                                    options.bag_size // 10, augmentation.COLOR, batches=bags)
        self._epoch, self._bags = 0, bags

    def __call__(self) -> int:
        self._batches.tail = self._miner.mined(self._epoch, self._embedder)
        for batch in self._batches:
            batch.data[0].wait_to_read()
        self._epoch += 1
        self._batches.reset()
        return self._bags


class Reference:
    """The same work by the reference's method."""

    def __init__(self, records: RecordSet, options: argparse.Namespace, bags: int) -> None:
        self._record = mx.recordio.MXIndexedRecordIO(
            os.path.join(records.directory, "train.idx"), records.path, "r")
        jitter = Sometimes(mx.image.ColorJitterAug(0.2, 0.2, 0.2), 0.2)
        self._augmenters = [mx.image.CastAug(), mx.image.RandomGrayAug(0.2), jitter]
        self._keys, self._side = len(records), records.image_size[0]
        self._options, self._bags, self._random = options, bags, np.random.RandomState(0)

    def _load(self, keys: np.ndarray, augmenters: Sequence[mx.image.Augmenter]) -> None:
        data = mx.nd.empty((len(keys), 3, self._side, self._side))
        for row, key in enumerate(keys):
            _, encoded = mx.recordio.unpack(self._record.read_idx(int(key)))
            picture = mx.image.imdecode(encoded)
            for augmenter in augmenters:
                picture = augmenter(picture)
            data[row][:] = mx.nd.transpose(picture, axes=(2, 0, 1))
        data.wait_to_read()

    def __call__(self) -> int:
        size, batch = self._options.bag_size, self._options.batch
        for _ in range(self._bags):
            identities = self._random.permutation(self._keys // IMAGES)[:size // IMAGES]
            keys = (1 + identities[:, None] * IMAGES + np.arange(IMAGES)).ravel()
            for start in range(0, size, batch):
                self._load(keys[start:start + batch], [])
            rows = Instant.rows[:size]
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            chosen = np.array(row_by_row(rows, size // 10 // IMAGES))
            tail = keys.reshape(-1, IMAGES)[chosen].ravel()
            head = 1 + self._random.randint(self._keys, size=size // 10)
            self._load(np.concatenate([head, tail]), self._augmenters)
        return self._bags


def host(scratch: str, options: argparse.Namespace) -> None:
    print(f"== host: {BAGS} bags of {options.bag_size} images, 112x112, and as many batches of "
          f"{options.bag_size // 10} + {options.bag_size // 10}")
    identities = max(2000, options.bag_size // IMAGES)
    with RecordSet(write_set(os.path.join(scratch, "host"), identities, 112)) as records:
        few = max(1, BAGS // 10 // options.rounds)
        peers = {"ours": timed(Ours(records, options, BAGS)),
                 "reference": timed(Reference(records, options, few))}
        Ours(records, options, 2)()  # warm-up
        Reference(records, options, 1)()
        rates = alternate(peers, options.rounds)
    table(rates, "bags")
    for name, rate in rates.items():
        print(f"{name}: {BAGS / np.median(rate.wall):.0f} s an epoch of {BAGS} bags")
    compare(rates, "ours", "reference", 8)


def with_network(scratch: str, network: str, side: int, bags: int, bag_size: int,
                 options: argparse.Namespace) -> None:
    """Compare mining with the network alone, in images a second."""
    print(f"== {network} at {side}x{side}: {bags} bags of {bag_size} images, batch {options.batch}")
    count = bag_size // IMAGES * IMAGES
    with RecordSet(write_set(os.path.join(scratch, network), max(1000, count // IMAGES),
                             side)) as records:
        net = embedder(network, side, options.batch)
        miner = Miner(records, bag_size // 10 // IMAGES, IMAGES, bag_size, bags)
        shapes = [options.batch] * (bags * count // options.batch)
        shapes += [rest for rest in [bags * count % options.batch] if rest]
        decoded = {size: mx.nd.random.uniform(0, 255, (size, 3, side, side)) for size in shapes}
        epoch = 0

        def mining() -> int:
            nonlocal epoch
            epoch += 1
            miner.mined(epoch, net)
            return bags * count

        def inference() -> int:
            for size in shapes:
                net.forward(decoded[size])
            return bags * count

        net.forward(decoded[options.batch])  # warm-up
        rates = alternate({"mining": timed(mining), "network": timed(inference)}, options.rounds)
    table(rates, "images")
    compare(rates, "mining", "network", 1 / 1.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bag-size", type=int, default=900)
    parser.add_argument("--batch", type=int, default=180, help="of the mining pass")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=("host", "n8", "r50"))
    options = parser.parse_args()
    parts: Dict[str, Callable[[str], None]] = {
        "host": lambda scratch: host(scratch, options),
        "n8": lambda scratch: with_network(scratch, "n8", 32, BAGS // 10, options.bag_size,
                                           options),
        "r50": lambda scratch: with_network(scratch, "r50", 112, 1, 360, options),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, part in parts.items():
            if options.only in (None, name):
                part(scratch)


if __name__ == "__main__":
    main()
