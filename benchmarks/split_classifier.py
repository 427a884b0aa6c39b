"""The classifier split over devices (``--model-parallel 1``) and whole: peak memory and time.

    python benchmarks/split_classifier.py [--classes 200000] [--batch 64] [--devices 2]

ArcFace over many classes, embeddings of 512 from one fully connected layer, SGD with momentum. Each
variant runs in a process of its own, on several CPU contexts. Memory is the process's peak resident
memory less that after MXNet's import, so it is the sum over the contexts. Whole, every context
holds all rows of the classifier; split, each holds its own rows, so the sum does not grow with the
number of contexts. The bytes on each GPU are computed from the sizes, not measured on GPUs.

With a million classes (``--classes 1000000``) a step takes 11.1 GiB and 16.6 s split. Whole it
takes 25.7 GiB (resident and swapped) and 140 s on a machine with 24 GiB of memory and 12 GiB of
swap. The printed peak does not include swapped memory.
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import unequal  # noqa: F401  first: it sets the number of threads

import mxnet as mx  # isort: skip
import numpy as np

from unequal.cluster.workers import Workers
from unequal.symbols import heads
from unequal.symbols.margins import Margin
from unequal.training.config import SoftmaxConfig
from unequal.training.learner import ModuleLearner
from unequal.training.setup import Run
from unequal.training.split_head import SplitHead
from unequal.training.split_learner import SplitLearner
from unequal.training.stages import Stage

SIZE, INPUT = 512, 64
LEARNERS = {"whole": ModuleLearner, "split": SplitLearner}


class Data:
    """The attributes of an iterator that a learner reads."""

    batches = 1

    def __init__(self, rows: int) -> None:
        self.batch_size = rows
        self.provide_data = [mx.io.DataDesc("data", (rows, INPUT))]
        self.provide_label = [mx.io.DataDesc("softmax_label", (rows,))]


def peak() -> int:
    """Peak resident memory of this process in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(variant: str, options: argparse.Namespace) -> dict:
    """Median seconds of a step, and peak memory in bytes less the memory before."""
    before = peak()
    label, margin = mx.sym.Variable("softmax_label"), Margin()
    embedding = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=SIZE, name="pre_fc1")
    symbol = heads.nra_head(embedding, label, options.classes, SIZE, margin, beta=0.9,
                            normalizer=2 * options.batch, index=False)
    stage = Stage("nra", "", symbol, Data(options.batch), [], [], split=SplitHead(
        options.classes, SIZE, margin, 2 * options.batch, beta=0.9))
    run = Run([mx.cpu(number) for number in range(options.devices)],
              None,  # type: ignore[arg-type]  # no set: the batch is drawn
              embedding, label, margin, None, None, Workers(), SoftmaxConfig(data_dir="x", lr=0.01))
    learner = LEARNERS[variant](stage, run)
    learner.start(0)
    random = np.random.RandomState(0)
    batch = mx.io.DataBatch([mx.nd.array(random.randn(options.batch, INPUT))],
                            [mx.nd.array(random.randint(0, options.classes, options.batch))])
    seconds = []
    for step in range(options.steps + 1):
        start = time.perf_counter()
        learner.learn(batch, step)
        learner.update()
        mx.nd.waitall()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds[1:]), "bytes": peak() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--variant", choices=LEARNERS, help=argparse.SUPPRESS)  # in the child
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options)))
        return
    print(f"{options.classes:,} classes x {SIZE}, batch {options.batch}, {options.devices} CPU "
          f"contexts")
    found = {}
    for variant in LEARNERS:
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--variant", variant],
                              stdout=subprocess.PIPE, check=True)
        found[variant] = json.loads(done.stdout)
        print(f"  {variant}: {found[variant]['bytes'] / 2 ** 30:6.2f} GiB, "
              f"{found[variant]['seconds']:6.2f} s a step", flush=True)
    print(f"  whole / split: memory {found['whole']['bytes'] / found['split']['bytes']:.2f}, time "
          f"{found['whole']['seconds'] / found['split']['seconds']:.2f}")
    matrix = 4 * options.classes * SIZE / 2 ** 30
    print(f"  computed, weight, gradient and momentum on each device: whole {3 * matrix:.2f} GiB, "
          f"split {3 * matrix / options.devices:.2f} GiB")


if __name__ == "__main__":
    main()
