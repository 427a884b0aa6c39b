"""Step 3's head: margin logits under the noise-robust loss (NRA)."""
import mxnet as mx

from unequal.errors import InputError
from unequal.symbols.margins import Margin, l2_rows, margin_logits
from unequal.symbols.operators import noise_robust, unit_rows


def check(beta, threshold=0.0):
    """Raise InputError unless both lie in [0, 1]."""
    for flag, value in (("--noise-beta", beta), ("--noise-threshold", threshold)):
        if not 0 <= value <= 1:
            raise InputError("{} {} must lie in [0, 1].".format(flag, value))


def weight_rows(on_cpu, composed):
    """What makes the classifier's rows unit vectors: the ``unit`` of ``margin_logits``."""
    return unit_rows if on_cpu and not composed else l2_rows


def composed_loss(logits, label, beta, normalizer, threshold=0.0):
    """The operator's loss as a composition of standard operators, shape (1,).

    The same function of the same inputs; for export, and to test the operator against. It keeps
    log-softmax and its gradient, each (N, C).
    """
    log_probability = mx.sym.log_softmax(logits, axis=1)
    prediction = mx.sym.BlockGrad(mx.sym.argmax(log_probability, axis=1))
    largest = mx.sym.pick(log_probability, prediction, axis=1)
    weight = mx.sym.BlockGrad(mx.sym.exp(largest) > threshold)
    loss = beta * mx.sym.pick(log_probability, label, axis=1) + (1 - beta) * largest
    return mx.sym.MakeLoss(mx.sym.sum(weight * loss, axis=0, keepdims=True) * (-1.0 / normalizer),
                           name="loss")


def robust_outputs(logits, label, beta, normalizer, threshold=0.0):
    """The operator and what training logs of it, as a list of symbols.

    ``loss`` (1,), ``prediction``, ``label_log_probability``, ``largest_log_probability`` (N,).
    The gradient enters at the operator, whose first output heads the list.
    """
    probability, prediction, label_log, largest_log = noise_robust(
        logits, label, beta, normalizer, threshold)
    weight = mx.sym.pick(probability, prediction, axis=1) > threshold
    loss = weight * (beta * label_log + (1 - beta) * largest_log)
    named = {
        "loss": mx.sym.sum(loss, axis=0, keepdims=True) * (-1.0 / normalizer),
        "prediction": prediction,
        "label_log_probability": label_log,
        "largest_log_probability": largest_log,
    }
    return [probability] + [mx.sym.BlockGrad(value, name=name) for name, value in named.items()]


def nra_head(embedding, label, num_classes, embedding_size, margin=Margin(), *, beta, normalizer,
             threshold=0.0, composed=False, on_cpu=True):
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
        See :func:`unequal.symbols.operators.noise_robust`.
    composed : bool
        Of standard operators only (:func:`composed_loss`), with the outputs ``embedding`` and
        ``loss``: what checkpoints hold, so that MXNet loads them without this package.
    on_cpu : bool
        Normalise the weight by :func:`unequal.symbols.operators.unit_rows`, which only CPUs can
        run; the same function.

    Returns
    -------
    mxnet.symbol.Symbol
        A group of ``embedding`` (N, D), the operator's ``noise_robust_probability`` (N, C), and
        ``loss`` (1,), ``prediction``, ``label_log_probability``, ``largest_log_probability`` (N,).
        The margin logits are the internal output ``logits_output``.
    """
    check(beta, threshold)
    logits = margin_logits(embedding, label, num_classes, embedding_size, margin,
                           weight_rows(on_cpu, composed))
    if composed:
        return mx.sym.Group([mx.sym.BlockGrad(embedding, name="embedding"),
                             composed_loss(logits, label, beta, normalizer, threshold)])
    return mx.sym.Group([mx.sym.BlockGrad(embedding, name="embedding")]
                        + robust_outputs(logits, label, beta, normalizer, threshold))
