"""MobileFaceNet (Chen et al., 2018) as in InsightFace: ``fmobilefacenet``, network ``y1``.

Names and shapes are those of InsightFace's symbol (recognition/arcface_mxnet/symbol/
fmobilefacenet.py with output GDC), so its checkpoints load. About a million parameters at an
embedding of 128; a thirtieth of r50's arithmetic.
"""
import mxnet as mx

from unequal.errors import ArgumentError
from unequal.symbols.layers import Layers, Symbol, pixels

_EPS = 1e-3  # BatchNorm's default, which InsightFace leaves as it is here

# Stages after the first two convolutions: name of the block that halves the size, its channels,
# its inner channels; then name, number and inner channels of the residual blocks.
_STAGES = (("dconv_23", 64, 128, "res_3", 4, 128),
           ("dconv_34", 128, 256, "res_4", 6, 256),
           ("dconv_45", 128, 512, "res_5", 2, 256))


def _linear(layers: Layers, data: Symbol, filters: int, kernel: int, name: str, *,
            stride: int = 1, groups: int = 1, pad: int = 0) -> Symbol:
    """Convolution and BatchNorm."""
    body = layers.conv(data, filters, kernel, name + "_conv2d", stride=stride, groups=groups,
                       pad=pad)
    return layers.norm(body, name + "_batchnorm", eps=_EPS)


def _conv(layers: Layers, data: Symbol, filters: int, kernel: int, name: str, *, stride: int = 1,
          groups: int = 1) -> Symbol:
    """Convolution, BatchNorm and activation; the size stays, or is halved by ``stride``."""
    body = _linear(layers, data, filters, kernel, name, stride=stride, groups=groups,
                   pad=kernel // 2)
    return layers.act(body, filters, name + "_relu")


def _bottleneck(layers: Layers, data: Symbol, filters: int, inner: int, name: str,
                stride: int) -> Symbol:
    """1x1 convolution to ``inner`` channels, depthwise 3x3, 1x1 without an activation."""
    body = _conv(layers, data, inner, 1, name + "_conv_sep")
    body = _conv(layers, body, inner, 3, name + "_conv_dw", stride=stride, groups=inner)
    return _linear(layers, body, filters, 1, name + "_conv_proj")


def build(network: str, embedding_size: int, layers: Layers, *, version_se: int,
          version_input: int, version_output: str, version_unit: int) -> Symbol:
    """Network ``y1``; see :func:`unequal.symbols.networks.get_symbol`.

    Pictures are 112x112: the last convolution is as large as the features, 7x7. The output is GDC;
    ``version_output`` E, the flag's default, means the same here. Other versions are refused: they
    are fresnet's.
    """
    for name, value, allowed in (("version_se", version_se, (0,)),
                                 ("version_input", version_input, (1,)),
                                 ("version_output", version_output, ("E", "GDC")),
                                 ("version_unit", version_unit, (3,))):
        if value not in allowed:
            raise ArgumentError(f"{name} {value!r} is not for network {network}; leave it out.",
                                name, "network")
    body = layers.enter(pixels(mx.sym.Variable("data")))
    body = _conv(layers, body, 64, 3, "conv_1", stride=2)
    body = _conv(layers, body, 64, 3, "conv_2_dw", groups=64)
    for half, filters, inner, name, blocks, block_inner in _STAGES:
        body = _bottleneck(layers, body, filters, inner, half, 2)
        for index in range(blocks):
            body = layers.add(body, _bottleneck(layers, body, filters, block_inner,
                                                f"{name}_block{index}", 1))
    body = _conv(layers, body, 512, 1, "conv_6sep")
    body = _linear(layers, body, 512, 7, "conv_6dw7_7", groups=512)
    body = layers.leave(body)
    return layers.norm(layers.dense(body, embedding_size, "pre_fc1"), "fc1", fix_gamma=True,
                       wide=True)
