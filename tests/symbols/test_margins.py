import json
import math

import mxnet as mx
import numpy as np
import pytest

from helpers.loops import assert_close, cases, margin_logits, probabilities, recorded, run, slopes
from unequal.errors import InputError
from unequal.symbols import heads, margins
from unequal.symbols.margins import SPHERE_BETA, Margin

BATCH, CLASSES, SIZE = 6, 5, 4

# Each with a target beyond the end of its range among the samples (see inputs()).
MARGINS = [
    Margin(loss_type=0),
    Margin(loss_type=1, margin=1), Margin(loss_type=1, margin=2),
    Margin(loss_type=1, margin=3), Margin(loss_type=1, margin=4),
    Margin(loss_type=2, margin_m=0.35), Margin(loss_type=2, margin_s=30.0, margin_m=0.1),
    Margin(loss_type=4), Margin(loss_type=4, margin_s=20.0, margin_m=0.3),
    Margin(loss_type=4, easy_margin=1),
    Margin(loss_type=5, margin_m=0.0),
    Margin(loss_type=5, margin_m=0.0, margin_b=0.2),
    Margin(loss_type=5, margin_m=0.3, margin_b=0.2),
    Margin(loss_type=5, margin_a=0.9, margin_m=0.4, margin_b=0.15),
    Margin(loss_type=5, margin_a=1.2, margin_m=0.0),
]


def name_of(value):
    return "-".join(f"{name}{number}" for name, number in value._asdict().items()
                    if name == "loss_type" or number != Margin._field_defaults[name])


def inputs(value, seed=3):
    """Embeddings whose angles to their own class run from near 0 to near pi."""
    random = np.random.RandomState(seed)
    weight = random.randn(CLASSES, SIZE)
    label = np.array([0, 4, 2, 2, 1, 3])
    embedding = np.zeros((BATCH, SIZE))
    for i, t in enumerate((0.3, 1.0, 1.4, 1.9, 2.4, 2.9)):
        own = weight[label[i]] / np.linalg.norm(weight[label[i]])
        other = random.randn(SIZE)
        other -= other.dot(own) * own
        embedding[i] = (1 + i / 4) * (math.cos(t) * own
                                      + math.sin(t) * other / np.linalg.norm(other))
    arrays = {"emb": embedding, "fc7_weight": weight, "label": label}
    if value.loss_type == 0:
        arrays["fc7_bias"] = random.randn(CLASSES)
    if value.loss_type == 1:
        arrays[SPHERE_BETA] = np.array([1.5])
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def logits_of(value, classes=CLASSES, size=SIZE):
    return margins.margin_logits(mx.sym.Variable("emb"), mx.sym.Variable("label"), classes, size,
                                value)


def by_loops(arrays, value):
    beta = arrays.get(SPHERE_BETA)
    return margin_logits(arrays["emb"], arrays["fc7_weight"], arrays["label"], value,
                         arrays.get("fc7_bias"), None if beta is None else float(beta[0]))


@pytest.mark.parametrize("name", cases("softmax_"))
def test_recorded(name):
    settings, arrays = recorded(name)
    value = Margin(**{key: settings[key] for key in Margin._fields if key in settings})
    symbol = heads.softmax_head(mx.sym.Variable("emb"), mx.sym.Variable("label"),
                                 settings["num_classes"], settings["emb_size"], value)
    outputs, gradients = run(symbol, arrays)
    assert_close(outputs["embedding"], arrays["out0"], 1e-4)
    assert_close(outputs["softmax"], arrays["out1"], 1e-4)
    expected = {key[len("grad_"):] for key in arrays if key.startswith("grad_")}
    assert expected == set(gradients) and len(expected) >= 2
    for argument, gradient in gradients.items():
        assert_close(gradient, arrays["grad_" + argument], 1e-4)


