"""16-bit arithmetic beside float32's: losses and weights over 200 batches of a small network.

    python studies/mixed_precision.py [--steps 200]

n8 on drawn pictures of 16x16, ArcFace over 20 classes, the same weights and batches, on the CPU:
float32 twice (the second from weights changed by 1e-7 of their size, the yardstick: training
amplifies any rounding) and bfloat16, whose operands are rounded where float16's are on GPUs. One
line each: the mean loss of the first and last 20 batches, and the mean distance from float32's
loss. No GPU has run float16 here.
"""
import argparse
import warnings
from typing import List

import unequal  # noqa: F401  first: it prepares MXNet

import mxnet as mx  # isort: skip
import numpy as np

from unequal.symbols import heads, networks
from unequal.symbols.margins import Margin

SIZE, CLASSES, ROWS, SIDE = 32, 20, 32, 16


def trajectory(dtype: str, steps: int, change: float = 0.0) -> List[float]:
    """The loss of each batch, from weights scaled by ``1 + change * N(0, 1)``."""
    mx.random.seed(0)
    np.random.seed(0)
    random = np.random.RandomState(0)
    scale = heads.LOSS_SCALE[dtype]
    symbol = heads.softmax_head(
        networks.get_symbol("n8", SIZE, version_output="I", dtype=dtype),
        mx.sym.Variable("softmax_label"), CLASSES, SIZE, Margin(margin_s=16.0, margin_m=0.2),
        index=False, loss_scale=scale)
    module = mx.mod.Module(symbol, label_names=["softmax_label"])
    module.bind([("data", (ROWS, 3, SIDE, SIDE))], [("softmax_label", (ROWS,))])
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2))
    if change:
        noise = np.random.RandomState(1)
        arg_params, aux_params = module.get_params()
        module.set_params({name: value * mx.nd.array(1 + change * noise.randn(*value.shape))
                           for name, value in arg_params.items()}, aux_params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rescale_grad is not 1/batch: the loss is a mean already
        module.init_optimizer(optimizer=mx.optimizer.SGD(
            learning_rate=0.05, momentum=0.9, wd=5e-4, rescale_grad=1 / scale))
    pattern = random.randint(0, 256, (CLASSES, 3, SIDE, SIDE))
    losses = []
    for _ in range(steps):
        label = random.randint(0, CLASSES, ROWS)
        pictures = 0.3 * pattern[label] + random.randint(0, 180, (ROWS, 3, SIDE, SIDE))
        module.forward_backward(mx.io.DataBatch([mx.nd.array(pictures)], [mx.nd.array(label)]))
        module.update()
        probability = module.get_outputs()[2].asnumpy()  # of the label
        losses.append(float(-np.log(probability + 1e-30).mean()))
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    plain = np.array(trajectory("float32", steps))
    runs = {"float32": plain,
            "float32, changed by 1e-7": np.array(trajectory("float32", steps, 1e-7)),
            "bfloat16": np.array(trajectory("bfloat16", steps))}
    for name, losses in runs.items():
        print(f"{name:26s} first 20: {losses[:20].mean():.4f}  last 20: {losses[-20:].mean():.4f}  "
              f"distance: {np.abs(losses - plain).mean():.4f}")


if __name__ == "__main__":
    main()
