import numpy as np
import pytest

from unequal.eval import noise_scores


def example(seed=0, count=40, classes=7):
    random = np.random.RandomState(seed)
    raw = np.exp(3 * random.randn(count, classes))
    return random.randint(classes, size=count), raw / raw.sum(axis=1, keepdims=True)


def test_scores_against_loops():
    labels, probabilities = example()
    for method, expected in (
            ("max-probability", lambda row, y: max(row)),
            ("label-probability", lambda row, y: row[y]),
            ("label-margin", lambda row, y: row[y] - max(p for j, p in enumerate(row) if j != y))):
        scores = noise_scores.score(labels, probabilities, method=method)
        for score, row, label in zip(scores, probabilities, labels):
            assert score == pytest.approx(expected(row.tolist(), label))


def test_label_margin_leaves_its_input_alone():
    labels, probabilities = example()
    before = probabilities.copy()
    noise_scores.score(labels, probabilities)
    np.testing.assert_array_equal(probabilities, before)


def test_bad_arguments():
    labels, probabilities = example()
    with pytest.raises(ValueError, match="'best' is unknown; known are max-probability"):
        noise_scores.score(labels, probabilities, method="best")
    with pytest.raises(ValueError, match="do not match"):
        noise_scores.score(labels[:-1], probabilities)


def test_detection_quality():
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    noisy = np.array([True, False, True, False, False])
    result = noise_scores.detection_quality(scores, noisy, scores < 0.35)
    assert result["count"] == 2
    assert result["precision"] == pytest.approx(2 / 3) and result["recall"] == 1.0
    # Ranks of the noisy ones are 1 and 3: (1/1 + 2/3) / 2.
    assert result["average_precision"] == pytest.approx(5 / 6)
    nothing = noise_scores.detection_quality(scores, np.zeros(5, bool), np.zeros(5, bool))
    assert all(np.isnan(nothing[name]) for name in ("precision", "recall", "average_precision"))
