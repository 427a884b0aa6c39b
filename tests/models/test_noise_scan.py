"""Scores of a set under a checkpoint's classifier, reduced on the device."""
import mxnet as mx
import numpy as np
import pytest

from unequal.eval import noise_scores
from unequal.models import noise_scan
from unequal.symbols import margins
from unequal.symbols.margins import Margin

CLASSES, SIZE, IMAGES = 11, 6, 23


def arrays(centers=1):
    random = np.random.RandomState(0)
    params = {"fc7_weight": mx.nd.array(random.randn(CLASSES * centers, SIZE)),
              "fc7_bias": mx.nd.array(random.randn(CLASSES))}
    return params, random.randn(IMAGES, SIZE).astype(np.float32), random.randint(
        0, CLASSES, IMAGES)


def probabilities(params, embeddings, labels, settings):
    """(n, C) of the symbol that training has, in one piece."""
    symbol = mx.sym.softmax(margins.margin_logits(
        mx.sym.Variable("embedding"), mx.sym.Variable("label"), CLASSES, SIZE, settings), axis=1)
    given = dict(params, embedding=mx.nd.array(embeddings), label=mx.nd.array(labels))
    given[margins.SPHERE_BETA] = mx.nd.zeros((1,))
    return symbol.bind(mx.cpu(), {name: given[name] for name in symbol.list_arguments()}
                       ).forward()[0].asnumpy()


@pytest.mark.parametrize("rows", [1, 8, 256])
@pytest.mark.parametrize("method", sorted(noise_scores.METHODS))
@pytest.mark.parametrize("settings", [
    Margin(0), Margin(1), Margin(2, 8.0, 0.35), Margin(4, 8.0, 0.5), Margin(5, 8.0, 0.3, 0.9, 0.1),
    Margin(4, 8.0, 0.5, sub_centers=3)], ids=lambda s: f"{s.loss_type}-{s.sub_centers}")
def test_what_is_reduced_on_the_device_is_what_numpy_makes_of_all_probabilities(
        settings, method, rows, monkeypatch):
    monkeypatch.setattr(noise_scan, "MOST_ROWS", rows)
    params, embeddings, labels = arrays(settings.sub_centers)
    classifier = noise_scan.Classifier(params, settings, mx.cpu(), method)
    assert classifier.rows == rows
    found = classifier(embeddings, labels)
    whole = probabilities(params, embeddings, labels, settings)
    np.testing.assert_array_equal(found["prediction"], whole.argmax(axis=1))
    for name, expected in (
            ("max_probability", whole.max(axis=1)),
            ("label_probability", noise_scores.label_probability(labels, whole)),
            ("score", noise_scores.score(labels, whole, method=method))):
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)
    again = classifier(embeddings[:3], labels[:3])  # fewer than before: no rows of old are seen
    np.testing.assert_allclose(again["score"], found["score"][:3], rtol=1e-5, atol=1e-7)


def test_the_first_of_equal_classes_is_predicted():
    params = {"fc7_weight": mx.nd.array([[0, 1], [1, 0], [1, 0]])}
    classifier = noise_scan.Classifier(params, Margin(2, 4.0, 0.0), mx.cpu())
    assert classifier(np.array([[2.0, 0.0]], np.float32), [0])["prediction"].tolist() == [1]


def test_no_image_at_all():
    found = noise_scan.Classifier(arrays()[0], Margin(), mx.cpu())(np.zeros((0, SIZE)), [])
    assert found["score"].shape == found["prediction"].shape == (0,)


def test_it_binds_and_normalises_once(monkeypatch):
    params, embeddings, labels = arrays()
    monkeypatch.setattr(noise_scan, "MOST_ROWS", 4)
    classifier = noise_scan.Classifier(params, Margin(), mx.cpu())
    graph = classifier._executor._symbol.tojson()
    assert graph.count('"op": "L2Normalization"') == 1  # of the embedding
    monkeypatch.setattr(mx.sym.Symbol, "bind", None)
    monkeypatch.setattr(mx.nd, "L2Normalization", None)
    assert classifier(embeddings, labels)["score"].shape == (IMAGES,)


def test_the_rows_by_the_devices_memory(monkeypatch):
    monkeypatch.setattr(noise_scan.runtime, "memory", lambda: 24 << 30)
    assert noise_scan.rows_at_once(96_499, mx.cpu()) == 256
    assert noise_scan.rows_at_once(1_000_000, mx.cpu()) == 161
    monkeypatch.setattr(mx.context, "gpu_memory_info", lambda number: (0, (8 + number) << 30))
    assert noise_scan.rows_at_once(1_000_000, mx.gpu(0)) == 53
    assert noise_scan.rows_at_once(1_000_000, mx.gpu(8)) == 107
    assert noise_scan.rows_at_once(10 ** 7, mx.gpu(0)) == 5


def test_the_planner_takes_no_more_than_is_allowed_for(monkeypatch):
    """The arrays of (rows, classes) that are counted on, by MXNet's planner."""
    classes, rows = 40_000, 64
    monkeypatch.setattr(noise_scan, "MOST_ROWS", rows)
    params = {"fc7_weight": mx.nd.ones((classes, 2))}
    classifier = noise_scan.Classifier(params, Margin(), mx.cpu(), "label-margin")
    planned = int(classifier._executor.debug_str().split("Total ")[1].split(" MB")[0])
    assert planned <= 4 * noise_scan._ARRAYS * rows * classes / 2 ** 20


def test_blocks_hold_at_least_as_many_rows_and_lose_none():
    stream = [(start, np.full(3, start), np.full((3, 2), start), None) for start in range(0, 21, 3)]
    sizes = [len(labels) for labels, _ in noise_scan._blocks(stream, 7)]
    assert sizes == [9, 9, 3]
    assert np.concatenate([rows[:, 0] for _, rows in noise_scan._blocks(stream, 7)]).tolist() == [
        value for start in range(0, 21, 3) for value in [start] * 3]
