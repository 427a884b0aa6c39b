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


def drawn(seed=0, people=20, images=12, size=32):
    """Features of people with known wrong labels, strangers, a split person and duplicates."""
    rng = np.random.RandomState(seed)

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    centres = unit(rng.randn(people, size))
    true = np.repeat(np.arange(people), images)
    features = centres[true] + 0.09 * rng.randn(len(true), size)
    labels = true.copy()
    kinds = np.full(len(true), "", "U9")
    noisy = rng.permutation(len(true))[:36]
    flips, strangers = noisy[:26], noisy[26:]
    labels[flips] = (true[flips] + 1 + rng.randint(0, people - 2, len(flips))) % people
    kinds[flips] = "flip"
    features[strangers] = rng.randn(len(strangers), size) / np.sqrt(size)
    kinds[strangers] = "outlier"
    # One person under two labels: half of person 3 is called `people`.
    other = np.flatnonzero((true == 3) & (kinds == ""))[::2]
    labels[other] = people
    kinds[other] = "split"
    features = unit(features)
    again = np.flatnonzero(kinds == "")[:2]
    features = np.concatenate((features, features[again]))
    labels = np.concatenate((labels, labels[again]))
    kinds = np.concatenate((kinds, ["duplicate"] * 2))
    return features, labels, kinds, true


@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize("small", [0, 10 ** 9])
def test_find_tells_the_kinds_apart(small, unseen):
    features, labels, kinds, true = drawn()
    found = noise_scores.find(features, labels, small=small, unseen=unseen)
    for kind, least in (("flip", 0.9), ("outlier", 0.6), ("duplicate", 1.0), ("split", 0.5)):
        hits = (found.kinds == kind) & (kinds == kind)
        assert hits.sum() >= least * (kinds == kind).sum(), kind
    listed = found.kinds != ""
    assert (kinds[listed] != "").mean() >= 0.9
    flips = (found.kinds == "flip") & (kinds == "flip")
    assert (found.suggested[flips] == true[:len(labels)][np.flatnonzero(flips)]).mean() > 0.9
    split = found.kinds == "split"
    assert (found.suggested[split] == 3).all()
    again = np.flatnonzero(found.kinds == "duplicate")
    assert (found.suggested[again] == labels[again]).all()
    assert ((found.confidence > 0) == listed).all() and found.confidence.max() <= 1


def test_an_image_does_not_vouch_for_itself():
    # Each image alone in a direction: out of sample its own class says nothing about it.
    features, labels = np.eye(6), np.array([0, 0, 0, 1, 1, 1])
    own, nearest, cosines, _ = noise_scores.centre_cosines(features, labels, 2)
    np.testing.assert_allclose(own, 0, atol=1e-12)
    assert (nearest[:, 0] == 1 - labels).all()
    features, labels, _, _ = drawn()
    logits = noise_scores.folds_logits(features, labels, 21)
    other = labels.copy()
    other[0] = (labels[0] + 1) % 21  # its label enters no fold that judges it, but moves the folds
    assert np.isfinite(logits[np.arange(len(labels)), labels]).all()
    with_itself = noise_scores.folds_logits(np.repeat(features, 2, axis=0), np.repeat(labels, 2),
                                            21)[::2]
    flips = logits[np.arange(len(labels)), labels]
    assert np.isfinite(with_itself).all() and not np.allclose(
        flips, with_itself[np.arange(len(labels)), labels])


def test_centre_cosines_in_plain_loops():
    features, labels, _, _ = drawn(people=4, images=5)
    own, nearest, cosines, place = noise_scores.centre_cosines(features, labels, 5, top=2, block=7)
    for row, label in enumerate(labels):
        def cosine(members, row=row):
            centre = features[members].sum(axis=0)
            return features[row] @ centre / np.linalg.norm(centre)
        rest = (labels == label) & (np.arange(len(labels)) != row)
        if rest.any():
            np.testing.assert_allclose(own[row], cosine(rest))
        else:
            assert np.isnan(own[row])
        others = sorted(((cosine(labels == one), one) for one in set(labels) - {label}),
                        reverse=True)[:2]
        assert nearest[row].tolist() == [one for _, one in others]
        np.testing.assert_allclose(cosines[row], [value for value, _ in others])
        assert place[row] == max((cosine(labels == one), one) for one in set(labels))[1]


