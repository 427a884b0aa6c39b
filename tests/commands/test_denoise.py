import csv
import filecmp
import os

import mxnet as mx
import numpy as np
import pytest

from helpers.sets import COUNTS, content, make
from unequal.commands import cli
from unequal.data import copying
from unequal.data.records import RecordSet
from unequal.errors import InputError


def _noise(tmp_path, *lines):
    (tmp_path / "0_noiselist.txt").write_text("".join(line + "\n" for line in lines))
    return str(tmp_path / "0_noiselist.txt")


@pytest.mark.parametrize("how", [
    {}, {"arrays": True}, {"listed": False}, {"gap": 100}, {"identities": False},
    {"identities": False, "order": np.random.RandomState(0).permutation(sum(COUNTS))}])
def test_empty_list_gives_the_same_bytes(tmp_path, how):
    source = make(tmp_path / "all", COUNTS, **how)
    (tmp_path / "all" / "identities.csv").write_bytes(b"label,name\r\n0,a\r\n")
    out = str(tmp_path / "out")
    assert copying.denoise(source, _noise(tmp_path), out) == (37, 6, 0)
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
    copying.denoise(str(tmp_path / "all"), _noise(tmp_path), str(tmp_path / "out"))
    for name in ("train.rec", "train.idx", "property"):
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_numbering_is_kept(tmp_path):
    source = make(tmp_path / "all", COUNTS, arrays=True)  # keys: 1-3, 4-13, 14, 15-26, 27-35, 36-37
    path = _noise(tmp_path, "2 14 0.004 0.001", "0 2 0.003 0.0", "5.0 37.0 1e-3 0", "0 2 0.003 0.0")
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
    path = _noise(tmp_path, "{} 0 0.1 0.1".format(before[0][0]), "{} 7 0 0".format(before[7][0]))
    copying.denoise(source, path, str(tmp_path / "out"))
    assert content(str(tmp_path / "out")) == before[1:7] + before[8:]


def test_twice(tmp_path):
    """What was denoised can be denoised and split."""
    source = make(tmp_path / "all", COUNTS)
    copying.denoise(source, _noise(tmp_path, "0 1 0 0", "2 14 0 0"), str(tmp_path / "a"))
    copying.denoise(str(tmp_path / "a"), _noise(tmp_path, "1 3 0 0"), str(tmp_path / "b"))
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
def test_bad_lists(tmp_path, line, text):
    source = make(tmp_path / "all", COUNTS)
    with pytest.raises(InputError, match=text):
        copying.denoise(source, _noise(tmp_path, "0 1 0 0", line), str(tmp_path / "out"))
    assert not os.path.exists(str(tmp_path / "out" / "train.rec"))


def test_all_images(tmp_path):
    source = make(tmp_path / "all", [2, 1])
    path = _noise(tmp_path, "0 1 0 0", "0 2 0 0", "1 3 0 0")
    with pytest.raises(InputError, match="names every image"):
        copying.denoise(source, path, str(tmp_path / "out"))


def test_command(tmp_path, capsys):
    source = make(tmp_path / "all", COUNTS)
    path, out = _noise(tmp_path, "2 14 0 0"), str(tmp_path / "out")
    assert cli.main(["denoise", source, path, out]) == 0
    assert capsys.readouterr().out == out + ": 36 images of 5 identities, 1 images dropped\n"
    assert cli.main(["denoise", source, path, source]) == 1
    assert "every set needs a folder of its own" in capsys.readouterr().err
    assert cli.main(["denoise", source, str(tmp_path / "none"), out]) == 1
    assert capsys.readouterr().err == "error: {}: No such file or directory\n".format(
        tmp_path / "none")


def _decisions(tmp_path, *lines):
    path = tmp_path / "decisions.csv"
    path.write_text("key,decision,label\n" + "".join(line + "\n" for line in lines))
    return str(path)


