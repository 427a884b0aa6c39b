"""`make test-gpu`: what a GPU computes beside the CPU, as one table.

Every head, a network with BatchNorm's averages, one step of each stage through the entry scripts,
a resume, two devices and the stores. Without a GPU it runs on CPU contexts in the forms for GPUs
(UNEQUAL_GPU_FORMS), as tests/gpu/test_suite.py does, so that the suite itself is known to work.

    python tests/gpu/suite.py [--devices gpu:0,1]
"""
import argparse
import contextlib
import io
import logging
import os
import sys
import tempfile
import time
from typing import Callable, Dict, Iterator, List, Optional, Tuple

import unequal  # noqa: F401  before mxnet

# isort: split
import mxnet as mx
import numpy as np

from unequal.commands import cli
from unequal.models import device_check
from unequal.models.device_check import Agreement, Arrays
from unequal.symbols import heads, networks
from unequal.symbols.margins import LOSS_TYPES, SPHERE_BETA, Margin
from unequal.synthetic.dataset import make_dataset
from unequal.system import runtime
from unequal.training import state

_BATCH, _EMBEDDING, _CLASSES = 16, 32, 50
_FLOOR = 1e-2  # of the largest gradient: smaller ones are rounding
# n8 without dropout, whose numbers differ between devices; the update of one step at lr 0.1.
_SMALL = ("--network", "n8", "--emb-size", "16", "--version-output", "I", "--margin-s", "16",
          "--target", "", "--lr", "0.1", "--verbose", "1000")
Case = Tuple[str, Callable[[], Agreement]]


def _head(step: str, loss_type: int, on_cpu: bool) -> mx.sym.Symbol:
    embedding, label = mx.sym.Variable("emb"), mx.sym.Variable("label")
    margin = Margin(loss_type=loss_type, margin_s=16.0, margin_m=0.35, margin_a=0.9, margin_b=0.15)
    common = (embedding, label, _CLASSES, _EMBEDDING, margin)
    if step == "2":
        return heads.softmax_head(*common, index=on_cpu)
    if step == "3":
        return heads.nra_head(*common, beta=0.9, normalizer=2 * _BATCH, on_cpu=on_cpu,
                              index=on_cpu)
    return heads.unequal_head(*common, head_size=_BATCH - 6, tail_identities=2,
                              images_per_identity=3, interweight=1.0, beta=0.9, normalizer=5,
                              on_cpu=on_cpu, index=on_cpu)


def _arrays() -> Arrays:
    random = np.random.RandomState(1)
    return {"emb": random.randn(_BATCH, _EMBEDDING).astype(np.float32),
            "label": random.randint(0, _CLASSES, _BATCH).astype(np.float32),
            "fc7_weight": random.randn(_CLASSES, _EMBEDDING).astype(np.float32),
            "fc7_bias": random.randn(_CLASSES).astype(np.float32),
            SPHERE_BETA: np.array([5.0], np.float32)}


def head(step: str, loss_type: int, device: mx.Context) -> Agreement:
    """A head's form for GPUs on ``device`` beside the CPU's: outputs both have, and gradients."""
    found = []
    for symbol, context in ((_head(step, loss_type, False), device),
                            (_head(step, loss_type, True), mx.cpu(0))):
        outputs, gradients = device_check.run_symbol(symbol, _arrays(), ["label", SPHERE_BETA],
                                                     context)
        found.append({**outputs, **{"gradient of " + name: value
                                    for name, value in gradients.items()}})
    ours, reference = found
    both = {name: value for name, value in reference.items() if name in ours}
    return device_check.worst(ours, both, device_check.tolerance(device))


