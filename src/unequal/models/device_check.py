"""Checks that a device computes what the CPU computes, by symbols small enough to run anywhere.

`unequal doctor` runs one small network; `make test-gpu` (``tests/gpu``) runs every head, a step of
each stage, a resume and two devices by the same functions.
"""
import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from unequal.symbols import heads, layers, margins
from unequal.system import runtime

# Largest difference allowed, relative to the largest value of an array. float32 sums of a few
# hundred terms in another order differ by less than 1e-5. TF32 has 10 bits of mantissa, and the
# scale of the logits multiplies its rounding error.
TOLERANCE, TF32_TOLERANCE = 1e-3, 5e-2

Arrays = Dict[str, np.ndarray]

# The small network: pictures, channels, length of the embedding, classes.
_BATCH, _SIDE, _CHANNELS, _EMBEDDING, _CLASSES = 16, 8, 16, 32, 64
_KEPT = 0.6  # share that dropout leaves, as in the face networks
_MARGIN = margins.Margin(margin_s=16.0)


class Agreement(NamedTuple):
    """How far a device is from the CPU."""

    name: str  # of the output or gradient that differs most
    error: float  # relative to its largest value; nan when a shape or a value is not there
    allowed: float

    @property
    def good(self) -> bool:
        """Whether the error is allowed; no for nan."""
        return self.error <= self.allowed


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute reference value; nan: other shapes."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    if ours.shape != reference.shape:
        return float("nan")
    return float(np.max(np.abs(ours - reference)) / max(np.max(np.abs(reference)), 1e-30))


def worst(ours: Arrays, reference: Arrays, allowed: float, floor: float = 0.0) -> Agreement:
    """The array of ``reference`` that ``ours`` differs most from (nan when it lacks one).

    ``floor`` is for gradients that are 0 apart from rounding, such as that of BatchNorm's beta in
    front of another BatchNorm: a difference is never divided by less than this share of the largest
    value among all arrays of its kind (the name's first word, up to a space or colon).
    """
    largest: Dict[str, float] = {}
    for name, value in reference.items():
        kind = re.split("[ :]", name)[0]
        largest[kind] = max(largest.get(kind, 0.0), float(np.max(np.abs(value), initial=0)))
    errors = {}
    for name, value in reference.items():
        own = max(float(np.max(np.abs(value), initial=0)), 1e-30)
        share = own / max(own, floor * largest[re.split("[ :]", name)[0]])
        errors[name] = relative_error(ours.get(name, np.zeros(0)), value) * share
    name = max(errors, key=lambda one: (np.isnan(errors[one]), errors[one]))
    return Agreement(name, errors[name], allowed)


def tolerance(device: mx.Context) -> float:
    """Largest relative difference from the CPU that this kind of device may have."""
    if device.device_type != "gpu":
        return TOLERANCE
    gpus = runtime.visible_gpus()
    tf32 = device.device_id < len(gpus) and runtime.multiplies_in_tf32(gpus[device.device_id][1])
    return TF32_TOLERANCE if tf32 else TOLERANCE


def run_symbol(symbol: mx.sym.Symbol, arrays: Arrays, inputs: Sequence[str],
               device: Optional[mx.Context] = None) -> Tuple[Arrays, Arrays]:
    """Forward and backward of a symbol with a loss, bound on one device.

    Parameters
    ----------
    symbol : mxnet.symbol.Symbol
    arrays : dict of str to numpy.ndarray
        Values of all its arguments and auxiliary states.
    inputs : sequence of str
        Arguments without a gradient.
    device : mxnet.Context, optional
        Default: the CPU.

    Returns
    -------
    outputs, gradients : dict of str to numpy.ndarray
        By output name (without ``_output``) and by argument name.
    """
    device = device or mx.cpu()
    arguments = {name: mx.nd.array(arrays[name], ctx=device) for name in symbol.list_arguments()}
    states = {name: mx.nd.array(arrays[name], ctx=device)
              for name in symbol.list_auxiliary_states()}
    gradients = {name: mx.nd.zeros_like(value) for name, value in arguments.items()
                 if name not in inputs}
    executor = symbol.bind(device, arguments, gradients,
                           {name: "write" if name in gradients else "null" for name in arguments},
                           states)
    executor.forward(is_train=True)
    executor.backward()
    names = [name[:-len("_output")] for name in symbol.list_outputs()]
    return ({name: value.asnumpy() for name, value in zip(names, executor.outputs)},
            {name: value.asnumpy() for name, value in gradients.items()})


