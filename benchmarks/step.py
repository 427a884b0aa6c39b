"""Speed of a training step of r50 at 112x112, fp32, compared with its peers, in one run.

    python benchmarks/step.py [--batch 16] [--rounds 3] [--steps 3]

Images a second of forward, backward and update (SGD with momentum), ArcFace head of 1,000 classes:

- ours: the symbol that train_softmax.py builds, through Module;
- plain: the same with MXNet's own PReLU operator (LeakyReLU);
- torch: the same layers in PyTorch, channels_last (`pip install torch`, the extra [bench]).

Each peer has a process of its own, because MXNet and PyTorch each bring an OpenMP runtime, with one
thread a processor. Only one peer works at a time.
"""
import argparse
import subprocess
import sys
import time
import warnings
from typing import Any, Callable, Tuple

from _common import alternate, compare, table

CLASSES, EMBEDDING, SIZE = 1000, 512, 112


def mxnet_step(batch: int, plain: bool) -> Callable[[], None]:
    """A function that does one step; ``plain`` replaces the PReLU."""
    import unequal  # noqa: F401  first: it prepares MXNet

    import mxnet as mx  # isort: skip
    import numpy as np

    from unequal.symbols import heads, layers, networks
    from unequal.training import config, learner

    if plain:
        def plain_prelu(data: Any, channels: int, name: str, narrow: Any = None) -> Any:
            return mx.sym.LeakyReLU(data, gamma=layers.slope(channels, name), act_type="prelu",
                                    name=name)

        layers.prelu_depthwise = plain_prelu
    label = mx.sym.Variable("softmax_label")
    symbol = heads.softmax_head(networks.get_symbol("r50", EMBEDDING), label, CLASSES, EMBEDDING)
    module = mx.mod.Module(symbol)
    shapes = [("data", (batch, 3, SIZE, SIZE))], [("softmax_label", (batch,))]
    module.bind(*shapes)
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2))
    flags = config.Config(lr=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rescale_grad is not 1/batch: the loss is a mean already
        module.init_optimizer(optimizer=learner.optimizer(flags, [], [mx.cpu()], 1))
    random = np.random.RandomState(0)
    data = mx.io.DataBatch([mx.nd.array(random.randint(0, 256, shapes[0][0][1]))],
                           [mx.nd.array(random.randint(CLASSES, size=batch))])

    def step() -> None:
        module.forward_backward(data)
        module.update()
        mx.nd.waitall()

    return step


def torch_step(batch: int) -> Callable[[], None]:
    """The same layers, written for PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional

    from unequal.symbols.fresnet import NETWORKS
    from unequal.system.runtime import available_cpus

    torch.set_num_threads(available_cpus())

    def conv(inner: int, outer: int, kernel: int, stride: int = 1) -> nn.Module:
        return nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=False)

    class Unit(nn.Module):
        def __init__(self, inner: int, outer: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.BatchNorm2d(inner), conv(inner, outer, 3), nn.BatchNorm2d(outer),
                nn.PReLU(outer), conv(outer, outer, 3, stride), nn.BatchNorm2d(outer))
            self.shortcut = nn.Sequential() if stride == 1 else nn.Sequential(
                conv(inner, outer, 1, stride), nn.BatchNorm2d(outer))

        def forward(self, x: Any) -> Any:
            return self.body(x) + self.shortcut(x)

    class Head(nn.Module):
        """ArcFace, s = 64, m = 0.5."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(CLASSES, EMBEDDING) * 0.05)

        def forward(self, x: Any, label: Any) -> Any:
            cos = functional.linear(functional.normalize(x), functional.normalize(self.weight))
            row = torch.arange(len(label))
            angle = torch.acos(cos[row, label].clamp(-1 + 1e-6, 1 - 1e-6))
            logits = cos.index_put((row, label), torch.cos(angle + 0.5))
            return functional.cross_entropy(64 * logits, label)

    spec = NETWORKS["r50"]
    layers, inner = [conv(3, 64, 3), nn.BatchNorm2d(64), nn.PReLU(64)], 64
    for units, outer in zip(spec.units, spec.filters[1:]):
        for place in range(units):
            layers.append(Unit(inner, outer, 1 if place else 2))
            inner = outer
    layers += [nn.BatchNorm2d(inner), nn.Dropout(0.4), nn.Flatten(),
               nn.Linear(inner * 7 * 7, EMBEDDING), nn.BatchNorm1d(EMBEDDING)]
    network = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    head = Head()
    optimizer = torch.optim.SGD([*network.parameters(), *head.parameters()], lr=0.01,
                                momentum=0.9, weight_decay=5e-4)
    data = torch.randint(0, 256, (batch, 3, SIZE, SIZE)).float()
    data = data.contiguous(memory_format=torch.channels_last)
    label = torch.randint(CLASSES, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        head(network((data - 127.5) * 0.0078125), label).backward()
        optimizer.step()

    return step


PEERS = {
    "ours": lambda batch: mxnet_step(batch, False),
    "plain PReLU": lambda batch: mxnet_step(batch, True),
    "PyTorch": torch_step,
}


def serve(name: str, batch: int) -> None:
    """Read numbers of steps from stdin; do them and print seconds and processor seconds."""
    step = PEERS[name](batch)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


class Peer:
    """A process that does ``options.steps`` steps at each call and waits in between."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self._images, self._steps = options.batch * options.steps, options.steps
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name, "--batch", str(options.batch)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self._process.stdin and self._process.stdout  # both are pipes
        self._ask, self._answers = self._process.stdin, self._process.stdout

    def __call__(self) -> Tuple[int, float, float]:
        self._ask.write(f"{self._steps}\n")
        seconds, processor = map(float, self._answers.readline().split())
        return self._images, seconds, processor

    def close(self) -> None:
        self._ask.close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="of each peer in a round")
    parser.add_argument("--serve", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.batch)
    peers = {name: Peer(name, options) for name in PEERS}
    for peer in peers.values():  # warm-up
        peer()
    rates = alternate(peers, options.rounds)
    for peer in peers.values():
        peer.close()
    table(rates, "images")
    compare(rates, "ours", "plain PReLU", 1.5)
    compare(rates, "ours", "PyTorch", 1.0)


if __name__ == "__main__":
    main()
