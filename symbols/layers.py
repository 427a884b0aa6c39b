"""The layers of every backbone, with the choices that hold for a whole network."""
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional

import mxnet as mx
import numpy as np

if TYPE_CHECKING:  # MXNet has no types
    Symbol = Any
else:
    Symbol = mx.sym.Symbol
Narrow = Callable[[Symbol], Symbol]  # casts a parameter to the type of the data


def _same(data: Symbol) -> Symbol:
    return data


def slope(channels: int, name: str) -> Symbol:
    """PReLU's parameter ``<name>_gamma``, (channels,)."""
    return mx.sym.Variable(name + "_gamma", shape=(channels,), dtype="float32",
                           init=mx.init.Constant(0.25))


def prelu(data: Symbol, channels: int, name: str, narrow: Narrow = _same) -> Symbol:
    """PReLU as ``relu(x) + a * min(x, 0)`` by elementwise operators: the form for GPUs.

    MXNet 1.9.1's own operator (LeakyReLU) can give a wrong gradient: in a bound symbol the data's
    gradient may overwrite the incoming gradient before the slope's gradient is computed from it.
    The gradient of ``a`` is then multiplied by ``a``.
    """
    per_channel = mx.sym.reshape(narrow(slope(channels, name)), shape=(1, channels, 1, 1))
    positive = mx.sym.Activation(data, act_type="relu")
    negative = data - positive
    return mx.sym.elemwise_add(positive, mx.sym.broadcast_mul(negative, per_channel), name=name)


def prelu_depthwise(data: Symbol, channels: int, name: str, narrow: Narrow = _same) -> Symbol:
    """PReLU as ``(1 - a) * relu(x) + a * x`` by two 1x1 depthwise convolutions.

    The same function of the same parameter ``<name>_gamma``, shape (channels,). MXNet 1.9.1 has no
    oneDNN kernel for PReLU: the plain operator falls back to a slow one and forces a change of
    memory layout before and after it, while this form stays in the convolutions' blocked layout
    (``benchmarks/step.py``).
    """
    weight = mx.sym.reshape(narrow(slope(channels, name)), shape=(channels, 1, 1, 1))
    scale = dict(num_filter=channels, num_group=channels, kernel=(1, 1), no_bias=True)
    positive = mx.sym.Convolution(
        mx.sym.Activation(data, act_type="relu"), weight=1 - weight, **scale)
    linear = mx.sym.Convolution(data, weight=weight, **scale)
    return mx.sym.elemwise_add(positive, linear, name=name)


def relu(data: Symbol, channels: int, name: str, narrow: Narrow = _same) -> Symbol:
    """Plain ReLU."""
    return mx.sym.Activation(data, act_type="relu", name=name)


ACTIVATIONS = {"prelu": prelu, "relu": relu}

# Where convolutions and the fully connected layer compute. Parameters are float32 always.
DTYPES = ("float32", "float16", "bfloat16")
# MXNet's own form of bfloat16. By its name NumPy knows the type only once ml_dtypes is imported,
# which some other package may or may not do.
_BFLOAT16 = np.dtype([("bfloat16", np.uint16)])


