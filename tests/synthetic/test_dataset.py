import csv
import filecmp
import os
import pickle
import pickletools
from collections import Counter

import cv2
import numpy as np
import pytest

from unequal.commands import cli
from unequal.data.records import RecordSet, read_property
from unequal.errors import InputError
from unequal.eval.bins import load_bin
from unequal.synthetic import dataset as synth
from unequal.synthetic import faces

SMALL = dict(seed=3, head_identities=21, head_images=13, tail_identities=9, eval_identities=40,
             eval_pairs=40, noise=0.3, outliers=0.1, split=0.1)
FLAGS = [text for name, value in SMALL.items()
         for text in ("--" + name.replace("_", "-"), str(value))]
SETS = [folder + "/" + target for folder in ("eval_dataset", "validation_dataset")
        for target in ("lfw", "cfp_fp", "agedb_30")]


def files_of(directory):
    return sorted(os.path.relpath(os.path.join(folder, name), directory)
                  for folder, _, names in os.walk(directory) for name in names)


def same_bytes(one, other):
    names = files_of(one)
    assert names == files_of(other)
    return sorted(filecmp.cmpfiles(one, other, names, shallow=False)[0]) == names


def decode(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("synth") / "data"
    synth.make_dataset(str(directory), **SMALL)
    return directory


@pytest.fixture(scope="module")
def truth(dataset):
    with open(dataset / "truth.csv", encoding="ascii", newline="") as file:
        assert file.readline() == "key,label,true_identity,kind\n"
        return [(int(key), int(label), int(true), kind)
                for key, label, true, kind in csv.reader(file)]


@pytest.fixture(scope="module")
def plan():
    return synth._plan(**SMALL)


def test_layout(dataset):
    records = ["train.idx", "train.rec", "property"]
    assert files_of(dataset) == sorted(
        ["truth.csv"] + [name + ".bin" for name in SETS]
        + ["MF2_pic9_" + part + "/" + name for part in ("head", "tail") for name in records])
    assert read_property(str(dataset / "MF2_pic9_head")) == (21, 32, 32)
    assert read_property(str(dataset / "MF2_pic9_tail")) == (9, 32, 32)
    # nothing beside it, and readable by those the umask lets in
    assert os.listdir(dataset.parent) == [dataset.name]
    (dataset.parent / "plain").mkdir()
    assert os.stat(dataset).st_mode == os.stat(dataset.parent / "plain").st_mode
    (dataset.parent / "plain").rmdir()


def test_records(dataset):
    for part, classes, low, high in (("head", 21, 10, 10**6), ("tail", 9, 3, 9)):
        with RecordSet(str(dataset / ("MF2_pic9_" + part))) as records:
            labels = records.labels()
            counts = np.bincount(labels)
            assert len(counts) == classes and (np.diff(labels) >= 0).all()
            assert counts.min() >= low and counts.max() <= high
            assert (np.diff(records.identity_ranges, axis=1)[:, 0] == counts).all()
            picture = decode(records.image(1)[1])
            assert picture.shape == (32, 32, 3) and picture.std() > 5
            if part == "head":
                assert len(labels) == 21 * 13
                assert np.median(counts) < counts.mean() < counts.max() / 1.5


def test_truth_agrees_with_the_records(dataset, truth):
    with RecordSet(str(dataset / "MF2_pic9_head")) as records:
        assert [key for key, *_ in truth] == records.image_keys.tolist()
        assert [label for _, label, *_ in truth] == records.labels().tolist()


def test_noise_rates_are_exact(truth):
    kinds = Counter(kind for *_, kind in truth)
    assert kinds["flip"] == round(0.3 * 273) and kinds["outlier"] == round(0.1 * 273)
    # 19 people, 2 of them (10%) with a second label: 21 labels.
    second = {label: true for _, label, true, kind in truth if kind == "split"}
    assert len(second) == 2
    assert not set(second) & set(second.values())
    for _, label, true, kind in truth:
        person = second.get(label, label)
        assert (true == -1) == (kind == "outlier")
        assert (kind == "clean") == (true == label)
        assert (kind == "flip") == (true not in (person, -1))
        assert true not in second  # a person goes by the first label, in flips too
        if kind == "split":
            assert label > true


def test_the_pictures_show_who_truth_says(dataset, truth, plan):
    """Draw each picture again from truth.csv alone: person, and the random numbers of its place."""
    with RecordSet(str(dataset / "MF2_pic9_head")) as records:
        faceless = 0
        for number, (key, _, true, kind) in enumerate(truth):
            if kind == "outlier":
                person = plan["MF2_pic9_head"].pictures.people[number]
                faceless += person == -1
                continue
            identity = faces.sample_identity(np.random.default_rng((3, 0, true)))
            view = faces.sample_view(np.random.default_rng((3, 2, number)), "any")
            _, jpeg = cv2.imencode(".jpg", faces.draw_face(identity, view)[:, :, ::-1],
                                   (cv2.IMWRITE_JPEG_QUALITY, 95))
            assert records.image(key)[1] == jpeg.tobytes()
    assert 5 <= faceless <= 22  # about half of the 27 outliers


@pytest.mark.parametrize("kind, rates", [
    ("flip", dict(noise=1.0, outliers=0, split=0)), ("outlier", dict(noise=0, outliers=1, split=0)),
    ("clean", dict(noise=0, outliers=0, split=0))])
def test_one_kind_only(kind, rates):
    head = synth._plan(**{**SMALL, **rates})["MF2_pic9_head"]
    assert {synth.KINDS[number] for number in head.kinds} == {kind}
    assert len(head.labels) == 273 and set(head.labels) == set(range(21))


def test_everyone_split():
    head = synth._plan(**{**SMALL, "noise": 0, "outliers": 0, "split": 1})["MF2_pic9_head"]
    labels_of = Counter(true for _, true in {*zip(head.labels, head.true_identities)})
    assert sorted(labels_of.values()) == [1] + [2] * 10
    # Even then a flip shows somebody else.
    head = synth._plan(**{**SMALL, "noise": 1, "outliers": 0, "split": 1,
                          "head_identities": 3})["MF2_pic9_head"]
    assert len(set(head.true_identities)) == 2
    assert (head.labels != head.true_identities).all()


def test_nobody_is_in_two_sets():
    plan = synth._plan(**{**SMALL, "eval_pairs": 200})  # enough that everyone appears
    people = {name: set(planned.pictures.people.tolist()) for name, planned in plan.items()}
    evaluation = people["eval_dataset/lfw"]
    validation = people["validation_dataset/lfw"]
    for target in ("cfp_fp", "agedb_30"):
        assert people["eval_dataset/" + target] == evaluation
        assert people["validation_dataset/" + target] == validation
    groups = [people["MF2_pic9_head"], people["MF2_pic9_tail"], evaluation, validation]
    assert [len(group) for group in groups[1:]] == [9, 40, 40]
    assert len(set().union(*groups)) == sum(len(group) for group in groups)
    strangers = Counter(plan["MF2_pic9_head"].pictures.people[
        plan["MF2_pic9_head"].true_identities == -1].tolist())
    del strangers[-1]
    assert set(strangers.values()) == {1}


@pytest.mark.parametrize("name", SETS)
def test_folds(plan, name):
    pairs = plan[name]
    people = pairs.pictures.people.reshape(10, 4, 2)
    same = pairs.same.reshape(10, 4)
    assert (same == [True, True, False, False]).all()
    assert ((people[:, :, 0] == people[:, :, 1]) == same).all()
    folds = [set(fold.ravel().tolist()) for fold in people]
    assert len(set().union(*folds)) == sum(len(fold) for fold in folds)
    first, second = ({faces.SITUATIONS[number] for number in side}
                     for side in pairs.pictures.situations.reshape(-1, 2).T)
    assert (first, second) == {"lfw": ({"frontal"}, {"frontal"}),
                               "cfp_fp": ({"front"}, {"profile"}),
                               "agedb_30": ({"young"}, {"old"})}[name.split("/")[1]]


@pytest.mark.parametrize("name", SETS)
def test_verification_files(dataset, plan, name):
    path = dataset / (name + ".bin")
    data = path.read_bytes()
    opcode, protocol, _ = next(pickletools.genops(data))
    assert (opcode.name, protocol) == ("PROTO", 2)
    images, same = pickle.loads(data)
    assert type(images) is type(same) is list and len(images) == 80
    assert {type(answer) for answer in same} == {bool} and same == plan[name].same.tolist()
    assert decode(images[79]).shape == (32, 32, 3)
    ours = load_bin(str(path))
    assert [bytes(image) for image in ours[0]] == images and list(ours[1]) == same
    assert len(set(images)) == 80


def test_same_seed_same_bytes_with_any_number_of_processes(dataset, tmp_path):
    assert cli.main(["synth", str(tmp_path / "again"), "--processes", "2"] + FLAGS) == 0
    assert same_bytes(dataset, tmp_path / "again")


def test_identification_set(dataset, tmp_path):
    assert cli.main(["synth", str(tmp_path / "data"), "--distractors", "70"] + FLAGS) == 0
    folder = tmp_path / "data" / "identification"
    probes, distractors = RecordSet(str(folder / "probes")), RecordSet(str(folder / "distractors"))
    labels = [int(probes.image(key)[0]) for key in probes.image_keys]
    assert labels == np.repeat(np.arange(50), 5).tolist()
    assert [int(distractors.image(key)[0]) for key in distractors.image_keys] == list(range(70))
    # Nothing else changes, and nobody is drawn twice.
    assert same_bytes(dataset / "MF2_pic9_head", tmp_path / "data" / "MF2_pic9_head")
    assert same_bytes(dataset / "eval_dataset", tmp_path / "data" / "eval_dataset")
    sets = synth.plan_identification(70)
    people = [set(planned.pictures.people.tolist()) for planned in sets.values()]
    assert [len(group) for group in people] == [50, 70]
    assert not people[0] & people[1] and min(people[0]) >= 1 << 40


def test_other_seed_other_bytes(dataset, tmp_path):
    synth.make_dataset(str(tmp_path / "other"), **{**SMALL, "seed": 4})
    names = files_of(dataset)
    equal = set(filecmp.cmpfiles(dataset, tmp_path / "other", names, shallow=False)[0])
    assert equal <= {"MF2_pic9_head/property", "MF2_pic9_tail/property"}


def test_image_size(tmp_path):
    synth.make_dataset(str(tmp_path / "data"), **{**SMALL, "image_size": 48, "head_images": 10,
                                                  "eval_identities": 20, "eval_pairs": 20})
    assert read_property(str(tmp_path / "data" / "MF2_pic9_head")) == (21, 48, 48)
    with RecordSet(str(tmp_path / "data" / "MF2_pic9_head")) as records:
        assert decode(records.image(5)[1]).shape == (48, 48, 3)
        assert (np.bincount(records.labels()) == 10).all()
    images, _ = pickle.loads((tmp_path / "data" / "eval_dataset" / "lfw.bin").read_bytes())
    assert decode(images[0]).shape == (48, 48, 3)


@pytest.mark.parametrize("wrong, text", [
    (dict(seed=-1), "seed -1: must be 0 or more"),
    (dict(image_size=8), "image_size 8: must be from 16 to 512"),
    (dict(image_size=1000), "image_size 1000"),
    (dict(head_identities=1), "head_identities 1: must be 2 or more"),
    (dict(head_images=9.5), r"head_images 9.5: must be from 10 \("),
    (dict(head_images=float("inf")), "head_images inf"),
    (dict(tail_identities=0), "tail_identities 0"),
    (dict(eval_identities=19), "eval_identities 19: must be 20 or more"),
    (dict(eval_pairs=50), "eval_pairs 50: must be a multiple of 20"),
    (dict(eval_pairs=0), "eval_pairs 0"),
    (dict(noise=1.5), "noise 1.5: must be a share from 0 to 1"),
    (dict(noise=float("nan")), "noise nan"),
    (dict(outliers=-0.1), "outliers -0.1"),
    (dict(split=2), "split 2"),
    (dict(distractors=-1), "distractors -1: must be 0 or more"),
    (dict(noise=0.8, outliers=0.3), "noise 0.8 and outliers 0.3: together more than 1"),
])
def test_wrong_options(tmp_path, wrong, text):
    with pytest.raises(InputError, match=text):
        synth.make_dataset(str(tmp_path / "data"), **{**SMALL, **wrong})
    assert not list(tmp_path.iterdir())


def test_does_not_overwrite(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").write_text("kept")
    with pytest.raises(InputError, match="data: is not empty; name a new directory"):
        synth.make_dataset(str(tmp_path / "data"), **SMALL)
    with pytest.raises(InputError, match="precious: is a file"):
        synth.make_dataset(str(tmp_path / "data" / "precious"), **SMALL)
    assert files_of(tmp_path) == ["data/precious"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failure_leaves_nothing(tmp_path, monkeypatch, error):
    drawn = []

    def fail(*arguments):
        drawn.append(arguments)
        if len(drawn) > 300:  # the head is written, the tail under way
            raise error
        return np.zeros((32, 32, 3), np.uint8)

    monkeypatch.setattr(synth, "draw_face", fail)
    with pytest.raises(error):
        synth.make_dataset(str(tmp_path / "data"), **SMALL)
    assert len(drawn) == 301 and not list(tmp_path.iterdir())


def test_empty_directory_is_used(tmp_path):
    (tmp_path / "data").mkdir()
    synth.make_dataset(str(tmp_path / "data"), **{**SMALL, "eval_pairs": 20})
    assert (tmp_path / "data" / "truth.csv").exists()


def test_pixels_do_not_verify():
    """Cosine of pixels, 300 pairs of each part: 50 is chance."""
    accuracies = []
    for number, target in enumerate(synth.TARGETS):
        pairs = synth.plan_pairs(np.random.default_rng(number), target, 300, np.arange(1000, 1300))
        jpegs = synth._draw_chunk(0, 32, (10 + number, 0, *pairs.pictures))
        pixels = np.stack([decode(jpeg) for jpeg in jpegs]).reshape(600, -1).astype(np.float32)
        pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
        cosine = (pixels[::2] * pixels[1::2]).sum(axis=1)
        # The best threshold in hindsight: no fold can do better on average.
        accuracies.append(max(((cosine > level) == pairs.same).mean() for level in cosine))
    assert np.mean(accuracies) <= 0.60
