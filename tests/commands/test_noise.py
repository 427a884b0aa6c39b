"""`unequal noise` without method or threshold, on features that another model made."""
import csv

import numpy as np
import pytest

from helpers.pictures import encoded
from tests.eval.test_noise_scores import drawn
from unequal.commands import cli
from unequal.data.noise_lists import read_list
from unequal.data.records import RecordWriter
from unequal.models import noise_scan


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A set, its features by another model, and what is wrong in it; a name with a comma."""
    directory = tmp_path_factory.mktemp("noise")
    features, labels, kinds, _ = drawn()
    order = np.argsort(labels, kind="stable")
    features, labels, kinds = features[order], labels[order], kinds[order]
    with RecordWriter(str(directory / "set"), (8, 8)) as writer:
        keys = [writer.add(label, b"picture %d" % row, "Jürgen, %d/a b.jpg" % row)
                for row, label in enumerate(labels)]
    np.savez(str(directory / "features.npz"), features=features.astype(np.float32),
             names=np.array(["%d/%d" % pair for pair in zip(labels, keys)])[::-1])
    np.savez(str(directory / "backwards.npz"), features=features[::-1].astype(np.float32),
             names=np.array(["%d/%d" % pair for pair in zip(labels, keys)])[::-1])
    np.savez(str(directory / "paths.npz"), features=features.astype(np.float32),
             names=np.array(["Jürgen, %d/a b.jpg" % row for row in range(len(keys))]))
    return directory, keys, labels, kinds


def noise(directory, *arguments):
    return cli.main(["noise", str(directory / "set"), *map(str, arguments)])


def test_list_table_and_probabilities(people, tmp_path, capsys):
    directory, keys, labels, kinds = people
    out = tmp_path / "list"
    assert noise(directory, "--features", directory / "backwards.npz", "--out", out,
                 "--probabilities", tmp_path / "p.npz") == 0
    assert "images listed" in capsys.readouterr().out
    _, listed = read_list(str(out))
    with open(str(out) + ".csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["key", "path", "label", "kind", "suggested_label", "confidence"]
    assert sorted(int(row["key"]) for row in rows) == listed.tolist()
    truth = dict(zip(keys, kinds))
    assert np.mean([truth[int(row["key"])] != "" for row in rows]) >= 0.9
    for row in rows:
        assert row["path"] == "Jürgen, %d/a b.jpg" % (int(row["key"]) - 1)
        assert int(row["label"]) == labels[int(row["key"]) - 1]
    assert [float(row["confidence"]) for row in rows] == sorted(
        (float(row["confidence"]) for row in rows), reverse=True)
    with np.load(str(tmp_path / "p.npz")) as arrays:
        assert (arrays["labels"] == labels).all() and (arrays["keys"] == keys).all()
        assert arrays["probabilities"].shape == (len(keys), labels.max() + 1)
        np.testing.assert_allclose(arrays["probabilities"].sum(axis=1), 1)


def test_rows_are_found_by_key_or_by_path(people, tmp_path):
    directory = people[0]
    for name in ("backwards", "paths"):
        assert noise(directory, "--features", directory / (name + ".npz"), "--out",
                     tmp_path / name) == 0
    assert (tmp_path / "backwards").read_bytes() == (tmp_path / "paths").read_bytes()


@pytest.mark.parametrize("arguments, said", [
    (("--threshold", "0.1"), "--pretrained is missing"),
    (("--features", "F.npz", "--pretrained", "m,1"), "leave out one"),
    (("--pretrained", "m,1", "--method", "label-margin"), "--threshold is missing"),
    (("--pretrained", "m,1", "--scores", "s"), "--scores"),
    (("--features", "F.npz", "--threshold", "0.1"), "--features does not go"),
    (("--by-model",), "--by-model says that a model judges; name one (--pretrained)"),
    (("--by-model", "--pretrained", "m,1", "--threshold", "1"), "without --method and --threshold"),
])
def test_what_does_not_go_together(people, tmp_path, capsys, arguments, said):
    assert noise(people[0], "--out", tmp_path / "list", *arguments) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "list").exists()


def test_features_of_another_set(people, tmp_path, capsys):
    directory = people[0]
    np.savez(str(tmp_path / "few.npz"), features=np.eye(3, dtype=np.float32),
             names=np.array(["a", "b", "c"]))
    assert noise(directory, "--features", tmp_path / "few.npz", "--out", tmp_path / "list") == 1
    assert "has 3 features, but" in capsys.readouterr().err


@pytest.fixture
def textures(tmp_path):
    """Six people of eight pictures, two of which are in the next one's folder: their keys."""
    random = np.random.RandomState(0)
    looks = random.randint(0, 200, (6, 24, 24, 3))
    keys, shown = [], []
    with RecordWriter(str(tmp_path / "set"), (24, 24)) as writer:
        for label in range(6):
            for number in range(8):
                shown.append((label + 1) % 6 if number == 7 and label < 2 else label)
                pixels = (looks[shown[-1]] + random.randint(0, 40, (24, 24, 3))).astype(np.uint8)
                key = writer.add(label, encoded(pixels), f"{label}/{number}.jpg")
                keys += [key] if shown[-1] != label else []
    return keys, np.array(shown)