@pytest.mark.parametrize("value", MARGINS, ids=name_of)
def test_values_and_gradients_by_loops(value):
    arrays = inputs(value)
    slope = np.random.RandomState(0).randn(BATCH, CLASSES)  # of an arbitrary loss after the head
    symbol = logits_of(value)
    outputs, gradients = run(symbol, arrays, ("label", SPHERE_BETA), [slope])
    assert_close(outputs["logits"], by_loops(arrays, value), 2e-6)
    for name, gradient in gradients.items():
        expected = slopes(lambda array, name=name: (
            slope * by_loops(dict(arrays, **{name: array}), value)).sum(), arrays[name])
        assert_close(gradient, expected, 2e-5)


@pytest.mark.parametrize("value", MARGINS, ids=name_of)
def test_without_one_hot(value):
    symbol = heads.softmax_head(mx.sym.Variable("emb"), mx.sym.Variable("label"), CLASSES, SIZE,
                                 value)
    used = {node["op"] for node in json.loads(symbol.tojson())["nodes"]}
    assert not {name for name in used if "one_hot" in name}
    assert "SoftmaxOutput" in used


@pytest.mark.parametrize("value", MARGINS, ids=name_of)
def test_names_and_outputs_of_the_head(value):
    arrays = inputs(value)
    head = heads.softmax_head(mx.sym.Variable("emb"), mx.sym.Variable("label"), CLASSES, SIZE,
                               value)
    assert head.list_outputs() == ["embedding_output", "softmax_output", "prediction_output",
                                   "label_probability_output", "largest_probability_output"]
    assert set(head.list_arguments()) == set(arrays)
    logits = mx.sym.BlockGrad(head.get_internals()["logits_output"], name="margin_logits")
    outputs, gradients = run(mx.sym.Group([head, logits]), arrays, ("label", SPHERE_BETA))
    expected = by_loops(arrays, value)
    label = arrays["label"].astype(int)
    p = np.array([probabilities(row) for row in expected])
    assert_close(outputs["margin_logits"], expected, 2e-6)
    assert_close(outputs["softmax"], p, 1e-5)
    assert outputs["prediction"].tolist() == [int(np.argmax(row)) for row in expected]
    np.testing.assert_allclose(outputs["label_probability"], p[range(BATCH), label],
                               rtol=1e-4, atol=1e-30)

    np.testing.assert_allclose(outputs["largest_probability"], p.max(axis=1), rtol=1e-5)

    # The gradient is that of the mean loss over the batch.
    def mean_loss(embedding):
        rows = by_loops(dict(arrays, emb=embedding), value)
        return -np.mean([math.log(probabilities(row)[y]) for row, y in zip(rows, label)])
    assert_close(gradients["emb"], slopes(mean_loss, arrays["emb"]), 1e-4)


@pytest.mark.parametrize("beta", [0.0, 5.0, 1000.0])
def test_sphereface_is_annealed_by_its_argument(beta):
    value = Margin(loss_type=1)
    arrays = dict(inputs(value), **{SPHERE_BETA: np.array([beta], np.float32)})
    outputs, _ = run(logits_of(value), arrays, ("label", SPHERE_BETA), [np.ones((BATCH, CLASSES))])
    assert_close(outputs["logits"], by_loops(arrays, value), 3e-6)
    plain = by_loops(arrays, Margin(loss_type=1, margin=1))
    target = outputs["logits"][range(BATCH), arrays["label"].astype(int)]
    distance = np.abs(target - plain[range(BATCH), arrays["label"].astype(int)]).max()
    # 1000 is all but the plain cosine, 0 the full margin.
    assert distance > 5 if beta == 0 else distance < 0.02 if beta == 1000 else 0.1 < distance < 5


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_sphereface_psi_falls_without_a_jump(m):
    angles = np.linspace(0, math.pi, 200)
    label = np.zeros(len(angles), np.float32)
    arrays = {"emb": np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32),
              "fc7_weight": np.array([[2, 0], [0, 1]], np.float32), "label": label,
              SPHERE_BETA: np.zeros(1, np.float32)}
    outputs, _ = run(logits_of(Margin(loss_type=1, margin=m), 2, 2), arrays,
                     ("label", SPHERE_BETA), [np.ones((len(angles), 2))])
    psi = outputs["logits"][:, 0]
    steps = np.diff(psi)
    assert (steps < 1e-6).all() and (steps > -m * math.pi / 199 - 1e-5).all()
    assert psi[0] == pytest.approx(1, abs=1e-5) and psi[-1] == pytest.approx(1 - 2 * m, abs=1e-5)


