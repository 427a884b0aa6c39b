"""The face ResNet of the reference (``symbols/fresnet.py``): unit version 3, PReLU, optional SE.

Argument names and shapes are the reference's (``stage%d_unit%d_conv1_weight``, ``relu0_gamma``,
``pre_fc1_weight``, ...), so checkpoints load both ways. Pixels enter as RGB 0-255, NCHW; their
normalisation is part of the symbol. The output is named ``fc1_output``.
"""
from typing import NamedTuple, Tuple

import mxnet as mx

from unequal.errors import ArgumentError, lookup
from unequal.symbols.layers import Layers, Symbol, pixels


class Network(NamedTuple):
    """One row of the table of networks."""

    units: Tuple[int, ...]  # residual units of each stage; a stage halves height and width
    filters: Tuple[int, ...]  # channels of conv0, then of each stage
    bottleneck: bool = False


_BASIC = (64, 64, 128, 256, 512)
_WIDE = (64, 256, 512, 1024, 2048)

# The reference's depths, and n8, a narrow network for small pictures and small machines. Its
# channels are multiples of 16: oneDNN's convolutions are several times slower with other counts.
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
    pool: bool = False  # PReLU and global average pooling
    dropout: bool = False  # 0.4
    dense: str = "pre_fc1"  # name of the fully connected layer
    final_norm: bool = False  # BatchNorm fc1 after it


# The reference's symbol_utils.py has no branch for GAP and FC. They reach its last branch, which
# looks at the first letter only and builds the same network for both.
_POOLED = Output(norm=True, pool=True)
OUTPUTS = {
    "E": Output(norm=True, dropout=True, final_norm=True),
    "F": Output(norm=True, dropout=True, dense="fc1"),
    "G": Output(norm=True, dense="fc1"),
    "H": Output(dense="fc1"),
    "I": Output(norm=True, final_norm=True),
    "FC": _POOLED,
    "J": Output(final_norm=True),
    "GAP": _POOLED,
}


class Entry(NamedTuple):
    """One row of the table of inputs: conv0 and what follows it."""

    kernel: int
    stride: int
    pooled: bool  # 3x3 max-pooling of stride 2 after the activation; stage 1 then keeps the size


INPUTS = {0: Entry(7, 2, True), 1: Entry(3, 1, False)}


def _unit(layers: Layers, data: Symbol, filters: int, name: str, *, first: bool, stride: int,
          bottleneck: bool, se: int) -> Symbol:
    """Residual unit version 3: BN-conv-BN-act-conv-BN, the stride in the last convolution."""
    inner = filters // 4 if bottleneck else filters
    # (channels, kernel, stride) of each convolution; an activation stands between two of them.
    convolutions = ([(inner, 1, 1), (inner, 3, 1), (filters, 1, stride)] if bottleneck
                    else [(inner, 3, 1), (filters, 3, stride)])
    body = layers.norm(data, name + "_bn1")
    for i, (channels, kernel, step) in enumerate(convolutions, 1):
        body = layers.conv(body, channels, kernel, f"{name}_conv{i}", stride=step)
        body = layers.norm(body, f"{name}_bn{i + 1}")
        if i < len(convolutions):
            body = layers.act(body, channels, f"{name}_relu{i}")
    if se:
        body = layers.squeeze_excite(body, filters, name)
    if first:
        data = layers.norm(layers.conv(data, filters, 1, name + "_conv1sc", stride=stride),
                           name + "_sc")
    return layers.add(body, data)


def _embedding(layers: Layers, body: Symbol, output: Output, channels: int, size: int) -> Symbol:
    if output.norm:
        body = layers.norm(body, "bn1", wide=True)
    if output.pool:
        body = layers.prelu(body, channels, "relu1")  # the reference ignores version_act here
        body = mx.sym.Pooling(body, global_pool=True, kernel=(7, 7), pool_type="avg", name="pool1")
    if output.dropout:
        body = layers.dropout(body)
    body = layers.dense(body, size, output.dense)
    if output.final_norm:
        return layers.norm(body, "fc1", fix_gamma=True, wide=True)
    # The reference's GAP and FC end in pre_fc1; we give every embedding one name.
    return body if output.dense == "fc1" else mx.sym.identity(body, name="fc1")


UNITS = {3: _unit}


def build(network: str, embedding_size: int, layers: Layers, *, version_se: int,
          version_input: int, version_output: str, version_unit: int) -> Symbol:
    """A row of :data:`NETWORKS`; see :func:`unequal.symbols.networks.get_symbol`."""
    if version_output == "Z":
        raise ArgumentError("version_output 'Z' is not supported: its features, (channels, height, "
                            "width), fit no classifier of emb_size columns; use E.",
                            "version_output", "emb_size")
    spec = NETWORKS[network]
    output = lookup(OUTPUTS, version_output, "version_output")
    entry = lookup(INPUTS, version_input, "version_input")
    unit = lookup(UNITS, version_unit, "version_unit")

    data = mx.sym.Variable("data")
    body = layers.enter(pixels(mx.sym.identity(data, name="id")))
    body = layers.conv(body, spec.filters[0], entry.kernel, "conv0", stride=entry.stride)
    body = layers.act(layers.norm(body, "bn0"), spec.filters[0], "relu0")
    if entry.pooled:
        body = mx.sym.Pooling(body, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max",
                              name="pool0")
    for stage, (units, filters) in enumerate(zip(spec.units, spec.filters[1:]), 1):
        shrinks = stage > 1 or not entry.pooled
        for index in range(1, units + 1):
            body = unit(layers, body, filters, f"stage{stage}_unit{index}", first=index == 1,
                        stride=2 if index == 1 and shrinks else 1, bottleneck=spec.bottleneck,
                        se=version_se)
    return _embedding(layers, layers.leave(body), output, spec.filters[-1], embedding_size)
