"""Memory of a classifier of all identities, and of one of head identities with a tail stream.

    python benchmarks/memory.py [--only demo] [--batch 90]

The paper claims that the second takes less. Measured is the peak resident memory of a few training
steps on the CPU, less the memory after MXNet's import (SGD with momentum; noise-robust ArcFace; n8
at 32x32, a network so small that the classifier dominates). Each variant runs in its own process:

- all: every identity, head and tail, is a class;
- head + tail: head identities are classes; tail identities are mined (bags are drawn, and one bag
  is embedded by a second copy of the network) and separated by the center-dispersed loss.

Both are measured at the demo's sizes and at MF2's: 96,499 head and 542,197 tail identities,
embedding of 512, 45 head and 45 tail images (the share of one of eight devices in the recipe's
batch). The index of the record sets is left out because it is the same for both (see
`benchmarks/records.py`). Then the bytes of the classifier on each GPU are computed from the sizes;
they were not measured on a GPU.
"""
import argparse
import json
import resource
import subprocess
import sys
import warnings
from typing import Dict, List

import unequal  # noqa: F401  first: it prepares MXNet

import mxnet as mx  # isort: skip
import numpy as np

from unequal.models.embedder import Embedder, PictureList
from unequal.symbols import heads, margins, networks
from unequal.training.mining import confusable_identities
from unequal.training.tail import draw_bags

SIDE, IMAGES = 32, 3
# head and tail identities, embedding, images a batch, bag
SIZES = {"demo": (120, 300, 128, 144, 360), "MF2": (96499, 542197, 512, 90, 3600)}
VARIANTS = ("all", "head + tail")


def symbol_of(variant: str, size: str, batch: int) -> mx.sym.Symbol:
    """The training symbol; in ``head + tail`` half of the batch are tail images."""
    head, tail, embedding, _, _ = SIZES[size]
    network = networks.get_symbol("n8", embedding)
    label, settings = mx.sym.Variable("softmax_label"), margins.Margin(4, 64.0, 0.5)
    if variant == "all":
        return heads.nra_head(network, label, head + tail, embedding, settings, beta=0.9,
                            normalizer=batch)
    return heads.unequal_head(
        network, label, head, embedding, settings, head_size=batch // 2,
        tail_identities=batch // 2 // IMAGES, images_per_identity=IMAGES, interweight=1.0, beta=0.9,
        normalizer=batch // 2)


def mine(module: mx.mod.Module, size: str, batch: int) -> None:
    """Mine one bag, which allocates the bags of an epoch and one bag's pictures and embeddings."""
    _, identities, _, _, bag_size = SIZES[size]
    begin = np.arange(identities) * 4  # 2,215,502 images of 542,197 identities
    random = np.random.RandomState(0)
    bags = draw_bags(np.stack([begin, begin + 4], axis=1), IMAGES, bag_size, 100, random)
    arg_params, aux_params = module.get_params()
    embedder = Embedder(module.symbol, arg_params, aux_params, (SIDE, SIDE), batch_size=180)
    pictures = [random.randint(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)] * bags.bounds[1]
    embeddings, _ = embedder.embed(PictureList(pictures, "bag"))
    confusable_identities(embeddings, bags.identities[:bags.bounds[1]], batch // 2 // IMAGES)


def measure(variant: str, size: str, batch: int) -> int:
    """Peak memory of a few training steps, in bytes, less the memory before them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    symbol = symbol_of(variant, size, batch)
    module = mx.mod.Module(symbol, label_names=["softmax_label"])
    module.bind([("data", (batch, 3, SIDE, SIDE))], [("softmax_label", (batch,))])
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rescale_grad is not 1/batch: the loss is divided already
        module.init_optimizer(optimizer=mx.optimizer.SGD(learning_rate=0.01, momentum=0.9, wd=5e-4))
    if variant != "all":
        mine(module, size, batch)
    random = np.random.RandomState(0)
    data = mx.io.DataBatch([mx.nd.array(random.randint(0, 256, (batch, 3, SIDE, SIDE)))],
                           [mx.nd.array(random.randint(SIZES[size][0], size=batch))])
    for _ in range(3):
        module.forward_backward(data)
        module.update()
        mx.nd.waitall()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def computed(classes: int, embedding: int, rows: int) -> Dict[str, int]:
    """``{what: bytes}`` of a classifier on one GPU, float32."""
    matrix = 4 * classes * embedding
    return {"weights": matrix, "gradient": matrix, "momentum": matrix, "normalised copy": matrix,
            "logits": 4 * classes * rows}


def mebibytes(count: float) -> str:
    return f"{count / 2 ** 20:,.1f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=SIZES)
    parser.add_argument("--batch", type=int, help="images a step (a multiple of 6)")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)  # in the child
    parsed = parser.parse_args()
    for size, (head, tail, embedding, batch, _) in SIZES.items():
        if parsed.only not in (None, size):
            continue
        batch = parsed.batch or batch
        if parsed.variant:
            print(json.dumps(measure(parsed.variant, size, batch)))
            continue
        print(f"{size}: {head:,} head and {tail:,} tail identities, embedding of {embedding}, "
              f"{batch} images")
        peaks = [int(subprocess.run(
            [sys.executable, __file__, "--only", size, "--batch", str(batch), "--variant", variant],
            check=True, stdout=subprocess.PIPE).stdout) for variant in VARIANTS]
        for variant, peak in zip(VARIANTS, peaks):
            print(f"  measured  {variant:12s} {mebibytes(peak)}")
        print(f"  measured  all / head + tail: {peaks[0] / peaks[1]:.2f}")
        sums: List[int] = []
        for variant, classes, rows in ((VARIANTS[0], head + tail, batch),
                                       (VARIANTS[1], head, batch // 2)):
            parts = computed(classes, embedding, rows)
            sums.append(sum(parts.values()))
            shown = ", ".join(f"{name} {mebibytes(value)}" for name, value in parts.items())
            print(f"  computed  {variant:12s} {mebibytes(sums[-1])} on each device: {shown}")
        print(f"  computed  all / head + tail: {sums[0] / sums[1]:.2f}")


if __name__ == "__main__":
    main()
