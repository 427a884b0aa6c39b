"""Sets from sets: split, without noise, as decided, back to pictures."""
import csv
import filecmp
import os

import mxnet as mx
import numpy as np
import pytest

from helpers.pictures import faces_folder
from helpers.sets import COUNTS, DECIDED, MAGIC, PICTURE, content, decision_list, make, noise_list
from unequal.data import convert, copying
from unequal.data.convert import Settings
from unequal.data.records import RecordSet, relabel
from unequal.errors import InputError

# ---------------------------------------------------------------------------------------- split


def names(directory):
    with open(os.path.join(directory, "identities.csv"), encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("arrays", [False, True])
def test_union_is_the_whole(tmp_path, arrays):
    source = make(tmp_path / "all", COUNTS, arrays=arrays)
    head, tail = str(tmp_path / "head"), str(tmp_path / "tail")
    assert copying.split(source, head, tail) == [(22, 2), (15, 4)]
    assert names(head) == [["label", "source", "name"], ["0", "1", "1"], ["1", "3", "3"]]
    assert [row[1] for row in names(tail)[1:]] == ["0", "2", "4", "5"]
    union = []
    for side in (head, tail):
        old = {int(row[0]): int(row[1]) for row in names(side)[1:]}
        union += [(old[label], data) for label, data in content(side)]
        with RecordSet(side) as records:
            assert records.num_classes == len(old) == len(records.identity_ranges)
            assert records.labels().tolist() == np.repeat(
                range(len(old)), np.diff(records.identity_ranges)[:, 0]).tolist()
    assert sorted(union) == sorted(content(source))


def test_records_keep_everything_but_the_class(tmp_path):
    source = make(tmp_path / "all", COUNTS, arrays=True)
    copying.split(source, str(tmp_path / "head"), str(tmp_path / "tail"))
    with RecordSet(str(tmp_path / "head")) as records:
        for place, key in enumerate(records.image_keys):
            header, _ = mx.recordio.unpack(records.payload(key))
            number = place if place < 10 else place - 10
            assert header.label.tolist() == [int(place >= 10), 0.5, number]
            assert header.id == 1000 + number and header.id2 == 7
    lines = (tmp_path / "head" / "train.lst").read_text().splitlines()
    assert lines[0] == "1\t1/0\t0\t1\t2\t3\t4" and lines[10] == "1\t3/0\t1\t1\t2\t3\t4"
    assert len(lines) == 22


@pytest.mark.parametrize("minimum, heads", [(2, 5), (3, 4), (9, 3), (11, 1), (12, 1)])
def test_minimum_is_inclusive(tmp_path, minimum, heads):
    source = make(tmp_path / "all", COUNTS)
    sides = copying.split(source, str(tmp_path / "h"), str(tmp_path / "t"), minimum)
    assert sides[0] == (sum(count for count in COUNTS if count >= minimum), heads)
    assert sides[1][1] == len(COUNTS) - heads


def test_plain_set_in_any_order(tmp_path):
    order = np.random.RandomState(0).permutation(sum(COUNTS))
    source = make(tmp_path / "all", COUNTS, identities=False, order=order)
    head, tail = str(tmp_path / "head"), str(tmp_path / "tail")
    assert copying.split(source, head, tail) == [(22, 2), (15, 4)]
    union = []
    for side in (head, tail):
        old = {int(row[0]): int(row[1]) for row in names(side)[1:]}
        union += [(old[label], data) for label, data in content(side)]
        with RecordSet(side) as records:
            assert records.image_keys[0] == 0 and not len(records.identity_ranges)
        assert not os.path.exists(os.path.join(side, "train.lst"))  # its lines have another order
    assert sorted(union) == sorted(content(source))


def test_class_numbers_with_gaps_and_names(tmp_path):
    source = make(tmp_path / "all", COUNTS, gap=100)
    (tmp_path / "all" / "identities.csv").write_text("label,name\n101,Zoe\n")
    copying.split(source, str(tmp_path / "head"), str(tmp_path / "tail"))
    assert names(str(tmp_path / "head"))[1:] == [["0", "101", "Zoe"], ["1", "103", "103"]]
    assert names(str(tmp_path / "tail"))[1] == ["0", "100", "100"]


def test_a_list_of_other_length_is_left_out(tmp_path, caplog):
    source = make(tmp_path / "all", COUNTS)
    with open(os.path.join(source, "train.lst"), "a") as lines:
        lines.write("1\tone more\t0\n")
    copying.split(source, str(tmp_path / "head"), str(tmp_path / "tail"))
    assert "left out, it has 38 lines for 37 images" in caplog.text
    assert not (tmp_path / "head" / "train.lst").exists()


def test_read_by_plain_mxnet(tmp_path):
    source = make(tmp_path / "all", COUNTS)
    copying.split(source, str(tmp_path / "head"), str(tmp_path / "tail"))
    record = mx.recordio.MXIndexedRecordIO(
        str(tmp_path / "head" / "train.idx"), str(tmp_path / "head" / "train.rec"), "r")
    header, _ = mx.recordio.unpack(record.read_idx(0))
    assert header.label.tolist() == [23, 25]
    assert mx.recordio.unpack(record.read_idx(24))[0].label.tolist() == [11, 23]
    header, data = mx.recordio.unpack(record.read_idx(13))
    assert header.label == 1 and data == PICTURE + b"3/2" + MAGIC * 2


@pytest.mark.parametrize("minimum, text", [
    (13, "head_min_images 13: .*head would be empty, .* have 1 to 12 images"),
    (1, "head_min_images 1: .*tail would be empty"), (-5, "tail would be empty")])
def test_one_side_empty(tmp_path, minimum, text):
    source = make(tmp_path / "all", COUNTS)
    with pytest.raises(InputError, match=text):
        copying.split(source, str(tmp_path / "head"), str(tmp_path / "tail"), minimum)
    assert os.listdir(str(tmp_path)) == ["all"]


def _two_in_one(directory, second):
    """Identity 0 holds an image of class ``second``."""
    source = make(directory, COUNTS)
    with RecordSet(source) as records:
        payload, place = records.payload(2), int(records._offsets[2])
    path = os.path.join(source, "train.rec")
    with open(path, "r+b") as file:
        file.seek(place + 8)
        file.write(relabel(payload, second))
    return source


def test_mixed_identities_are_refused(tmp_path):
    source = _two_in_one(tmp_path / "all", 5)
    with pytest.raises(InputError, match="record 2 has class 5, but its identity's images before "
                                         "it have 0; see `unequal inspect"):
        copying.split(source, str(tmp_path / "head"), str(tmp_path / "tail"))
    assert not (tmp_path / "head" / "train.rec").exists()
    assert not (tmp_path / "tail" / "train.rec").exists()


def test_uncovered_images_are_refused(tmp_path):
    source = make(tmp_path / "all", COUNTS)
    with RecordSet(source) as records:
        records.identity_ranges[2] = [14, 14 + 2]  # overlaps the next
        with pytest.raises(InputError, match="do not cover every image exactly once"):
            copying.keys_by_identity(records)


# -------------------------------------------------------------------------- denoise and decisions


@pytest.mark.parametrize("how", [
    {}, {"arrays": True}, {"listed": False}, {"gap": 100}, {"identities": False},
    {"identities": False, "order": np.random.RandomState(0).permutation(sum(COUNTS))}])
def test_empty_list_gives_the_same_bytes(tmp_path, how):
    source = make(tmp_path / "all", COUNTS, **how)
    (tmp_path / "all" / "identities.csv").write_bytes(b"label,name\r\n0,a\r\n")
    out = str(tmp_path / "out")
    assert copying.denoise(source, noise_list(tmp_path), out) == (37, 6, 0)
    assert sorted(os.listdir(out)) == sorted(os.listdir(source))
    for name in os.listdir(out):
        assert filecmp.cmp(os.path.join(source, name), os.path.join(out, name), shallow=False)


def test_plain_set_from_elsewhere_keeps_its_first_key(tmp_path):
    os.makedirs(str(tmp_path / "all"))
    record = mx.recordio.MXIndexedRecordIO(
        str(tmp_path / "all" / "train.idx"), str(tmp_path / "all" / "train.rec"), "w")
    for key in range(5, 9):
        record.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, key % 2, 3, 4), b"x"))
    record.close()
    (tmp_path / "all" / "property").write_text("2,16,16\n")
    copying.denoise(str(tmp_path / "all"), noise_list(tmp_path), str(tmp_path / "out"))
    for name in ("train.rec", "train.idx", "property"):
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_numbering_is_kept(tmp_path):
    source = make(tmp_path / "all", COUNTS, arrays=True)  # keys: 1-3, 4-13, 14, 15-26, 27-35, 36-37
    path = noise_list(tmp_path, "2 14 0.004 0.001", "0 2 0.003 0.0", "5.0 37.0 1e-3 0",
                      "0 2 0.003 0.0")
    assert copying.denoise(source, path, str(tmp_path / "out")) == (34, 5, 3)
    before = content(source)
    expected = [before[key - 1] for key in range(1, 38) if key not in (2, 14, 37)]
    assert content(str(tmp_path / "out")) == expected
    with RecordSet(str(tmp_path / "out")) as records:
        assert records.num_classes == 6  # though class 2 is gone
        assert records.image_keys.tolist() == list(range(1, 35))
        assert records.identity_ranges.tolist() == [[1, 3], [3, 13], [13, 25], [25, 34], [34, 35]]
        header, _ = mx.recordio.unpack(records.payload(2))
        assert header.label.tolist() == [0, 0.5, 2] and header.id == 1002 and header.id2 == 7
    lines = (tmp_path / "out" / "train.lst").read_text().splitlines()
    assert len(lines) == 34 and lines[1] == "1\t0/2\t0\t1\t2\t3\t4"
    assert lines[12] == "1\t3/0\t3\t1\t2\t3\t4"


