"""The heads of the three steps: loss and logged outputs on top of an embedding.

Each head is a group of outputs, which callers find by name. The same loss has three forms:

- for CPUs (``on_cpu``): with the operators of :mod:`unequal.symbols.operators`;
- for GPUs: of standard operators. None of them runs Python, and ``argmax``, which uses one GPU
  thread a row, is there only when ``index`` asks for it;
- ``composed``: of standard operators, with only the outputs that a checkpoint needs, so that MXNet
  loads it without this package.

Memory on one device grows with N x C: the logits, their copy with the margin, the probabilities and
the gradient, 4 bytes each; at a million classes and 64 images 256 MB each.
"""
from typing import Callable, Dict, List, Tuple

import mxnet as mx

from unequal.errors import ArgumentError
from unequal.symbols.margins import Margin, Symbol, l2_rows, margin_logits
from unequal.symbols.operators import noise_robust, unit_rows

# By the type that the backbone computes in. A power of two, so that dividing by it is exact.
LOSS_SCALE = {"float32": 1.0, "float16": 1024.0, "bfloat16": 1024.0}


def _scaled(loss_scale: float) -> Dict[str, float]:
    """The loss operator's option; none for a scale of 1, so that saved symbols do not change."""
    return {"grad_scale": loss_scale} if loss_scale != 1 else {}


def _blocked(named: Dict[str, Symbol]) -> List[Symbol]:
    """Outputs of these names through which no gradient flows."""
    return [mx.sym.BlockGrad(value, name=name) for name, value in named.items()]


def _check(noise_beta: float, gate: float) -> None:
    """Raise ArgumentError unless both lie in [0, 1]."""
    for name, value in (("noise_beta", noise_beta), ("gate", gate)):
        if not 0 <= value <= 1:
            raise ArgumentError(f"{name} {value} must lie in [0, 1].", name)


def weight_rows(on_cpu: bool, composed: bool) -> Callable[[Symbol], Symbol]:
    """The function that normalises the classifier's rows: ``unit`` of ``margin_logits``."""
    return unit_rows if on_cpu and not composed else l2_rows


def softmax_head(embedding: Symbol, label: Symbol, num_classes: int, embedding_size: int,
                 margin: Margin = Margin(), *, index: bool = True,
                 loss_scale: float = 1.0) -> Symbol:
    """Step 2's training symbol: softmax cross-entropy on margin logits.

    The gradient is that of the mean loss over the labels of one device (``normalization='valid'``).

    Parameters
    ----------
    embedding, label, num_classes, embedding_size, margin
        As for :func:`unequal.symbols.margins.margin_logits`.
    index : bool
        With the output ``prediction``. Accuracy needs no index: a sample is classified correctly
        if ``label_probability`` is at least ``largest_probability``.
    loss_scale : float
        Factor of every gradient, but not of the logged loss: it keeps float16 gradients of the
        backbone from vanishing (:data:`LOSS_SCALE`). The optimizer's ``rescale_grad`` divides by
        it.

    Returns
    -------
    mxnet.symbol.Symbol
        A group of ``embedding`` (N, D), ``softmax`` (N, C), ``prediction`` (N,), the class of the
        largest margin logit, ``label_probability`` and ``largest_probability`` (N,). The logits are
        the internal output ``logits_output``.
    """
    logits = margin_logits(embedding, label, num_classes, embedding_size, margin)
    softmax = mx.sym.SoftmaxOutput(logits, label, normalization="valid", name="softmax",
                                   **_scaled(loss_scale))
    named = {"prediction": mx.sym.argmax(softmax, axis=1)} if index else {}
    named["label_probability"] = mx.sym.pick(softmax, label, axis=1)
    named["largest_probability"] = mx.sym.max(softmax, axis=1)
    return mx.sym.Group([*_blocked({"embedding": embedding}), softmax, *_blocked(named)])


