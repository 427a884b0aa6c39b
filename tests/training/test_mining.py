import itertools
import math

import numpy as np
import pytest

from helpers.loops import recorded, unit
from unequal.training.mining import closest_pairs, confusable_identities, identity_centers


def bag(counts, seed=0, size=8, spread=0.3, mixed=True):
    """Embeddings of identities with these numbers of images, rows in a random order."""
    random = np.random.RandomState(seed)
    means = random.randn(len(counts), size)
    names = random.permutation(10 * len(counts))[:len(counts)] + 500
    identities = np.repeat(names, counts)
    embeddings = np.repeat(means, counts, axis=0)
    embeddings = (embeddings + spread * random.randn(*embeddings.shape)) * 5
    order = random.permutation(len(identities)) if mixed else np.arange(len(identities))
    return embeddings[order].astype(np.float32), identities[order]


def by_loops(embeddings, identities, count):
    """Every pair's distance, a full sort, one identity at a time."""
    names = list(dict.fromkeys(identities.tolist()))  # by first appearance
    centers = {}
    for name in names:
        own = [unit(row) for row, identity in zip(embeddings, identities) if identity == name]
        centers[name] = sum(own) / len(own)
    pairs = sorted((math.dist(centers[a], centers[b]), names.index(a), names.index(b))
                   for a, b in itertools.combinations(names, 2))
    chosen = []
    for _, a, b in pairs:
        for index in (a, b):
            if names[index] not in chosen and len(chosen) < count:
                chosen.append(names[index])
    return chosen


def test_recorded():
    settings, arrays = recorded("mining")
    identities = np.repeat(np.arange(60), settings["images_per_identity"])
    chosen = confusable_identities(arrays["embeddings"], identities,
                                   settings["batchsize_id"] // settings["images_per_identity"])
    # The reference's sort is not stable: of the two of a pair, either may come first.
    assert set(chosen) == set(arrays["selected"]) and len(chosen) == len(arrays["selected"])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 3, 7, 12, 13, 29])
def test_by_loops_with_mixed_numbers_of_images(count, seed):
    counts = np.random.RandomState(seed).choice([1, 2, 3], 30)
    assert set(counts) == {1, 2, 3}
    embeddings, identities = bag(counts, seed)
    chosen = confusable_identities(embeddings, identities, count)
    assert chosen.tolist() == by_loops(embeddings, identities, count)


@pytest.mark.parametrize("images", [1, 2, 5])
def test_by_loops_with_equal_numbers_of_images(images):
    embeddings, identities = bag([images] * 20, seed=images, mixed=False)
    chosen = confusable_identities(embeddings, identities, 8)
    assert chosen.tolist() == by_loops(embeddings, identities, 8)


def test_far_pairs_are_reached():
    """One tight cluster first: its pairs fill the first pieces of the sort many times over."""
    random = np.random.RandomState(0)
    embeddings = np.concatenate([np.ones(16) + 1e-3 * random.randn(60, 16),
                                 random.randn(40, 16)])
    identities = np.arange(100)
    chosen = confusable_identities(embeddings, identities, 75)
    assert set(chosen[:60]) == set(range(60))
    assert chosen.tolist() == by_loops(embeddings, identities, 75)


def test_planted_pairs_are_found():
    embeddings, identities = bag([3] * 40, spread=0.01, mixed=False)
    for a, b in ((4, 30), (11, 12)):  # positions of identities that look alike
        embeddings[3 * b:3 * b + 3] = embeddings[3 * a:3 * a + 3] * 2
    chosen = confusable_identities(embeddings, identities, 4)
    assert set(chosen) == {identities[3 * i] for i in (4, 30, 11, 12)}


def test_centers_by_loops():
    embeddings, identities = bag([3, 1, 2, 2], seed=2)
    unique, centers = identity_centers(embeddings, identities)
    assert unique.tolist() == list(dict.fromkeys(identities.tolist()))
    assert centers.dtype == np.float64
    for name, center in zip(unique, centers):
        own = [unit(row) for row in embeddings[identities == name]]
        np.testing.assert_allclose(center, sum(own) / len(own), atol=1e-12)
        assert np.linalg.norm(center) <= 1 + 1e-12  # not normalised again


def test_pairs_come_once_each_in_order():
    centers = np.random.RandomState(1).randn(15, 3)
    pairs = list(closest_pairs(centers))
    assert sorted(pairs) == list(itertools.combinations(range(15), 2))
    distances = [math.dist(centers[a], centers[b]) for a, b in pairs]
    np.testing.assert_allclose(distances, sorted(distances), rtol=1e-9)


@pytest.mark.parametrize("count", [5, 6, 100])
def test_all_identities_when_there_are_no_more(count):
    embeddings, identities = bag([2, 1, 3, 1, 2])
    chosen = confusable_identities(embeddings, identities, count)
    assert sorted(chosen) == sorted(set(identities))


@pytest.mark.parametrize("count", [1, 2, 5, 11])
def test_equal_embeddings(count):
    """All distances tie: any choice will do, but the same one each time and no one twice."""
    embeddings = np.tile(np.array([1, 2, 3], np.float32), (24, 1))
    identities = np.repeat(np.arange(12), 2)
    chosen = confusable_identities(embeddings, identities, count)
    assert len(chosen) == count == len(set(chosen.tolist()))
    np.testing.assert_array_equal(chosen, confusable_identities(embeddings, identities, count))


def test_ties_are_broken_by_position():
    # Identities at the corners of a square: four sides tie, the diagonals are longer.
    embeddings = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    assert confusable_identities(embeddings, np.array([7, 5, 9, 3]), 2).tolist() == [7, 5]
    assert confusable_identities(embeddings, np.array([7, 5, 9, 3]), 3).tolist() == [7, 5, 3]


def test_same_choice_every_time():
    embeddings, identities = bag(np.random.RandomState(3).choice([1, 2, 3], 200), seed=3)
    first = confusable_identities(embeddings, identities, 60)
    for _ in range(3):
        np.testing.assert_array_equal(first, confusable_identities(embeddings, identities, 60))


def test_order_of_rows_changes_nothing_but_ties():
    embeddings, identities = bag([3, 2, 1] * 10, seed=4)
    order = np.random.RandomState(0).permutation(len(identities))
    first = confusable_identities(embeddings, identities, 10)
    other = confusable_identities(embeddings[order], identities[order], 10)
    assert set(first) == set(other)


def test_inputs_are_left_as_they_were():
    embeddings, identities = bag([2] * 10)
    embeddings = embeddings.astype(np.float64)
    before = embeddings.copy(), identities.copy()
    confusable_identities(embeddings, identities, 4)
    np.testing.assert_array_equal(embeddings, before[0])
    np.testing.assert_array_equal(identities, before[1])


def test_an_embedding_of_zeros_is_no_accident():
    embeddings, identities = bag([1] * 6)
    embeddings[2] = 0
    chosen = confusable_identities(embeddings, identities, 5)
    assert len(set(chosen.tolist())) == 5
