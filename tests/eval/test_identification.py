import numpy as np
import pytest

from unequal.errors import InputError
from unequal.eval import features, identification
from unequal.eval.identification import identify


def unit(random, count, size=8):
    rows = random.randn(count, size).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def people(random, count, images, spread):
    centres = unit(random, count)
    identities = np.repeat(np.arange(count), images)
    rows = centres[identities] + spread * random.randn(len(identities), 8)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    order = random.permutation(len(rows))
    return rows[order].astype(np.float32), identities[order]


def brute_force(probes, identities, distractors, gallery=None, gallery_identities=None):
    """Ranks and scores of all pairs, and every impostor score, one dot product at a time."""
    found, impostors = [], []
    for i in np.argsort(identities, kind="stable"):
        probe = probes[i]
        if gallery is None:
            mates = [probes[j] for j in range(len(probes))
                     if j != i and identities[j] == identities[i]]
            others = list(distractors)
        else:
            mates = [row for row, who in zip(gallery, gallery_identities) if who == identities[i]]
            others = list(distractors) + [row for row, who in zip(gallery, gallery_identities)
                                          if who != identities[i]]
        if not mates:
            continue
        against = [float(np.dot(probe, other)) for other in others]
        impostors += against
        for mate in mates:
            score = float(np.dot(probe, mate))
            found.append((1 + sum(other >= score for other in against), score))
    return found, sorted(impostors, reverse=True)


@pytest.fixture(params=(1000, 7, 1))
def blocks(request, monkeypatch):
    """Block sizes from all distractors at once down to one."""
    monkeypatch.setattr(identification, "block_size", lambda probes: request.param)
    monkeypatch.setattr(identification, "_FIRST", 50)


@pytest.mark.parametrize("with_gallery", (False, True))
@pytest.mark.parametrize("seed", (0, 1))
def test_against_brute_force(blocks, with_gallery, seed):
    random = np.random.RandomState(seed)
    probes, identities = people(random, 8, 6, 0.3)
    distractors = unit(random, 200)
    gallery = gallery_identities = None
    if with_gallery:  # of all eight, of whom two are never searched
        gallery, gallery_identities = probes[:24], identities[:24]
        probes, identities = probes[24:], identities[24:]
        probes, identities = probes[identities < 6], identities[identities < 6]
    found, impostors = brute_force(probes, identities, distractors, gallery, gallery_identities)
    fars = (0.2, 0.05, 0.001, 1e-6)
    result = identify(probes, identities, features.from_array(distractors), gallery,
                      gallery_identities, max_rank=12, fars=fars)
    assert result.impostor_count == len(impostors)
    np.testing.assert_allclose(result.scores, [score for _, score in found], atol=1e-6)
    assert result.ranks.tolist() == [min(rank, 13) for rank, _ in found]
    assert len(set(result.ranks)) > 5  # or the case would test nothing
    np.testing.assert_allclose(result.impostors, impostors[:len(result.impostors)], atol=1e-6)
    curve = identification.cmc(result)
    assert curve.tolist() == [np.mean([rank <= k for rank, _ in found]) for k in range(1, 13)]
    for far in fars:
        allowed = int(far * len(impostors))
        tar = identification.tar_at_far(result, far)
        if allowed == 0:
            assert np.isnan(tar)
        else:
            accepted = [score > impostors[allowed] for _, score in found]
            assert tar == np.mean(accepted)
            assert np.mean(np.array(impostors) > impostors[allowed]) <= far


def test_many_impostors_are_kept_exactly():
    """The pool is cut down several times on the way and still holds the highest."""
    random = np.random.RandomState(0)
    probes, identities = people(random, 5, 2, 0.2)
    distractors = unit(random, 5000)
    result = identify(probes, identities, features.from_array(distractors), max_rank=3,
                      fars=(0.01,))
    every = np.sort((probes @ distractors.T).ravel())[::-1]
    assert len(result.impostors) == 501
    np.testing.assert_allclose(result.impostors, every[:501], atol=1e-6)


def test_an_equal_distractor_stands_before_the_mate():
    """A model that gives everyone one embedding must not be perfect."""
    probes = np.tile(np.eye(1, 4, dtype=np.float32), (3, 1))
    distractors = features.from_array(np.tile(np.eye(1, 4, dtype=np.float32), (20, 1)))
    result = identify(probes, np.zeros(3), distractors, fars=(0.5,))
    assert result.ranks.tolist() == [21] * 6
    assert identification.tar_at_far(result, 0.5) == 0


def test_who_has_no_mate_takes_no_part():
    random = np.random.RandomState(0)
    probes = unit(random, 5)
    result = identify(probes, np.array(["a", "b", "a", "c", "d"]),
                      features.from_array(unit(random, 10)))
    assert len(result.ranks) == 2
    assert result.impostor_count == 20
    np.testing.assert_allclose(result.scores, [probes[0] @ probes[2]] * 2, rtol=1e-6)


def test_no_distractors():
    probes, identities = people(np.random.RandomState(0), 2, 2, 0.1)
    result = identify(probes, identities, features.from_array(np.empty((0, 8), np.float32)))
    assert result.ranks.tolist() == [1] * 4
    numbers = dict(identification.measure(result))
    assert numbers["rank_1"] == 1 and np.isnan(numbers["min_far"])


def test_measure():
    random = np.random.RandomState(0)
    probes, identities = people(random, 6, 4, 0.4)
    result = identify(probes, identities, features.from_array(unit(random, 100)), max_rank=10)
    numbers = dict(identification.measure(result))
    assert list(numbers) == ["pairs", "impostors", "rank_1", "rank_5", "rank_10", "min_far",
                             "tar_at_1e-04", "tar_at_1e-05", "tar_at_1e-06"]
    assert numbers["pairs"] == 72 and numbers["impostors"] == 2400
    assert numbers["rank_1"] == np.mean(result.ranks == 1)
    assert numbers["rank_1"] <= numbers["rank_5"] <= numbers["rank_10"]
    assert numbers["min_far"] == 1 / 2400
    assert np.isnan(numbers["tar_at_1e-04"])
    more = dict(identification.measure(
        identify(probes, identities, features.from_array(unit(random, 100)), fars=(1e-3,)),
        fars=(1e-3,)))
    assert 0 < more["tar_at_1e-03"] < 1


def test_errors():
    probes = unit(np.random.RandomState(0), 4)
    with pytest.raises(InputError, match="features have length 9 but the probes' 8"):
        identify(probes, np.zeros(4), features.from_array(np.ones((2, 9), np.float32)))
    with pytest.raises(InputError, match="two pictures among the probes"):
        identify(probes, np.arange(4), features.from_array(probes))
    with pytest.raises(InputError, match="one in the gallery"):
        identify(probes, np.arange(4), features.from_array(probes), probes, np.arange(4, 8))


def test_memory_is_bounded_by_blocks():
    assert identification.block_size(10) == identification.block_size(1000) == 8192
    for probes in (10000, 100000, 1000000):
        assert probes * identification.block_size(probes) <= identification._SCORES
