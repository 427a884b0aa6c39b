import csv

import numpy as np
import pytest

from helpers.pictures import encoded, smooth
from unequal.commands import cli, corrupt
from unequal.data.identities import read_names, write_names
from unequal.data.noise_lists import read_truth
from unequal.data.records import RecordSet, RecordWriter
from unequal.errors import InputError

COUNTS = np.array([40, 30, 12, 10, 8, 5, 5, 5, 5])


def make(directory, counts, mark):
    """A set whose pictures end in bytes that tell which one each is."""
    picture = encoded(smooth(16, 16))
    with RecordWriter(str(directory), (16, 16)) as writer:
        for label, count in enumerate(counts):
            for number in range(count):
                name = f"{mark}{label}/{number}"
                writer.add(label, picture + name.encode(), name)
    write_names(str(directory), [f"{mark}{label}" for label in range(len(counts))])
    return str(directory)


def shown(data):
    """Which picture a record holds: ``(mark, label, number)`` of :func:`make`."""
    name = data[data.rindex(b"\xff\xd9") + 2:].decode()
    label, number = name[1:].split("/")
    return name[0], int(label), int(number)


@pytest.fixture
def sets(tmp_path):
    return make(tmp_path / "clean", COUNTS, "c"), make(tmp_path / "others", [1] * 40, "s")


def test_truth_says_what_each_record_shows(sets, tmp_path, capsys):
    clean, strangers = sets
    out = str(tmp_path / "noisy")
    assert cli.main(["corrupt", clean, out, "--flip", "0.3", "--outliers", "0.1", "--strangers",
                     strangers, "--seed", "3"]) == 0
    truth = read_truth(out + "/truth.csv")
    kinds, seen = [], []
    with RecordSet(out) as records:
        assert set(truth) == set(records.image_keys.tolist())
        assert records.num_classes == len(COUNTS)
        with open(out + "/train.lst") as lines:
            listed = [line.rstrip("\n").split("\t") for line in lines]
        for key, line in zip(records.image_keys, listed):
            label, data = records.image(key)
            mark, person, number = shown(data)
            seen.append((mark, person, number))
            assert line[1:] == [f"{mark}{person}/{number}", str(label)]
            true, kind = truth[int(key)]
            kinds.append(kind)
            assert true == (-1 if mark == "s" else person)
            assert kind == ("outlier" if mark == "s" else "clean" if person == label else "flip")
    counts = {kind: kinds.count(kind) for kind in corrupt_kinds()}
    # Shares of the whole new set: 120 pictures and 13 added strangers, 30% of 133 flipped.
    assert counts == {"clean": 80, "flip": 40, "outlier": 13}
    assert "80 clean images, 40 flipped, 13 outliers" in capsys.readouterr().out
    assert len(set(seen)) == 133  # nothing lost, nothing twice
    assert read_names(out) == read_names(clean)


def corrupt_kinds():
    return ("clean", "flip", "outlier")


@pytest.mark.parametrize("seed", range(5))
def test_uniform_flips_keep_every_class_as_large(seed):
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    plan = corrupt.plan(labels, len(COUNTS), 0.5, 0, 0, seed)
    assert (np.bincount(plan.labels) == COUNTS).all()
    flipped = plan.kinds == "flip"
    assert flipped.sum() == 60
    assert (plan.labels[flipped] != plan.true[flipped]).all()


def test_uniform_flips_meet_every_class():
    """A class's pictures go to the others in proportion to their sizes, not to a few of them."""
    labels = np.repeat(np.arange(50), 40)
    new = corrupt.uniform_flips(np.random.default_rng(0), labels, np.arange(len(labels)))
    for person in range(50):
        assert len(np.unique(new[labels == person])) > 20  # 27.8 on average, of 40 draws


def test_a_seed_is_a_plan():
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    first, again, other = (corrupt.plan(labels, len(COUNTS), 0.3, 0.1, 40, seed)
                           for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again))
    assert (first.labels != other.labels).any() or (first.source != other.source).any()


def test_structured_flips_go_to_the_nearest_people():
    """Classes on a circle: a flip goes to one of the five nearest others, and to each of them."""
    angle = np.repeat(np.arange(40), 10) * 2 * np.pi / 40
    features = np.stack((np.cos(angle), np.sin(angle)), axis=1).astype(np.float32)
    # A little on, so that the five nearest are two behind and three ahead.
    turned = np.stack((np.cos(angle + 0.03), np.sin(angle + 0.03)), axis=1).astype(np.float32)
    labels = np.repeat(np.arange(40), 10)
    flipped = np.flatnonzero(np.arange(400) % 10 == 0)
    features[flipped] = turned[flipped]
    new = corrupt.structured_flips(np.random.default_rng(0), labels, flipped, features, 40)
    steps = (new - labels[flipped] + 20) % 40 - 20
    assert set(steps) == {-2, -1, 1, 2, 3}


def test_structured_never_gives_a_class_without_pictures():
    labels = np.array([0, 0, 2, 2])
    features = np.eye(4, dtype=np.float32)
    new = corrupt.structured_flips(np.random.default_rng(0), labels, np.arange(4), features, 3)
    assert new.tolist() == [2, 2, 0, 0]


@pytest.mark.parametrize("flags, sentence", [
    (["--flip", "1"], "share"), (["--flip", "0.6", "--outliers", "0.4"], "nothing clean"),
    (["--outliers", "0.1"], "--strangers"), (["--flip", "0.1", "--structured"], "--model"),
    (["--flip", "0.1", "--model", "m,1"], "--structured"), (["--flip", "-0.1"], "share"),
    (["--seed", "-1"], "--seed")])
def test_bad_requests(sets, tmp_path, flags, sentence, capsys):
    extra = ["--strangers", sets[1]] if "0.4" in flags else []
    assert cli.main(["corrupt", sets[0], str(tmp_path / "out"), *flags, *extra]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_too_few_strangers(sets, tmp_path):
    with pytest.raises(InputError, match="only 40"):
        corrupt.corrupt(sets[0], str(tmp_path / "out"), outliers=0.3, strangers=sets[1])


def test_one_class_is_most_of_the_flips():
    labels = np.repeat([0, 1], [90, 10])
    with pytest.raises(InputError, match="of class 0"):
        corrupt.uniform_flips(np.random.default_rng(0), labels, np.arange(100))


def test_structured_by_a_model(sets, tmp_path):
    """A network of random weights still says who is near: its flips follow its features."""
    import mxnet as mx

    from unequal.symbols import networks

    symbol = networks.get_symbol("n8", 8)
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", (2, 3, 16, 16))])
    module.init_params(mx.init.Xavier())
    module.save_checkpoint(str(tmp_path / "m"), 1)
    out = str(tmp_path / "noisy")
    assert cli.main(["corrupt", sets[0], out, "--flip", "0.2", "--structured", "--model",
                     str(tmp_path / "m") + ",1"]) == 0
    with open(out + "/truth.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    flips = [row for row in rows if row["kind"] == "flip"]
    assert len(flips) == 24
    assert all(row["label"] != row["true_identity"] for row in flips)
