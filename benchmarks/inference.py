"""Inference, images a second: r50 with PReLU at 112x112, float32, the same weights everywhere.

Each peer runs in a process of its own:

- mxnet: MXNet as `unequal embed` uses it;
- mxnet-unfused: the same without the fusion of BatchNorm into convolution by MXNet's oneDNN backend
  (the difference is the most that a symbol with BatchNorm folded in could gain);
- onnxruntime: the model that `unequal export` writes;
- torch: a PyTorch network of the same layers, channels last (left out without PyTorch).

The peers take turns, and the best round of each counts, because other load only slows a peer down.

    python benchmarks/inference.py [--network r50] [--batch-size 32] [--rounds 3]
"""
import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Dict, List

import unequal  # noqa: F401  first: it sets the number of threads

import mxnet as mx  # isort: skip
import numpy as np

from unequal.commands import export
from unequal.models import checkpoints
from unequal.models.embedder import Embedder
from unequal.symbols import fresnet, networks
from unequal.system import runtime

SIZE = (112, 112)

Params = Dict[str, mx.nd.NDArray]
Step = Callable[[], np.ndarray]


def prepare(options: argparse.Namespace, folder: str) -> None:
    """A checkpoint with random weights, and its ONNX model."""
    symbol = networks.get_symbol(options.network)
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", (1, 3) + SIZE)], for_training=False)
    module.init_params(mx.init.Xavier())
    checkpoints.save(os.path.join(folder, "model"), 0, symbol, *module.get_params())
    model = export.to_onnx(symbol, *module.get_params())
    with open(os.path.join(folder, "model.onnx"), "wb") as file:
        file.write(model.SerializeToString())


def pixels(options: argparse.Namespace) -> np.ndarray:
    random = np.random.RandomState(0)
    return random.randint(0, 256, (options.batch_size, 3) + SIZE).astype(np.float32)


def run_mxnet(options: argparse.Namespace) -> Step:
    model = Embedder.from_checkpoint(os.path.join(options.folder, "model,0"), SIZE,
                                     batch_size=options.batch_size)
    data = mx.nd.array(pixels(options))
    return lambda: model.forward(data)


def run_onnxruntime(options: argparse.Namespace) -> Step:
    import onnxruntime

    session = onnxruntime.InferenceSession(os.path.join(options.folder, "model.onnx"),
                                           providers=["CPUExecutionProvider"])
    data = pixels(options)
    return lambda: session.run(None, {"data": data})[0]


def run_torch(options: argparse.Namespace) -> Step:
    import torch
    from torch import nn

    torch.set_num_threads(runtime.available_cpus())
    spec = fresnet.NETWORKS[options.network]
    if spec.bottleneck:
        sys.exit("the PyTorch network has no bottleneck units: choose r18 to r100")

    class Unit(nn.Module):
        def __init__(self, before: int, filters: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.BatchNorm2d(before, 2e-5), nn.Conv2d(before, filters, 3, 1, 1, bias=False),
                nn.BatchNorm2d(filters, 2e-5), nn.PReLU(filters),
                nn.Conv2d(filters, filters, 3, stride, 1, bias=False),
                nn.BatchNorm2d(filters, 2e-5))
            self.shortcut = nn.Identity() if stride == 1 else nn.Sequential(
                nn.Conv2d(before, filters, 1, stride, bias=False),
                nn.BatchNorm2d(filters, 2e-5))

        def forward(self, x: Any) -> Any:
            return self.body(x) + self.shortcut(x)

    channels = spec.filters[0]
    layers = [nn.Conv2d(3, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels, 2e-5),
              nn.PReLU(channels)]
    for units, filters in zip(spec.units, spec.filters[1:]):
        for index in range(units):
            layers.append(Unit(channels, filters, 1 if index else 2))
            channels = filters
    layers += [nn.BatchNorm2d(channels, 2e-5), nn.Flatten(),
               nn.Linear(channels * 7 * 7, 512), nn.BatchNorm1d(512, 2e-5)]
    model = nn.Sequential(*layers).eval()
    # The same weights, so that the outputs can be compared.
    symbol, arg_params, aux_params = checkpoints.load(os.path.join(options.folder, "model"), 0)
    _copy_weights(torch, model, symbol, arg_params, aux_params)
    model = model.to(memory_format=torch.channels_last)
    data = torch.from_numpy(pixels(options))

    @torch.inference_mode()
    def step() -> np.ndarray:
        normalised = (data - 127.5) * 0.0078125
        return model(normalised.contiguous(memory_format=torch.channels_last)).numpy()

    return step


