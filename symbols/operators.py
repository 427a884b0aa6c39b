"""MXNet operators of the NRA head: the noise-robust loss, and normalisation of weight rows.

``noise_robust``, forward: margin logits z (N, C) and labels y (N,) to softmax probabilities P.
Backward: the gradient of
``sum_i w_i * (beta * CE(z_i, y_i) + (1 - beta) * CE(z_i, argmax z_i)) / normalizer``,

    dL/dz_ij = w_i / normalizer * (P_ij - beta * [j = y_i] - (1 - beta) * [j = argmax z_i]),

where ``w_i`` is 0 when the largest probability does not exceed ``threshold`` and 1 otherwise (the
paper's NR loss; train_NR.py of the reference, whose threshold is 0). The bracketed terms touch two
entries a row, so the gradient is one scaled copy of P and two corrections a row: no one-hot matrix,
and no N x C array beyond the output and the gradient.

``unit_rows`` is ``L2Normalization`` for the classifier's weight W (C, D) on CPUs,

    u_j = r_j W_j with r_j = 1 / |W_j|,    dL/dW_j = r_j (g_j - (u_j . g_j) u_j),

in one pass over memory, where MXNet's own operator makes several: W is 200 MB at MF2's 96,499
classes, and normalising it took as long as the matrix products. The loops are in rows.c, compiled
when the package is installed; without a compiler ``L2Normalization`` is used instead.
"""
import ctypes
import importlib.util
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from unequal.symbols.layers import Symbol
from unequal.system.mxnet_private import numpy_view

Shape = List[int]
Arrays = List[mx.nd.NDArray]

NAME = "noise_robust"
OUTPUTS = ("probability", "prediction", "label_log_probability", "largest_log_probability")

UNIT_ROWS = "unit_rows"
_EPSILON = 1e-10  # L2Normalization's, under the root


class _Dependencies(list):
    """The return value of ``declare_backward_dependency``: keeps Custom operators apart.

    MXNet 1.9.1 reads it twice: by index, for the operator itself, and by iteration, to fill one
    set that all Custom operators of the process share. The last operator's set replaces the
    others', and backward of another operator then fails ("unknown storage type: -1"). Dense arrays
    need nothing in that set, so iteration yields nothing.
    """

    def __iter__(self) -> Iterator[int]:
        return iter(())


def forward_rows(logits: np.ndarray, label: np.ndarray, out: Sequence[np.ndarray]) -> None:
    """The operator's forward on the CPU, a row at a time so that each stays in the cache.

    Parameters
    ----------
    logits : numpy.ndarray
        (N, C), any float type.
    label : numpy.ndarray
        (N,), whole numbers.
    out : sequence of numpy.ndarray
        float32 (N, C), (N,), (N,), (N,), written in the order of :data:`OUTPUTS`.
    """
    probability, prediction, label_log, largest_log = out
    for i, row in enumerate(logits):
        largest = row.argmax()
        target = probability[i]
        np.subtract(row, row[largest], out=target, dtype=np.float32)  # float16 would round
        behind = target[int(label[i])]  # label's logit minus the largest, at most 0
        np.exp(target, out=target)
        total = target.sum(dtype=np.float64)
        target *= np.float32(1 / total)
        prediction[i] = largest
        largest_log[i] = -np.log(total)
        # Not log(P): P underflows where logits differ by tens, as 64 * cos do.
        label_log[i] = behind - np.log(total)


def backward_rows(label: np.ndarray, out: Sequence[np.ndarray], gradient: np.ndarray, beta: float,
                  scale: float, threshold: float, add: bool = False) -> None:
    """The gradient for :func:`forward_rows`, written to (or added to) ``gradient``, (N, C)."""
    probability, prediction = out[:2]
    for i, row in enumerate(probability):
        factor = np.float32(scale if row[int(prediction[i])] > threshold else 0.0)
        target = gradient[i]
        if add:
            target += row * factor
        else:
            np.multiply(row, factor, out=target, casting="same_kind")
        target[int(label[i])] -= factor * beta
        target[int(prediction[i])] -= factor * (1 - beta)


