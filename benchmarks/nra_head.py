"""Time and peak memory of the NRA head at MF2's 96,499 classes, batch 100, embedding of 512.

Our head (``ours``) is compared with these peers in the same run, each in a process of its own, so
that its peak memory can be measured:

- products: the matrix products alone (logits, and the gradients of embedding and weight);
- cosines: the products of normalised rows, which every head on cosines computes;
- by MXNet: our head with the weight normalised by MXNet's own operator, as on GPUs and wherever
  rows.c was not compiled;
- reference: a symbol in the reference's style (one-hot matrices, log-softmax, MakeLoss).

The peers take turns, so that other load slows all alike. Times and ratios are medians over rounds.

    python benchmarks/nra_head.py [--classes 96499] [--rounds 3]
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Callable, Dict, List, Optional, Tuple

import unequal  # noqa: F401  first: it sets the number of threads

import mxnet as mx  # isort: skip
import numpy as np

from unequal.symbols import heads, margins, operators

Build = Callable[[mx.sym.Symbol, mx.sym.Symbol, argparse.Namespace], mx.sym.Symbol]

BETA, S, M = 0.9, 64.0, 0.5


def products(embedding: mx.sym.Symbol, weight: mx.sym.Symbol,
             options: argparse.Namespace) -> mx.sym.Symbol:
    """The products that every head needs: z = x W^T, and backward dx = g W and dW = g^T x."""
    return mx.sym.FullyConnected(embedding, weight=weight, no_bias=True,
                                 num_hidden=options.classes)


def bare(embedding: mx.sym.Symbol, label: mx.sym.Symbol,
         options: argparse.Namespace) -> mx.sym.Symbol:
    return products(embedding, mx.sym.Variable("fc7_weight"), options)


def cosines(embedding: mx.sym.Symbol, label: mx.sym.Symbol,
            options: argparse.Namespace) -> mx.sym.Symbol:
    """The products of normalised rows; the excess over ``products`` is what normalising costs."""
    return products(mx.sym.L2Normalization(embedding, mode="instance"),
                    mx.sym.L2Normalization(mx.sym.Variable("fc7_weight"), mode="instance"), options)


def ours(embedding: mx.sym.Symbol, label: mx.sym.Symbol, options: argparse.Namespace,
         on_cpu: bool = True) -> mx.sym.Symbol:
    return heads.nra_head(embedding, label, options.classes, options.size, margins.Margin(4, S, M),
                        beta=BETA, normalizer=2 * options.batch, on_cpu=on_cpu)


def by_mxnet(embedding: mx.sym.Symbol, label: mx.sym.Symbol,
             options: argparse.Namespace) -> mx.sym.Symbol:
    return ours(embedding, label, options, on_cpu=False)


def reference_style(embedding: mx.sym.Symbol, label: mx.sym.Symbol,
                    options: argparse.Namespace) -> mx.sym.Symbol:
    """The loss as a graph of standard operators that selects entries by dense one-hot matrices."""
    def one_hot(index: mx.sym.Symbol) -> mx.sym.Symbol:
        return mx.sym.one_hot(index, depth=options.classes)

    weight = mx.sym.L2Normalization(mx.sym.Variable("fc7_weight"), mode="instance")
    embedding = mx.sym.L2Normalization(embedding, mode="instance") * S
    logits = products(embedding, weight, options)
    target = mx.sym.pick(logits, label, axis=1)
    cos_t = target / S
    sin_t = mx.sym.sqrt(1.0 - cos_t * cos_t)
    harder = S * (cos_t * float(np.cos(M)) - sin_t * float(np.sin(M)))
    passed = mx.sym.Activation(cos_t + float(np.cos(M)), act_type="relu")
    change = mx.sym.where(passed, harder, target - S * M * float(np.sin(M))) - target
    logits = logits + mx.sym.broadcast_mul(one_hot(label), mx.sym.expand_dims(change, axis=1))
    log_probability = mx.sym.log_softmax(logits)
    prediction = mx.sym.argmax(log_probability, axis=1)

    def entropy(index: mx.sym.Symbol) -> mx.sym.Symbol:
        return -mx.sym.sum(mx.sym.broadcast_mul(one_hot(index), log_probability), axis=(0, 1))

    loss = (BETA * entropy(label) + (1 - BETA) * entropy(prediction)) / (2 * options.batch)
    return mx.sym.Group([mx.sym.BlockGrad(logits), mx.sym.MakeLoss(loss)])


VARIANTS = {"products": bare, "cosines": cosines, "ours": ours, "by MXNet": by_mxnet,
            "reference": reference_style}
GOAL = 1.3  # ours / products


def measure(build: Build, options: argparse.Namespace) -> Dict[str, float]:
    """Median seconds of a forward + backward pass, and the process's peak memory in MB less its
    memory before the arrays were allocated."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    symbol = build(mx.sym.Variable("emb"), mx.sym.Variable("label"), options)
    shapes: Dict[str, Tuple[int, ...]] = {
        "emb": (options.batch, options.size), "fc7_weight": (options.classes, options.size)}
    if "label" in symbol.list_arguments():
        shapes["label"] = (options.batch,)
    executor = symbol.simple_bind(mx.cpu(), grad_req={
        name: "null" if name == "label" else "write" for name in shapes}, **shapes)
    mx.random.seed(0)
    for name, array in executor.arg_dict.items():
        array[:] = (mx.nd.arange(options.batch) * 7 if name == "label"
                    else mx.nd.random.normal(shape=shapes[name]))
    # The products have no loss: a gradient of ones stands for it.
    head = None if "label" in shapes else [mx.nd.ones((options.batch, options.classes))]
    mx.nd.waitall()

    seconds = []
    for _ in range(options.steps + 1):
        start = time.perf_counter()
        executor.forward(is_train=True)
        executor.backward(head)
        mx.nd.waitall()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(seconds[1:]), "megabytes": (peak - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=96499)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed passes a process")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)  # in the child
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(VARIANTS[options.variant], options)))
        return
    found: Dict[str, List[Dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(options.rounds):
        for name in VARIANTS:
            found[name].append(json.loads(subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--variant", name], check=True,
                stdout=subprocess.PIPE).stdout))
    if not operators.COMPILED:
        print("rows.c was not compiled when the package was installed: ours is by MXNet")
    print(f"forward and backward at {options.classes:,} classes, batch {options.batch}, embedding "
          f"of {options.size}; medians of {options.rounds} rounds")

    def median(name: str, key: str, over: Optional[str] = None) -> float:
        return statistics.median(
            result[key] / (found[over][number][key] if over else 1)
            for number, result in enumerate(found[name]))

    for name in VARIANTS:
        print(f"{name:10s} {median(name, 'seconds'):6.3f} s, "
              f"{median(name, 'seconds', 'products'):4.2f} of the products'; "
              f"{median(name, 'megabytes'):5.0f} MB, {median(name, 'megabytes', 'reference'):4.2f} "
              "of the reference's")
    ratio = median("ours", "seconds", "products")
    print(f"ours / products: {ratio:.2f} (goal {GOAL:.2f}, "
          f"{'met' if ratio <= GOAL else 'missed'}); reference / ours: "
          f"{median('reference', 'seconds', 'ours'):.2f}")


if __name__ == "__main__":
    main()
