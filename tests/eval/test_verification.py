import logging
import pathlib

import numpy as np
import pytest
from sklearn import metrics

from helpers import TESTS
from unequal.errors import InputError
from unequal.eval import bins, verification

GOLDEN = TESTS / "golden"


def simulated(pairs=200, size=16, seed=0):
    """Embeddings of half same, half different pairs, mixed through all folds."""
    random = np.random.RandomState(seed)
    issame = np.arange(pairs) % 2 == 0
    first = random.randn(pairs, size)
    second = np.where(issame[:, None], first + 1.1 * random.randn(pairs, size),
                      random.randn(pairs, size))
    embeddings = np.stack((first, second), axis=1).reshape(-1, size) * 3
    return embeddings.astype(np.float32), issame


def accuracy_by_loops(distances, issame, thresholds, folds=10):
    """The protocol, one pair at a time."""
    bounds = [len(issame) * fold // folds for fold in range(folds + 1)]
    accuracies, best = [], []
    for low, high in zip(bounds, bounds[1:]):
        def right(threshold, inside, low=low, high=high):
            return sum((distance < threshold) == same
                       for i, (distance, same) in enumerate(zip(distances, issame))
                       if (low <= i < high) == inside)
        scores = [right(threshold, False) for threshold in thresholds]
        best.append(thresholds[scores.index(max(scores))])
        accuracies.append(right(best[-1], True) / (high - low))
    return accuracies, best


def test_distances_are_those_of_unit_vectors():
    distances = verification.pair_distances(np.array([[2, 0], [0, 5], [1, 1], [-3, -3]]))
    np.testing.assert_allclose(distances, [2, 4])


def test_fold_accuracy_by_loops():
    embeddings, issame = simulated(60)
    distances = verification.pair_distances(embeddings)
    thresholds = verification.THRESHOLDS[::10]
    accuracy, best = verification.accuracy_per_fold(distances, issame, thresholds=thresholds)
    expected, expected_best = accuracy_by_loops(distances, issame, list(thresholds))
    np.testing.assert_allclose(accuracy, expected)
    np.testing.assert_allclose(best, expected_best)


def test_exact_thresholds_find_what_no_grid_can():
    # Same pairs at 1.001, different ones at 1.002: no multiple of 0.01 lies between.
    issame = np.arange(40) % 2 == 0
    distances = np.where(issame, 1.001, 1.002)
    assert verification.accuracy_per_fold(distances, issame)[0].mean() == 0.5
    accuracy, best = verification.accuracy_per_fold(distances, issame, thresholds=None)
    assert accuracy.mean() == 1.0
    assert (best == 1.002).all()  # below which only same pairs lie


def test_exact_thresholds_are_the_best_on_the_training_folds():
    embeddings, issame = simulated(60, seed=3)
    distances = verification.pair_distances(embeddings)
    _, best = verification.accuracy_per_fold(distances, issame, thresholds=None)
    for fold in range(10):
        train = np.ones(60, bool)
        train[6 * fold:6 * fold + 6] = False
        reached = np.mean((distances[train] < best[fold]) == issame[train])
        assert reached == max(np.mean((distances[train] < threshold) == issame[train])
                              for threshold in np.append(distances[train], 5))


def test_roc_auc_and_eer():
    embeddings, issame = simulated()
    distances = verification.pair_distances(embeddings)
    curve = verification.roc(distances, issame)
    for far, tar, threshold in zip(*curve):
        assert far == np.mean(distances[~issame] < threshold)
        assert tar == np.mean(distances[issame] < threshold)
    assert (curve.far[0], curve.tar[0], curve.far[-1], curve.tar[-1]) == (0, 0, 1, 1)
    assert verification.area(curve) == pytest.approx(metrics.roc_auc_score(issame, -distances))
    eer = verification.equal_error_rate(curve)
    assert eer == pytest.approx(1 - np.interp(eer, curve.far, curve.tar), abs=0.02)


def test_eer_of_a_known_case():
    # One of four same pairs lies beyond, one of four different ones before the rest.
    distances = np.array([1, 2, 3, 7, 4, 8, 9, 10.])
    issame = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    curve = verification.roc(distances, issame)
    assert verification.equal_error_rate(curve) == 0.25
    assert verification.area(curve) == 15 / 16  # of 16 comparisons only 7 < 4 fails


@pytest.mark.parametrize("kind", (True, False))
def test_roc_needs_both_kinds(kind):
    with pytest.raises(InputError, match="All 3 pairs are of"):
        verification.roc(np.arange(3.), [kind] * 3)


def test_tar_at_far_counts_exactly():
    distances = np.arange(20.)
    issame = np.ones(20, bool)
    issame[[6, 10, 15, 16, 17, 18, 19, 12, 13, 14]] = False
    curve = verification.roc(distances, issame)
    # Same pairs: 0-5, 7, 8, 9, 11; of the ten different ones the nearest are 6, 10, 12.
    assert [verification.tar_at(curve, far) for far in (0.01, 0.1, 0.19, 0.2, 1)] == [
        0.6, 0.9, 0.9, 1.0, 1.0]


def test_tar_at_far_of_the_reference():
    embeddings, issame = simulated(400, seed=1)
    distances = verification.pair_distances(embeddings)
    tar, std, far = verification.tar_at_far(distances, issame, 0.1)
    assert far == pytest.approx(0.1, abs=0.03)
    assert tar == pytest.approx(verification.tar_at(verification.roc(distances, issame), 0.1),
                                abs=0.05)
    assert 0 < std < 0.2


def test_mean_roc_averages_the_folds():
    embeddings, issame = simulated(40, seed=2)
    distances = verification.pair_distances(embeddings)
    tpr, fpr = verification.mean_roc(distances, issame, thresholds=np.array([1.0]))
    folds = range(0, 40, 4)
    assert tpr[0] == pytest.approx(np.mean([
        np.mean(distances[i:i + 4][issame[i:i + 4]] < 1) for i in folds]))
    assert fpr[0] == pytest.approx(np.mean([
        np.mean(distances[i:i + 4][~issame[i:i + 4]] < 1) for i in folds]))


def test_pca_is_learnt_on_the_other_folds():
    embeddings, issame = simulated(40)
    distances = verification.pca_distances(embeddings, 5)
    changed = embeddings.copy()
    changed[:2] = changed[1::-1] + 1  # the first pair, which is in fold 0
    other = verification.pca_distances(changed, 5)
    np.testing.assert_allclose(distances[0, 4:], other[0, 4:])
    assert not np.allclose(distances[1, 4:], other[1, 4:])


@pytest.mark.parametrize("components", (0, 17, -1))
def test_pca_components_out_of_range(components):
    with pytest.raises(InputError, match="choose 1 to 16 components"):
        verification.pca_distances(simulated(40)[0], components)


def test_confidence_agrees_with_the_binomial_one():
    random = np.random.RandomState(0)
    issame = np.arange(2000) % 2 == 0
    correct = random.rand(2000) < 0.9
    distances = np.where(issame == correct, 1.0, 3.0) + random.rand(2000)
    for over in verification.BOOTSTRAPS:
        low, high = verification.confidence(distances, issame, correct, over=over)["accuracy"]
        mean = correct.mean()
        half = 1.96 * np.sqrt(mean * (1 - mean) / 2000)
        assert low < mean < high
        assert (high - low) / 2 == pytest.approx(half, rel=0.1 if over == "pairs" else 0.6)


def test_confidence_holds_the_estimate_and_repeats():
    embeddings, issame = simulated()
    decision = verification.decide(embeddings, issame)
    first = verification.confidence(decision.distances, issame, decision.correct, (0.1,), seed=5)
    again = verification.confidence(decision.distances, issame, decision.correct, (0.1,), seed=5)
    assert first == again
    curve = verification.roc(decision.distances, issame)
    for name, value in (("auc", verification.area(curve)), (0.1, verification.tar_at(curve, 0.1)),
                        ("accuracy", decision.accuracy.mean())):
        assert first[name][0] < value < first[name][1]


def test_bootstrap_over_folds_with_identical_folds_has_no_width():
    distances = np.tile([0.5, 1.5, 0.7, 2.0], 10)
    issame = np.tile([True, False, False, True], 10)
    correct = np.tile([True, True, False, False], 10)
    intervals = verification.confidence(distances, issame, correct, (0.5,), over="folds")
    assert intervals["accuracy"] == (0.5, 0.5)
    assert intervals["auc"] == (0.5, 0.5)  # of the four comparisons two are right
    over_pairs = verification.confidence(distances, issame, correct, (0.5,), over="pairs")
    assert over_pairs["accuracy"][0] < 0.5 < over_pairs["accuracy"][1]


def test_unknown_bootstrap():
    with pytest.raises(InputError, match="known are pairs, folds"):
        verification.confidence(np.arange(3.), [1, 0, 1], [1, 1, 1], over="people")


def test_measure_yields_named_numbers():
    embeddings, issame = simulated()
    flipped = embeddings[:, ::-1]
    numbers = dict(verification.measure(embeddings, flipped, issame, replicates=50))
    assert numbers["pairs"] == 200
    assert numbers["min_far"] == 0.01
    assert numbers["tar_at_1e-02"] <= numbers["tar_at_1e-01"]
    assert np.isnan(numbers["tar_at_1e-03"])
    assert "tar_at_1e-03_low" not in numbers
    assert numbers["auc_low"] <= numbers["auc"] <= numbers["auc_high"]
    summary = verification.evaluate(embeddings, flipped, issame)
    assert {name: numbers[name] for name in vars(summary)} == vars(summary)
    assert not [name for name in dict(verification.measure(
        embeddings, flipped, issame, replicates=0)) if name.endswith("_low")]


def test_measure_with_pca_and_exact_thresholds():
    embeddings, issame = simulated()
    plain = dict(verification.measure(embeddings, embeddings, issame, replicates=0))
    exact = dict(verification.measure(embeddings, embeddings, issame, replicates=0, exact=True))
    projected = dict(verification.measure(embeddings, embeddings, issame, replicates=0, pca=4))
    assert exact["auc"] == plain["auc"]
    assert exact["threshold"] != plain["threshold"]
    assert projected["auc"] != plain["auc"]
    full = dict(verification.measure(embeddings - embeddings.mean(axis=0), embeddings * 0, issame,
                                     replicates=0, pca=16))
    assert full["accuracy_flip"] == pytest.approx(plain["accuracy_flip"], abs=0.05)


def test_a_fold_needs_a_pair():
    with pytest.raises(InputError, match="9 pairs do not make 10 folds"):
        verification.accuracy_per_fold(np.arange(9.), [True] * 9)


def test_lengths_must_match():
    with pytest.raises(InputError, match="3 distances do not match 2 pairs"):
        verification.roc(np.arange(3.), [True, False])


def test_recorded_reference():
    """Fold accuracies and mean ROC of the authors' own code."""
    golden = np.load(GOLDEN / "verification.npz")
    issame = golden["issame"].astype(bool)
    distances = verification.pair_distances(golden["embeddings"])
    accuracy, _ = verification.accuracy_per_fold(distances, issame)
    np.testing.assert_array_equal(accuracy, golden["accuracy_per_fold"])
    tpr, fpr = verification.mean_roc(distances, issame)
    np.testing.assert_allclose(tpr, golden["tpr"], atol=1e-12)
    np.testing.assert_allclose(fpr, golden["fpr"], atol=1e-12)


def test_find_sets_in_order(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    for path in ("data/head/lfw.bin", "eval_dataset/lfw.bin", "eval_dataset/cfp_fp.bin",
                 "data/eval_dataset/cfp_fp.bin", "data/eval_dataset/agedb_30.bin",
                 "mine/cfp_fp.bin"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    names = ["lfw", " agedb_30", "cfp_fp", "nowhere", ""]
    with caplog.at_level(logging.WARNING):
        found = bins.find_sets("data/head", "", names)
    assert list(found) == ["lfw", "agedb_30", "cfp_fp"]
    assert found["lfw"] == "data/head/lfw.bin"
    assert found["cfp_fp"] == "eval_dataset/cfp_fp.bin"
    assert pathlib.Path(found["agedb_30"]).resolve() == (
        tmp_path / "data/eval_dataset/agedb_30.bin")
    assert [record.getMessage().split(" ")[0] for record in caplog.records] == ["nowhere.bin"]
    # --eval-dir: only there.
    assert bins.find_sets("data/head", "mine", names) == {"cfp_fp": "mine/cfp_fp.bin"}
