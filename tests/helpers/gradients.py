"""How far the gradients of the heads' two forms are from float64's, and from each other.

A program too: in a process with MXNET_MKLDNN_ENABLED=0 the standard operators are MXNet's own, as
on a GPU, and not oneDNN's (read once, when first needed).
"""
import json
from typing import Any, Callable, Dict, Tuple

import unequal  # noqa: F401  before mxnet

# isort: split
import mxnet as mx
import numpy as np

from helpers.loops import dispersed_loss, run, slopes, target_logit
from unequal.symbols import heads, margins, networks
from unequal.symbols.margins import Margin
from unequal.system import mxnet_private

ROWS, CLASSES, SIZE = 12, 9, 6
EMBEDDING, LABEL = mx.sym.Variable("emb"), mx.sym.Variable("label")
MARGINS = [Margin(loss_type=0), Margin(1, 8.0), Margin(2, 8.0, 0.35), Margin(4, 8.0, 0.5),
           Margin(4, 8.0, 0.5, easy_margin=1), Margin(5, 8.0, 0.3, 0.9, 0.1)]
STEP4 = dict(head_size=6, tail_identities=2, images_per_identity=3, interweight=5.0)
HEADS: Dict[str, Tuple[Callable[..., mx.sym.Symbol], Dict[str, Any]]] = {
    "step 3": (heads.nra_head, {}), "step 4": (heads.unequal_head, STEP4)}
BETA, NORMALIZER = 0.7, 8


def inputs(seed=0):
    random = np.random.RandomState(seed)
    return {"emb": random.randn(ROWS, SIZE).astype(np.float32),
            "fc7_weight": random.randn(CLASSES, SIZE).astype(np.float32),
            "fc7_bias": random.randn(CLASSES).astype(np.float32),
            margins.SPHERE_BETA: np.array([2.0], np.float32),
            "label": random.randint(0, CLASSES, ROWS).astype(np.float32)}


def loss(name, margin, threshold, arrays):
    """In float64, as in the loops, but for whole matrices: hundreds of them make a gradient."""
    emb, weight = (np.asarray(arrays[one], np.float64) for one in ("emb", "fc7_weight"))
    rows = int(STEP4["head_size"]) if name == "step 4" else ROWS
    head, label = emb[:rows], arrays["label"][:rows].astype(int)
    length = np.linalg.norm(head, axis=1)
    direction, weights = head / length[:, None], weight / np.linalg.norm(weight, axis=1)[:, None]
    if margin.loss_type == 0:  # in step 4 it too sees the embedding normalised
        logits = (direction if name == "step 4" else head) @ weight.T + arrays["fc7_bias"]
    else:
        cosines = direction @ weights.T
        logits = cosines * (length[:, None] if margin.loss_type == 1 else margin.margin_s)
        for i, j in enumerate(label):
            logits[i, j] = target_logit(cosines[i, j], length[i], margin,
                                        arrays[margins.SPHERE_BETA][0])
    top = logits.max(axis=1)
    largest = -np.log(np.exp(logits - top[:, None]).sum(axis=1))  # log-probability
    own = logits[range(rows), label] - top + largest
    kept = np.exp(largest) > threshold
    total = -(kept * (BETA * own + (1 - BETA) * largest)).sum() / NORMALIZER
    if name == "step 4":
        total += dispersed_loss(emb[rows:], STEP4["images_per_identity"], STEP4["interweight"])
    return total


def exact(name, margin, threshold, arrays):
    """Gradients of embedding and weight by differences in float64."""
    return {one: slopes(lambda array, one=one: loss(
        name, margin, threshold, dict(arrays, **{one: array})), arrays[one])
        for one in ("emb", "fc7_weight")}


def difference(ours, expected):
    """Relative to the largest expected value; a classifier's gradient may be 0 altogether."""
    expected = np.asarray(expected, np.float64)
    return float(np.abs(ours - expected).max() / max(np.abs(expected).max(), 1e-12))


def errors(name, margin, threshold=0.0, seed=0):
    """``{"cpu": , "gpu": }`` of the forms from float64, and ``"between"`` them."""
    build, options = HEADS[name]
    arrays = inputs(seed)
    by_loops = exact(name, margin, threshold, arrays)
    found = {form: run(build(EMBEDDING, LABEL, CLASSES, SIZE, margin, on_cpu=form == "cpu",
                             beta=BETA, normalizer=NORMALIZER, threshold=threshold, **options),
                       arrays, ("label", margins.SPHERE_BETA))[1] for form in ("cpu", "gpu")}
    return {"cpu": max(difference(found["cpu"][one], by_loops[one]) for one in by_loops),
            "gpu": max(difference(found["gpu"][one], by_loops[one]) for one in by_loops),
            "between": max(difference(found["gpu"][one], found["cpu"][one].astype(np.float64))
                           for one in by_loops)}


def worst():
    """The largest over heads, margins and thresholds."""
    every = [errors(name, margin, threshold) for name in HEADS for margin in MARGINS
             for threshold in (0.0, 0.6)]
    return {key: max(one[key] for one in every) for key in every[0]}


def of_a_network(save_memory, seed=0):
    """n8's gradients for one batch."""
    symbol = heads.softmax_head(
        networks.get_symbol("n8", SIZE, depthwise_prelu=False, version_output="I"), LABEL, CLASSES,
        SIZE, index=False)
    random = np.random.RandomState(1)
    arrays = {}
    for name, shape in zip(symbol.list_arguments(),
                           symbol.infer_shape(data=(4, 3, 32, 32), label=(4,))[0]):
        arrays[name] = mx.nd.array(random.randn(*shape) * 0.1 + name.endswith("gamma"))
    arrays["data"][:] = np.random.RandomState(seed).randint(0, 256, (4, 3, 32, 32))
    arrays["label"][:] = np.arange(4)
    with mxnet_private.mirroring(save_memory):
        executor = symbol.simple_bind(mx.cpu(), grad_req={
            name: "null" if name == "label" else "write" for name in arrays},
            data=(4, 3, 32, 32), label=(4,))
    executor.copy_params_from(arrays, {name: mx.nd.ones_like(value) for name, value in
                                       executor.aux_dict.items()})
    executor.forward(is_train=True)
    executor.backward()
    return {name: value.asnumpy() for name, value in executor.grad_dict.items()
            if name != "label"}


if __name__ == "__main__":
    kept, anew, other = (of_a_network(*given) for given in ((False,), (True,), (False, 1)))
    print(json.dumps(dict(worst(), **{
        "computed anew": max(difference(anew[name], kept[name]) for name in kept),
        "another picture": max(difference(other[name], kept[name]) for name in kept)})))
