"""Which images are mislabelled, and how sure is the model? Scores as functions of arrays.

A score is high where the image looks clean and low where it looks noisy, as in cleanlab. Labels are
int (n,), probabilities float (n, classes), each row a softmax.
"""
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy.special import softmax
from scipy.stats import norm
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import average_precision_score
from sklearn.mixture import GaussianMixture

# The kinds that `find` distinguishes; the first three are also those of `unequal synth`.
KINDS = ("flip", "outlier", "split", "duplicate")


def _rows(labels: np.ndarray) -> np.ndarray:
    return np.arange(len(labels))


def max_probability(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """``max_j P_ij`` over *margin* logits: the reference's rule (data_boot_gs.py).

    Low for images that look like nobody in the set, the paper's third kind of noise. The labels
    have an influence only through the margin in the probabilities.
    """
    scores: np.ndarray = np.max(probabilities, axis=1)
    return scores


def label_probability(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """``P_iy``, the probability of the given label y: low for wrong labels. Best without margin."""
    scores: np.ndarray = probabilities[_rows(labels), labels]
    return scores


def label_margin(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """``P_iy - max_{j != y} P_ij``: the label's probability against the largest other.

    In [-1, 1]; below 0 where the model prefers another label. Use probabilities without margin.
    """
    others = np.array(probabilities, copy=True)
    others[_rows(labels), labels] = -np.inf
    scores: np.ndarray = label_probability(labels, probabilities) - others.max(axis=1)
    return scores


METHODS: Dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "max-probability": max_probability,
    "label-probability": label_probability,
    "label-margin": label_margin,
}


def score(labels: np.ndarray, probabilities: np.ndarray, *, method: str = "label-margin"
          ) -> np.ndarray:
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
        raise ValueError(f"method {method!r} is unknown; known are {', '.join(METHODS)}")
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities)
    if labels.shape != probabilities.shape[:1]:
        raise ValueError(f"{labels.shape} labels do not match {probabilities.shape[:1]} rows of "
                         "probabilities")
    return METHODS[method](labels, probabilities)


class Findings(NamedTuple):
    """The results of :func:`find`, as arrays over the images.

    Attributes
    ----------
    kinds : numpy.ndarray
        str: a name of :data:`KINDS`, or empty where nothing is suspected.
    suggested : numpy.ndarray
        int64: a flip's likely class, a split's class of the same person, a duplicate's class of
        its twin; -1 if there is none.
    confidence : numpy.ndarray
        float64 in [0, 1]; 0 where nothing is suspected.
    scores : dict of str to numpy.ndarray
        By kind, float64, low is suspicious: rankings, also of images that are not listed.
    nearest : numpy.ndarray
        int64 (n, k): the k most probable classes, most probable first.
    probabilities : numpy.ndarray
        float64 (n, k): their out-of-sample probabilities; rows sum to at most 1.
    own : numpy.ndarray
        float64 (n,): the given label's out-of-sample probability.
    every : numpy.ndarray or None
        float64 (n, classes): all probabilities of a small set.
    """

    kinds: np.ndarray
    suggested: np.ndarray
    confidence: np.ndarray
    scores: Dict[str, np.ndarray]
    nearest: np.ndarray
    probabilities: np.ndarray
    own: np.ndarray
    every: Optional[np.ndarray]


def _without_itself(sums: np.ndarray, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cosine of each feature to the centre of its own class's *other* features; nan if none."""
    own = np.full(len(features), np.nan)
    for start in range(0, len(features), 4096):  # in blocks: each image gets a copy of its sum
        part = slice(start, start + 4096)
        rest = sums[labels[part]] - features[part]
        length = np.linalg.norm(rest, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            own[part] = np.where(length > 1e-6,
                                 np.einsum("nd,nd->n", rest, features[part]) / length, np.nan)
    return own


# Cosines of a block of rows with all classes: 100 MB in float32; a few such blocks exist at once.
_BLOCK = 25_000_000


def class_centres(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Sums of the classes' features, float64 (classes, D): 4 GB at 1,000,000 classes, D = 512."""
    sums = np.zeros((classes, features.shape[1]))
    np.add.at(sums, labels, features)
    return sums


def centre_cosines(features: np.ndarray, labels: np.ndarray, classes: int, top: int = 10,
                   block: int = 1024) -> Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cosines to the class centres, each image's own centre without the image itself.

    The out-of-sample score for large sets, as nothing is fitted. Memory: 12 * D bytes a class, and
    0.5 GB for blocks of images times classes (with more classes a block has fewer images).
    Work: 2 * n * classes * D operations in the features' type, 2e14 for 2 million images, 100,000
    classes and D = 512. Measured with 200,000 images of 100,000 classes: 760 s of one processor and
    2.3 GB, 0.4 of them the features (benchmarks/noise_scale.py).

    Returns
    -------
    own : numpy.ndarray
        float64 (n,); nan where the class has no other image.
    nearest : numpy.ndarray
        int64 (n, top): classes *other* than the label, nearest first.
    cosines : numpy.ndarray
        float64 (n, top): to them.
    place : numpy.ndarray
        int64 (n,): nearest class of all, the image left in its own.
    """
    sums = class_centres(features, labels, classes)
    own = _without_itself(sums, features, labels)
    length = np.linalg.norm(sums, axis=1)
    centres = (sums / np.maximum(length, 1e-12)[:, None]).astype(features.dtype)
    top = min(top, classes - 1)
    nearest = np.zeros((len(features), top), np.int64)
    cosines = np.zeros((len(features), top))
    place = np.zeros(len(features), np.int64)
    block = max(16, min(block, _BLOCK // classes))
    for start in range(0, len(features), block):
        part = slice(start, start + block)
        values = features[part] @ centres.T
        values[:, length < 1e-6] = -1.0  # a class without images must not be the nearest
        place[part] = values.argmax(axis=1)
        values[np.arange(len(values)), labels[part]] = -np.inf
        # Only the few nearest are sorted: a full sort of 100,000 classes costs more than the
        # product.
        chosen = np.argpartition(-values, top - 1, axis=1)[:, :top]
        order = np.argsort(-np.take_along_axis(values, chosen, 1), axis=1, kind="stable")
        nearest[part] = np.take_along_axis(chosen, order, 1)
        cosines[part] = np.take_along_axis(values, nearest[part], 1)
    return own, nearest, cosines, place


def folds_logits(features: np.ndarray, labels: np.ndarray, classes: int, folds: int = 5,
                 seed: int = 0) -> np.ndarray:
    """Out-of-sample logits of a linear discriminant, each image judged by a fold without it.

    Closed form: class means and one within-class covariance, shrunk as by Ledoit and Wolf. Folds
    are stratified: the images of each class are dealt out to them in random order. For small sets
    only: memory is 8 bytes times images times classes (1.6 TB for 2 million and 100,000; use
    :func:`centre_cosines` there).

    Returns
    -------
    numpy.ndarray
        float64 (n, classes); -inf for classes that the other folds do not have.
    """
    turn = np.random.RandomState(seed).permutation(len(labels))
    order = turn[np.argsort(labels[turn], kind="stable")]
    first = np.searchsorted(labels[order], labels[order])
    fold = np.empty(len(labels), np.int64)
    fold[order] = (np.arange(len(labels)) - first) % folds
    logits = np.full((len(labels), classes), -np.inf)
    for number in range(folds):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        if not len(inside) or not len(outside):
            continue
        counts = np.bincount(labels[outside], minlength=classes)
        present = np.flatnonzero(counts)
        means = class_centres(features[outside], labels[outside], classes)
        means[present] /= counts[present, None]
        spread, _ = ledoit_wolf(features[outside] - means[labels[outside]], assume_centered=True)
        spread += 1e-9 * np.eye(len(spread))
        # Each class mean takes one degree of freedom.
        spread *= len(outside) / max(1, len(outside) - len(present))
        weights = np.linalg.solve(spread, means[present].T)
        offset = 0.5 * np.einsum("cd,dc->c", means[present], weights)
        logits[np.ix_(inside, present)] = features[inside] @ weights - offset
    return logits


def agreement(features: np.ndarray, labels: np.ndarray, classes: int, seed: int = 0) -> float:
    """The share of labels that :func:`folds_logits` predicts, 0 to 1.

    It compares features that were made without the labels: wrong labels lower the share of all
    features alike, so the best features have the largest one.
    """
    logits = folds_logits(features.astype(np.float64), labels, classes, seed=seed)
    return float((logits.argmax(axis=1) == labels).mean())


def _spread(values: np.ndarray) -> Tuple[float, float]:
    """Median, and standard deviation estimated from the quartiles: both robust to outliers."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float(middle), max(float(high - low) / 1.349, 1e-9)


def suspicion(scores: np.ndarray) -> np.ndarray:
    """The probability that a score belongs to the lower of two groups: float64 (n,) in [0, 1].

    There is no fixed threshold: two normal distributions are fitted to the scores, and the result
    is the posterior probability of the lower one. If two explain the scores no better than one
    (BIC), only scores far below the others are suspected.
    """
    result = np.zeros(len(scores))
    known = np.isfinite(scores)
    values = np.asarray(scores, np.float64)[known]
    if len(values) < 3:
        return result
    middle, width = _spread(values)
    z = (values - middle) / width
    # Far below: 4 standard deviations, which a normal distribution exceeds once in 30,000.
    far = np.where(z < -6, 1 - np.exp(-(z + 6) ** 2), 0.0)
    posterior = np.zeros(len(values))
    if len(values) >= 20:
        one, two = (GaussianMixture(count, random_state=0, n_init=2, reg_covar=1e-4)
                    .fit(z[:, None]) for count in (1, 2))
        low = int(two.means_.argmin())
        if one.bic(z[:, None]) - two.bic(z[:, None]) > 10 and two.weights_[low] < 0.5:
            posterior = two.predict_proba(z[:, None])[:, low]
            posterior[z >= two.means_.max()] = 0  # if the lower one is wider, it wins there too
            order = np.argsort(-z, kind="stable")
            posterior[order] = np.maximum.accumulate(posterior[order])
    result[known] = np.maximum(far, posterior)
    return result


def posterior(scores: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The probability that a label is wrong, given scores of random labels: float64 (n,), 0 to 1.

    Two normal distributions as in :func:`suspicion`, but that of wrong labels is known: it is the
    distribution of ``drawn``, the scores of the same images with random labels. The share of wrong
    labels and the distribution of right ones are fitted (EM). So difficult pictures with right
    labels are not mistaken for wrong ones.

    Only for features made without the labels: a model trained on them gives its wrong labels higher
    scores than random labels get.
    """
    result = np.zeros(len(scores))
    known = np.isfinite(scores)
    values, drawn = np.asarray(scores, np.float64)[known], drawn[np.isfinite(drawn)]
    if len(values) < 20 or not len(drawn):
        return suspicion(scores)
    of_wrong = norm.pdf(values, *_spread(drawn))
    middle, width = _spread(values)
    share, surely = 0.1, np.zeros(len(values))
    order = np.argsort(-values, kind="stable")
    for _ in range(100):
        wrong = share * of_wrong
        right = (1 - share) * norm.pdf(values, middle, width)
        surely = wrong / np.maximum(wrong + right, 1e-300)
        surely[values >= middle] = 0  # if the lower one is wider, it wins there too
        surely[order] = np.maximum.accumulate(surely[order])
        share = float(np.clip(surely.mean(), 1e-6, 0.9))
        middle = float(np.average(values, weights=1 - surely))
        width = max(float(np.sqrt(np.average((values - middle) ** 2, weights=1 - surely))), 1e-9)
    result[known] = surely
    return result


def near_duplicates(features: np.ndarray, groups: np.ndarray,
                    digests: Optional[Sequence[bytes]] = None) -> Tuple[np.ndarray, np.ndarray]:
    """Images that occur twice: with the same bytes, or with almost the same features.

    Only images of the same group (nearest to the same centre) are compared: for 2 million images
    all pairs would be 4e12 cosines, those within groups are about 2e8.

    Parameters
    ----------
    features : numpy.ndarray
        float (n, D), rows of length 1.
    groups : numpy.ndarray
        int (n,).
    digests : sequence of bytes, optional
        A hash of each image's bytes; two of the same are certain.

    Returns
    -------
    twin : numpy.ndarray
        int64 (n,): an earlier image; -1 for none.
    distance : numpy.ndarray
        float64 (n,): 1 - cosine to the nearest other image of the group (2 where it is alone), 0
        for the same bytes.
    """
    twin = np.full(len(features), -1)
    distance = np.full(len(features), 2.0)
    earlier = np.full(len(features), -1)
    order = np.argsort(groups, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        rows = rows[:4096]  # bounds the memory, which grows with the square of the group
        if len(rows) < 2:
            continue
        cosines = features[rows] @ features[rows].T
        np.fill_diagonal(cosines, -1)
        nearest = cosines.argmax(axis=1)
        distance[rows] = np.maximum(1 - cosines[np.arange(len(rows)), nearest], 0)
        earlier[rows] = rows[nearest]
    alike = distance < 2
    if alike.sum() >= 20:
        # Logarithms, as distances within a series of pictures are smaller by a factor.
        middle, width = _spread(np.log(np.maximum(distance[alike], 1e-9)))
        near = distance < min(1e-3, np.exp(middle - 4 * width))
        twin = np.where(near & (earlier < np.arange(len(features))), earlier, -1)
    if digests is not None:
        seen: Dict[bytes, int] = {}
        for row, digest in enumerate(digests):
            first = seen.setdefault(digest, row)
            if first != row:
                twin[row], distance[row] = first, 0.0
    return twin, distance


def class_distances(features: np.ndarray, labels: np.ndarray, classes: int,
                    own: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """For each class the nearest earlier one, and how near in widths of the two classes.

    A class's width is the median distance (1 - cosine) of its images to the centre of its other
    images; a few wrong labels hardly change it. Memory: a block of classes against all.

    Returns
    -------
    partner : numpy.ndarray
        int64 (classes,): class of a smaller number; -1 for none.
    ratio : numpy.ndarray
        float64 (classes,): distance of the two centres over the mean of the widths; inf for none,
        as for classes of fewer than three images.
    """
    sums = class_centres(features, labels, classes)
    length = np.linalg.norm(sums, axis=1)
    centres = sums / np.maximum(length, 1e-12)[:, None]
    judged = np.flatnonzero(np.isfinite(own))
    counts = np.bincount(labels[judged], minlength=classes)
    ordered = judged[np.lexsort((own[judged], labels[judged]))]
    width = np.zeros(classes)
    present = np.flatnonzero(counts)
    width[present] = 1 - own[ordered[np.cumsum(counts)[present] - (counts[present] + 1) // 2]]
    usable = counts >= 3
    partner, ratio = np.full(classes, -1), np.full(classes, np.inf)
    block = max(16, min(1024, _BLOCK // classes))
    for start in range(0, classes, block):
        part = np.arange(start, min(start + block, classes))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = (1 - centres[part] @ centres[:part[-1] + 1].T) / np.maximum(
                0.5 * (width[part, None] + width[None, :part[-1] + 1]), 1e-9)
        ratios[:, ~usable[:part[-1] + 1]] = np.inf
        ratios[np.arange(part[-1] + 1)[None] >= part[:, None]] = np.inf
        best = ratios.argmin(axis=1)
        ratio[part] = np.where(usable[part], ratios[np.arange(len(part)), best], np.inf)
        partner[part] = np.where(np.isfinite(ratio[part]), best, -1)
    return partner, ratio


def _same_person(partner: np.ndarray, ratio: np.ndarray, widths: float) -> np.ndarray:
    """Classes, int64, that seem to show the same person as an earlier class.

    Their centres are nearer than the classes are wide, and the ratio is far below that of most
    classes.
    """
    known = np.isfinite(ratio)
    if known.sum() < 4:
        return np.zeros(0, np.int64)
    logs = np.log(np.maximum(ratio, 1e-6))
    middle, width = _spread(logs[known])
    return np.flatnonzero(known & (ratio < 1) & (logs < middle - widths * width))


def _widths(scores: np.ndarray) -> Tuple[float, float]:
    known = scores[np.isfinite(scores)]
    return _spread(known) if len(known) else (0.0, 1.0)


class _Judge(NamedTuple):
    """One judge's scores of the labels (n,), and of labels drawn at random (k * n,).

    Low is suspicious; nan where the judge cannot tell.
    """

    scores: np.ndarray
    drawn: np.ndarray

    def in_widths(self) -> "_Judge":
        """Standardised by the labels' own distribution, so that judges can be added."""
        middle, width = _widths(self.scores)
        return _Judge((self.scores - middle) / width, (self.drawn - middle) / width)


def _drawn_labels(labels: np.ndarray, classes: int, times: int, seed: int) -> np.ndarray:
    """``times`` random labels for each image, int64 (times, n), classes drawn by their size.

    -1 where the draw was the image's own label.
    """
    rng = np.random.RandomState(seed)
    drawn = labels[rng.randint(len(labels), size=(times, len(labels)))]
    return np.where(drawn == labels, -1, drawn)


def _best_without(values: np.ndarray, columns: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The first of each row of ``values`` (n, 2 or more), best first, whose column is not
    ``wanted`` (n,)."""
    return np.where(columns[:, 0] == wanted, values[:, min(1, values.shape[1] - 1)], values[:, 0])


def _by_centres_drawn(features: np.ndarray, labels: np.ndarray, sums: np.ndarray, own: np.ndarray,
                      nearest: np.ndarray, cosines: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The centres' scores of drawn labels (times, n). No image is part of these centres."""
    lengths = np.maximum(np.linalg.norm(sums, axis=1), 1e-12)
    result = np.full(drawn.shape, np.nan)
    for row, others in enumerate(drawn):
        for start in range(0, len(labels), 4096):  # in blocks: each image gets copies of centres
            part = slice(start, start + 4096)
            given = others[part]
            cosine = np.einsum("nd,nd->n", features[part], sums[given]) / lengths[given]
            best = np.fmax(own[part], _best_without(cosines[part], nearest[part], given))
            result[row, part] = np.where(given < 0, np.nan, 1.5 * cosine - best)
    return result


def _by_folds(features: np.ndarray, labels: np.ndarray, classes: int, twins: np.ndarray,
              drawn: np.ndarray, seed: int) -> Tuple[_Judge, np.ndarray, np.ndarray]:
    """Log-odds of the label against the best other class, that class, and the probabilities.

    ``twins`` has a class that shows the same person as the label; it does not count as another.
    """
    logits = folds_logits(features, labels, classes, seed=seed)
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    paired = rows[twins[labels] >= 0]
    others[paired, twins[labels[paired]]] = -np.inf
    judged = np.isfinite(logits[rows, labels])
    order = np.argsort(-logits, axis=1)[:, :2]
    best = np.take_along_axis(logits, order, 1)
    with np.errstate(invalid="ignore"):
        log_odds = np.where(judged, logits[rows, labels] - others.max(axis=1), np.nan)
        against = np.array([np.where(given < 0, np.nan, logits[rows, given] - _best_without(
            best, order, given)) for given in drawn]).reshape(drawn.shape)
    return (_Judge(log_odds, against), others.argmax(axis=1),
            softmax(_sharpness(logits, labels) * logits, axis=1))


def _by_centres(labels: np.ndarray, own: np.ndarray, nearest: np.ndarray, cosines: np.ndarray
                ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The label's probability, the most probable classes and their probabilities (n, top)."""
    near = np.column_stack((np.nan_to_num(own, nan=-1.0), cosines))
    every = softmax(_temperature(near) * near, axis=1)
    order = np.argsort(-every, axis=1, kind="stable")[:, :cosines.shape[1]]
    return (every[:, 0], np.take_along_axis(np.column_stack((labels, nearest)), order, 1),
            np.take_along_axis(every, order, 1))


class _Judgement(NamedTuple):
    judge: _Judge
    suggested: np.ndarray  # (n,): the class preferred
    nearest: np.ndarray  # the rest as in Findings
    probabilities: np.ndarray
    own: np.ndarray
    every: Optional[np.ndarray]


def _judgement(features: np.ndarray, labels: np.ndarray, classes: int, twins: np.ndarray,
               centres: Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], drawn: np.ndarray,
               small: int, top: int, seed: int) -> _Judgement:
    """The centres' judgement of each label, in small sets combined with that of the folds."""
    own, nearest, cosines, _ = centres
    best_other = _best_without(cosines, nearest, twins[labels])
    judge = _Judge(own - best_other + 0.5 * own, _by_centres_drawn(
        features, labels, class_centres(features, labels, classes), own, nearest, cosines, drawn)
        ).in_widths()
    if len(labels) * classes > small:
        suggested = _best_without(nearest, nearest, twins[labels])
        probable = _by_centres(labels, own, nearest, cosines)
        return _Judgement(judge, suggested, probable[1], probable[2], probable[0], None)
    folds, suggested, whole = _by_folds(features, labels, classes, twins, drawn, seed)
    folds = folds.in_widths()
    judge = _Judge(judge.scores + folds.scores, judge.drawn + folds.drawn)
    best = np.argsort(-whole, axis=1, kind="stable")[:, :top]
    return _Judgement(judge, suggested, best, np.take_along_axis(whole, best, 1),
                      whole[np.arange(len(labels)), labels], whole)


def find(features: np.ndarray, labels: np.ndarray, *, classes: Optional[int] = None,
         digests: Optional[Sequence[bytes]] = None, certainty: Optional[float] = None,
         small: int = 20_000_000, top: int = 10, seed: int = 0, unseen: bool = False) -> Findings:
    """Find wrong labels, strangers, split people and duplicates by features of any model.

    No image is judged by a classifier that has seen it. There are two judges: the nearest class
    centres, computed without the image itself (:func:`centre_cosines`), and, if images times
    classes is at most ``small``, a linear discriminant fitted on the other folds
    (:func:`folds_logits`). The sum of their standardised scores is better than either
    (studies/noise_kinds.py). :func:`suspicion`, or for features made without the labels
    :func:`posterior`, turns it into a probability.

    Parameters
    ----------
    features : numpy.ndarray
        float (n, D), rows of length 1. Where images times classes is above ``small``, float32 stays
        float32 and is not copied; else 8 * D bytes an image.
    labels : numpy.ndarray
        int (n,).
    classes : int, optional
        Default: the largest label plus one.
    digests : sequence of bytes, optional
        See :func:`near_duplicates`.
    certainty : float, optional
        Least probability of a listed image; default 0.8, with ``unseen`` 0.6.
    small : int
        See above.
    top : int
        How many probabilities to return for each image.
    seed : int
        Of the folds and of the labels drawn for :func:`posterior`.
    unseen : bool
        Whether the features were made without these labels.

    Returns
    -------
    Findings

    Raises
    ------
    ValueError
        When the arrays do not fit, or there are not two classes.
    """
    features, labels = np.asarray(features), np.asarray(labels, np.int64)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"{labels.shape} labels do not match features of {features.shape}")
    classes = int(labels.max()) + 1 if classes is None else classes
    if len(np.unique(labels)) < 2:
        raise ValueError("all images have one label; there is nothing to compare")
    if len(labels) * classes <= small or features.dtype != np.float32:
        features = features.astype(np.float64)
    centres = centre_cosines(features, labels, classes, top)
    own, nearest, cosines, place = centres
    partner, ratio = class_distances(features, labels, classes, own)
    # Features that have not learnt these people are coarser: some pairs of people are always near.
    same = _same_person(partner, ratio, 4 if unseen else 3)
    # If one person has two labels, neither is wrong: compare their images with other classes.
    twins = np.full(classes, -1)
    twins[partner[same]] = same
    twins[same] = partner[same]
    best_other = _best_without(cosines, nearest, twins[labels])
    drawn = _drawn_labels(labels, classes, max(1, 6000 // len(labels)) if unseen else 0, seed)
    found = _judgement(features, labels, classes, twins, centres, drawn, small, top, seed)
    combined = found.judge.scores
    surely = posterior(combined, found.judge.drawn.ravel()) if unseen else suspicion(combined)
    listed = surely >= ((0.6 if unseen else 0.8) if certainty is None else certainty)
    kinds = np.full(len(labels), "", "U9")
    # Outliers are listed images that are farther from every centre than usual right ones from
    # their own.
    usual = own[~listed & np.isfinite(own)]
    middle, width = _spread(usual) if len(usual) > 3 else (0.0, 1.0)
    stranger = listed & (best_other < middle - 4 * width)
    kinds[listed] = "flip"
    kinds[stranger] = "outlier"
    confidence = np.where(listed, surely, 0.0)

    twin, distance = near_duplicates(features, place, digests)
    again = (twin >= 0) & ~listed
    kinds[again] = "duplicate"
    confidence[again] = np.where(distance[again] == 0, 1.0, 0.9)

    merged = np.isin(labels, same) & (kinds == "")
    kinds[merged] = "split"
    confidence[merged] = 1 - 0.5 * ratio[labels[merged]]

    suggested = np.where(kinds == "flip", found.suggested, -1)
    suggested[merged] = partner[labels[merged]]
    suggested[again] = labels[twin[again]]
    worst = {"flip": combined, "outlier": own + best_other,
             "split": ratio[labels], "duplicate": distance}
    scores = {kind: np.nan_to_num(score, nan=_most(score), posinf=_most(score))
              for kind, score in worst.items()}
    return Findings(kinds, suggested, confidence, scores, found.nearest, found.probabilities,
                    found.own, found.every)


def _most(scores: np.ndarray) -> float:
    """The highest score, for images that cannot be judged: not suspicious."""
    known = scores[np.isfinite(scores)]
    return float(known.max()) if len(known) else 0.0


def _sharpness(logits: np.ndarray, labels: np.ndarray) -> float:
    """The factor of logits at which softmax explains most labels best.

    A discriminant fitted on few images is overconfident.
    """
    known = np.flatnonzero(np.isfinite(logits[np.arange(len(labels)), labels]))
    sample = known[:: max(1, len(known) // 2000)]
    if not len(sample):
        return 1.0
    factors = np.geomspace(0.005, 1, 25)
    return float(factors[np.argmax([
        np.mean(np.log(np.maximum(
            softmax(factor * logits[sample], axis=1)[np.arange(len(sample)), labels[sample]],
            1e-3))) for factor in factors])])


def _temperature(cosines: np.ndarray) -> float:
    """The scale at which softmax of cosines (own first) explains most labels best."""
    sample = cosines[:: max(1, len(cosines) // 5000)]
    scales = np.geomspace(2, 128, 25)
    return float(scales[np.argmax([
        np.mean(np.log(np.maximum(softmax(scale * sample, axis=1)[:, 0], 1e-3)))
        for scale in scales])])


def detection_quality(scores: np.ndarray, noisy: np.ndarray, listed: np.ndarray
                      ) -> Dict[str, float]:
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
