"""Margin heads: logits in which the label's own entry has been made harder to reach.

Each takes an embedding (N, D), labels (N,) and returns logits (N, C). None builds a one-hot matrix:
the label's logits are picked out (N,), changed, and written back in place of the old ones.
"""
import math
from typing import NamedTuple

import mxnet as mx

from unequal.errors import InputError
from unequal.symbols.fresnet import lookup

# 1 - cos^2 below which sin is held constant: float32 rounds cos to about 6e-8, and the square
# root's slope at 0 would make the gradient infinite (the reference yields NaN there).
_SMALLEST_SIN_SQUARED = 1e-7

MOST_CLASSES = 2 ** 24  # labels travel as float32, which counts exactly to here

SPHERE_BETA = "sphere_beta"  # argument of loss type 1 that the training loop sets before each batch


class Margin(NamedTuple):
    """Loss type and its numbers; names and defaults are the reference's flags."""

    loss_type: int = 4
    margin_s: float = 64.0
    margin_m: float = 0.5
    margin_a: float = 1.0
    margin_b: float = 0.0
    easy_margin: int = 0
    margin: int = 4  # loss type 1 only


def positions(label, num_classes):
    """Where each row's label stands in the flattened (N, C) matrix, int32 (N,).

    ``row * num_classes + label`` without an operator of a scalar: pointwise fusion, on by default
    on GPUs, computes ``_mul_scalar`` and its like in float32 whatever the type of the array
    (MXNet 1.9.1, src/operator/fusion/fused_op-inl.h:143, ``op::mul(%, float(%))``), which is exact
    to 2**24 only. ``arange_like`` is not fused and counts in the type of its input
    (src/operator/tensor/init_op.h:599); the fused ``Cast`` and ``elemwise_add`` keep int32. Exact
    while N * C of one device stays below 2**31.
    """
    label = mx.sym.cast(label, "int32")
    return mx.sym.elemwise_add(
        mx.sym.contrib.arange_like(label, axis=0, step=num_classes), label)


def replace_target(logits, label, value, num_classes):
    """``logits`` (N, C) with entry ``[i, label[i]]`` replaced by ``value[i]``.

    One copy of the matrix; its gradient goes to ``value`` for the replaced entries and to
    ``logits`` for all others. See :func:`positions` for the largest N * C.
    """
    flat = mx.sym.contrib.index_copy(
        mx.sym.reshape(logits, shape=(-1, 1)), positions(label, num_classes),
        mx.sym.reshape(value, shape=(-1, 1)))
    return mx.sym.reshape(flat, shape=(-1, num_classes))


def _weight(num_classes, embedding_size):
    return mx.sym.Variable("fc7_weight", shape=(num_classes, embedding_size))


def l2_rows(weight):
    """Rows of unit length, by MXNet's operator."""
    return mx.sym.L2Normalization(weight, mode="instance")


def _project(embedding, num_classes, embedding_size, unit):
    """Inner products of each embedding with each class weight of unit length, (N, C)."""
    return mx.sym.FullyConnected(embedding, weight=unit(_weight(num_classes, embedding_size)),
                                 no_bias=True, num_hidden=num_classes, name="fc7")


def _scaled_cosine(embedding, num_classes, embedding_size, s, unit):
    """``s * cos`` of the angle between each embedding and each class weight, (N, C)."""
    embedding = mx.sym.L2Normalization(embedding, mode="instance", name="fc1n") * s
    return _project(embedding, num_classes, embedding_size, unit)


def softmax(embedding, label, num_classes, embedding_size, margin, unit):
    """Loss type 0: no margin, plain weights and a bias."""
    return mx.sym.FullyConnected(
        embedding, weight=_weight(num_classes, embedding_size), bias=mx.sym.Variable("fc7_bias"),
        num_hidden=num_classes, name="fc7")


def sphereface(embedding, label, num_classes, embedding_size, margin, unit):
    """Loss type 1, multiplicative: ``|x| (beta cos t + psi(t)) / (1 + beta)`` for the label.

    ``psi(t) = (-1)^k cos(m t) - 2k`` on ``t in [k pi/m, (k+1) pi/m]`` (SphereFace, equation 7),
    annealed by beta (L-Softmax, section 5.1), the argument :data:`SPHERE_BETA`, shape (1,). The
    reference needs an operator that MXNet does not ship; this is the same function of standard
    ones: cos(m t) is the Chebyshev polynomial T_m of cos t, and k counts thresholds passed.
    """
    logits = _project(embedding, num_classes, embedding_size, unit)
    m = margin.margin
    norm = mx.sym.sqrt(mx.sym.sum(mx.sym.square(embedding), axis=1) + 1e-12)
    target = mx.sym.pick(logits, label, axis=1)
    cos_t = mx.sym.clip(target / norm, -1.0, 1.0)
    previous, cos_mt = mx.sym.ones_like(cos_t), cos_t  # T_0, T_1
    for _ in range(m - 1):
        previous, cos_mt = cos_mt, 2 * cos_t * cos_mt - previous
    k = sum((cos_t < math.cos(j * math.pi / m) for j in range(1, m)), mx.sym.zeros_like(cos_t))
    sign = 1 - 2 * (k - 2 * mx.sym.floor(k / 2))
    psi = sign * cos_mt - 2 * k
    beta = mx.sym.BlockGrad(mx.sym.Variable(SPHERE_BETA, shape=(1,)))
    mixed = mx.sym.broadcast_div(mx.sym.broadcast_mul(target, beta) + psi * norm, 1 + beta)
    return replace_target(logits, label, mixed, num_classes)