@pytest.mark.parametrize("value", MARGINS, ids=name_of)
@pytest.mark.parametrize("sign", [1, -1])
def test_finite_when_embedding_and_weight_are_parallel(value, sign):
    arrays = inputs(value)
    # Several lengths: some of the cosines are rounded to just above 1.
    arrays["emb"] = (sign * arrays["fc7_weight"][arrays["label"].astype(int)]
                     * np.array([[1], [3], [0.1], [7], [1.7], [0.01]])).astype(np.float32)
    outputs, gradients = run(logits_of(value), arrays, ("label", SPHERE_BETA),
                             [np.random.RandomState(1).randn(BATCH, CLASSES)])
    assert_close(outputs["logits"], by_loops(arrays, value), 1e-3)
    for gradient in gradients.values():
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("value", MARGINS, ids=name_of)
def test_finite_at_an_embedding_of_zeros(value):
    arrays = dict(inputs(value), emb=np.zeros((BATCH, SIZE), np.float32))
    outputs, gradients = run(logits_of(value), arrays, ("label", SPHERE_BETA),
                             [np.ones((BATCH, CLASSES))])
    for array in [outputs["logits"], *gradients.values()]:
        assert np.isfinite(array).all()


def test_replace_target_beyond_float_precision():
    rows, classes = 200, 100_000  # positions up to 2e7; float32 counts exactly to 2 ** 24
    label = np.full(rows, classes - 1, np.float32)
    label[1::2] = np.arange(rows // 2) * 997 + 1  # odd positions, which rounding would move
    symbol = margins.replace_target(mx.sym.Variable("logits"), mx.sym.Variable("label"),
                                   mx.sym.Variable("value"), classes)
    logits = mx.nd.zeros((rows, classes))
    value = mx.nd.arange(1, rows + 1)
    gradients = {"logits": mx.nd.empty((rows, classes)), "value": mx.nd.empty((rows,))}
    executor = symbol.bind(mx.cpu(), {"logits": logits, "label": mx.nd.array(label),
                                      "value": value}, gradients,
                           {"logits": "write", "label": "null", "value": "write"})
    replaced = executor.forward(is_train=True)[0]
    assert replaced.shape == (rows, classes)
    position = label.astype(int)
    found = replaced.asnumpy()
    np.testing.assert_array_equal(found[range(rows), position], value.asnumpy())
    assert np.count_nonzero(found) == rows
    executor.backward([mx.nd.ones((rows, classes)) * 3])
    through = gradients["logits"].asnumpy()
    assert (through[range(rows), position] == 0).all()
    assert np.count_nonzero(through) == rows * (classes - 1)
    np.testing.assert_array_equal(gradients["value"].asnumpy(), 3)


@pytest.mark.parametrize("value, text", [
    (Margin(loss_type=3), "loss_type 3 is unknown; known are "
     + ", ".join(map(str, margins.LOSS_TYPES)) + "."),
    (Margin(loss_type=2, margin_s=0), "margin_s 0 must be above 0."),
    (Margin(loss_type=4, margin_s=-64.0), "margin_s -64.0 must be above 0."),
    (Margin(loss_type=4, margin_m=1.6), "margin_m 1.6 must lie in [0, pi/2) for loss_type 4."),
    (Margin(loss_type=4, margin_m=-0.1), "margin_m -0.1 must lie in [0, pi/2) for "
                                         "loss_type 4."),
    (Margin(loss_type=1, margin=0), "margin 0 must be at least 1."),
])
def test_refused(value, text):
    with pytest.raises(InputError) as error:
        logits_of(value)
    assert str(error.value) == text


def test_more_classes_than_float32_labels_can_name():
    with pytest.raises(InputError) as error:
        logits_of(Margin(), classes=2 ** 24 + 1)
    assert str(error.value) == ("num_classes 16,777,217 is too many: labels are float32, exact to "
                                "16,777,216.")
    logits_of(Margin(), classes=2 ** 24)
