"""Cost of finding noise in many classes: memory, and processor time over the matrix product's.

    python benchmarks/noise_scale.py [--classes 5000] [--images 10] [--size 512]
    python benchmarks/noise_scale.py --classes 100000 --images 2    thirteen minutes, 2.3 GB

Features are random (one direction a class, plus noise), and 5% of the labels are wrong.
`noise_scores.find` compares every image with every class centre, so it cannot take less time than
the product of features and centres. The time of that product is measured on up to 4,096 images and
scaled to all. Memory is the peak of the whole process; the peak before the call, when the features
are in memory, is printed too.
"""
import argparse
import resource
import sys
import time
from typing import Tuple

import numpy as np

from unequal.eval import noise_scores


def drawn(classes: int, images: int, size: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features float32 (n, size) of length 1, labels, and which labels are wrong."""
    rng = np.random.default_rng(0)
    features = np.empty((classes * images, size), np.float32)
    for start in range(0, classes, 1000):  # in blocks, as a second copy may not fit into memory
        stop = min(start + 1000, classes)
        centres = rng.standard_normal((stop - start, 1, size), np.float32)
        block = centres + rng.standard_normal((stop - start, images, size), np.float32)
        block /= np.linalg.norm(block, axis=2, keepdims=True)
        features[start * images:stop * images] = block.reshape(-1, size)
    labels = np.repeat(np.arange(classes), images)
    wrong = rng.random(len(labels)) < 0.05
    labels[wrong] = (labels[wrong] + rng.integers(1, classes, wrong.sum())) % classes
    return features, labels, wrong


def peak() -> float:
    """Peak resident memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> int:
    """Measure, and print one line of figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--classes", type=int, default=5000)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--size", type=int, default=512)
    options = parser.parse_args()
    features, labels, wrong = drawn(options.classes, options.images, options.size)
    centres = features[::options.images]
    rows = min(len(features), 4096)
    start = time.process_time()
    for first in range(0, rows, 1024):
        features[first:first + 1024] @ centres.T
    product = (time.process_time() - start) * len(features) / rows
    before, start = peak(), time.process_time()
    found = noise_scores.find(features, labels, classes=options.classes, small=0, unseen=True)
    seconds = time.process_time() - start
    listed = found.kinds != ""
    print(f"{len(features):,} images of {options.classes:,} classes, {options.size} numbers each "
          f"({features.nbytes / 1e9:.1f} GB): {seconds:,.0f} s of processor time, "
          f"{seconds / product:.2f} times the product alone ({product:,.0f} s); peak memory "
          f"{peak():.1f} GB ({before:.1f} before); precision {wrong[listed].mean():.3f}, recall "
          f"{listed[wrong].mean():.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