def network(device: mx.Context) -> Agreement:
    """n8 without dropout, forward and backward, and BatchNorm's averages after three batches."""
    found = []
    for depthwise, context in ((False, device), (True, mx.cpu(0))):
        symbol = mx.sym.MakeLoss(mx.sym.square(networks.get_symbol(
            "n8", 16, version_output="I", depthwise_prelu=depthwise)))
        executor = symbol.simple_bind(context, data=(8, 3, 16, 16))
        random = np.random.RandomState(2)
        for name, value in sorted(executor.arg_dict.items()):
            value[:] = (random.randint(0, 256, value.shape) if name == "data" else
                        0.25 + 0.2 * random.randn(*value.shape))
        for _, value in sorted(executor.aux_dict.items()):
            value[:] = 1.0
        for _ in range(3):
            executor.forward(is_train=True)
            executor.backward()
        mx.nd.waitall()
        found.append({name: value.asnumpy() for name, value in (
            *executor.aux_dict.items(), ("output", executor.outputs[0]),
            *(("gradient of " + name, value) for name, value in executor.grad_dict.items()
              if name != "data"))})
    return device_check.worst(*found, device_check.tolerance(device), _FLOOR)


@contextlib.contextmanager
def _forms(gpu: bool) -> Iterator[None]:
    """Within it scripts on CPU contexts take the forms for GPUs, or not."""
    before = os.environ.pop("UNEQUAL_GPU_FORMS", None)
    if gpu:
        os.environ["UNEQUAL_GPU_FORMS"] = "1"
    try:
        yield
    finally:
        os.environ.pop("UNEQUAL_GPU_FORMS", None)
        if before is not None:
            os.environ["UNEQUAL_GPU_FORMS"] = before


