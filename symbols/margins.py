"""Margins: logits in which the label's own entry is made smaller, so that it is harder to learn.

One frame, :class:`Kind`, serves all loss types: it computes the cosines (N, C), picks the label's
own (N,), lets the loss type change these and writes them back. No one-hot matrix is built. A new
margin overrides ``target`` (how the label's entry changes) or ``logits`` (what the entries are),
adds a row to :data:`LOSS_TYPES` and, if it has parameters of its own, fields to :class:`Margin`.
"""
import math
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

import mxnet as mx

from unequal.errors import ArgumentError, lookup

if TYPE_CHECKING:  # MXNet has no types
    Symbol = Any
else:
    Symbol = mx.sym.Symbol

# 1 - cos^2 below which sin is held constant: float32 rounds cos to about 6e-8, and the square
# root's slope at 0 would make the gradient infinite (the reference yields NaN there).
_SMALLEST_SIN_SQUARED = 1e-7

MOST_CLASSES = 2 ** 24  # labels are float32 arrays, whose whole numbers are exact up to here

SUB_CENTERS = "__sub_centers__"  # attribute of fc7_weight that says how many rows a class has

SPHERE_BETA = "sphere_beta"  # argument of loss type 1 that the training loop sets before each batch


class Margin(NamedTuple):
    """Loss type and its parameters; names and defaults are those of the reference's flags."""

    loss_type: int = 4
    margin_s: float = 64.0
    margin_m: float = 0.5
    margin_a: float = 1.0
    margin_b: float = 0.0
    easy_margin: int = 0
    margin: int = 4  # loss type 1 only
    sub_centers: int = 1  # rows of the classifier a class; loss types 2, 4 and 5


def positions(label: Symbol, num_classes: int) -> Symbol:
    """Position of each row's label in the flattened (N, C) matrix, int32 (N,).

    ``row * num_classes + label``, without an operator that takes a scalar: pointwise fusion, on by
    default on GPUs, computes ``_mul_scalar`` and its like in float32, whatever the array's type
    (MXNet 1.9.1, src/operator/fusion/fused_op-inl.h:143, ``op::mul(%, float(%))``). That is exact
    only up to 2**24. ``arange_like`` is not fused and counts in the type of its input
    (src/operator/tensor/init_op.h:599); the fused ``Cast`` and ``elemwise_add`` keep int32. Exact
    while N * C of one device stays below 2**31.
    """
    label = mx.sym.cast(label, "int32")
    return mx.sym.elemwise_add(
        mx.sym.contrib.arange_like(label, axis=0, step=num_classes), label)


def replace_target(logits: Symbol, label: Symbol, value: Symbol, num_classes: int) -> Symbol:
    """``logits`` (N, C) with entry ``[i, label[i]]`` replaced by ``value[i]``.

    One copy of the matrix; its gradient goes to ``value`` for the replaced entries and to
    ``logits`` for all others. See :func:`positions` for the largest N * C.
    """
    flat = mx.sym.contrib.index_copy(
        mx.sym.reshape(logits, shape=(-1, 1)), positions(label, num_classes),
        mx.sym.reshape(value, shape=(-1, 1)))
    return mx.sym.reshape(flat, shape=(-1, num_classes))


def l2_rows(weight: Symbol) -> Symbol:
    """Rows of unit length, by MXNet's operator."""
    return mx.sym.L2Normalization(weight, mode="instance")


class Classifier(NamedTuple):
    """The last fully connected layer, ``fc7``."""

    num_classes: int
    embedding_size: int
    unit: Callable[[Symbol], Symbol]  # normalises the weight's rows
    sub_centers: int = 1

    def weight(self) -> Symbol:
        """``fc7_weight`` (C * K, D); the K sub-centres of a class are neighbours."""
        attributes = {SUB_CENTERS: str(self.sub_centers)} if self.sub_centers > 1 else {}
        return mx.sym.Variable("fc7_weight", shape=(self.num_classes * self.sub_centers,
                                                    self.embedding_size), attr=attributes)

    def project(self, embedding: Symbol) -> Symbol:
        """Inner products of each embedding with each class weight of unit length, (N, C).

        With K sub-centres, the largest of a class's K products (sub-center ArcFace, Deng et al.,
        ECCV 2020, equation 5). All (N, C * K) products are kept: K times the memory.
        """
        rows = mx.sym.FullyConnected(embedding, weight=self.unit(self.weight()), no_bias=True,
                                     num_hidden=self.num_classes * self.sub_centers, name="fc7")
        if self.sub_centers == 1:
            return rows
        return mx.sym.max(mx.sym.reshape(rows, shape=(0, -1, self.sub_centers)), axis=2)