@pytest.mark.parametrize("unseen", [False, True])
def test_a_clean_set_is_left_alone(unseen):
    rng = np.random.RandomState(1)
    labels = np.repeat(np.arange(20), 15)
    features = 10 * np.eye(20)[labels] + rng.randn(300, 20)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    found = noise_scores.find(features, labels, unseen=unseen)
    assert (found.kinds != "").sum() <= 3


def test_log_odds_keep_their_digits():
    # float32 probabilities of sure images are all exactly 1; the scores still have an order.
    features, labels, kinds, _ = drawn()
    scores = noise_scores.find(features, labels).scores["flip"]
    assert scores.dtype == np.float64
    clean = scores[kinds == ""]
    assert len(np.unique(clean)) > 0.95 * len(clean)


def test_the_same_bytes_are_a_duplicate_whatever_the_features():
    features, labels, _, _ = drawn()
    digests = [bytes([row % 256, row // 256]) for row in range(len(labels))]
    digests[50] = digests[7]
    twin, distance = noise_scores.near_duplicates(features, labels, digests)
    assert twin[50] == 7 and distance[50] == 0


def test_find_refuses_what_does_not_fit():
    features, labels, _, _ = drawn()
    with pytest.raises(ValueError, match="labels do not match"):
        noise_scores.find(features, labels[1:])
    with pytest.raises(ValueError, match="one label"):
        noise_scores.find(features, np.zeros(len(labels), int))


def test_classes_of_one_image_are_not_judged():
    features, labels, _, _ = drawn()
    labels = np.append(labels, 25)
    features = np.concatenate((features, features[:1]))
    found = noise_scores.find(features, labels)
    assert found.kinds[-1] in ("", "duplicate")
    assert all(np.isfinite(score).all() for score in found.scores.values())


def test_the_posterior_is_bayes_rule_with_what_wrong_labels_score():
    """Many hard pictures: two free normal distributions would call a part of them wrong."""
    rng = np.random.RandomState(0)
    right = np.concatenate((rng.normal(0, 1, 500), rng.normal(-1.5, 1, 150)))
    scores = np.append(np.concatenate((right, rng.normal(-6, 0.7, 40))), np.nan)
    surely = noise_scores.posterior(scores, rng.normal(-6, 0.7, 5000))
    wrong = np.arange(len(scores)) >= 650
    wrong[-1] = False  # not judged
    listed = surely >= 0.6
    assert listed[wrong].mean() > 0.95 and listed[~wrong].mean() < 0.005
    assert surely[-1] == 0 and surely.min() >= 0 and surely.max() <= 1
    order = np.argsort(scores[:-1])
    assert (np.diff(surely[:-1][order]) <= 0).all()
    # Where labels drawn at random score as the given ones, nothing can be told.
    same = rng.normal(0, 1, 300)
    assert (noise_scores.posterior(same, rng.normal(0, 1, 5000)) < 0.6).all()


def test_scores_of_drawn_labels_are_those_of_the_same_labels_given():
    """The centres' score of an image under another label, by moving it there."""
    features, labels, _, _ = drawn()
    classes = labels.max() + 1
    own, nearest, cosines, _ = noise_scores.centre_cosines(features, labels, classes)
    given = np.where(np.arange(len(labels)) % 7 == 0, -1, (labels + 3) % classes)[None]
    scores = noise_scores._by_centres_drawn(
        features, labels, noise_scores.class_centres(features, labels, classes), own, nearest,
        cosines, given)[0]
    assert np.isnan(scores[::7]).all()
    for row in (1, 50, 120):
        moved = labels.copy()
        moved[row] = given[0, row]
        there, _, others, _ = noise_scores.centre_cosines(features, moved, classes)
        np.testing.assert_allclose(scores[row], 1.5 * there[row] - others[row, 0], rtol=1e-9)