def _small_symbol(on_cpu: bool, dropout: bool) -> mx.sym.Symbol:
    """Convolution, BatchNorm, PReLU (pointwise operators, which GPUs fuse), dropout and the head.

    The CPU's and the GPU's form are the same function. Each device draws dropout in its own way, so
    the CPU multiplies by an input ``mask`` instead.
    """
    body = (mx.sym.Variable("data") - 127.5) * 0.0078125
    body = mx.sym.Convolution(body, num_filter=_CHANNELS, kernel=(3, 3), pad=(1, 1), no_bias=True,
                              name="conv")
    body = mx.sym.BatchNorm(body, fix_gamma=False, eps=2e-5, name="bn")
    act = layers.prelu_depthwise if on_cpu else layers.prelu
    before = act(body, _CHANNELS, "relu")
    after = (mx.sym.Dropout(before, p=1 - _KEPT) if dropout
             else before * mx.sym.Variable("mask") * (1 / _KEPT))
    embedding = mx.sym.FullyConnected(after, num_hidden=_EMBEDDING, name="pre_fc1")
    head = heads.nra_head(embedding, mx.sym.Variable("label"), _CLASSES, _EMBEDDING, _MARGIN,
                        beta=0.9, normalizer=2 * _BATCH, on_cpu=on_cpu)
    return mx.sym.Group([head, mx.sym.BlockGrad(after, name="after_dropout")])


def _small_arrays() -> Arrays:
    random = np.random.RandomState(0)

    def normal(*shape: int) -> np.ndarray:
        return random.randn(*shape).astype(np.float32)

    return {
        "data": random.randint(0, 256, (_BATCH, 3, _SIDE, _SIDE)).astype(np.float32),
        "label": random.randint(0, _CLASSES, _BATCH).astype(np.float32),
        "conv_weight": 0.3 * normal(_CHANNELS, 3, 3, 3),
        "bn_gamma": 1 + 0.1 * normal(_CHANNELS), "bn_beta": 0.1 * normal(_CHANNELS),
        "bn_moving_mean": np.zeros(_CHANNELS, np.float32),
        "bn_moving_var": np.ones(_CHANNELS, np.float32),
        "relu_gamma": 0.25 + 0.05 * normal(_CHANNELS),
        "pre_fc1_weight": 0.1 * normal(_EMBEDDING, _CHANNELS * _SIDE * _SIDE),
        "pre_fc1_bias": 0.1 * normal(_EMBEDDING),
        "fc7_weight": normal(_CLASSES, _EMBEDDING),
    }


def small_network(device: mx.Context) -> Agreement:
    """Run the small network, in the form for GPUs, forward and backward on ``device``.

    Returns
    -------
    Agreement
        With the form for CPUs on the CPU. The share that dropout left is part of it, as ``dropout``
        (too far from 0.6: nan).

    Raises
    ------
    mxnet.MXNetError
        When the device cannot run it (no memory, no code for it, a driver that is too old).
    """
    arrays = _small_arrays()
    outputs, gradients = run_symbol(_small_symbol(on_cpu=False, dropout=True), arrays,
                                    ["data", "label"], device)
    mask = (outputs["after_dropout"] != 0).astype(np.float32)
    expected, expected_gradients = run_symbol(
        _small_symbol(on_cpu=True, dropout=False), dict(arrays, mask=mask),
        ["data", "label", "mask"])
    if abs(mask.mean() - _KEPT) > 0.05:  # of 16,384 draws: 13 standard deviations
        return Agreement("dropout", float("nan"), tolerance(device))
    return worst(_named(outputs, gradients), _named(expected, expected_gradients),
                 tolerance(device))


def _named(outputs: Arrays, gradients: Arrays) -> Arrays:
    """The outputs and gradients that every form of the head has, in one dictionary."""
    chosen = {name: outputs[name] for name in ("embedding", "loss", "after_dropout")}
    chosen.update({"gradient of " + name: value for name, value in gradients.items()})
    return chosen


def gpus() -> List[mx.Context]:
    """The GPUs that MXNet can compute on, all that the driver shows."""
    count, _ = runtime.usable_gpus()
    return [mx.gpu(number) for number in range(count)]
