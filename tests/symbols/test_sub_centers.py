"""Sub-center ArcFace: K rows a class, of which the nearest counts."""
import mxnet as mx
import numpy as np
import pytest

from helpers.loops import assert_close, margin_logits, run, slopes, unit
from unequal.errors import ArgumentError
from unequal.symbols import heads, margins
from unequal.symbols.margins import Margin

ROWS, CLASSES, SIZE, CENTERS = 6, 4, 5, 3
EMBEDDING, LABEL = mx.sym.Variable("emb"), mx.sym.Variable("label")


def inputs(seed=0):
    random = np.random.RandomState(seed)
    return {"emb": random.randn(ROWS, SIZE).astype(np.float32),
            "fc7_weight": random.randn(CLASSES * CENTERS, SIZE).astype(np.float32),
            "label": random.randint(0, CLASSES, ROWS).astype(np.float32)}


def by_loops(arrays, margin):
    """Each row with the nearest centre of every class as that class's weight."""
    logits = np.zeros((ROWS, CLASSES))
    for i, x in enumerate(arrays["emb"]):
        chosen = []
        for j in range(CLASSES):
            centers = arrays["fc7_weight"][j * CENTERS:(j + 1) * CENTERS]
            chosen.append(max(centers, key=lambda w, x=x: (unit(w) * unit(x)).sum()))
        logits[i] = margin_logits([x], chosen, [arrays["label"][i]], margin)[0]
    return logits


@pytest.mark.parametrize("margin", [Margin(2, 8.0, 0.35), Margin(4, 8.0, 0.5),
                                    Margin(5, 8.0, 0.3, 0.9, 0.1)])
def test_values_and_gradients_by_loops(margin):
    arrays = inputs()
    slope = np.random.RandomState(1).randn(ROWS, CLASSES)
    symbol = margins.margin_logits(EMBEDDING, LABEL, CLASSES, SIZE,
                                   margin._replace(sub_centers=CENTERS))
    outputs, gradients = run(symbol, arrays, head_gradients=[slope])
    assert_close(outputs["logits"], by_loops(arrays, margin), 2e-6)
    for name, gradient in gradients.items():
        expected = slopes(lambda array, name=name: (
            slope * by_loops(dict(arrays, **{name: array}), margin)).sum(), arrays[name])
        assert_close(gradient, expected, 2e-5)
    # Centres that are nearest to no image have no gradient.
    assert (np.abs(gradients["fc7_weight"]).max(axis=1) == 0).any()


@pytest.mark.parametrize("composed", [True, False])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_every_head_takes_them_and_a_checkpoint_says_so(composed, on_cpu):
    symbol = heads.nra_head(EMBEDDING, LABEL, CLASSES, SIZE, Margin(sub_centers=CENTERS), beta=0.9,
                            normalizer=4, composed=composed, on_cpu=on_cpu)
    shapes, _, _ = symbol.infer_shape(emb=(ROWS, SIZE), label=(ROWS,))
    assert dict(zip(symbol.list_arguments(), shapes))["fc7_weight"] == (CLASSES * CENTERS, SIZE)
    loaded = mx.sym.load_json(symbol.tojson())
    assert loaded.attr_dict()["fc7_weight"][margins.SUB_CENTERS] == str(CENTERS)


def test_one_is_the_plain_classifier():
    plain = margins.margin_logits(EMBEDDING, LABEL, CLASSES, SIZE, Margin(sub_centers=1))
    assert "sub_centers" not in plain.tojson()
    shapes, _, _ = plain.infer_shape(emb=(ROWS, SIZE), label=(ROWS,))
    assert dict(zip(plain.list_arguments(), shapes))["fc7_weight"] == (CLASSES, SIZE)


@pytest.mark.parametrize("margin, text", [
    (Margin(sub_centers=0), "sub_centers 0 must be at least 1."),
    (Margin(0, sub_centers=2),
     "sub_centers 2 needs loss_type 2, 4 or 5: the largest cosine counts."),
    (Margin(1, sub_centers=3),
     "sub_centers 3 needs loss_type 2, 4 or 5: the largest cosine counts."),
])
def test_refused(margin, text):
    with pytest.raises(ArgumentError) as error:
        margins.margin_logits(EMBEDDING, LABEL, CLASSES, SIZE, margin)
    assert str(error.value) == text
