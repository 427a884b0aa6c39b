"""The losses once more: one sample at a time, float64, from the papers' equations.

Written without a look at ``symbols/``, so that the two can disagree.
"""
import json
import math

import mxnet as mx
import numpy as np

from helpers import TESTS

RECORDING = TESTS / "golden" / "reference"


def cases(prefix):
    """Names of the recorded cases that begin with ``prefix``."""
    with open(RECORDING / "losses_and_networks.json", encoding="utf-8") as file:
        return sorted(name for name in json.load(file) if name.startswith(prefix))


def recorded(name):
    """``(settings, {array name: array})`` of one recorded case."""
    with open(RECORDING / "losses_and_networks.json", encoding="utf-8") as file:
        settings = json.load(file)[name]
    with np.load(RECORDING / "losses_and_networks.npz") as arrays:
        return settings, {key[len(name) + 1:]: arrays[key] for key in arrays.files
                          if key.startswith(name + "/")}


def run(symbol, arrays, inputs=("label",), head_gradients=None, grad_req="write", start=None):
    """Outputs by name (without ``_output``) and gradients of all arguments but ``inputs``.

    ``start`` holds the gradient arrays' values beforehand (for ``grad_req="add"``).
    """
    arguments = {name: mx.nd.array(arrays[name], dtype=np.asarray(arrays[name]).dtype)
                 for name in symbol.list_arguments()}
    wanted = [name for name in arguments if name not in inputs]
    gradients = {name: mx.nd.array(start[name]) if start else mx.nd.zeros_like(arguments[name])
                 for name in wanted}
    executor = symbol.bind(mx.cpu(), arguments, gradients,
                           {name: grad_req if name in wanted else "null" for name in arguments})
    executor.forward(is_train=True)
    executor.backward(None if head_gradients is None else
                      [mx.nd.array(gradient) for gradient in head_gradients])
    names = [name[:-len("_output")] if name.endswith("_output") else name
             for name in symbol.list_outputs()]
    return ({name: value.asnumpy() for name, value in zip(names, executor.outputs)},
            {name: value.asnumpy() for name, value in gradients.items()})


def assert_close(ours, expected, tolerance):
    """Largest difference within ``tolerance`` of the largest expected value."""
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    assert ours.shape == expected.shape
    assert np.isfinite(ours).all()
    scale = max(np.abs(expected).max(), 1e-12)
    np.testing.assert_allclose(ours / scale, expected / scale, rtol=0, atol=tolerance)


def slopes(function, array, step=1e-5):
    """Gradient of a number-valued ``function(array)`` by central differences, float64."""
    array = np.array(array, np.float64)
    gradient = np.zeros_like(array)
    for index in np.ndindex(*array.shape):
        value = array[index]
        array[index] = value + step
        above = function(array)
        array[index] = value - step
        gradient[index] = (above - function(array)) / (2 * step)
        array[index] = value
    return gradient


def unit(vector):
    vector = np.asarray(vector, np.float64)
    return vector / max(math.sqrt((vector * vector).sum()), 1e-300)


def sphere_psi(t, m):
    """SphereFace, equation 7: (-1)^k cos(m t) - 2k for t in [k pi/m, (k+1) pi/m]."""
    k = min(int(t * m / math.pi), m - 1)
    return (-1) ** k * math.cos(m * t) - 2 * k


def target_logit(cos_t, length, margin, beta):
    """The label's logit for one sample; ``length`` is |x|."""
    t = math.acos(max(-1.0, min(1.0, cos_t)))
    s, m = margin.margin_s, margin.margin_m
    if margin.loss_type == 1:  # SphereFace, annealed as L-Softmax is
        return length * (beta * math.cos(t) + sphere_psi(t, margin.margin)) / (1 + beta)
    if margin.loss_type == 2:  # CosFace, equation 4
        return s * (cos_t - m)
    if margin.loss_type == 4:  # ArcFace, equation 3, with its two ways past the end of the range
        if margin.easy_margin:
            return s * math.cos(t + m) if cos_t > 0 else s * cos_t
        if t + m < math.pi:
            return s * math.cos(t + m)
        return s * cos_t - s * m * math.sin(math.pi - m)
    return s * (math.cos(margin.margin_a * t + m) - margin.margin_b)  # ArcFace, equation 4


def margin_logits(embedding, weight, label, margin, bias=None, beta=None):
    """(N, C) by loops over samples and classes."""
    embedding = np.asarray(embedding, np.float64)
    weight = np.asarray(weight, np.float64)
    logits = np.zeros((len(embedding), len(weight)))
    directions = [unit(w) for w in weight]
    for i, x in enumerate(embedding):
        length, direction = math.sqrt((x * x).sum()), unit(x)
        for j, w in enumerate(weight):
            if margin.loss_type == 0:
                logits[i, j] = (x * w).sum() + bias[j]
                continue
            cos_t = (direction * directions[j]).sum()
            if j == int(label[i]):
                logits[i, j] = target_logit(cos_t, length, margin, beta)
            else:
                logits[i, j] = cos_t * (length if margin.loss_type == 1 else margin.margin_s)
    return logits


def probabilities(row):
    """Softmax of one row."""
    powers = [math.exp(z - max(row)) for z in row]
    return [power / sum(powers) for power in powers]


def cross_entropy(row, label):
    top = max(row)
    return top + math.log(sum(math.exp(z - top) for z in row)) - row[int(label)]


def robust_loss(logits, label, beta, normalizer, threshold=0.0):
    """The paper's NR loss: beta CE(label) + (1 - beta) CE(prediction) where max P > threshold."""
    total = 0.0
    for row, y in zip(np.asarray(logits, np.float64), label):
        prediction = int(np.argmax(row))
        if probabilities(row)[prediction] > threshold:
            total += beta * cross_entropy(row, y) + (1 - beta) * cross_entropy(row, prediction)
    return total / normalizer


def robust_gradient(logits, label, beta, normalizer, threshold=0.0):
    """d robust_loss / d logits, entry by entry: for each term, P minus the target's indicator."""
    gradient = np.zeros(np.shape(logits))
    for i, row in enumerate(np.asarray(logits, np.float64)):
        p = probabilities(row)
        prediction = int(np.argmax(row))
        if p[prediction] <= threshold:
            continue
        for j in range(len(row)):
            gradient[i, j] = (beta * (p[j] - (j == int(label[i])))
                              + (1 - beta) * (p[j] - (j == prediction))) / normalizer
    return gradient


def dispersed_loss(embedding, images_per_identity, interweight):
    """Mean over all ordered pairs, an identity with itself included, of (cos - [same])^2."""
    centers = []
    for first in range(0, len(embedding), images_per_identity):
        units = [unit(row) for row in embedding[first:first + images_per_identity]]
        centers.append(unit(sum(units) / len(units)))
    total = 0.0
    for a, one in enumerate(centers):
        for b, other in enumerate(centers):
            total += ((one * other).sum() - (a == b)) ** 2
    return interweight * total / len(centers) ** 2