def model(monkeypatch, classes=6, features=None):
    """A checkpoint of so many classes that gives each picture these features (or must not)."""
    monkeypatch.setattr(noise_scan.checkpoints, "load", lambda prefix, epoch: (
        None, {"fc7_weight": np.zeros((classes, 4))}, {}))
    monkeypatch.setattr(noise_scan.checkpoints, "sub_centers", lambda prefix: 1)

    class Embedder:
        def __init__(self, *more):
            assert features is not None, "used"
            self.embedding_size = features.shape[1]

        def features(self, records):
            yield records.image_keys, features / np.linalg.norm(features, axis=1, keepdims=True)

    monkeypatch.setattr(noise_scan, "Embedder", Embedder)


def test_small_sets_need_no_model_and_use_none_that_learnt_from_them_alone(
        textures, tmp_path, monkeypatch, capsys, caplog):
    caplog.set_level("INFO")
    assert noise(tmp_path, "--out", tmp_path / "list") == 0
    assert read_list(str(tmp_path / "list"))[1].tolist() == textures[0]

    model(monkeypatch)
    log = tmp_path / "m-trainlog.jsonl"
    for start, more, by_texture in (
            ('""', (), True), ('""', ("--by-model",), False), ('"other,1"', (), False)):
        log.write_text('{"event": "start", "options": {"pretrained": %s}}\n' % start)
        code = noise(tmp_path, "--pretrained", f"{tmp_path}/m,1", "--out", tmp_path / "second",
                     *more)
        assert (code == 0) == by_texture, more
    assert "trained on these 48 pictures only" in caplog.text
    assert (tmp_path / "second").read_bytes() == (tmp_path / "list").read_bytes()
    capsys.readouterr()

    monkeypatch.setattr(noise_scan, "SMALL", 47)
    assert noise(tmp_path, "--out", tmp_path / "third") == 1
    assert capsys.readouterr().err.startswith("error: --pretrained is missing: ")


def test_of_other_peoples_model_and_texture_the_better_judges_a_small_set(
        textures, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    keys, shown = textures
    weak = np.random.RandomState(0).randn(48, 8).astype(np.float32)
    strong = np.eye(8, dtype=np.float32)[shown] + 0.2 * weak

    def listed(features, *more):
        model(monkeypatch, 100, features)
        caplog.clear()
        assert noise(tmp_path, "--pretrained", f"{tmp_path}/m,1", "--out", tmp_path / "list",
                     "--probabilities", tmp_path / "p.npz", *more) == 0
        with np.load(str(tmp_path / "p.npz")) as arrays:
            return arrays["features"].shape[1] == 8, read_list(str(tmp_path / "list"))[1].tolist()

    assert listed(strong) == (True, keys)
    assert "predicts 96% of the labels" in caplog.text and "the model is used" in caplog.text
    assert listed(weak) == (False, keys)
    assert "texture is used" in caplog.text
    used, found = listed(weak, "--by-model")
    assert used and found != keys and "judges" not in caplog.text