def composed_loss(logits: Symbol, label: Symbol, beta: float, normalizer: float,
                  threshold: float = 0.0,
                  loss_scale: float = 1.0) -> Tuple[Symbol, Dict[str, Symbol]]:
    """The noise-robust loss as a composition of standard operators.

    The same function of the same inputs as :func:`unequal.symbols.operators.noise_robust`. Only
    when several classes share the largest probability do the gradients differ: here they are
    spread over these classes, there the first class gets all. Keeps log-softmax and its gradient
    in memory, each (N, C).

    Returns
    -------
    loss, logs
        ``loss`` (1,), where the gradient starts; ``label_log_probability`` and
        ``largest_log_probability``, (N,).
    """
    log_probability = mx.sym.log_softmax(logits, axis=1)
    own = mx.sym.pick(log_probability, label, axis=1)
    largest = mx.sym.max(log_probability, axis=1)
    weight = mx.sym.BlockGrad(mx.sym.exp(largest) > threshold, name="weight")
    terms = weight * (beta * own + (1 - beta) * largest)
    loss = mx.sym.MakeLoss(mx.sym.sum(terms, axis=0, keepdims=True) * (-1.0 / normalizer),
                           name="loss", **_scaled(loss_scale))
    return loss, {"label_log_probability": own, "largest_log_probability": largest}


def robust_outputs(logits: Symbol, label: Symbol, beta: float, normalizer: float,
                   threshold: float = 0.0, on_cpu: bool = True, index: bool = True,
                   loss_scale: float = 1.0) -> List[Symbol]:
    """The loss and what training logs of it, as a list of symbols.

    ``loss`` (1,), ``prediction`` (with ``index``), ``label_log_probability``,
    ``largest_log_probability`` (N,). On CPUs the list begins with the operator's first output,
    where the gradient starts, and always contains the prediction.
    """
    if not on_cpu:
        loss, named = composed_loss(logits, label, beta, normalizer, threshold, loss_scale)
        if index:
            named = {"prediction": mx.sym.argmax(logits, axis=1), **named}
        return [loss, *_blocked(named)]
    probability, prediction, label_log, largest_log = noise_robust(
        logits, label, beta, normalizer / loss_scale, threshold)
    weight = mx.sym.pick(probability, prediction, axis=1) > threshold
    loss = weight * (beta * label_log + (1 - beta) * largest_log)
    return [probability, *_blocked({
        "loss": mx.sym.sum(loss, axis=0, keepdims=True) * (-1.0 / normalizer),
        "prediction": prediction,
        "label_log_probability": label_log,
        "largest_log_probability": largest_log,
    })]


def nra_head(embedding: Symbol, label: Symbol, num_classes: int, embedding_size: int,
             margin: Margin = Margin(), *, beta: float, normalizer: float, threshold: float = 0.0,
             composed: bool = False, on_cpu: bool = True, index: bool = True,
             loss_scale: float = 1.0) -> Symbol:
    """Step 3's training symbol.

    Parameters
    ----------
    embedding, label, num_classes, embedding_size, margin
        As for :func:`unequal.symbols.margins.margin_logits`.
    beta : float
        Trust in the label (``--noise-beta``).
    normalizer : float
        Divides the summed loss: twice the batch size over all devices in the reference
        (train_NR.py), the batch size of one device for the mean.
    threshold : float
        See :func:`unequal.symbols.operators.noise_robust` (``--gate``).
    composed : bool
        The form for checkpoints, with the outputs ``embedding``, ``blockgrad1`` and ``loss``.
        ``blockgrad1`` are the margin logits (N, C), under the name by which the reference's step
        3.2 looks them up.
    on_cpu, index : bool
        See the description of the module.
    loss_scale : float
        As for :func:`softmax_head`.

    Returns
    -------
    mxnet.symbol.Symbol
        A group of ``embedding`` (N, D), the operator's ``noise_robust_probability`` (N, C; on CPUs
        only), and ``loss`` (1,), ``prediction``, ``label_log_probability``,
        ``largest_log_probability`` (N,). The margin logits are the internal output
        ``logits_output``.
    """
    _check(beta, threshold)
    logits = margin_logits(embedding, label, num_classes, embedding_size, margin,
                           weight_rows(on_cpu, composed))
    outputs = _blocked({"embedding": embedding})
    if composed:
        loss, _ = composed_loss(logits, label, beta, normalizer, threshold)
        return mx.sym.Group([*outputs, *_blocked({"blockgrad1": logits}), loss])
    return mx.sym.Group(
        outputs + robust_outputs(logits, label, beta, normalizer, threshold, on_cpu, index,
                                 loss_scale))