def _copy_weights(torch: Any, model: Any, symbol: mx.sym.Symbol, arg_params: Params,
                  aux_params: Params) -> None:
    """Give the PyTorch network the checkpoint's weights, kind by kind in the order of layers.

    This works because both networks define a unit's shortcut last: the layers of one kind come in
    the same order in both.
    """
    names = [name for name in symbol.list_arguments() if name != "data"]
    convolutions = iter([name for name in names if name.endswith("_weight") and "conv" in name])
    norms = iter([name[:-len("_beta")] for name in names if name.endswith("_beta")])
    slopes = iter([name for name in names if "relu" in name])

    def give(parameter: Any, array: mx.nd.NDArray) -> None:
        parameter.data = torch.from_numpy(array.asnumpy()).reshape(parameter.shape)

    for layer in model.modules():
        kind = type(layer).__name__
        if kind == "Conv2d":
            give(layer.weight, arg_params[next(convolutions)])
        elif kind == "PReLU":
            give(layer.weight, arg_params[next(slopes)])
        elif kind == "Linear":
            give(layer.weight, arg_params["pre_fc1_weight"])
            give(layer.bias, arg_params["pre_fc1_bias"])
        elif kind.startswith("BatchNorm"):
            name = next(norms)
            if kind == "BatchNorm2d":  # fc1's gamma is fixed to 1
                give(layer.weight, arg_params[name + "_gamma"])
            give(layer.bias, arg_params[name + "_beta"])
            give(layer.running_mean, aux_params[name + "_moving_mean"])
            give(layer.running_var, aux_params[name + "_moving_var"])


# name -> (function that returns a step, environment)
CONTESTANTS = {
    "mxnet": (run_mxnet, {}),
    "mxnet-unfused": (run_mxnet, {"MXNET_SUBGRAPH_BACKEND": "NONE"}),
    "onnxruntime": (run_onnxruntime, {}),
    "torch": (run_torch, {}),
}


def contest(options: argparse.Namespace) -> None:
    """The child process: warm up, save the embeddings, measure, print images a second."""
    step = CONTESTANTS[options.only][0](options)
    np.save(os.path.join(options.folder, options.only + ".npy"), step())
    step()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < options.seconds:
        step()
        steps += 1
    print(steps * options.batch_size / (time.perf_counter() - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="r50")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--only", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        contest(options)
        return
    names = [name for name in CONTESTANTS if name != "torch" or importlib.util.find_spec("torch")]
    if "torch" not in names:
        print("PyTorch is not installed: left out")
    speeds: Dict[str, List[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        prepare(options, folder)
        for _ in range(options.rounds):
            for name in names:
                command = [sys.executable, __file__, "--only", name, "--folder", folder,
                           "--network", options.network, "--batch-size", str(options.batch_size),
                           "--seconds", str(options.seconds)]
                done = subprocess.run(command, env=dict(os.environ, **CONTESTANTS[name][1]),
                                      stdout=subprocess.PIPE, check=True, text=True)
                speeds[name].append(float(done.stdout))
        outputs = {name: np.load(os.path.join(folder, name + ".npy")) for name in names}
    ours = max(speeds["mxnet"])
    for name in names:
        speed = max(speeds[name])
        difference = np.abs(outputs[name] - outputs["mxnet"]).max()
        print(f"{name:14} {speed:5.1f} images/s (worst round {min(speeds[name]):.1f}), "
              f"{speed / ours:.2f} times mxnet; largest difference "
              f"{difference / np.abs(outputs['mxnet']).max():.1e} of the largest output")


if __name__ == "__main__":
    main()
