"""Verification: are two pictures of the same person? Functions of arrays, no model.

docs/evaluation.md states the protocol. Sizes: a set of P pairs costs 16 bytes a pair beside its
embeddings, and the bootstrap 8 bytes a pair more.
"""
from dataclasses import dataclass
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from sklearn import metrics
from sklearn.decomposition import PCA
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

from unequal.errors import ArgumentError, InputError

# Squared L2 distances of unit vectors lie in [0, 4] (eval/verification.py of the reference).
THRESHOLDS = np.arange(0, 4, 0.01)
FAR_THRESHOLDS = np.arange(0, 4, 0.001)
FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def pair_distances(embeddings: np.ndarray) -> np.ndarray:
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
    distances: np.ndarray = np.sum(np.square(first - second), axis=1)
    return distances


def _normalised_pairs(embeddings: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    unit = normalize(np.asarray(embeddings, np.float64))
    return unit[0::2], unit[1::2]


def _check(distances: np.ndarray, issame: np.ndarray) -> np.ndarray:
    issame = np.asarray(issame, bool)
    if len(distances) != len(issame):
        raise InputError(f"{len(distances)} distances do not match {len(issame)} pairs; a "
                         "verification set has two pictures a pair.")
    return issame


def _accepted(distances: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many of ``distances`` lie below each threshold."""
    return np.searchsorted(np.sort(distances), thresholds, side="left")


def _rates(distances: np.ndarray, issame: np.ndarray,
           thresholds: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True and false accept rate and accuracy at each threshold; a rate over no pair is 0."""
    same, different = issame.sum(), (~issame).sum()
    true = _accepted(distances[issame], thresholds)
    false = _accepted(distances[~issame], thresholds)
    return (true / max(same, 1), false / max(different, 1),
            (true + different - false) / len(distances))


def _folds(count: int, folds: int) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs that each fold trains on and those it tests."""
    if count < folds:
        raise InputError(f"{count} pairs do not make {folds} folds.")
    yield from KFold(folds, shuffle=False).split(np.arange(count))


def exact_thresholds(distances: np.ndarray) -> np.ndarray:
    """Every threshold that accepts another set of pairs: the distinct distances, and one above."""
    distinct = np.unique(distances)
    return np.append(distinct, np.nextafter(distinct[-1], np.inf))


def accuracy_per_fold(
        distances: np.ndarray,
        issame: np.ndarray,
        folds: int = 10,
        thresholds: Optional[np.ndarray] = THRESHOLDS) -> Tuple[np.ndarray, np.ndarray]:
    """Accuracy of each fold at the threshold that is best on the others.

    Parameters
    ----------
    distances : numpy.ndarray
        (pairs,), or (folds, pairs) when every fold has distances of its own (PCA).
    issame : array of bool
        (pairs,).
    folds : int
        Consecutive, unshuffled folds (the reference's KFold).
    thresholds : numpy.ndarray or None
        Ascending; a pair is accepted when its distance is below. The first best one is used.
        None: each fold searches the other folds' own distances (:func:`exact_thresholds`).

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
        grid = exact_thresholds(own[train]) if thresholds is None else thresholds
        best[fold] = grid[np.argmax(_rates(own[train], issame[train], grid)[2])]
        accepted = own[test] < best[fold]
        accuracy[fold] = np.mean(accepted == issame[test])
    return accuracy, best


def mean_roc(distances: np.ndarray, issame: np.ndarray, folds: int = 10,
             thresholds: np.ndarray = THRESHOLDS) -> Tuple[np.ndarray, np.ndarray]:
    """True and false accept rate at each threshold, averaged over the folds: two (thresholds,)."""
    issame = _check(distances, issame)
    rates = [_rates(distances[test], issame[test], thresholds)[:2]
             for _, test in _folds(len(issame), folds)]
    true, false = np.mean(rates, axis=0)
    return true, false


def tar_at_far(distances: np.ndarray, issame: np.ndarray, far: float, folds: int = 10,
               thresholds: np.ndarray = FAR_THRESHOLDS) -> Tuple[float, float, float]:
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
            threshold = float(np.interp(far, rates[last], thresholds[last]))
        tars[fold], fars[fold] = (rate[0] for rate in _rates(
            distances[test], issame[test], np.array([threshold]))[:2])
    return float(tars.mean()), float(tars.std()), float(fars.mean())


def mean_norm(embeddings: np.ndarray) -> float:
    """Mean L2 norm of embeddings before normalisation (``XNorm`` in InsightFace's logs)."""
    return float(np.mean(np.linalg.norm(np.asarray(embeddings, np.float64), axis=1)))


def pca_distances(embeddings: np.ndarray, components: int, folds: int = 10) -> np.ndarray:
    """Pair distances after PCA fitted on the other folds, float64 (folds, pairs).

    InsightFace's ``pca`` option: components are fitted on the normalised embeddings of the other
    folds' pairs, projections are normalised again.
    """
    first, second = _normalised_pairs(embeddings)
    most = min(first.shape[1], 2 * (len(first) - -(-len(first) // folds)))
    if not 1 <= components <= most:
        raise ArgumentError(f"components {components}: choose 1 to {most} components for these "
                            "embeddings.",
                            "components")
    distances = np.empty((folds, len(first)))
    for fold, (train, _) in enumerate(_folds(len(first), folds)):
        pca = PCA(components).fit(np.concatenate([first[train], second[train]]))
        difference = normalize(pca.transform(first)) - normalize(pca.transform(second))
        distances[fold] = np.sum(np.square(difference), axis=1)
    return distances


@dataclass(frozen=True)
class Summary:
    """The numbers InsightFace logs for one verification set; see :func:`evaluate`."""

    pairs: int
    accuracy: float  # of the plain pictures, mean over the folds
    accuracy_std: float
    accuracy_flip: float  # of the sum with the mirror images'; the number papers quote
    accuracy_flip_std: float
    threshold: float  # mean over the folds, of the sum
    xnorm: float


def evaluate(plain: np.ndarray, flipped: np.ndarray, issame: np.ndarray,
             folds: int = 10) -> "Summary":
    """The numbers InsightFace logs for one verification set.

    Parameters
    ----------
    plain, flipped : numpy.ndarray
        (2 * pairs, D): embeddings of the pictures and of their mirror images, not normalised.
    issame : array of bool
        (pairs,).

    Returns
    -------
    Summary
    """
    alone, _ = accuracy_per_fold(pair_distances(plain), issame, folds)
    summed, thresholds = accuracy_per_fold(pair_distances(plain + flipped), issame, folds)
    return Summary(len(issame), float(alone.mean()), float(alone.std()),
                   float(summed.mean()), float(summed.std()), float(thresholds.mean()),
                   (mean_norm(plain) + mean_norm(flipped)) / 2)


class Roc(NamedTuple):
    """An exact ROC curve: rates at every threshold that makes a difference."""

    far: np.ndarray  # false accept rate, rising from 0 to 1
    tar: np.ndarray  # true accept rate, rising from 0 to 1
    thresholds: np.ndarray  # a pair is accepted when its distance is below


def roc(distances: np.ndarray, issame: np.ndarray) -> "Roc":
    """The ROC curve of all pairs, one point a distinct distance.

    Parameters
    ----------
    distances : numpy.ndarray
        (pairs,).
    issame : array of bool
        (pairs,).

    Raises
    ------
    InputError
        When the pairs are all of one kind.
    """
    issame = _check(distances, issame)
    if issame.all() or not issame.any():
        shown = "one person" if issame.all() else "two people"
        raise InputError(f"All {len(issame)} pairs are of {shown}: a ROC curve needs both kinds.")
    thresholds = exact_thresholds(distances)
    tar, far, _ = _rates(distances, issame, thresholds)
    return Roc(far, tar, thresholds)


def area(curve: "Roc") -> float:
    """Area under a :class:`Roc` (AUC), by trapezoids: ties count one half."""
    return float(metrics.auc(curve.far, curve.tar))


def equal_error_rate(curve: "Roc") -> float:
    """Where a :class:`Roc`, drawn with straight lines, has a false accept rate of 1 - TAR."""
    return float(np.interp(0, curve.far + curve.tar - 1, curve.far))


def tar_at(curve: "Roc", far: float) -> float:
    """The highest true accept rate of a :class:`Roc` whose false accept rate is at most ``far``.

    No interpolation: with fewer than ``1 / far`` pairs of two people this is the rate at no false
    accept at all.
    """
    return float(curve.tar[np.searchsorted(curve.far, far, side="right") - 1])


def _fold_of(count: int, folds: int) -> np.ndarray:
    """The fold in which each pair is tested."""
    result = np.empty(count, np.int64)
    for fold, (_, test) in enumerate(_folds(count, folds)):
        result[test] = fold
    return result


def _resampled_counts(issame: np.ndarray, over: str, folds: int,
                      random: np.random.RandomState) -> np.ndarray:
    """How often a bootstrap sample holds each pair."""
    if over == "folds":
        drawn = np.bincount(random.randint(folds, size=folds), minlength=folds)
        counts: np.ndarray = drawn[_fold_of(len(issame), folds)]
        return counts
    counts = np.empty(len(issame), np.int64)
    # Both kinds apart: their numbers belong to the protocol, not to chance.
    for kind in (issame, ~issame):
        size = kind.sum()
        counts[kind] = np.bincount(random.randint(size, size=size), minlength=size)
    return counts


# What is drawn again: see confidence().
BOOTSTRAPS = ("pairs", "folds")


def confidence(distances: np.ndarray, issame: np.ndarray, correct: np.ndarray,
               fars: Sequence[float] = FARS, *, over: str = "pairs", folds: int = 10,
               replicates: int = 1000, level: float = 0.95,
               seed: int = 0) -> Dict[Union[str, float], Tuple[float, float]]:
    """Confidence intervals by the percentile bootstrap.

    Parameters
    ----------
    distances : numpy.ndarray
        (pairs,).
    issame, correct : array of bool
        (pairs,): the truth, and whether the fold's threshold decided rightly.
    fars : sequence of float
        False accept rates of interest.
    over : str
        ``pairs``: pairs are drawn with replacement, each kind apart. ``folds``: whole folds are,
        which allows for pairs of a fold that share people.
    replicates : int
        Samples drawn.
    level : float
        Share of the samples inside the interval.

    Returns
    -------
    dict
        ``accuracy``, ``auc``, ``eer`` and each far of ``fars`` -> (low, high).

    Notes
    -----
    The thresholds of the folds are not searched again: the interval of the accuracy is that of
    deciding new pairs with them.
    """
    if over not in BOOTSTRAPS:
        raise InputError(f"bootstrap {over!r} is unknown; known are {', '.join(BOOTSTRAPS)}.")
    issame = _check(distances, issame)
    random = np.random.RandomState(seed)
    order = np.argsort(distances, kind="stable")
    ordered = distances[order]
    # Pairs of equal distance are accepted together: one point of the curve for each group.
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    same = issame[order]
    names: List[Union[str, float]] = ["accuracy", "auc", "eer", *fars]
    samples = np.empty((replicates, len(names)))
    for sample in samples:
        counts = _resampled_counts(issame, over, folds, random)
        drawn = counts[order]
        true = np.append(0, np.cumsum(drawn * same)[ends])
        false = np.append(0, np.cumsum(drawn * ~same)[ends])
        # A fold may lack one kind of pairs; a rate over none is 0 as elsewhere.
        curve = Roc(false / max(false[-1], 1), true / max(true[-1], 1), ordered[ends])
        sample[:3] = np.average(correct, weights=counts), area(curve), equal_error_rate(curve)
        sample[3:] = [tar_at(curve, far) for far in fars]
    tail = 50 * (1 - level)
    low, high = np.percentile(samples, (tail, 100 - tail), axis=0)
    return dict(zip(names, zip(low.tolist(), high.tolist())))


class Decision(NamedTuple):
    """Everything that follows from one kind of embedding; see :func:`decide`."""

    distances: np.ndarray  # (pairs,): as the pair's own fold sees them
    accuracy: np.ndarray  # (folds,)
    thresholds: np.ndarray  # (folds,)
    correct: np.ndarray  # bool (pairs,)


def decide(embeddings: np.ndarray, issame: np.ndarray, folds: int = 10, *, exact: bool = False,
           pca: int = 0) -> "Decision":
    """Decide each pair with a threshold, and a PCA if wanted, learnt on the other folds.

    Parameters
    ----------
    embeddings : numpy.ndarray
        (2 * pairs, D), not normalised.
    issame : array of bool
        (pairs,).
    exact : bool
        Search the thresholds at the data instead of the reference's grid.
    pca : int
        Components of :func:`pca_distances`; 0: none.

    Returns
    -------
    Decision
    """
    issame = np.asarray(issame, bool)
    distances = pca_distances(embeddings, pca, folds) if pca else pair_distances(embeddings)
    accuracy, best = accuracy_per_fold(distances, issame, folds, None if exact else THRESHOLDS)
    fold_of = _fold_of(len(issame), folds)
    if pca:
        distances = distances[fold_of, np.arange(len(issame))]
    return Decision(distances, accuracy, best, (distances < best[fold_of]) == issame)


def far_name(far: float) -> str:
    """``tar_at_1e-03`` for 0.001: the name of a number of :func:`measure`."""
    return f"tar_at_{far:.0e}"


def measure(plain: np.ndarray, flipped: np.ndarray, issame: np.ndarray, folds: int = 10, *,
            exact: bool = False, pca: int = 0, fars: Sequence[float] = FARS, over: str = "pairs",
            replicates: int = 1000, seed: int = 0) -> Iterator[Tuple[str, float]]:
    """Every number of the verification protocol, one at a time.

    Parameters
    ----------
    plain, flipped : numpy.ndarray
        (2 * pairs, D): embeddings of the pictures and of their mirror images, not normalised.
    issame : array of bool
        (pairs,).
    folds, exact, pca
        See :func:`decide`.
    fars, over, replicates, seed
        See :func:`confidence`; 0 replicates: no intervals.

    Yields
    ------
    name : str
    value : int or float
        Rates in [0, 1]. ``pairs``; ``xnorm``; of the plain pictures ``accuracy``,
        ``accuracy_std``; of the sum with the mirror images ``accuracy_flip``,
        ``accuracy_flip_std``, ``threshold``, ``auc``, ``eer``, ``min_far`` (the smallest false
        accept rate above 0 that the pairs can show), ``tar_at_1e-01`` ... (NaN where the rate is
        below ``min_far``), ``val``, ``val_std``, ``val_far`` (InsightFace's: see
        :func:`tar_at_far`, at 1e-3); with intervals, ``NAME_low`` and ``NAME_high`` of these.
    """
    yield "pairs", len(issame)
    yield "xnorm", (mean_norm(plain) + mean_norm(flipped)) / 2
    alone = decide(plain, issame, folds, exact=exact, pca=pca)
    yield "accuracy", float(alone.accuracy.mean())
    yield "accuracy_std", float(alone.accuracy.std())
    summed = decide(plain + flipped, issame, folds, exact=exact, pca=pca)
    yield "accuracy_flip", float(summed.accuracy.mean())
    yield "accuracy_flip_std", float(summed.accuracy.std())
    yield "threshold", float(summed.thresholds.mean())
    curve = roc(summed.distances, issame)
    least = 1 / int((~np.asarray(issame, bool)).sum())
    yield "auc", area(curve)
    yield "eer", equal_error_rate(curve)
    yield "min_far", least
    for far in fars:
        yield far_name(far), tar_at(curve, far) if far >= least else float("nan")
    yield from zip(("val", "val_std", "val_far"),
                   tar_at_far(summed.distances, issame, 1e-3, folds))
    if not replicates:
        return
    shown = [far for far in fars if far >= least]
    intervals = confidence(summed.distances, issame, summed.correct, shown, over=over,
                           folds=folds, replicates=replicates, seed=seed)
    for what, (low, high) in intervals.items():
        name = far_name(what) if isinstance(what, float) else (
            "accuracy_flip" if what == "accuracy" else what)
        yield name + "_low", low
        yield name + "_high", high