def centers(embedding: Symbol, identities: int, images_per_identity: int) -> Symbol:
    """L2-normalised mean of each identity's L2-normalised embeddings.

    Rows come identity by identity: (identities * images_per_identity, D) to (identities, D).
    """
    unit = mx.sym.L2Normalization(embedding, mode="instance")
    grouped = mx.sym.reshape(unit, shape=(identities, images_per_identity, -1))
    return mx.sym.L2Normalization(mx.sym.mean(grouped, axis=1), mode="instance")


def center_dispersed_loss(embedding: Symbol, identities: int, images_per_identity: int,
                          interweight: float, loss_scale: float = 1.0) -> Tuple[Symbol, Symbol]:
    """``interweight * mean((C C^T - I)^2)`` over the centres C: the center-dispersed loss.

    Returns
    -------
    loss, cosines : mxnet.symbol.Symbol
        ``tail_loss`` (1,), where the gradient starts, and the squared cosines (identities,
        identities), with zeros on the diagonal.
    """
    center = centers(embedding, identities, images_per_identity)
    cosines = mx.sym.dot(center, center, transpose_b=True) - mx.sym.eye(identities)
    squares = mx.sym.square(cosines)
    # MakeLoss sends a gradient of 1 to each element of its input; mean() makes it one element.
    loss = mx.sym.MakeLoss(interweight * mx.sym.mean(squares), name="tail_loss",
                           **_scaled(loss_scale))
    return loss, squares


def unequal_head(embedding: Symbol, label: Symbol, num_classes: int, embedding_size: int,
                 margin: Margin = Margin(), *, head_size: int, tail_identities: int,
                 images_per_identity: int, interweight: float, beta: float, normalizer: float,
                 threshold: float = 0.0, composed: bool = False, on_cpu: bool = True,
                 index: bool = True, loss_scale: float = 1.0) -> Symbol:
    """Step 4's training symbol. No classifier weight exists for tail identities.

    Parameters
    ----------
    embedding, label : mxnet.symbol.Symbol
        Of one device: ``head_size`` rows of head images, then ``images_per_identity`` consecutive
        rows of each of ``tail_identities`` tail identities.
    interweight : float
        Weight of the center-dispersed loss (``--interweight``).
    beta : float
        As in step 3; 1 is plain cross-entropy (``--noise 0``).
    normalizer : float
        Divides the summed head loss: half the head batch over all devices in the reference
        (train_debug_soft_gs.py).
    num_classes, embedding_size, margin, threshold, on_cpu, index, loss_scale
        As for :func:`nra_head`; but loss type 0 too sees the embedding normalised, as in the
        reference's step 4.
    composed : bool
        The form for checkpoints, with the outputs ``embedding``, ``loss`` and ``tail_loss``.

    Returns
    -------
    mxnet.symbol.Symbol
        The outputs of :func:`nra_head` for the head part (``embedding`` has all rows), and
        ``head_label`` (head_size,), ``tail_label``, ``tail_loss`` (1,), ``tail_cosines``, the
        squared cosines between tail centres without the diagonal.
    """
    _check(beta, threshold)
    tail_size = tail_identities * images_per_identity

    def part(symbol: Symbol, begin: int, end: int) -> Symbol:
        return mx.sym.slice_axis(symbol, axis=0, begin=begin, end=end)

    head_label = part(label, 0, head_size)
    head = part(embedding, 0, head_size)
    if margin.loss_type == 0:
        head = l2_rows(head)
    logits = margin_logits(head, head_label, num_classes, embedding_size, margin,
                           weight_rows(on_cpu, composed))
    tail_loss, squares = center_dispersed_loss(
        part(embedding, head_size, head_size + tail_size), tail_identities, images_per_identity,
        interweight, 1.0 if composed else loss_scale)
    outputs = _blocked({"embedding": embedding})
    if composed:
        loss, _ = composed_loss(logits, head_label, beta, normalizer, threshold)
        return mx.sym.Group([*outputs, loss, tail_loss])
    return mx.sym.Group(
        outputs
        + robust_outputs(logits, head_label, beta, normalizer, threshold, on_cpu, index,
                         loss_scale)
        + [tail_loss, *_blocked({
            "head_label": head_label,
            "tail_label": part(label, head_size, head_size + tail_size),
            "tail_cosines": squares})])