class Kind:
    """A loss type. Without an override of ``target`` the logits are ``s * cos``, no margin."""

    title = ""  # its name in reports
    scaled = True  # whether it uses margin_s

    def check(self, margin: Margin) -> None:
        """Raise ArgumentError for numbers outside their range."""
        if self.scaled and margin.margin_s <= 0:
            raise ArgumentError(f"margin_s {margin.margin_s} must be above 0.", "margin_s")
        if margin.sub_centers < 1:
            raise ArgumentError(f"sub_centers {margin.sub_centers} must be at least 1.",
                                "sub_centers")
        if margin.sub_centers > 1 and not self.scaled:
            raise ArgumentError(f"sub_centers {margin.sub_centers} needs loss_type 2, 4 or 5: the "
                                f"largest cosine counts.", "sub_centers", "loss_type")

    def logits(self, embedding: Symbol, classifier: Classifier, margin: Margin) -> Symbol:
        """Logits without the margin, (N, C): ``s * cos`` of embedding and class weight."""
        embedding = mx.sym.L2Normalization(embedding, mode="instance", name="fc1n")
        return classifier.project(embedding * margin.margin_s)

    def target(self, target: Symbol, embedding: Symbol, margin: Margin) -> Optional[Symbol]:
        """The label's logits (N,) with the margin, or None if the margin changes nothing."""
        return None

    def __call__(self, embedding: Symbol, label: Symbol, classifier: Classifier, margin: Margin,
                 own: Optional[Symbol] = None) -> Symbol:
        """Logits (N, C) with the margin, in the rows where ``own`` (N,) is not 0 (default: all)."""
        logits = self.logits(embedding, classifier, margin)
        picked = mx.sym.pick(logits, label, axis=1)
        value = self.target(picked, embedding, margin)
        if value is None:
            return logits
        if own is not None:
            value = mx.sym.where(own, value, picked)
        return replace_target(logits, label, value, classifier.num_classes)


class Softmax(Kind):
    """Loss type 0: no margin, plain weights and a bias."""

    title = "Softmax"
    scaled = False

    def logits(self, embedding: Symbol, classifier: Classifier, margin: Margin) -> Symbol:
        return mx.sym.FullyConnected(
            embedding, weight=classifier.weight(), bias=mx.sym.Variable("fc7_bias"),
            num_hidden=classifier.num_classes, name="fc7")


class SphereFace(Kind):
    """Loss type 1, multiplicative: ``|x| (beta cos t + psi(t)) / (1 + beta)`` for the label.

    ``psi(t) = (-1)^k cos(m t) - 2k`` on ``t in [k pi/m, (k+1) pi/m]`` (SphereFace, equation 7),
    annealed by beta (L-Softmax, section 5.1), the argument :data:`SPHERE_BETA`, shape (1,). The
    reference needs an operator that MXNet does not contain. This is the same function, made of
    standard operators: cos(m t) is the Chebyshev polynomial T_m of cos t, and k counts the
    thresholds that cos t is below.
    """

    title = "SphereFace"
    scaled = False

    def check(self, margin: Margin) -> None:
        super().check(margin)
        if margin.margin < 1:
            raise ArgumentError(f"margin {margin.margin} must be at least 1.", "margin")

    def logits(self, embedding: Symbol, classifier: Classifier, margin: Margin) -> Symbol:
        return classifier.project(embedding)

    def target(self, target: Symbol, embedding: Symbol, margin: Margin) -> Symbol:
        m = margin.margin
        norm = mx.sym.sqrt(mx.sym.sum(mx.sym.square(embedding), axis=1) + 1e-12)
        cos_t = mx.sym.clip(target / norm, -1.0, 1.0)
        previous, cos_mt = mx.sym.ones_like(cos_t), cos_t  # T_0, T_1
        for _ in range(m - 1):
            previous, cos_mt = cos_mt, 2 * cos_t * cos_mt - previous
        k = sum((cos_t < math.cos(j * math.pi / m) for j in range(1, m)), mx.sym.zeros_like(cos_t))
        sign = 1 - 2 * (k - 2 * mx.sym.floor(k / 2))
        psi = sign * cos_mt - 2 * k
        beta = mx.sym.BlockGrad(mx.sym.Variable(SPHERE_BETA, shape=(1,)))
        return mx.sym.broadcast_div(mx.sym.broadcast_mul(target, beta) + psi * norm, 1 + beta)


