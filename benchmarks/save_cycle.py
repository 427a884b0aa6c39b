"""Cost of saving compared with training: `python benchmarks/save_cycle.py`.

The model is r50 with MF2's 96,499 classes on eight CPU contexts, as step 4 uses eight GPUs. A cycle
is the work between two stretches of training: the weights are copied to the host, checked for
infinities, saved as PREFIX-0000, and saved again in the state with the momenta. At the beginning of
an epoch mining needs the weights once more. Two methods run in turn in one process:

- all devices: MXNet's Module.get_params, which copies the weights of every device and averages
  them, at every use; a state is saved at every verification;
- one device: copies the weights of the first device only (BatchNorm's averages of all), once a
  step; a state is saved every five minutes (`--state-minutes`).

The forward passes of verification are the same in both and are not counted. The cost is compared
with 46 s of training between two saves, from the authors' logs (50 of the 100 batches of an epoch
that takes 92 s on their eight GPUs).

Files are written to --directory. The README's figure is of ``--rounds 3``.
"""
import argparse
import os
import statistics
import tempfile
import time
from typing import Callable, Dict, List

import unequal  # noqa: F401  first: it prepares MXNet

import mxnet as mx  # isort: skip
import numpy as np

from unequal.models import checkpoints
from unequal.symbols import heads, networks
from unequal.system import mxnet_private
from unequal.training import config, learner, state

TRAINING = 46.0  # seconds of 50 batches in the authors' logs


def bound(network: str, classes: int, devices: int, size: int) -> mx.mod.Module:
    """A module with weights and momenta on ``devices`` contexts."""
    label = mx.sym.Variable("softmax_label")
    symbol = heads.softmax_head(networks.get_symbol(network, 512), label, classes, 512)
    contexts = [mx.cpu(number) for number in range(devices)]
    module = mx.mod.Module(symbol, context=contexts)
    module.bind([("data", (devices, 3, size, size))], [("softmax_label", (devices,))])
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2))
    module.init_optimizer(kvstore="device", optimizer=learner.optimizer(
        config.Config(lr=0.001), [], contexts, devices))
    batch = mx.io.DataBatch([mx.nd.zeros((devices, 3, size, size))], [mx.nd.zeros((devices,))])
    module.forward_backward(batch)
    module.update()
    mx.nd.waitall()
    return module


def fetch(module: mx.mod.Module, old: bool) -> tuple:
    """Copy the weights to the host and check that all are finite."""
    if old:
        module._params_dirty = True  # as after a batch
        values = module.get_params()
    else:
        values = mxnet_private.host_params(module)
    for one in values:
        for value in one.values():
            assert np.isfinite(value.asnumpy()).all()
    return values


def measured(module: mx.mod.Module, directory: str, rounds: int) -> Dict[str, Dict[str, float]]:
    """Median seconds of fetching, checkpoint and state for both methods, which run in turn."""
    seconds: Dict[str, Dict[str, List[float]]] = {
        name: {"fetch": [], "checkpoint": [], "state": []} for name in ("all", "one")}
    position = {"step": 1, "verified": 1, "saves": 0, "log": ["", 0],
                "best": {"first": 0.0, "last": 0.0, "mean": 0.0, "epoch": None, "stale": 0}}
    prefix = os.path.join(directory, "model")

    def timed(work: Callable) -> tuple:
        start = time.perf_counter()
        result = work()
        return result, time.perf_counter() - start

    for _ in range(rounds):
        for name in ("all", "one"):
            values, passed = timed(lambda name=name: fetch(module, name == "all"))
            seconds[name]["fetch"].append(passed)
            _, passed = timed(lambda values=values: checkpoints.save(
                prefix, 0, module.symbol, *values))
            seconds[name]["checkpoint"].append(passed)
            _, passed = timed(lambda values=values: state.save(prefix, {}, state.State(
                position, values[0], values[1], mxnet_private.momenta(module), {})))
            seconds[name]["state"].append(passed)
    return {name: {part: statistics.median(values) for part, values in parts.items()}
            for name, parts in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="r50")
    parser.add_argument("--classes", type=int, default=96499)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--directory", help="where to write; default a temporary one")
    options = parser.parse_args()
    module = bound(options.network, options.classes, options.devices, options.size)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        found = measured(module, directory, options.rounds)
    print("weights of                fetch  checkpoint  state  cycle, s  beside 46 s of training")
    for name, title, fetches, states in (("all", "all devices, each time", 1.5, 1.0),
                                         ("one", "one device, once a step", 1.0,
                                          TRAINING / 300)):
        parts = found[name]
        # Every second of step 4's verifications begins an epoch (50 batches of 100).
        cycle = fetches * parts["fetch"] + parts["checkpoint"] + states * parts["state"]
        print(f"{title:24}  {parts['fetch']:5.2f}  {parts['checkpoint']:10.2f}  "
              f"{parts['state']:5.2f}  {cycle:8.2f}  {cycle / TRAINING:.1%}")


if __name__ == "__main__":
    main()
