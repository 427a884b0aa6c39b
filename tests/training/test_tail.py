"""The tail stream: bags, batches, mining round by round."""
import mxnet as mx
import numpy as np
import pytest

from unequal.data.records import RecordSet
from unequal.errors import InputError
from unequal.models.embedder import Embedder
from unequal.symbols import networks
from unequal.synthetic.dataset import make_dataset
from unequal.training import tail
from unequal.training.mining import confusable_identities


def ranges_of(counts, first=1):
    ends = first + np.cumsum(counts)
    return np.stack([ends - counts, ends], axis=1)


@pytest.mark.parametrize("bag_size, count", [(12, 3), (7, 9), (1000, 2)])
def test_bags(bag_size, count):
    counts = np.random.RandomState(0).randint(1, 10, 20)
    ranges = ranges_of(counts)
    bags = tail.draw_bags(ranges, 3, bag_size, count, np.random.RandomState(1))
    assert len(bags.bounds) == count + 1 and bags.bounds[-1] == len(bags.keys)
    for begin, end in zip(bags.bounds[:-1], bags.bounds[1:]):
        keys, identities = bags.keys[begin:end], bags.identities[begin:end]
        assert 0 < len(keys) <= bag_size
        assert len(set(keys)) == len(keys)  # nobody twice
        for identity in set(identities):
            its = keys[identities == identity]
            low, high = ranges[identity]
            assert len(its) == min(3, counts[identity])
            assert ((low <= its) & (its < high)).all()
    if bag_size == 1000:  # more than there is: a bag is the whole set
        assert set(bags.identities[:bags.bounds[1]]) == set(range(20))


def test_a_walk_shows_everybody_before_anybody_again():
    ranges = ranges_of(np.full(30, 2))
    bags = tail.draw_bags(ranges, 3, 10, 6, np.random.RandomState(0))
    assert sorted(bags.identities[::2]) == list(range(30))
    again = tail.draw_bags(ranges, 3, 10, 7, np.random.RandomState(0))
    np.testing.assert_array_equal(again.keys[:60], bags.keys)
    assert len(set(again.identities[60:])) == 5


def test_images_are_drawn_evenly():
    ranges = np.array([[5, 11]])
    seen = np.concatenate([tail.draw_bags(ranges, 2, 2, 1, np.random.RandomState(seed)).keys
                           for seed in range(600)])
    assert np.bincount(seen, minlength=11)[5:].min() > 150  # 200 expected


def test_a_batch_repeats_images_of_identities_with_few():
    keys, identities = np.array([10, 11, 12, 20, 30, 31]), np.array([1, 1, 1, 2, 3, 3])
    batch = tail.batch_keys(keys, identities, [3, 2, 1], 3)
    assert batch.tolist() == [30, 31, 30, 20, 20, 20, 10, 11, 12]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tail")
    make_dataset(str(directory / "data"), seed=1, image_size=16, head_identities=4,
                 tail_identities=30, eval_pairs=20, eval_identities=20)
    return RecordSet(str(directory / "data" / "MF2_pic9_tail"))


@pytest.fixture(scope="module")
def embedder(records):
    symbol = networks.get_symbol("n8", 16)
    shapes, _, states = symbol.infer_shape(data=(1, 3, 16, 16))
    random = np.random.RandomState(0)
    arguments = {name: mx.nd.array(random.randn(*shape) * 0.2)
                 for name, shape in zip(symbol.list_arguments(), shapes) if name != "data"}
    auxiliary = {name: mx.nd.ones(shape)
                 for name, shape in zip(symbol.list_auxiliary_states(), states)}
    return Embedder(symbol, arguments, auxiliary, (16, 16), batch_size=7)


def test_a_round_is_mined_bag_by_bag(records, embedder):
    # Batches of 7 images do not end where bags do.
    miner = tail.Miner(records, identities=4, images_per_identity=3, bag_size=25, bags=5, seed=3)
    found = miner.mined(2, embedder)
    assert found.shape == (5, 12)
    bags = miner.draw(2)
    owner = {key: row for row, (low, high) in enumerate(records.identity_ranges)
             for key in range(low, high)}
    for batch, begin, end in zip(found, bags.bounds[:-1], bags.bounds[1:]):
        keys = bags.keys[begin:end]
        plain, _ = embedder.embed(records, keys)
        expected = confusable_identities(plain, bags.identities[begin:end], 4)
        assert [owner[key] for key in batch[::3]] == expected.tolist()
        assert all(owner[a] == owner[b] for a, b in zip(batch, np.repeat(batch[::3], 3)))
        assert set(batch) <= set(keys)


def test_rounds_differ_and_repeat(records, embedder):
    miner = tail.Miner(records, 4, 3, 25, 3, seed=3)
    np.testing.assert_array_equal(miner.mined(1, embedder), miner.mined(1, embedder))
    assert (miner.draw(1).keys != miner.draw(2).keys).any()
    other = tail.Miner(records, 4, 3, 25, 3, seed=4)
    assert (miner.draw(1).keys[:20] != other.draw(1).keys[:20]).any()


def test_random_identities(records):
    miner = tail.Miner(records, 4, 3, 25, 5, seed=3)
    found, bags = miner.random(0), miner.draw(0)
    assert found.shape == (5, 12)
    for batch, begin in zip(found, bags.bounds):
        assert batch[0] == bags.keys[begin]


@pytest.mark.parametrize("arguments, text", [
    (dict(identities=31), "lower tail_size"),
    (dict(identities=9, bag_size=26), "bag_size 26"),
    (dict(identities=2, images_per_identity=0), "^images_per_identity must"),
])
def test_bad_sizes(records, arguments, text):
    with pytest.raises(InputError, match=text):
        tail.Miner(records, **arguments)
