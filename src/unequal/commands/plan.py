"""``unequal plan``: the memory that a training run needs on each GPU, before one is booked.

The figures rest on MXNet 1.9.1's own memory planner: the training symbol is bound in the form for
GPUs at full size, and ``executor.debug_str`` tells the planned memory. Binding reserves address
space without touching it, so a million classes take 0.1 s, no memory and no GPU. The planner is the
same on CPUs and GPUs. Its figure leaves out pointwise fusion, which only saves arrays, and cuDNN's
workspace, for which :data:`ALLOWANCE` is added. It counts four bytes a number whatever the type
(src/nnvm/plan_memory.cc:81), though memory is allocated by type
(src/executor/graph_executor.cc:1117). For float16 we therefore subtract half of the 16-bit numbers'
share: an estimate. The store's buffers follow MXNet's src/kvstore/comm.h (CommDevice: each array
belongs to one device, which gets all other devices' gradients) and kvstore_local.h (the updated
weight beside it). We never compared the figures with a GPU; ``tests/commands/test_plan.py``
compares them with the memory of a bound module and of a process.
"""
import argparse
import functools
import re
from typing import Any, Dict, List, NamedTuple, Tuple

import mxnet as mx
import numpy as np

from unequal.commands import arguments
from unequal.errors import ArgumentError
from unequal.symbols import heads, networks
from unequal.system import mxnet_private
from unequal.system.text import say

MIB = 2 ** 20
GPUS = (11, 16, 24, 32)  # GiB
MOST = 4096  # largest batch on one GPU that is tried

# On each GPU: the CUDA context with the libraries' code, about 500 MiB, and the largest workspace
# that MXNet allows cuDNN's convolutions (the operator's `workspace`, 1024 MiB by default).
ALLOWANCE = (512 + 1024) * MIB

VERIFICATION_BATCH = 64  # pictures a device, as verification during training takes
STORES = ("device", "nccl")


class Run(NamedTuple):
    """The run to plan; the names are those of the training scripts' flags."""

    network: str = "r50"
    classes: int = 1000
    per_batch_size: int = 100
    devices: int = 1
    kv_store: str = "device"
    save_memory: bool = False
    model_parallel: bool = False
    dtype: str = "float32"
    emb_size: int = 512
    image_size: Tuple[int, int] = (112, 112)


class Bound(NamedTuple):
    """Bytes of one bound symbol."""

    parameters: Dict[str, int]
    states: int  # BatchNorm's averages
    inputs: int
    planned: int  # what the planner allocates: outputs, activations and their gradients; an
    # estimate where some are of 16 bits


def bound_size(symbol: mx.sym.Symbol, inputs: Dict[str, Tuple[int, ...]], training: bool,
               save_memory: bool = False) -> Bound:
    """Bind ``symbol`` on the CPU without touching its memory, and ask what it would take.

    Parameters
    ----------
    symbol : mxnet.symbol.Symbol
    inputs : dict of str to tuple of int
        Shapes of the arguments that are not parameters.
    training : bool
        With a gradient of each parameter.
    save_memory : bool
        See :func:`unequal.system.mxnet_private.mirroring`.
    """
    shapes, _, state_shapes = symbol.infer_shape(**inputs)
    types, _, state_types = symbol.infer_type(**dict.fromkeys(inputs, np.float32))
    named = dict(zip(symbol.list_arguments(), zip(shapes, types)))
    values = {name: mx.nd.empty(shape, dtype=kind) for name, (shape, kind) in named.items()}
    states = {name: mx.nd.empty(shape, dtype=kind) for name, shape, kind in zip(
        symbol.list_auxiliary_states(), state_shapes, state_types)}
    sizes = {name: _bytes(*known) for name, known in named.items()}
    learnt = {name: sizes[name] for name in sizes if name not in inputs}
    gradients = {name: mx.nd.empty(values[name].shape, dtype=values[name].dtype)
                 for name in learnt} if training else None
    with mxnet_private.mirroring(save_memory):
        executor = symbol.bind(
            mx.cpu(), values, gradients,
            {name: "write" if training and name in learnt else "null" for name in values}, states)
    planned = re.search(r"Total (\d+) MB allocated", executor.debug_str())
    assert planned is not None  # every bound executor reports it
    taken = int(int(planned.group(1)) * MIB * _bytes_of_four(symbol, inputs))
    return Bound(learnt, sum(_bytes(value.shape, value.dtype) for value in states.values()),
                 sum(sizes[name] for name in inputs), taken)