def test_plain_set(tmp_path):
    order = np.random.RandomState(1).permutation(sum(COUNTS))
    source = make(tmp_path / "all", COUNTS, identities=False, order=order)
    before = content(source)
    path = noise_list(tmp_path, f"{before[0][0]} 0 0.1 0.1", f"{before[7][0]} 7 0 0")
    copying.denoise(source, path, str(tmp_path / "out"))
    assert content(str(tmp_path / "out")) == before[1:7] + before[8:]


def test_twice(tmp_path):
    """What was denoised can be denoised and split."""
    source = make(tmp_path / "all", COUNTS)
    copying.denoise(source, noise_list(tmp_path, "0 1 0 0", "2 14 0 0"), str(tmp_path / "a"))
    copying.denoise(str(tmp_path / "a"), noise_list(tmp_path, "1 3 0 0"), str(tmp_path / "b"))
    before = content(source)
    assert content(str(tmp_path / "b")) == before[1:3] + before[4:13] + before[14:]


@pytest.mark.parametrize("line, text", [
    ("0", "line 2: expected `label index maxP"), ("0 a 0 0", "line 2: expected"),
    ("0 1.5 0 0", "line 2: expected"), ("inf 1 0 0", "line 2: expected"),
    ("nan 1 0 0", "line 2: expected"), ("0 1 0", "line 2: expected"),
    ("1 2 0 0", "says that image 2 has class 1, but in .* it has 0; give the list that was made"),
    ("0 0 0 0", "names the image 0, which .* does not have"),
    ("0 38 0 0", "names the image 38, which .* does not have"),  # an identity record
    ("0 99 0 0", "names the image 99, which .* does not have"),
])
def test_lists_of_another_set(tmp_path, line, text):
    source = make(tmp_path / "all", COUNTS)
    with pytest.raises(InputError, match=text):
        copying.denoise(source, noise_list(tmp_path, "0 1 0 0", line), str(tmp_path / "out"))
    assert not os.path.exists(str(tmp_path / "out" / "train.rec"))