class CosFace(Kind):
    """Loss type 2, additive cosine: ``s (cos t - m)``."""

    title = "Cosine margin"

    def target(self, target: Symbol, embedding: Symbol, margin: Margin) -> Symbol:
        return target - margin.margin_s * margin.margin_m


class ArcFace(Kind):
    """Loss type 4: ``s cos(t + m)``.

    Where t + m would exceed pi (cos t <= cos(pi - m)), ``s m sin(pi - m)`` is subtracted instead;
    with ``easy_margin`` there is no margin where cos t <= 0.
    """

    title = "ArcFace"

    def check(self, margin: Margin) -> None:
        super().check(margin)
        if not 0 <= margin.margin_m < math.pi / 2:
            raise ArgumentError(f"margin_m {margin.margin_m} must lie in [0, pi/2) for loss_type "
                                f"4.", "margin_m", "loss_type")

    def target(self, target: Symbol, embedding: Symbol, margin: Margin) -> Symbol:
        s, m = margin.margin_s, margin.margin_m
        cos_t = target / s
        sin_t = mx.sym.sqrt(mx.sym.maximum(1 - cos_t * cos_t, _SMALLEST_SIN_SQUARED))
        harder = s * (cos_t * math.cos(m) - sin_t * math.sin(m))
        threshold, beyond = ((0.0, target) if margin.easy_margin else
                             (math.cos(math.pi - m), target - s * m * math.sin(math.pi - m)))
        return mx.sym.where(cos_t > threshold, harder, beyond)


class Combined(Kind):
    """Loss type 5: ``s (cos(a t + m) - b)``."""

    title = "Combined margin"

    def target(self, target: Symbol, embedding: Symbol, margin: Margin) -> Optional[Symbol]:
        s, m, a, b = margin.margin_s, margin.margin_m, margin.margin_a, margin.margin_b
        if (a, m, b) == (1.0, 0.0, 0.0):
            return None
        if (a, m) == (1.0, 0.0):
            return target - s * b
        # Keep away from +-1, where arccos has an infinite slope.
        cos_t = mx.sym.clip(target / s, -1 + 1e-7, 1 - 1e-7)
        return s * (mx.sym.cos(mx.sym.arccos(cos_t) * a + m) - b)


LOSS_TYPES = {0: Softmax(), 1: SphereFace(), 2: CosFace(), 4: ArcFace(), 5: Combined()}


def margin_logits(embedding: Symbol, label: Symbol, num_classes: int, embedding_size: int,
                  margin: Margin = Margin(),
                  unit: Callable[[Symbol], Symbol] = l2_rows,
                  own: Optional[Symbol] = None) -> Symbol:
    """Logits (N, C) of a loss type, with the label's margin applied.

    Parameters
    ----------
    embedding, label : mxnet.symbol.Symbol
        (N, D) and (N,).
    num_classes, embedding_size : int
        C, at most :data:`MOST_CLASSES`, and D; the weight ``fc7_weight`` is (C * K, D), K being
        ``margin.sub_centers``: 2 GB at a million classes and 512 for each sub-centre.
    margin : Margin
        Loss type and its parameters.
    unit : callable
        Normalises the weight's rows: :func:`l2_rows`, or the same function by another operator.
    own : mxnet.symbol.Symbol, optional
        (N,), 0 where the label is none of these classes: no entry of that row then changes, and
        its label may be any class. For a classifier that is split over devices.

    Returns
    -------
    mxnet.symbol.Symbol
        Output ``logits_output``.

    Raises
    ------
    ArgumentError
        For an unknown loss type, or numbers outside their range.
    """
    kind = lookup(LOSS_TYPES, margin.loss_type, "loss_type")
    kind.check(margin)
    if num_classes > MOST_CLASSES:
        raise ArgumentError(f"num_classes {num_classes:,} is too many: labels are float32, exact "
                            f"to {MOST_CLASSES:,}.")
    classifier = Classifier(num_classes, embedding_size, unit, margin.sub_centers)
    return mx.sym.identity(kind(embedding, label, classifier, margin, own), name="logits")