def _changes(out):
    with open(os.path.join(out, "changes.csv"), encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


# keys: 1-3, 4-13, 14, 15-26, 27-35, 36-37 of the classes 0 to 5
DECIDED = ("2,drop,", "14,relabel,3", "36,relabel,0", "3,keep,", "4,unsure,", "5,drop,",
           "5,keep,", "37,relabel,5")


@pytest.mark.parametrize("how", [{}, {"arrays": True}])
def test_decisions_drop_and_relabel(tmp_path, how):
    source, out = make(tmp_path / "all", COUNTS, **how), str(tmp_path / "out")
    made = copying.apply_decisions(source, _decisions(tmp_path, *DECIDED), out)
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
    copying.apply_decisions(source, _decisions(tmp_path, "0,drop,", "13,relabel,3"), out)
    expected = content(source)[1:]
    expected[12] = (3, expected[12][1])
    assert content(out) == expected


def test_relabelled_sets_can_be_inspected_split_and_unpacked(tmp_path, capsys):
    source, out = make(tmp_path / "all", COUNTS), str(tmp_path / "out")
    (tmp_path / "all" / "identities.csv").write_text(
        "label,name\n" + "".join(f"{label},P {label}\n" for label in range(6)))
    path = _decisions(tmp_path, *DECIDED)
    assert cli.main(["denoise", source, path, out, "--renumber"]) == 0
    assert ("36 images of 5 identities (2 with ten or more, 3 with fewer), 1 dropped, 2 relabelled"
            in capsys.readouterr().out)
    with open(out + "/identities.csv", encoding="utf-8") as file:
        assert file.read().splitlines() == ["label,source,name", "0,0,P 0", "1,1,P 1", "2,3,P 3",
                                            "3,4,P 4", "4,5,P 5"]
    assert cli.main(["inspect", out]) == 0
    assert cli.main(["split", out, str(tmp_path / "head"), str(tmp_path / "tail")]) == 0
    assert cli.main(["unpack", out, str(tmp_path / "folders")]) == 0
    assert sorted(os.listdir(str(tmp_path / "folders"))) == ["P 0", "P 1", "P 3", "P 4", "P 5"]
    assert len(os.listdir(str(tmp_path / "folders" / "P 3"))) == 13
    assert len(os.listdir(str(tmp_path / "folders" / "P 0"))) == 3


@pytest.mark.parametrize("lines, said", [
    (("99,drop,",), "names the image 99"),
    (("1,relabel,6",), "the class 6"),
    (tuple(f"{key},drop," for key in range(1, 38)), "drops every image"),
])
def test_decisions_of_another_set(tmp_path, lines, said):
    source = make(tmp_path / "all", COUNTS)
    with pytest.raises(InputError, match=said):
        copying.apply_decisions(source, _decisions(tmp_path, *lines), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "train.rec").exists()


def test_what_changes_nothing_says_so(tmp_path, caplog):
    source = make(tmp_path / "all", COUNTS)
    copying.denoise(source, _noise(tmp_path), str(tmp_path / "one"))
    assert "is empty" in caplog.text
    copying.apply_decisions(source, _decisions(tmp_path, "1,keep,"), str(tmp_path / "two"))
    assert "changes nothing" in caplog.text
    for name in ("train.rec", "train.idx", "train.lst", "property"):
        assert filecmp.cmp(str(tmp_path / "two" / name), os.path.join(source, name), shallow=False)


def test_a_noise_list_with_classes_numbered_anew(tmp_path):
    source = make(tmp_path / "all", COUNTS)
    made = copying.apply_decisions(source, _noise(tmp_path, "2 14 0.004 0.001"),
                                   str(tmp_path / "out"), renumber=True)
    assert (made.images, made.identities, made.dropped, made.relabelled) == (36, 5, 1, 0)
    with RecordSet(str(tmp_path / "out")) as records:
        assert records.num_classes == 5 and set(records.labels()) == set(range(5))