def test_all_images(tmp_path):
    source = make(tmp_path / "all", [2, 1])
    path = noise_list(tmp_path, "0 1 0 0", "0 2 0 0", "1 3 0 0")
    with pytest.raises(InputError, match="names every image"):
        copying.denoise(source, path, str(tmp_path / "out"))


def _changes(out):
    with open(os.path.join(out, "changes.csv"), encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("how", [{}, {"arrays": True}])
def test_decisions_drop_and_relabel(tmp_path, how):
    source, out = make(tmp_path / "all", COUNTS, **how), str(tmp_path / "out")
    made = copying.apply_decisions(source, decision_list(tmp_path, *DECIDED), out)
    assert made == (36, 5, 1, 2, 2)
    moved = {14: 3, 36: 0}
    found = content(out)
    assert sorted(found) == sorted((moved.get(key, label), data) for key, (label, data)
                                   in enumerate(content(source), 1) if key != 2)
    with RecordSet(out) as records:
        assert records.num_classes == 6 and len(records.identity_ranges) == 5
    assert [label for label, _ in found] == sorted(label for label, _ in found)
    rows = _changes(out)
    assert rows == [["key", "path", "label", "decision", "new_label", "new_key"],
                    ["2", "0/1", "0", "drop", "", ""], ["14", "2/0", "2", "relabel", "3", "14"],
                    ["36", "5/0", "5", "relabel", "0", "3"]]
    with RecordSet(source) as before, RecordSet(out) as after:
        for key, new_key, label in ((14, 14, 3), (36, 3, 0)):
            assert after.image(new_key) == (label, before.image(key)[1])
    lines = (tmp_path / "out" / "train.lst").read_text().splitlines()
    assert [int(line.split("\t")[2]) for line in lines] == [label for label, _ in found]


def test_a_plain_set_keeps_its_order(tmp_path):
    source, out = make(tmp_path / "all", COUNTS, identities=False), str(tmp_path / "out")
    copying.apply_decisions(source, decision_list(tmp_path, "0,drop,", "13,relabel,3"), out)
    expected = content(source)[1:]
    expected[12] = (3, expected[12][1])
    assert content(out) == expected


@pytest.mark.parametrize("lines, said", [
    (("99,drop,",), "names the image 99"),
    (("1,relabel,6",), "the class 6"),
    (tuple(f"{key},drop," for key in range(1, 38)), "drops every image"),
])
def test_decisions_of_another_set(tmp_path, lines, said):
    source = make(tmp_path / "all", COUNTS)
    with pytest.raises(InputError, match=said):
        copying.apply_decisions(source, decision_list(tmp_path, *lines), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "train.rec").exists()


def test_what_changes_nothing_says_so(tmp_path, caplog):
    source = make(tmp_path / "all", COUNTS)
    copying.denoise(source, noise_list(tmp_path), str(tmp_path / "one"))
    assert "is empty" in caplog.text
    copying.apply_decisions(source, decision_list(tmp_path, "1,keep,"), str(tmp_path / "two"))
    assert "changes nothing" in caplog.text
    for name in ("train.rec", "train.idx", "train.lst", "property"):
        assert filecmp.cmp(str(tmp_path / "two" / name), os.path.join(source, name), shallow=False)


def test_a_noise_list_with_classes_numbered_anew(tmp_path):
    source = make(tmp_path / "all", COUNTS)
    made = copying.apply_decisions(source, noise_list(tmp_path, "2 14 0.004 0.001"),
                                   str(tmp_path / "out"), renumber=True)
    assert (made.images, made.identities, made.dropped, made.relabelled) == (36, 5, 1, 0)
    with RecordSet(str(tmp_path / "out")) as records:
        assert records.num_classes == 5 and set(records.labels()) == set(range(5))


# --------------------------------------------------------------------------------------- unpack


@pytest.fixture
def folder(tmp_path):
    return faces_folder(tmp_path / "faces", (32, 32))


def _pack(source, directory):
    convert.pack(str(source), str(directory), Settings(str(source), (32, 32)))


def test_unpack_and_pack_again(folder, tmp_path):
    _pack(folder, tmp_path / "set")
    assert copying.unpack(str(tmp_path / "set"), str(tmp_path / "out")) == 12
    assert sorted(os.listdir(str(tmp_path / "out"))) == ["Bob 2", "Zoë", "anna"]
    assert (tmp_path / "out" / "Zoë" / "05.jpg").read_bytes() == \
        (folder / "Zoë" / "0.jpg").read_bytes()
    _pack(tmp_path / "out", tmp_path / "again")
    for name in ("train.rec", "train.idx", "property", "identities.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "set" / name).read_bytes()


def test_unpack_without_names(folder, tmp_path):
    _pack(folder, tmp_path / "set")
    (tmp_path / "set" / "identities.csv").unlink()
    copying.unpack(str(tmp_path / "set"), str(tmp_path / "out"))
    assert sorted(os.listdir(str(tmp_path / "out"))) == ["0", "1", "2"]


@pytest.mark.parametrize("text, message", [
    ("label,name\n0,../evil\n", "the name '../evil' of class 0 is not that of a folder"),
    ("label,name\n0,..\n", "is not that of a folder"),
    ("label,name\n0,/tmp\n", "is not that of a folder"),
    ("label,name\n0,\n", "is not that of a folder"),
    ("label,name\n0,a\n1,a\n", "two classes have the same name"),
    ("label,name\nzero,a\n", "expected lines of `label,name`"),
    ("a,b\n0,a\n", "expected lines of `label,name`"),
    ("label,name\n0\n", "expected lines of `label,name`"),
])
def test_unpack_does_not_trust_names(folder, tmp_path, text, message):
    _pack(folder, tmp_path / "set")
    (tmp_path / "set" / "identities.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        copying.unpack(str(tmp_path / "set"), str(tmp_path / "out"))
    assert sorted(os.listdir(str(tmp_path))) == ["faces", "set"]