class Stages:
    """Steps of the recipe on a small set, on some device and on the CPU, by the entry scripts."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._data = os.path.join(directory, "data")
        make_dataset(self._data, seed=1, image_size=16, head_identities=6, tail_identities=8,
                     eval_pairs=20, eval_identities=20)
        self._runs = 0

    def _flags(self, step: str, devices: int) -> List[str]:
        head_set, tail_set = (os.path.join(self._data, name)
                              for name in ("MF2_pic9_head", "MF2_pic9_tail"))
        sizes = {"unequal": ["--batch-size1", "12", "--batchsize_id", "12", "--bags", "2",
                             "--bag-size", "24", "--batch-size2", "24", "--data-dir-interclass",
                             tail_set]}
        return ["train", step, *_SMALL, "--data-dir", head_set,
                *sizes.get(step, ["--per-batch-size", str(12 // devices)])]

    def train(self, step: str, spec: str, gpu: bool, *more: str, prefix: str = "") -> str:
        """Run a script; the prefix of its checkpoints and state."""
        self._runs += 1
        prefix = prefix or os.path.join(self._directory, str(self._runs), "model")
        count = spec.count(",") + 1 if spec.startswith("gpu") else int(spec.partition(":")[2] or 1)
        output = io.StringIO()
        with _forms(gpu), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = cli.main([*self._flags(step, count), "--devices", spec, "--prefix", prefix,
                             *more])
        if code:
            raise RuntimeError(output.getvalue().strip().splitlines()[-1])
        return prefix

    def learnt(self, prefix: str) -> Arrays:
        """What a run has learnt: the momentum, which is the last gradients, and the weights."""
        with np.load(state.path(prefix), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files
                    if name.startswith(("momentum:", "arg:", "aux:"))}

    def start(self) -> str:
        """``PREFIX,0`` from which all runs start, so that they have the same weights."""
        prefix = os.path.join(self._directory, "start", "model")
        if not os.path.exists(prefix + "-0000.params"):
            self.train("softmax", "cpu", False, "--max-steps", "1", prefix=prefix)
        return prefix + ",0"

    def compare(self, step: str, spec: str, reference: str, steps: int = 1, *,
                store: str = "device") -> Agreement:
        """Some batches of a step on two kinds of devices, from the same weights."""
        common = ("--max-steps", str(steps), "--pretrained", self.start())
        ours = self.learnt(self.train(step, spec, True, *common, "--kv-store", store))
        theirs = self.learnt(self.train(step, reference, False, *common))
        return device_check.worst(ours, theirs, tolerance_of(spec), _FLOOR)

    def resume(self, spec: str) -> Agreement:
        """Two batches of step 2 at once, and with a stop and a resume between them."""
        common = ("--pretrained", self.start())
        whole = self.train("softmax", spec, True, "--max-steps", "2", *common)
        cut = self.train("softmax", spec, True, "--max-steps", "1", *common)
        self.train("softmax", spec, True, "--max-steps", "2", *common, "--resume", prefix=cut)
        return device_check.worst(self.learnt(cut), self.learnt(whole), tolerance_of(spec), _FLOOR)


def tolerance_of(spec: str) -> float:
    """The allowed difference of the devices of ``--devices``."""
    return max(map(device_check.tolerance, runtime.devices(spec)))


def in_process(device: mx.Context) -> List[Case]:
    """The cases that need no data set: milliseconds each."""
    cases: List[Case] = [("small network", lambda: device_check.small_network(device)),
                         ("n8 and BatchNorm", lambda: network(device))]
    for step in ("2", "3", "4"):
        for loss_type in sorted(LOSS_TYPES):
            cases.append((f"head of step {step}, loss type {loss_type}",
                          lambda step=step, loss_type=loss_type: head(step, loss_type, device)))
    return cases


def by_scripts(stages: Stages, spec: str) -> List[Case]:
    """The cases that train: a second or two each."""
    gpu = spec.startswith("gpu")
    names = spec[4:].split(",") if gpu else ["0"] * int(spec.partition(":")[2] or 1)
    one = f"gpu:{names[0]}" if gpu else "cpu"
    cases: List[Case] = [
        (f"a step of {step}", lambda step=step: stages.compare(step, one, "cpu"))
        for step in ("softmax", "relusoft-savemodel", "relusoft", "unequal")]
    cases.append(("a resume", lambda: stages.resume(one)))
    if len(names) > 1:
        two = f"gpu:{names[0]},{names[1]}" if gpu else "cpu:2"
        for store in ("device", "local", *(("nccl",) if gpu else ())):
            cases.append((f"two devices, --kv-store {store}", lambda store=store: stages.compare(
                "softmax", two, "cpu:2", 2, store=store)))
        cases.append(("two devices, step 4",
                      lambda: stages.compare("unequal", two, "cpu:2")))
    return cases


def table(cases: List[Case]) -> Iterator[Tuple[str, bool]]:
    """A line for each case, and whether it is good; an error is a line as well."""
    for name, run in cases:
        begin = time.monotonic()
        try:
            found: Optional[Agreement] = run()
        except Exception as error:  # the others shall be seen all the same
            text = " ".join(str(error).split())[-200:] or type(error).__name__
            yield f"{name:34s} FAIL {text}", False
            continue
        verdict = "ok" if found.good else f"FAIL at {found.name}"
        yield (f"{name:34s} {found.error:9.2g} of {found.allowed:.0e} "
               f"{time.monotonic() - begin:6.1f} s  {verdict}"), found.good


def default_devices() -> str:
    """All GPUs, or two CPU contexts."""
    gpus = device_check.gpus()
    return "gpu:" + ",".join(str(gpu.device_id) for gpu in gpus) if gpus else "cpu:2"


def main(arguments: Optional[List[str]] = None) -> int:
    """Print the table; 1 when a case fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", help="gpu:0,1 or cpu:2; default: all GPUs, else cpu:2")
    spec = parser.parse_args(arguments).devices or default_devices()
    logging.disable(logging.INFO)
    contexts: Dict[str, mx.Context] = {str(one): one for one in runtime.devices(spec)}
    gpus = ", ".join(f"{name} ({major}.{minor})"
                     for name, (major, minor) in runtime.visible_gpus()) or "no GPU"
    print(f"mxnet {mx.__version__} on {spec}: {gpus}; "
          f"NVIDIA_TF32_OVERRIDE={os.environ.get('NVIDIA_TF32_OVERRIDE', 'unset')}, "
          f"{runtime.FUSION}={os.environ.get(runtime.FUSION, 'unset')}")
    print(f"{'case':34s} {'error':>9s}    allowed   time")
    good = []
    with tempfile.TemporaryDirectory() as directory:
        cases = [(f"{name}, {text}", run) for name, context in contexts.items()
                 for text, run in in_process(context)]
        for line, passed in table(cases + by_scripts(Stages(directory), spec)):
            print(line, flush=True)
            good.append(passed)
    print(f"{sum(good)} of {len(good)} agree with the CPU")
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
