"""A training of a small network on fixed batches."""
from argparse import Namespace
from typing import cast

import cv2
import mxnet as mx
import numpy as np

from helpers import scripts
from unequal.cluster.workers import Workers
from unequal.data.records import RecordSet
from unequal.eval import bins
from unequal.symbols import heads, networks
from unequal.training import flags as options
from unequal.training import metrics as measures
from unequal.training import setup
from unequal.training.config import SoftmaxConfig
from unequal.training.stages import Stage
from unequal.training.trainer import Trainer

CLASSES, SIZE = 4, 16


class Batches(mx.io.DataIter):
    """Fixed batches in a fixed order; ``repeat`` doubles every batch by repeating its pictures."""

    def __init__(self, count=3, batch_size=8, repeat=1, scale=255.0, same=False):
        super().__init__(batch_size * repeat)
        random = np.random.RandomState(0)
        self.batches = count
        self._data = [np.tile(random.rand(batch_size, 3, SIZE, SIZE) * scale, (repeat, 1, 1, 1))
                      for _ in range(count)]
        self._labels = [np.tile(random.randint(CLASSES, size=batch_size), repeat)
                        for _ in range(count)]
        if same:
            self._data, self._labels = self._data[:1] * count, self._labels[:1] * count
        self.provide_data = [mx.io.DataDesc("data", self._data[0].shape)]
        self.provide_label = [mx.io.DataDesc("softmax_label", self._labels[0].shape)]
        self.seek(0, 0)

    def state(self):
        return {}

    def restore(self, arrays):
        assert not arrays

    def fingerprint(self):
        return f"{self.batches} batches"

    def seek(self, epoch, batch):
        self._next = batch

    def reset(self):
        self.seek(0, 0)

    def next(self):
        if self._next == self.batches:
            raise StopIteration
        self._next += 1
        return mx.io.DataBatch([mx.nd.array(self._data[self._next - 1])],
                               [mx.nd.array(self._labels[self._next - 1])], pad=0)


def arguments(tmp_path, *flags):
    defaults = ["--data-dir", str(tmp_path), "--prefix", str(tmp_path / "m" / "model"),
                "--network", "n8", "--emb-size", "16", "--version-output", "I", "--margin-s", "16"]
    return options.parser("", SoftmaxConfig).parse_args(defaults + list(flags))


def train(args, data, devices=1, lr_steps=(), before_batch=None, metrics=None):
    mx.random.seed(0)
    np.random.seed(0)
    embedding = networks.get_symbol(args.network, args.emb_size,
                                   version_output=args.version_output)
    records = cast(RecordSet, Namespace(image_size=(SIZE, SIZE)))
    run = setup.Run([mx.cpu(i) for i in range(devices)], records, embedding,
                    mx.sym.Variable("softmax_label"), setup.margin_of(args), None, None, Workers(),
                    args)
    symbol = heads.softmax_head(run.embedding, run.label, CLASSES, args.emb_size,
                                 run.margin)
    stage = Stage("test", "test", symbol, data, list(lr_steps), metrics=metrics or [
        measures.Metric("acc", ["label_probability", "largest_probability"], measures.accuracy),
        measures.Metric("softmaxloss", ["label_probability"], measures.cross_entropy)],
        before_batch=before_batch, log_every=1)
    return Trainer(stage, run).fit()


def events(args, kind):
    return [event for event in scripts.events(args.prefix) if event["event"] == kind]


def weights(args, epoch=0):
    _, arguments_, states = mx.model.load_checkpoint(args.prefix, epoch)
    return {name: value.asnumpy() for name, value in {**arguments_, **states}.items()}


def write_targets(directory, names=("lfw", "agedb_30"), pairs=20):
    random = np.random.RandomState(0)
    for name in names:
        pictures = [cv2.imencode(".png", pixels)[1].tobytes() for pixels in
                    random.randint(0, 256, (2 * pairs, SIZE, SIZE, 3)).astype(np.uint8)]
        bins.save_bin(str(directory / (name + ".bin")), pictures, [True, False] * (pairs // 2))
