"""Selection of the most confusable of 1,200 identities (3 images each, embeddings of 512).

The peer, in the same run, is the reference's method: distances row by row by MXNet operators, a
sort of all pairs, and a list that is searched for every pair. Both must choose the same 120
identities.

    python benchmarks/mining.py [--identities 1200] [--rounds 3]
"""
import argparse
from typing import Any, Callable, List

import _common

import unequal  # noqa: F401  first: it sets the number of threads

import mxnet as mx  # isort: skip
import numpy as np

from unequal.training.mining import confusable_identities

IMAGES = 3


def row_by_row(embeddings: np.ndarray, count: int, kind: Any = None) -> List[int]:
    """The reference's method, for identities of three adjacent rows of length 1.

    ``kind``: the algorithm of numpy.argsort. Each pair has two equal entries in the matrix of
    distances. The reference's sort leaves their order open; a stable sort puts the smaller identity
    first, as ours does.
    """
    centers = embeddings.reshape(-1, IMAGES, embeddings.shape[1]).mean(axis=1)
    on_device = mx.nd.array(centers)
    lines = []
    for index in range(len(centers)):
        difference = mx.nd.broadcast_sub(on_device[index:index + 1], on_device)
        lines.append(mx.nd.sum(difference * difference, axis=1).asnumpy())
    distances = np.array(lines) + np.eye(len(centers))
    rows, columns = np.unravel_index(np.argsort(distances, axis=None, kind=kind), distances.shape)
    chosen: List[int] = []
    for pair in zip(rows, columns):
        for identity in pair:
            if identity not in chosen:
                chosen.append(identity)
        if len(chosen) >= count:
            break
    return chosen[:count]


def bag(identities: int, size: int) -> np.ndarray:
    """Unit embeddings of identities that look alike to different degrees."""
    random = np.random.RandomState(0)
    means = random.randn(identities, size) + 2 * random.randn(10, size)[
        random.randint(0, 10, identities)]
    rows = np.repeat(means, IMAGES, axis=0) + 0.5 * random.randn(identities * IMAGES, size)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def bags(choose: Callable[[], Any], count: int) -> int:
    for _ in range(count):
        choose()
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--identities", type=int, default=1200)
    parser.add_argument("--count", type=int, default=120, help="how many to choose")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    embeddings = bag(options.identities, options.size)
    identities = np.repeat(np.arange(options.identities), IMAGES)

    def ours() -> np.ndarray:
        return confusable_identities(embeddings, identities, options.count)

    def reference() -> List[int]:
        return row_by_row(embeddings, options.count)

    # This call is also the warm-up.
    if ours().tolist() != row_by_row(embeddings, options.count, kind="stable"):
        raise SystemExit("the two methods choose different identities")
    rates = _common.alternate({"ours": _common.timed(lambda: bags(ours, 10)),
                               "reference": _common.timed(lambda: bags(reference, 1))},
                              options.rounds)
    _common.table(rates, "bags")
    _common.compare(rates, "ours", "reference", 50)


if __name__ == "__main__":
    main()
