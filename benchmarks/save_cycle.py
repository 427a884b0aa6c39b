"""What saving and verifying cost beside training: `python benchmarks/save_cycle.py`.

r50 with MF2's 96,499 classes on eight CPU contexts, as step 4 has it on eight GPUs. A cycle is what
happens between two stretches of training: the weights are brought to the host, looked at for
infinities, saved as PREFIX-0000, and saved once more in the state with the momenta; at an epoch's
beginning mining wants the weights again. `all devices` is MXNet's Module.get_params, which brings
every device's weights and averages them, each time anew, with a state at every verification;
`one device` brings the first device's, BatchNorm's averages apart, once a step, with a state every
five minutes (`--state-minutes`). Verification itself, the forward passes, is the same in both and
is not counted.

Beside it: seconds of the training between two saves, from the authors' logs (50 batches of the 92 s
that an epoch of 100 takes on their eight GPUs).

One process, the two in turn; disk writes go to --directory. The README's figure is of
``--rounds 3``.
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
    """The weights on the host, all finite."""
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
    """Median seconds of each part, in turn."""
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
