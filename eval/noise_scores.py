"""Which images are mislabelled, and how sure is the model? Scores as functions of arrays.

A score is high where the image looks clean and low where it looks noisy, as in cleanlab. Labels are
int (n,), probabilities float (n, classes), each row a softmax.
"""
import numpy as np
from sklearn.metrics import average_precision_score


def _rows(labels):
    return np.arange(len(labels))


def max_probability(labels, probabilities):
    """``max_j P_ij`` over *margin* logits: the reference's rule (data_boot_gs.py).

    Low for images that look like nobody in the set; the paper's third kind of noise. The labels
    matter only through the margin that is in the probabilities.
    """
    return np.max(probabilities, axis=1)


def label_probability(labels, probabilities):
    """``P_iy``, the probability of the given label y, best without margin. Low for wrong labels."""
    return probabilities[_rows(labels), labels]


def label_margin(labels, probabilities):
    """``P_iy - max_{j != y} P_ij``: the label's probability against the largest other.

    In [-1, 1]; below 0 where the model prefers another label. Use probabilities without margin.
    """
    others = np.array(probabilities, copy=True)
    others[_rows(labels), labels] = -np.inf
    return label_probability(labels, probabilities) - others.max(axis=1)


METHODS = {
    "max-probability": max_probability,
    "label-probability": label_probability,
    "label-margin": label_margin,
}


def score(labels, probabilities, *, method="label-margin"):
    """Score images for label noise; lower is more suspicious.

    Parameters
    ----------
    labels : numpy.ndarray
        int (n,), the given classes.
    probabilities : numpy.ndarray
        float (n, classes).
    method : str
        A key of :data:`METHODS`.

    Returns
    -------
    numpy.ndarray
        float (n,).
    """
    if method not in METHODS:
        raise ValueError("method {!r} is unknown; known are {}".format(method, ", ".join(METHODS)))
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities)
    if labels.shape != probabilities.shape[:1]:
        raise ValueError("{} labels do not match {} rows of probabilities".format(
            labels.shape, probabilities.shape[:1]))
    return METHODS[method](labels, probabilities)


def detection_quality(scores, noisy, listed):
    """How well scores find noise, given which images are noisy.

    Parameters
    ----------
    scores : numpy.ndarray
        float (n,), low is suspicious.
    noisy, listed : numpy.ndarray
        bool (n,): truly noisy; on the noise list.

    Returns
    -------
    dict
        ``precision`` and ``recall`` of the list, ``average_precision`` of the ranking (0 to 1; nan
        where undefined), ``count`` of noisy images.
    """
    noisy, listed = np.asarray(noisy, bool), np.asarray(listed, bool)
    hits = int((noisy & listed).sum())
    return {
        "count": int(noisy.sum()),
        "precision": hits / listed.sum() if listed.any() else float("nan"),
        "recall": hits / noisy.sum() if noisy.any() else float("nan"),
        "average_precision": (float(average_precision_score(noisy, -np.asarray(scores)))
                              if noisy.any() else float("nan")),
    }
