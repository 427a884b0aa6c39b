"""The face ResNet of the reference (``symbols/fresnet.py``): unit version 3, PReLU, optional SE.

Argument names and shapes are the reference's (``stage%d_unit%d_conv1_weight``, ``relu0_gamma``,
``pre_fc1_weight``, ...), so checkpoints load both ways. Pixels enter as RGB 0-255, NCHW; their
normalisation is part of the symbol. The output is named ``fc1_output``.
"""
from typing import NamedTuple, Tuple

import mxnet as mx

from unequal.errors import InputError


class Network(NamedTuple):
    """One row of the table of networks."""

    units: Tuple[int, ...]  # residual units of each stage; a stage halves height and width
    filters: Tuple[int, ...]  # channels of conv0, then of each stage
    bottleneck: bool = False


_BASIC = (64, 64, 128, 256, 512)
_WIDE = (64, 256, 512, 1024, 2048)

# The reference's depths, and a narrow relative for small pictures and small machines. Its channels
# are multiples of 16: oneDNN's convolutions are several times slower with other counts.
NETWORKS = {
    "n8": Network((1, 1, 1), (16, 16, 32, 64)),
    "r18": Network((2, 2, 2, 2), _BASIC),
    "r34": Network((3, 4, 6, 3), _BASIC),
    "r49": Network((3, 4, 14, 3), _BASIC),
    "r50": Network((3, 4, 14, 3), _BASIC),
    "r74": Network((3, 6, 24, 3), _BASIC),
    "r90": Network((3, 8, 30, 3), _BASIC),
    "r100": Network((3, 13, 30, 3), _BASIC),
    "r101": Network((3, 4, 23, 3), _WIDE, True),
    "r124": Network((3, 13, 40, 5), _WIDE, True),
    "r152": Network((3, 8, 36, 3), _WIDE, True),
    "r200": Network((3, 24, 36, 3), _WIDE, True),
    "r269": Network((3, 30, 48, 8), _WIDE, True),
}


class Output(NamedTuple):
    """One row of the table of output types: which layers turn features into the embedding."""

    norm: bool = False  # BatchNorm bn1 on the features
    pool: bool = False  # activation and global average pooling
    dropout: bool = False  # 0.4
    final_norm: bool = False  # pre_fc1 then BatchNorm fc1; otherwise the fully connected is fc1


OUTPUTS = {
    "E": Output(norm=True, dropout=True, final_norm=True),
    "F": Output(norm=True, dropout=True),
    "G": Output(norm=True),
    "H": Output(),
    "I": Output(norm=True, final_norm=True),
    "FC": Output(norm=True, final_norm=True),
    "J": Output(final_norm=True),
    "GAP": Output(norm=True, pool=True, final_norm=True),
}

# conv0: kernel, stride, padding.
INPUTS = {0: ((7, 7), (2, 2), (3, 3)), 1: ((3, 3), (1, 1), (1, 1))}


def lookup(table, key, what):
    """``table[key]``, or an InputError that lists the known keys of ``what``."""
    if key not in table:
        raise InputError("{} {!r} is unknown; known are {}.".format(
            what, key, ", ".join(str(known) for known in table)))
    return table[key]


def _slope(channels, name):
    return mx.sym.Variable(name + "_gamma", shape=(channels,), init=mx.init.Constant(0.25))


def prelu(data, channels, name):
    """PReLU as ``relu(x) + a * min(x, 0)`` by elementwise operators: the form for GPUs.

    MXNet 1.9.1's own operator (LeakyReLU) will not do: in a bound symbol the gradient of the data
    is written over the incoming one before the slope's is computed from it, so the gradient of
    ``a`` comes out multiplied by ``a``.
    """
    slope = mx.sym.reshape(_slope(channels, name), shape=(1, channels, 1, 1))
    positive = mx.sym.Activation(data, act_type="relu")
    negative = data - positive
    return mx.sym.elemwise_add(positive, mx.sym.broadcast_mul(negative, slope), name=name)


def prelu_depthwise(data, channels, name):
    """PReLU as ``(1 - a) * relu(x) + a * x`` by two 1x1 depthwise convolutions.

    The same function of the same parameter ``<name>_gamma``, shape (channels,). MXNet 1.9.1 has no
    oneDNN kernel for PReLU: the plain operator falls back to a slow one and forces a change of
    memory layout before and after it, while this form stays in the convolutions' blocked layout
    (``benchmarks/step.py``).
    """
    slope = mx.sym.reshape(_slope(channels, name), shape=(channels, 1, 1, 1))
    scale = dict(num_filter=channels, num_group=channels, kernel=(1, 1), no_bias=True)
    positive = mx.sym.Convolution(
        mx.sym.Activation(data, act_type="relu"), weight=1 - slope, **scale)
    linear = mx.sym.Convolution(data, weight=slope, **scale)
    return mx.sym.elemwise_add(positive, linear, name=name)


def relu(data, channels, name):
    """Plain ReLU."""
    return mx.sym.Activation(data, act_type="relu", name=name)


