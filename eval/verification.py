"""Verification: are two pictures of the same person? Functions of arrays, no model."""
import numpy as np
from easydict import EasyDict
from sklearn.decomposition import PCA
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

from unequal.errors import InputError

# Squared L2 distances of unit vectors lie in [0, 4] (eval/verification.py of the reference).
THRESHOLDS = np.arange(0, 4, 0.01)
FAR_THRESHOLDS = np.arange(0, 4, 0.001)


def pair_distances(embeddings):
    """Squared L2 distance of the two normalised embeddings of each pair.

    Parameters
    ----------
    embeddings : numpy.ndarray
        (2 * pairs, D); rows 2i and 2i + 1 are a pair. Need not be normalised.

    Returns
    -------
    numpy.ndarray
        float64 (pairs,), in [0, 4].
    """
    first, second = _normalised_pairs(embeddings)
    return np.sum(np.square(first - second), axis=1)


def _normalised_pairs(embeddings):
    unit = normalize(np.asarray(embeddings, np.float64))
    return unit[0::2], unit[1::2]


def _check(distances, issame):
    issame = np.asarray(issame, bool)
    if len(distances) != len(issame):
        raise InputError("{} distances do not match {} pairs; a verification set has two pictures "
                         "a pair.".format(len(distances), len(issame)))
    return issame


def _accepted(distances, thresholds):
    """How many of ``distances`` lie below each threshold."""
    return np.searchsorted(np.sort(distances), thresholds, side="left")


def _rates(distances, issame, thresholds):
    """True and false accept rate and accuracy at each threshold; a rate over no pair is 0."""
    same, different = issame.sum(), (~issame).sum()
    true = _accepted(distances[issame], thresholds)
    false = _accepted(distances[~issame], thresholds)
    return (true / max(same, 1), false / max(different, 1),
            (true + different - false) / len(distances))


def _folds(count, folds):
    if count < folds:
        raise InputError("{} pairs do not make {} folds.".format(count, folds))
    return KFold(folds, shuffle=False).split(np.arange(count))


def accuracy_per_fold(distances, issame, folds=10, thresholds=THRESHOLDS):
    """Accuracy of each fold at the threshold that is best on the others.

    Parameters
    ----------
    distances : numpy.ndarray
        (pairs,), or (folds, pairs) when every fold has distances of its own (PCA).
    issame : array of bool
        (pairs,).
    folds : int
        Consecutive, unshuffled folds (the reference's KFold).
    thresholds : numpy.ndarray
        Ascending; a pair is accepted when its distance is below. The first best one is used.

    Returns
    -------
    accuracy, best : numpy.ndarray
        float64 (folds,): accuracy in [0, 1], and the threshold of each fold.
    """
    distances = np.asarray(distances)
    issame = _check(distances.T, issame)
    accuracy, best = np.empty(folds), np.empty(folds)
    for fold, (train, test) in enumerate(_folds(len(issame), folds)):
        own = distances[fold] if distances.ndim == 2 else distances
        best[fold] = thresholds[np.argmax(_rates(own[train], issame[train], thresholds)[2])]
        accepted = own[test] < best[fold]
        accuracy[fold] = np.mean(accepted == issame[test])
    return accuracy, best


def mean_roc(distances, issame, folds=10, thresholds=THRESHOLDS):
    """True and false accept rate at each threshold, averaged over the folds: two (thresholds,)."""
    issame = _check(distances, issame)
    rates = [_rates(distances[test], issame[test], thresholds)[:2]
             for _, test in _folds(len(issame), folds)]
    return tuple(np.mean(rates, axis=0))


def tar_at_far(distances, issame, far, folds=10, thresholds=FAR_THRESHOLDS):
    """True accept rate at a false accept rate, the reference's way.

    The threshold is interpolated on the other folds' false accept rates to meet ``far``, then
    applied to the fold.

    Returns
    -------
    tar, std, far : float
        Mean and standard deviation over folds of the rate, and the mean false accept rate met.
    """
    issame = _check(distances, issame)
    tars, fars = np.empty(folds), np.empty(folds)
    for fold, (train, test) in enumerate(_folds(len(issame), folds)):
        rates = _rates(distances[train], issame[train], thresholds)[1]
        threshold = 0.0
        if rates.max() >= far:
            # Of equal rates the last threshold counts: interpolation needs distinct ones.
            last = np.append(rates[1:] != rates[:-1], True)
            threshold = np.interp(far, rates[last], thresholds[last])
        tars[fold], fars[fold] = (rate[0] for rate in _rates(
            distances[test], issame[test], np.array([threshold]))[:2])
    return tars.mean(), tars.std(), fars.mean()


def mean_norm(embeddings):
    """Mean L2 norm of embeddings before normalisation (``XNorm`` in InsightFace's logs)."""
    return float(np.mean(np.linalg.norm(np.asarray(embeddings, np.float64), axis=1)))


def pca_distances(embeddings, components, folds=10):
    """Pair distances after PCA fitted on the other folds, float64 (folds, pairs).

    InsightFace's ``pca`` option: components are fitted on the normalised embeddings of the other
    folds' pairs, projections are normalised again.
    """
    first, second = _normalised_pairs(embeddings)
    distances = np.empty((folds, len(first)))
    for fold, (train, _) in enumerate(_folds(len(first), folds)):
        pca = PCA(components).fit(np.concatenate([first[train], second[train]]))
        difference = normalize(pca.transform(first)) - normalize(pca.transform(second))
        distances[fold] = np.sum(np.square(difference), axis=1)
    return distances


def evaluate(plain, flipped, issame, folds=10):
    """The numbers InsightFace logs for one verification set.

    Parameters
    ----------
    plain, flipped : numpy.ndarray
        (2 * pairs, D): embeddings of the pictures and of their mirror images, not normalised.
    issame : array of bool
        (pairs,).

    Returns
    -------
    EasyDict
        ``accuracy``, ``accuracy_std`` (plain pictures), ``accuracy_flip``, ``accuracy_flip_std``
        (sum of both embeddings; the number papers quote), ``threshold`` (mean over folds, flip),
        ``xnorm``, ``pairs``.
    """
    result = EasyDict(pairs=len(issame))
    for name, embeddings in (("accuracy", plain), ("accuracy_flip", plain + flipped)):
        accuracy, best = accuracy_per_fold(pair_distances(embeddings), issame, folds)
        result[name], result[name + "_std"] = float(accuracy.mean()), float(accuracy.std())
    result.threshold = float(best.mean())
    result.xnorm = (mean_norm(plain) + mean_norm(flipped)) / 2
    return result
