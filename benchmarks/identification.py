"""Identification of 1,000 probes among 1,000,000 distractors of 512 numbers: time and memory.

The peer, in the same run, is the matrix product alone, with the same blocks and the same buffer; it
keeps no results. Distractors are random and lie in memory (2 GB), so neither waits for a disk.

    python benchmarks/identification.py [--distractors N] [--probes P]
"""
import argparse
import resource
import statistics
import time
from typing import Any, Callable

import unequal  # noqa: F401  first: it sets the number of threads

import numpy as np  # isort: skip

from unequal.eval import features, identification


def draw(count: int, size: int) -> np.ndarray:
    """Random rows of length 1, float32 (count, size); drawn in blocks to save memory."""
    random = np.random.default_rng(0)
    result = np.empty((count, size), np.float32)
    for start in range(0, count, 8192):
        block = result[start:start + 8192]
        random.standard_normal(out=block, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return result


def product_alone(probes: np.ndarray, distractors: np.ndarray) -> None:
    """The matrix product of the blocks that identify() takes."""
    count = identification.block_size(len(probes))
    buffer = np.empty((len(probes), count), np.float32)
    for start in range(0, len(distractors), count):
        block = distractors[start:start + count]
        np.matmul(probes, block.T, out=buffer[:, :len(block)] if len(block) == count else None)


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--probes", type=int, default=1000)
    parser.add_argument("--distractors", type=int, default=1000000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    probes = draw(options.probes, options.size)
    identities = np.arange(options.probes) // 5
    distractors = draw(options.distractors, options.size)
    opened = features.from_array(distractors)
    alone, whole = [], []
    for _ in range(options.repeat):  # in turn, so that other load slows both
        alone.append(seconds(lambda: product_alone(probes, distractors)))
        whole.append(seconds(lambda: identification.identify(probes, identities, opened)))
    ratio = statistics.median(whole) / statistics.median(alone)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
    print(f"identification of {options.probes:,} probes among {options.distractors:,} distractors "
          f"of {options.size}: {statistics.median(whole):.2f} s; matrix product alone "
          f"{statistics.median(alone):.2f} s; ratio {ratio:.2f}; peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
