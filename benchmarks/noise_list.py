"""Scoring a set for the noise list at MF2's 96,499 classes: seconds per 100,000 images.

Only the classifier is measured, from embeddings to a row of scores an image. Three peers in turn:

- ours: binds the executor once and normalises the weight once, takes as many images at once as fit
  into memory, and reduces probabilities to a few numbers an image on the device;
- by batch: the reference's method (once this library's too): batches of 20
  (``--batch_size_mining``), for each of which an executor is bound, the weight is normalised, and
  all 20 x 96,499 probabilities are copied to the host and reduced there;
- product: only the product of embeddings and normalised weight, in batches as large as ours.

Fewer than 100,000 images are scored, and the time for 100,000 is computed from theirs. The time of
the embedding network is not included.

    python benchmarks/noise_list.py [--classes 96499] [--images 1024] [--rounds 3]
"""
import argparse
import statistics
from typing import Any, Callable

import unequal  # noqa: F401  first: it sets the number of threads

import mxnet as mx  # isort: skip
import numpy as np
from _common import Peer, alternate, compare, table, timed

from unequal.models.noise_scan import Classifier
from unequal.symbols import margins

Score = Callable[[np.ndarray, np.ndarray], Any]  # (embeddings, labels) -> scores

BATCH = 20  # the reference's


def by_batch(weight: mx.nd.NDArray, settings: margins.Margin) -> Score:
    """The reference's method, as a function of embeddings and labels."""
    label = mx.sym.Variable("label")
    classes, size = weight.shape
    symbol = mx.sym.softmax(margins.margin_logits(
        mx.sym.Variable("embedding"), label, classes, size, settings), axis=1)

    def score(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
        largest = []
        for start in range(0, len(labels), BATCH):
            some = slice(start, start + BATCH)
            executor = symbol.bind(mx.cpu(), {
                "fc7_weight": weight, "embedding": mx.nd.array(embeddings[some]),
                "label": mx.nd.array(labels[some])}, grad_req="null")
            probabilities = executor.forward(is_train=False)[0].asnumpy()
            largest.append(probabilities.max(axis=1))
            probabilities.argmax(axis=1), probabilities[range(len(labels[some])), labels[some]]
        return np.concatenate(largest)

    return score


def product(weight: mx.nd.NDArray, rows: int) -> Score:
    unit = mx.nd.L2Normalization(weight, mode="instance")

    def multiply(embeddings: np.ndarray, _: np.ndarray) -> None:
        for start in range(0, len(embeddings), rows):
            mx.nd.FullyConnected(mx.nd.array(embeddings[start:start + rows]), unit, no_bias=True,
                                 num_hidden=len(weight)).wait_to_read()

    return multiply


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=96499)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--images", type=int, default=1024, help="scored each round by ours")
    parser.add_argument("--slow-images", type=int, default=5 * BATCH, help="and batch by batch")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    random, settings = np.random.RandomState(0), margins.Margin()
    mx.random.seed(0)
    weight = mx.nd.random.normal(shape=(options.classes, options.size))
    embeddings = random.randn(options.images, options.size).astype(np.float32)
    labels = random.randint(0, options.classes, options.images)
    classifier, slow = Classifier({"fc7_weight": weight}, settings, mx.cpu()), by_batch(
        weight, settings)
    some = slice(0, options.slow_images)
    np.testing.assert_allclose(classifier(embeddings[some], labels[some])["max_probability"],
                               slow(embeddings[some], labels[some]), rtol=1e-4)
    multiply = product(weight, classifier.rows)

    def peer(work: Score, count: int) -> Peer:
        def scored() -> int:
            work(embeddings[:count], labels[:count])
            return count

        return timed(scored)

    rates = alternate({
        "ours": peer(classifier, options.images),
        "by batch": peer(slow, options.slow_images),
        "product": peer(multiply, options.images),
    }, options.rounds)
    table(rates, "images")
    for name, rate in rates.items():
        print(f"{name:9s} {1e5 / statistics.median(rate.wall):8.0f} s per 100,000 images at "
              f"{options.classes:,} classes; {0.1 * statistics.median(rate.cpu):8.0f} s of "
              f"processor time")
    print(f"ours: {classifier.rows} images at once")
    compare(rates, "ours", "by batch", 2.0)
    compare(rates, "ours", "product", 0.5)


if __name__ == "__main__":
    main()
