import csv
import os

import mxnet as mx
import numpy as np
import pytest

from helpers.sets import COUNTS, MAGIC, PICTURE, content, make
from unequal.commands import cli
from unequal.data import copying
from unequal.data.records import RecordSet, relabel
from unequal.errors import InputError


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


def test_command(tmp_path, capsys):
    source = make(tmp_path / "all", COUNTS)
    head, tail = str(tmp_path / "head"), str(tmp_path / "tail")
    assert cli.main(["split", source, head, tail, "--head-min-images", "9"]) == 0
    assert capsys.readouterr().out == (
        "{}: 31 images of 3 identities\n{}: 6 images of 3 identities\n".format(head, tail))
    for same in ([source, head, head], [source, source, tail], [source, head, source + "/."]):
        assert cli.main(["split"] + same) == 1
        assert "every set needs a folder of its own" in capsys.readouterr().err