def forward_arrays(logits: mx.nd.NDArray, label: mx.nd.NDArray
                   ) -> Tuple[mx.nd.NDArray, mx.nd.NDArray, mx.nd.NDArray, mx.nd.NDArray]:
    """The operator's forward by NDArray operators, for GPUs; returns its four outputs."""
    logits = logits.astype("float32", copy=False)  # softmax sums in the type of its input
    probability = mx.nd.softmax(logits, axis=1)
    prediction = mx.nd.argmax(logits, axis=1)
    largest_log = mx.nd.log(mx.nd.pick(probability, prediction, axis=1))
    behind = mx.nd.pick(logits, label, axis=1) - mx.nd.pick(logits, prediction, axis=1)
    return probability, prediction, behind + largest_log, largest_log


def backward_arrays(label: mx.nd.NDArray, out: Sequence[mx.nd.NDArray], beta: float, scale: float,
                    threshold: float) -> mx.nd.NDArray:
    """The gradient for :func:`forward_arrays`, float32 (N, C)."""
    probability, prediction = out[:2]
    classes = probability.shape[1]
    factor = (mx.nd.pick(probability, prediction, axis=1) > threshold) * scale
    gradient = mx.nd.broadcast_mul(probability, factor.reshape((-1, 1)))
    for column, share in ((prediction, 1 - beta), (label, beta)):
        # The second pass adds to what the first has written, also where both columns are equal.
        value = mx.nd.pick(gradient, column, axis=1) - factor * share
        column = column.astype("int32")  # positions beyond 2**24, as in margins.positions
        position = mx.nd.contrib.arange_like(column, axis=0, step=classes) + column
        gradient = mx.nd.contrib.index_copy(
            gradient.reshape((-1, 1)), position, value.reshape((-1, 1))).reshape((-1, classes))
    return gradient


class _NoiseRobust(mx.operator.CustomOp):
    def __init__(self, beta: float, normalizer: float, threshold: float) -> None:
        super().__init__()
        self._beta, self._scale, self._threshold = beta, 1.0 / normalizer, threshold

    def forward(self, is_train: bool, req: List[str], in_data: Arrays, out_data: Arrays,
                aux: Arrays) -> None:
        if in_data[0].context.device_type == "cpu" and set(req) <= {"write", "inplace"}:
            forward_rows(numpy_view(in_data[0]), numpy_view(in_data[1]),
                         [numpy_view(array) for array in out_data])
            return
        for request, target, value in zip(req, out_data, forward_arrays(*in_data)):
            self.assign(target, request, value)

    def backward(self, req: List[str], out_grad: Arrays, in_data: Arrays, out_data: Arrays,
                 in_grad: Arrays, aux: Arrays) -> None:
        numbers = (self._beta, self._scale, self._threshold)
        if req[0] == "null":
            pass
        elif in_grad[0].context.device_type == "cpu":
            backward_rows(numpy_view(in_data[1]), [numpy_view(array) for array in out_data],
                          numpy_view(in_grad[0]), *numbers, add=req[0] == "add")
        else:
            self.assign(in_grad[0], req[0], backward_arrays(in_data[1], out_data, *numbers).astype(
                in_grad[0].dtype))
        self.assign(in_grad[1], req[1], 0)


@mx.operator.register(NAME)
class _NoiseRobustProp(mx.operator.CustomOpProp):
    """Shapes and types: logits (N, C) float16 or float32, label (N,) -> float32 outputs."""

    def __init__(self, beta: str, normalizer: str, threshold: str) -> None:
        super().__init__(need_top_grad=False)  # a loss: gradients from above are ignored
        self._numbers = [float(value) for value in (beta, normalizer, threshold)]

    def list_arguments(self) -> List[str]:
        return ["logits", "label"]

    def list_outputs(self) -> List[str]:
        return list(OUTPUTS)

    def infer_shape(self, in_shape: List[Shape]) -> Tuple[List[Shape], List[Shape], List[Shape]]:
        logits = in_shape[0]
        row = [logits[0]]
        return [logits, row], [logits, row, row, row], []

    def infer_type(self, in_type: List[type]) -> Tuple[List[type], List[type], List[type]]:
        return [in_type[0], np.float32], [np.float32] * 4, []

    def declare_backward_dependency(self, out_grad: List[int], in_data: List[int],
                                    out_data: List[int]) -> _Dependencies:
        return _Dependencies([in_data[1], *out_data])  # without the logits, to free their memory

    def create_operator(self, ctx: mx.Context, shapes: List[Shape], dtypes: List[type]
                        ) -> _NoiseRobust:
        return _NoiseRobust(*self._numbers)