class Layers:
    """Convolution, BatchNorm, activation, squeeze-and-excitation, fully connected.

    Parameters
    ----------
    act : str
        A key of :data:`ACTIVATIONS`.
    bn_momentum : float
        Of BatchNorm's moving averages.
    depthwise_prelu : bool
        Build PReLU as :func:`prelu_depthwise`; same parameters, same function.
    dtype : str
        One of :data:`DTYPES`. With ``float16``, for GPUs, what lies between :meth:`enter` and
        :meth:`leave` is float16, and so are the operands of the fully connected layer; every
        parameter is float32 and cast where it is used, and BatchNorm has its parameters, averages
        and sums in float32 (MXNet 1.9.1, src/operator/nn/batch_norm.cc, BatchNormType). With
        ``bfloat16``, for CPUs, the same values are rounded to bfloat16 at the same places and
        computed with in float32, since MXNet has bfloat16 kernels for few processors.
    """

    def __init__(self, act: str, bn_momentum: float, depthwise_prelu: bool,
                 dtype: str = "float32") -> None:
        self._prelu = prelu_depthwise if depthwise_prelu else prelu
        self._act = self._prelu if act == "prelu" else ACTIVATIONS[act]
        self._bn_momentum = bn_momentum
        self._dtype = dtype

    def narrow(self, data: Symbol) -> Symbol:
        """A float32 value in the type to compute in."""
        if self._dtype == "float32":
            return data
        if self._dtype == "bfloat16":
            return mx.sym.cast(mx.sym.cast(data, dtype=_BFLOAT16), dtype="float32")
        return mx.sym.cast(data, dtype=self._dtype)

    def _stored(self, data: Symbol) -> Symbol:
        """A layer's output, rounded where the type asks for it."""
        return self.narrow(data) if self._dtype == "bfloat16" else data

    enter = narrow  # what a network does with its pixels

    def leave(self, data: Symbol) -> Symbol:
        """Features as float32."""
        return mx.sym.cast(data, dtype="float32") if self._dtype == "float16" else data

    def _parameters(self, name: str, no_bias: bool) -> Dict[str, Symbol]:
        """Weight and bias of a layer, cast; empty in float32, where the operator creates them."""
        kinds = () if self._dtype == "float32" else ("weight",) if no_bias else ("weight", "bias")
        return {kind: self.narrow(mx.sym.Variable(f"{name}_{kind}", dtype="float32"))
                for kind in kinds}

    def add(self, data: Symbol, other: Symbol) -> Symbol:
        """The sum that ends a residual unit."""
        return self._stored(data + other)

    def act(self, data: Symbol, channels: int, name: str) -> Symbol:
        """The network's activation."""
        return self._stored(self._act(data, channels, name, self.narrow))

    def prelu(self, data: Symbol, channels: int, name: str) -> Symbol:
        """PReLU of float32 features, whatever the network's activation is."""
        return self._prelu(data, channels, name)

    def norm(self, data: Symbol, name: str, *, fix_gamma: bool = False, eps: float = 2e-5,
             wide: bool = False) -> Symbol:
        """BatchNorm; ``wide`` for features and the embedding, which are float32 in every type."""
        body = mx.sym.BatchNorm(data, fix_gamma=fix_gamma, eps=eps, momentum=self._bn_momentum,
                                name=name)
        return body if wide else self._stored(body)

    def conv(self, data: Symbol, filters: int, kernel: int, name: str, *, stride: int = 1,
             pad: Optional[int] = None, groups: int = 1, no_bias: bool = True) -> Symbol:
        """Square convolution; keeps height and width unless ``stride`` or ``pad`` change them."""
        side = (kernel, kernel)
        pad = kernel // 2 if pad is None else pad
        # num_group 1 is MXNet's default and left out, so that saved symbols do not change.
        grouped = {"num_group": groups} if groups > 1 else {}
        return self._stored(mx.sym.Convolution(
            data, num_filter=filters, kernel=side, stride=(stride, stride), pad=(pad, pad),
            no_bias=no_bias, name=name, **grouped, **self._parameters(name, no_bias)))

    def squeeze_excite(self, data: Symbol, filters: int, name: str) -> Symbol:
        """``data`` times a factor a channel computed from the channels' means."""
        body = mx.sym.Pooling(data, global_pool=True, kernel=(7, 7), pool_type="avg",
                              name=name + "_se_pool1")
        body = self.conv(body, filters // 16, 1, name + "_se_conv1", no_bias=False)
        body = self.act(body, filters // 16, name + "_se_relu1")
        body = self.conv(body, filters, 1, name + "_se_conv2", no_bias=False)
        body = mx.sym.Activation(body, act_type="sigmoid", name=name + "_se_sigmoid")
        return self._stored(mx.sym.broadcast_mul(data, body))

    def dropout(self, data: Symbol) -> Symbol:
        """Dropout of 0.4.

        MXNet's own and not cuDNN's, which has a random state seeded by ``rand()`` (MXNet 1.9.1,
        src/operator/nn/dropout-inl.h:258, 495): ``mx.random.seed`` has no effect on that.
        """
        return mx.sym.Dropout(data, p=0.4, cudnn_off=True)

    def dense(self, data: Symbol, size: int, name: str) -> Symbol:
        """Fully connected layer with a bias, float32 (N, size)."""
        if self._dtype == "float32":
            return mx.sym.FullyConnected(data, num_hidden=size, name=name)
        body = mx.sym.FullyConnected(self.narrow(data), num_hidden=size, name=name + "_narrow",
                                     **self._parameters(name, False))
        return mx.sym.cast(self._stored(body), dtype="float32", name=name)


def pixels(data: Symbol) -> Symbol:
    """RGB 0-255 to -1 to 1. Part of every network, so that no caller can scale otherwise."""
    return (data - 127.5) * 0.0078125