def cosface(embedding, label, num_classes, embedding_size, margin, unit):
    """Loss type 2, additive cosine: ``s (cos t - m)``."""
    logits = _scaled_cosine(embedding, num_classes, embedding_size, margin.margin_s, unit)
    target = mx.sym.pick(logits, label, axis=1)
    return replace_target(logits, label, target - margin.margin_s * margin.margin_m, num_classes)


def arcface(embedding, label, num_classes, embedding_size, margin, unit):
    """Loss type 4: ``s cos(t + m)``.

    Where t + m would pass pi (cos t <= cos(pi - m)) the penalty is ``s m sin(pi - m)`` instead;
    with ``easy_margin`` there is none where cos t <= 0.
    """
    s, m = margin.margin_s, margin.margin_m
    logits = _scaled_cosine(embedding, num_classes, embedding_size, s, unit)
    target = mx.sym.pick(logits, label, axis=1)
    cos_t = target / s
    sin_t = mx.sym.sqrt(mx.sym.maximum(1 - cos_t * cos_t, _SMALLEST_SIN_SQUARED))
    harder = s * (cos_t * math.cos(m) - sin_t * math.sin(m))
    threshold, beyond = ((0.0, target) if margin.easy_margin else
                         (math.cos(math.pi - m), target - s * m * math.sin(math.pi - m)))
    value = mx.sym.where(cos_t > threshold, harder, beyond)
    return replace_target(logits, label, value, num_classes)


def combined(embedding, label, num_classes, embedding_size, margin, unit):
    """Loss type 5: ``s (cos(a t + m) - b)``."""
    s, m, a, b = margin.margin_s, margin.margin_m, margin.margin_a, margin.margin_b
    logits = _scaled_cosine(embedding, num_classes, embedding_size, s, unit)
    if (a, m, b) == (1.0, 0.0, 0.0):
        return logits
    target = mx.sym.pick(logits, label, axis=1)
    if (a, m) == (1.0, 0.0):
        value = target - s * b
    else:
        # Stay off +-1, where arccos has an infinite slope.
        cos_t = mx.sym.clip(target / s, -1 + 1e-7, 1 - 1e-7)
        value = s * (mx.sym.cos(mx.sym.arccos(cos_t) * a + m) - b)
    return replace_target(logits, label, value, num_classes)


LOSS_TYPES = {0: softmax, 1: sphereface, 2: cosface, 4: arcface, 5: combined}


def margin_logits(embedding, label, num_classes, embedding_size, margin=Margin(), unit=l2_rows):
    """Logits (N, C) of a loss type, with the label's margin applied.

    Parameters
    ----------
    embedding, label : mxnet.symbol.Symbol
        (N, D) and (N,).
    num_classes, embedding_size : int
        C, at most :data:`MOST_CLASSES`, and D; the weight ``fc7_weight`` is (C, D).
    margin : Margin
        Loss type and numbers.
    unit : callable
        What makes the weight's rows unit vectors: :func:`l2_rows`, or the same by another operator.

    Returns
    -------
    mxnet.symbol.Symbol
        Output ``logits_output``.

    Raises
    ------
    InputError
        For an unknown loss type, or numbers outside their range.
    """
    logits = lookup(LOSS_TYPES, margin.loss_type, "--loss-type")
    if num_classes > MOST_CLASSES:
        raise InputError("{:,} classes are too many: labels are float32, exact to {:,}.".format(
            num_classes, MOST_CLASSES))
    if margin.loss_type in (2, 4, 5) and margin.margin_s <= 0:
        raise InputError("--margin-s {} must be above 0.".format(margin.margin_s))
    if margin.loss_type == 4 and not 0 <= margin.margin_m < math.pi / 2:
        raise InputError("--margin-m {} must lie in [0, pi/2) for --loss-type 4.".format(
            margin.margin_m))
    if margin.loss_type == 1 and margin.margin < 1:
        raise InputError("--margin {} must be at least 1.".format(margin.margin))
    return mx.sym.identity(logits(embedding, label, num_classes, embedding_size, margin, unit),
                           name="logits")


def softmax_head(embedding, label, num_classes, embedding_size, margin=Margin()):
    """Step 2's training symbol: softmax cross-entropy on margin logits.

    The gradient is that of the mean loss over the labels of one device (``normalization='valid'``).

    Returns
    -------
    mxnet.symbol.Symbol
        A group of ``embedding`` (N, D), ``softmax`` (N, C), ``prediction`` (N,), the class of the
        largest margin logit, and ``label_probability`` (N,). The logits are the internal output
        ``logits_output``.
    """
    logits = margin_logits(embedding, label, num_classes, embedding_size, margin)
    softmax = mx.sym.SoftmaxOutput(logits, label, normalization="valid", name="softmax")
    return mx.sym.Group([
        mx.sym.BlockGrad(embedding, name="embedding"),
        softmax,
        mx.sym.BlockGrad(mx.sym.argmax(softmax, axis=1), name="prediction"),
        mx.sym.BlockGrad(mx.sym.pick(softmax, label, axis=1), name="label_probability"),
    ])