def noise_robust(logits: Symbol, label: Symbol, beta: float, normalizer: float,
                 threshold: float = 0.0) -> Symbol:
    """The operator as a symbol with the four outputs :data:`OUTPUTS`.

    Parameters
    ----------
    logits, label : mxnet.symbol.Symbol
        (N, C) margin logits, float32 or float16; (N,) labels.
    beta : float
        Trust in the label, in [0, 1] (``--noise-beta``).
    normalizer : float
        The summed loss is divided by this.
    threshold : float
        Samples whose largest probability does not exceed it get weight 0; with 0 all samples count.

    Returns
    -------
    mxnet.symbol.Symbol
        ``probability`` (N, C), ``prediction`` (N,), the class of the largest logit, and the
        natural logs of the probability of the label and of that class, (N,) each; all float32.
    """
    return mx.sym.Custom(logits=logits, label=label, op_type=NAME, beta=repr(float(beta)),
                         normalizer=repr(float(normalizer)), threshold=repr(float(threshold)),
                         name=NAME)


def _compiled() -> Optional[ctypes.CDLL]:
    """The library of rows.c; None where it was not built."""
    found = importlib.util.find_spec("unequal.symbols._rows")  # a plain library, not a module
    if found is None:
        return None
    library = ctypes.CDLL(found.origin)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.unit_forward.argtypes = [pointer] * 3 + [size] * 2 + [ctypes.c_float]
    library.unit_backward.argtypes = [pointer] * 4 + [size] * 2
    return library


COMPILED: Any = _compiled()  # its functions have no types


def _pointers(arrays: Sequence[mx.nd.NDArray]) -> List[int]:
    return [numpy_view(array).ctypes.data for array in arrays]


class _UnitRows(mx.operator.CustomOp):
    def forward(self, is_train: bool, req: List[str], in_data: Arrays, out_data: Arrays,
                aux: Arrays) -> None:
        COMPILED.unit_forward(*_pointers(in_data + out_data), *in_data[0].shape, _EPSILON)

    def backward(self, req: List[str], out_grad: Arrays, in_data: Arrays, out_data: Arrays,
                 in_grad: Arrays, aux: Arrays) -> None:
        if req[0] == "null":
            return
        unit, target = out_data[0], in_grad[0]
        if req[0] == "add":
            target = mx.nd.empty(unit.shape)
        COMPILED.unit_backward(*_pointers((*out_data, out_grad[0], target)), *unit.shape)
        if req[0] == "add":
            in_grad[0] += target


@mx.operator.register(UNIT_ROWS)
class _UnitRowsProp(mx.operator.CustomOpProp):
    """Shapes: weight (C, D) -> unit (C, D), scale (C,); float32."""

    def list_arguments(self) -> List[str]:
        return ["weight"]

    def list_outputs(self) -> List[str]:
        return ["unit", "scale"]

    def infer_shape(self, in_shape: List[Shape]) -> Tuple[List[Shape], List[Shape], List[Shape]]:
        return in_shape, [in_shape[0], in_shape[0][:1]], []

    def infer_type(self, in_type: List[type]) -> Tuple[List[type], List[type], List[type]]:
        return [np.float32], [np.float32] * 2, []

    def declare_backward_dependency(self, out_grad: List[int], in_data: List[int],
                                    out_data: List[int]) -> _Dependencies:
        return _Dependencies([out_grad[0], *out_data])

    def create_operator(self, ctx: mx.Context, shapes: List[Shape], dtypes: List[type]
                        ) -> _UnitRows:
        if ctx.device_type != "cpu":
            raise ValueError(f"{UNIT_ROWS} is for CPUs; use L2Normalization on {ctx}")
        return _UnitRows()


def unit_rows(weight: Symbol) -> Symbol:
    """``L2Normalization(weight, mode="instance")`` of a float32 matrix, for CPUs only."""
    if not COMPILED:
        return mx.sym.L2Normalization(weight, mode="instance")
    return mx.sym.Custom(weight=weight, op_type=UNIT_ROWS, name=UNIT_ROWS)[0]