class _Layers:
    """The few layers everything is made of, with the choices that hold for a whole network."""

    def __init__(self, act, bn_momentum):
        self.act = act
        self._bn_momentum = bn_momentum

    def norm(self, data, name, fix_gamma=False):
        return mx.sym.BatchNorm(data, fix_gamma=fix_gamma, eps=2e-5, momentum=self._bn_momentum,
                                name=name)

    @staticmethod
    def conv(data, filters, kernel, name, stride=1, no_bias=True):
        return mx.sym.Convolution(
            data, num_filter=filters, kernel=(kernel, kernel), stride=(stride, stride),
            pad=(kernel // 2, kernel // 2), no_bias=no_bias, name=name)

    def squeeze_excite(self, data, filters, name):
        body = mx.sym.Pooling(data, global_pool=True, kernel=(7, 7), pool_type="avg",
                              name=name + "_se_pool1")
        body = self.conv(body, filters // 16, 1, name + "_se_conv1", no_bias=False)
        body = self.act(body, filters // 16, name + "_se_relu1")
        body = self.conv(body, filters, 1, name + "_se_conv2", no_bias=False)
        body = mx.sym.Activation(body, act_type="sigmoid", name=name + "_se_sigmoid")
        return mx.sym.broadcast_mul(data, body)


def _unit(layers, data, filters, name, *, downsample, bottleneck, se):
    """Residual unit version 3: BN-conv-BN-act-conv-BN, the stride in the last convolution."""
    stride = 2 if downsample else 1
    inner = filters // 4 if bottleneck else filters
    # (channels, kernel, stride) of each convolution; an activation stands between two of them.
    convolutions = ([(inner, 1, 1), (inner, 3, 1), (filters, 1, stride)] if bottleneck
                    else [(inner, 3, 1), (filters, 3, stride)])
    body = layers.norm(data, name + "_bn1")
    for i, (channels, kernel, step) in enumerate(convolutions, 1):
        body = layers.conv(body, channels, kernel, "{}_conv{}".format(name, i), step)
        body = layers.norm(body, "{}_bn{}".format(name, i + 1))
        if i < len(convolutions):
            body = layers.act(body, channels, "{}_relu{}".format(name, i))
    if se:
        body = layers.squeeze_excite(body, filters, name)
    if downsample:
        data = layers.norm(layers.conv(data, filters, 1, name + "_conv1sc", stride), name + "_sc")
    return body + data


def _embedding(layers, body, output, channels, size):
    if output.norm:
        body = layers.norm(body, "bn1")
    if output.pool:
        body = layers.act(body, channels, "relu1")
        body = mx.sym.Pooling(body, global_pool=True, kernel=(7, 7), pool_type="avg", name="pool1")
    if output.dropout:
        # cuDNN's dropout draws from a state of its own, seeded by rand() (MXNet 1.9.1,
        # src/operator/nn/dropout-inl.h:258, 495), so mx.random.seed would have no effect on GPUs.
        body = mx.sym.Dropout(body, p=0.4, cudnn_off=True)
    if not output.final_norm:
        return mx.sym.FullyConnected(body, num_hidden=size, name="fc1")
    body = mx.sym.FullyConnected(body, num_hidden=size, name="pre_fc1")
    return layers.norm(body, "fc1", fix_gamma=True)


ACTIVATIONS = {"prelu": prelu, "relu": relu}
UNITS = {3: _unit}


def get_symbol(network="r50", embedding_size=512, *, version_se=0, version_input=1,
               version_output="E", version_unit=3, version_act="prelu", bn_momentum=0.9,
               depthwise_prelu=True):
    """The embedding network as a symbol of one input, ``data`` (N, 3, H, W).

    Parameters
    ----------
    network : str
        A key of :data:`NETWORKS`, ``r18`` ... ``r269`` or ``n8`` (``--network``).
    embedding_size : int
        Length of the embedding (``--emb-size``).
    version_se, version_input, version_output, version_unit, version_act
        The reference's flags of these names; keys of :data:`INPUTS`, :data:`OUTPUTS`,
        :data:`UNITS` and :data:`ACTIVATIONS`; ``version_se`` 1 adds squeeze-and-excitation.
    bn_momentum : float
        Momentum of BatchNorm's moving averages (``--bn-mom``).
    depthwise_prelu : bool
        Build PReLU as :func:`prelu_depthwise`; same parameters, same function. True for CPUs.

    Returns
    -------
    mxnet.symbol.Symbol
        Output ``fc1_output``, (N, embedding_size).

    Raises
    ------
    InputError
        For a value no table holds; the text lists the known ones.
    """
    spec = lookup(NETWORKS, network, "--network")
    act = lookup(ACTIVATIONS, version_act, "--version-act")
    output = lookup(OUTPUTS, version_output, "--version-output")
    kernel, stride, pad = lookup(INPUTS, version_input, "--version-input")
    unit = lookup(UNITS, version_unit, "--version-unit")
    lookup({0: None, 1: None}, version_se, "--version-se")
    if act is prelu and depthwise_prelu:
        act = prelu_depthwise
    layers = _Layers(act, bn_momentum)

    data = mx.sym.Variable("data")
    body = (mx.sym.identity(data, name="id") - 127.5) * 0.0078125
    body = mx.sym.Convolution(body, num_filter=spec.filters[0], kernel=kernel, stride=stride,
                              pad=pad, no_bias=True, name="conv0")
    body = layers.act(layers.norm(body, "bn0"), spec.filters[0], "relu0")
    for stage, (units, filters) in enumerate(zip(spec.units, spec.filters[1:]), 1):
        for index in range(1, units + 1):
            body = unit(layers, body, filters, "stage{}_unit{}".format(stage, index),
                        downsample=index == 1, bottleneck=spec.bottleneck, se=version_se)
    return _embedding(layers, body, output, spec.filters[-1], embedding_size)