def _bytes_of_four(symbol: mx.sym.Symbol, inputs: Dict[str, Tuple[int, ...]]) -> float:
    """Share of the planner's four bytes a number that the layers' outputs really take.

    1 for float32, about a half for a network in float16.
    """
    layers = symbol.get_internals()
    shapes = layers.infer_shape(**inputs)[1]
    types = layers.infer_type(**dict.fromkeys(inputs, np.float32))[1]
    given = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    sizes = [(_bytes(shape, kind), _bytes(shape, np.float32))
             for name, shape, kind in zip(layers.list_outputs(), shapes, types)
             if name not in given]
    return min(1.0, sum(size for size, _ in sizes) / sum(four for _, four in sizes))


def _bytes(shape: Tuple[int, ...], kind: Any) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize


@functools.lru_cache(maxsize=None)
def _training(run: Run) -> Bound:
    """Of one device: the network and the margin head of step 2.

    The heads of steps 3 and 4 plan the same within a few MiB at the same number of head images.
    """
    label = mx.sym.Variable("softmax_label")
    size = run.per_batch_size
    pictures: Dict[str, Tuple[int, ...]] = {"data": (size, 3, *run.image_size)}
    if not run.model_parallel:
        symbol = heads.softmax_head(_network(run), label, run.classes, run.emb_size, index=False)
        return bound_size(symbol, {**pictures, "softmax_label": (size,)}, True, run.save_memory)
    network = bound_size(_network(run), pictures, True, run.save_memory)
    # On each device: its rows of the classifier, and the embeddings of all devices with a gradient.
    rows, gathered = -(-run.classes // run.devices), size * run.devices
    head = bound_size(
        heads.softmax_head(mx.sym.Variable("gathered"), label, rows, run.emb_size, index=False),
        {"gathered": (gathered, run.emb_size), "softmax_label": (gathered,)}, True,
        run.save_memory)
    # Besides the executor a step keeps its exponentials, and with --noise-beta below 1 the largest
    # entries and their product (training/split_learner.py, exponentials and backward).
    beside = 3 * 4 * gathered * rows
    return Bound({**network.parameters, **head.parameters}, network.states,
                 network.inputs + 2 * head.inputs, network.planned + head.planned + beside)


def _stored(run: Run) -> Dict[str, int]:
    """The parameters that every device has a copy of, which the store keeps equal."""
    return {name: size for name, size in _training(run).parameters.items()
            if not (run.model_parallel and name.startswith("fc7_"))}


def _network(run: Run) -> mx.sym.Symbol:
    return networks.get_symbol(run.network, run.emb_size, depthwise_prelu=False, dtype=run.dtype)


@functools.lru_cache(maxsize=None)
def _verification(run: Run) -> Bound:
    return bound_size(_network(run), {"data": (VERIFICATION_BATCH, 3, *run.image_size)}, False)


def fullest(sizes: Dict[str, int], devices: int) -> int:
    """Bytes of the store's parameters on the device that has most of them.

    They are placed from the largest on, each on the device with the least (MXNet's
    CommDevice::InitMergeBuffer).
    """
    loads = [0] * devices
    for size in sorted(sizes.values(), reverse=True):
        loads[loads.index(min(loads))] += size
    return max(loads)


def parts(run: Run) -> Dict[str, int]:
    """Bytes on the fullest GPU, by what they are for.

    With ``model_parallel`` each device has its rows of the classifier, with their momentum, and the
    logits of all devices' images for them; planned as the head of step 2 of so many classes on so
    many embeddings. With one device the momentum is beside the weights. With several it is in the
    store, once for all: `device` spreads parameters over the devices, `nccl` has all on the first.
    """
    training, verification = _training(run), _verification(run._replace(
        classes=1, per_batch_size=1, devices=1, kv_store="device", save_memory=False,
        model_parallel=False))
    weights, stored = sum(training.parameters.values()), sum(_stored(run).values())
    kept, copies = stored, 0
    if run.devices > 1 and run.kv_store == "device":
        kept = fullest(_stored(run), run.devices)
        copies = (run.devices + 1) * kept  # every device's gradient, and the weight
    elif run.devices > 1:
        copies = 2 * stored  # the sum of the gradients, and the weight
    return {
        "weights": weights,
        "BatchNorm averages": training.states,
        "gradients": weights,
        "momentum": kept + weights - stored,
        "pictures and labels": training.inputs,
        "activations": training.planned,
        "store buffers": copies,
        "verification": (sum(verification.parameters.values()) + verification.states
                         + verification.inputs + verification.planned),
        "CUDA and cuDNN (allowed for)": ALLOWANCE,
    }


def total(run: Run) -> int:
    """Bytes on the fullest GPU."""
    return sum(parts(run).values())


def largest_batch(run: Run, capacity: int) -> int:
    """The most images a GPU of ``capacity`` bytes takes: 0 for none, at most :data:`MOST`."""
    def fits(size: int) -> bool:
        return size < 1 or total(run._replace(per_batch_size=size)) <= capacity

    # Memory is very nearly a straight line over the batch: look where that crosses the capacity,
    # and everywhere only when it does not.
    low, high = (total(run._replace(per_batch_size=size)) for size in (64, 128))
    guess = int(64 + (capacity - low) / max(1, high - low) * 64)
    first, last = max(0, guess - 4), min(MOST + 1, guess + 5)
    if first >= last or not fits(first) or fits(last):
        first, last = 0, MOST + 1
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if fits(middle) else (first, middle)
    return first


def on_the_wire(run: Run) -> List[str]:
    """The bytes that a step sends, as sentences."""
    stored = _stored(run)
    weights, lines = sum(stored.values()), []
    if run.devices > 1 and run.kv_store == "device":
        kept, others = fullest(stored, run.devices), run.devices - 1
        lines.append(f"between GPUs, a step: {_mib(2 * others * weights)} in all; the fullest GPU "
                     f"receives {_mib(others * kept)} of gradients and sends as much of weights")
    elif run.devices > 1:
        share = 2 * (run.devices - 1) * weights // run.devices
        lines.append(f"between GPUs, a step: {_mib(share)} to each neighbour in NCCL's ring")
    if run.model_parallel:
        size = 4 * run.per_batch_size * run.devices * run.emb_size
        lines.append(f"besides, each GPU receives the embeddings of all and sends their gradient: "
                     f"{_mib(2 * size)}")
        return lines
    lines.append(f"between hosts, a step: each worker sends {_mib(weights)} of gradients and "
                 "receives as much (--kv-store dist_device_sync)")
    return lines


def _mib(size: float) -> str:
    return f"{round(size / MIB):,} MiB"


def report(run: Run) -> List[str]:
    """The lines of the command's output."""
    found = parts(run)
    lines = [f"{run.network}, {run.classes:,} classes, {run.per_batch_size} images of "
             f"{run.image_size[0]}x{run.image_size[1]} on each of {run.devices} "
             f"GPU{'s' if run.devices > 1 else ''}, {run.dtype}"
             + (f", --kv-store {run.kv_store}" if run.devices > 1 else "")
             + (", --save-memory 1" if run.save_memory else "")
             + (", --model-parallel 1" if run.model_parallel else "")]
    lines += [f"{name:<30}{_mib(size):>14}" for name, size in found.items() if size]
    needed = sum(found.values())
    lines.append(f"{'total' if run.devices == 1 else 'total of the fullest GPU':<30}"
                 f"{_mib(needed):>14}")
    for size in GPUS:
        capacity = size * 1024 * MIB
        plain, saving = (largest_batch(run._replace(save_memory=saved), capacity)
                         for saved in (False, True))
        lines.append(f"{size} GB: {'fits' if needed <= capacity else 'does not fit'}; at most "
                     f"{plain} images a GPU, {saving} with --save-memory 1")
    return lines + on_the_wire(run)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``unequal plan``."""
    parser.description = ("Memory of a training run on each GPU by part, what fits on common GPUs, "
                          "and bytes on the wire; computed by MXNet's planner, without a GPU.")
    positive = arguments.integer(0, above=True)
    parser.add_argument("--network", default="r50", help="default %(default)s")
    parser.add_argument("--classes", type=positive, required=True,
                        help="identities with a row of the classifier (step 4: of the head)")
    parser.add_argument("--per-batch-size", type=positive, default=100,
                        help="images a GPU (default %(default)s)")
    parser.add_argument("--devices", type=arguments.integer(1, 64), default=1,
                        help="GPUs of one machine (default 1)")
    parser.add_argument("--kv-store", choices=STORES, default="device",
                        help="default %(default)s")
    parser.add_argument("--save-memory", type=int, choices=(0, 1), default=0,
                        help="1: layers computed again in the backward pass, as in training")
    parser.add_argument("--model-parallel", type=int, choices=(0, 1), default=0,
                        help="1: the classifier's rows spread over the GPUs, as in training")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32",
                        help="of the backbone's activations; default %(default)s")
    parser.add_argument("--emb-size", type=positive, default=512, help="default %(default)s")
    parser.add_argument("--image-size", type=arguments.picture_size, default=(112, 112),
                        metavar="HEIGHTxWIDTH", help="default 112x112")


def run(options: argparse.Namespace) -> None:
    """Print the plan."""
    chosen = Run(options.network, options.classes, options.per_batch_size, options.devices,
                 options.kv_store, bool(options.save_memory),
                 bool(options.model_parallel), options.dtype, options.emb_size,
                 options.image_size)
    networks.check_size(_network(chosen), chosen.network, chosen.image_size)
    try:
        lines = report(chosen)
    except mx.MXNetError as error:
        raise ArgumentError(
            f"image_size {chosen.image_size[0]}x{chosen.image_size[1]}: the network "
            f"{chosen.network} cannot be built for it "
            f"({str(error).strip().splitlines()[-1].strip()}).", "image_size") from error
    say(*lines)
