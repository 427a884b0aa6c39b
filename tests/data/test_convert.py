"""Folders and lists of pictures to record sets, lists of pairs to verification sets."""
import csv
import os

import mxnet as mx
import numpy as np
import pytest

from helpers.pictures import (
    CMYK_RED,
    damaged_jpeg,
    encoded,
    faces_folder,
    lfw_folder,
    lfw_pairs,
    palette_png,
    rotated_jpeg,
    smooth,
)
from unequal.data import alignment, convert, pictures
from unequal.data.convert import Picture, Settings
from unequal.data.records import RecordSet
from unequal.errors import InputError
from unequal.eval.bins import load_bin

SIZE = (32, 32)


@pytest.fixture
def folder(tmp_path):
    return faces_folder(tmp_path / "faces", SIZE)


@pytest.fixture
def lfw(tmp_path):
    return lfw_folder(tmp_path / "lfw")


def _write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _pack(source, directory, processes=1, plain=False, **settings):
    settings = Settings(str(source), SIZE, **settings)
    return convert.pack(str(source), str(directory), settings, processes, plain)


def _table(path):
    with open(str(path), encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_order_labels_and_content(folder, tmp_path):
    assert _pack(folder, tmp_path / "set") == (12, 3, 0, 0)
    assert _table(tmp_path / "set" / "identities.csv") == [
        ["label", "name"], ["0", "Bob 2"], ["1", "Zoë"], ["2", "anna"]]  # sorted by code point
    with RecordSet(str(tmp_path / "set")) as records:
        assert records.num_classes == 3 and records.image_size == SIZE
        assert records.labels().tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert records.identity_ranges.tolist() == [[1, 5], [5, 9], [9, 13]]
        lines = (tmp_path / "set" / "train.lst").read_text(encoding="utf-8").splitlines()
        assert lines[4] == "1\tZoë/0.jpg\t1"
        for key, line in zip(records.image_keys, lines):
            original = (folder / line.split("\t")[1]).read_bytes()
            data = records.image(key)[1]
            if "/0.jpg" in line:
                assert data == original  # already right: byte for byte
            else:
                expected = alignment.fit(pictures.decode(original, "x"), *SIZE)
                assert data == pictures.encode(expected, 95)
    assert sorted(os.listdir(str(tmp_path / "set"))) == [
        "identities.csv", "property", "train.idx", "train.lst", "train.rec"]


def test_processes_do_not_change_the_bytes(folder, tmp_path):
    _write(folder / "anna" / "bad.jpg", b"no")
    for number in range(80):  # several batches
        _write(folder / "carl" / f"{number:03}.png", encoded(smooth(9, 9, number), ".png"))
    assert _pack(folder, tmp_path / "one", 1) == _pack(folder, tmp_path / "two", 2)
    for name in os.listdir(str(tmp_path / "one")):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_read_by_plain_mxnet(folder, tmp_path):
    _pack(folder, tmp_path / "set")
    record = mx.recordio.MXIndexedRecordIO(str(tmp_path / "set" / "train.idx"),
                                           str(tmp_path / "set" / "train.rec"), "r")
    header, _ = mx.recordio.unpack(record.read_idx(0))
    assert header.flag > 0 and header.label.tolist() == [13, 16]
    for identity in range(13, 16):
        header, _ = mx.recordio.unpack(record.read_idx(identity))
        begin, end = (int(value) for value in header.label)
        for key in range(begin, end):
            header, picture = mx.recordio.unpack_img(record.read_idx(key))
            assert header.label == identity - 13 and picture.shape == SIZE + (3,)


def test_plain_set_is_read_by_image_record_iter(folder, tmp_path):
    _pack(folder, tmp_path / "set", plain=True)
    iterator = mx.io.ImageRecordIter(path_imgrec=str(tmp_path / "set" / "train.rec"),
                                     data_shape=(3,) + SIZE, batch_size=12)
    batch = iterator.next()
    assert batch.label[0].asnumpy().tolist() == [0] * 4 + [1] * 4 + [2] * 4
    with RecordSet(str(tmp_path / "set")) as records:
        assert records.image_keys.tolist() == list(range(12))
        expected = np.stack([pictures.decode(records.image(key)[1], key) for key in range(12)])
    difference = batch.data[0].asnumpy().transpose(0, 2, 3, 1) - expected
    assert np.abs(difference).max() <= 4  # another JPEG decoder, other rounding


def test_odd_pictures(tmp_path):
    root = tmp_path / "faces"
    picture = smooth(*SIZE)
    kinds = {
        "grey.jpg": encoded(picture[..., 0]), "cmyk.jpg": CMYK_RED,
        "turned.jpg": rotated_jpeg(picture, 6), "upright.jpg": rotated_jpeg(picture, 1),
        "palette.png": palette_png(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40,
                                   np.eye(32, dtype=np.uint8)),
        "deep.png": encoded(picture.astype(np.uint16) * 257, ".png"),
        "camera.jpg": encoded(smooth(1200, 1600)), "dot.png": encoded(smooth(1, 1), ".png"),
        "sub folder/größe.jpg": encoded(picture),
    }
    for name, data in kinds.items():
        _write(root / "p" / name, data)
    assert _pack(root, tmp_path / "set") == (len(kinds), 1, 0, 0)
    with RecordSet(str(tmp_path / "set")) as records:
        names = [line.split("\t")[1][2:] for line in
                 (tmp_path / "set" / "train.lst").read_text(encoding="utf-8").splitlines()]
        assert sorted(names) == sorted(kinds)
        stored = {name: records.image(key)[1] for key, name in zip(records.image_keys, names)}
    for name, data in stored.items():
        # plain three-colour or grey JPEGs without a turn: every reader shows the same
        assert pictures.is_plain_jpeg(data, pictures.decode(data, name, *SIZE)), name
    for name in ("grey.jpg", "upright.jpg", "sub folder/größe.jpg"):
        assert stored[name] == kinds[name], name
    turned = pictures.decode(stored["turned.jpg"], "x").astype(int)
    upright = pictures.decode(stored["upright.jpg"], "x")
    assert np.abs(turned - np.rot90(upright, -1)).mean() < 6
    assert np.abs(pictures.decode(stored["deep.png"], "x").astype(int) - upright).mean() < 6
    red = pictures.decode(stored["cmyk.jpg"], "x").astype(int)
    assert np.abs(red - [255, 0, 0]).max() < 10


def test_what_cannot_be_packed_is_listed(folder, tmp_path, caplog):
    _write(folder / "anna" / "cut.jpg", encoded(smooth(*SIZE))[:-30])
    _write(folder / "anna" / "empty.jpg", b"")
    _write(folder / "anna" / "tab\there.jpg", encoded(smooth(*SIZE)))
    _write(folder / "anna" / "hurt.jpg", damaged_jpeg(smooth(*SIZE)))
    _write(folder / "anna" / ".hidden", b"ignored")
    _write(folder / "Aaron" / "notes.txt", b"no face")  # no picture: takes no label
    _write(folder / "loose.jpg", encoded(smooth(*SIZE)))
    _write(folder / "aligned.csv", b"path,result")  # of `unequal align`: not a problem
    (folder / "nobody").mkdir()
    os.symlink("/nowhere", str(folder / "anna" / "link.jpg"))
    assert _pack(folder, tmp_path / "set") == (13, 3, 7, 1)
    rows = _table(tmp_path / "set" / "problems.csv")
    assert [row[:2] for row in rows] == [
        ["path", "what"], ["Aaron/notes.txt", "skipped"], ["anna/cut.jpg", "skipped"],
        ["anna/empty.jpg", "skipped"], ["anna/hurt.jpg", "kept"], ["anna/link.jpg", "skipped"],
        ["anna/tab\\x09here.jpg", "skipped"], ["loose.jpg", "skipped"], ["nobody", "skipped"]]
    why = {row[0]: row[2] for row in rows}
    assert why["anna/cut.jpg"].startswith("not a picture, or cut short (")
    assert why["anna/hurt.jpg"].startswith("Corrupt JPEG data")
    assert why["anna/link.jpg"] == "No such file or directory"
    assert why["loose.jpg"] == why["nobody"] == "is not a folder of pictures"
    assert "skipped: loose.jpg: is not a folder of pictures" in caplog.text
    with RecordSet(str(tmp_path / "set")) as records:
        assert records.labels().tolist() == [0] * 4 + [1] * 4 + [2] * 5
        with pictures.Complaints() as complaints:  # what was kept is clean now
            for key in records.image_keys:
                pictures.decode(records.image(key)[1], key)
            assert complaints.take() == ""
    # the next pack into the same place leaves no stale table
    for name in ("Aaron/notes.txt", "anna/cut.jpg", "anna/empty.jpg", "anna/tab\there.jpg",
                 "anna/hurt.jpg", "anna/link.jpg", "loose.jpg"):
        (folder / name).unlink()
    (folder / "nobody").rmdir()
    (folder / "Aaron").rmdir()
    assert _pack(folder, tmp_path / "set") == (12, 3, 0, 0)
    assert not (tmp_path / "set" / "problems.csv").exists()


def test_many_problems_are_counted_on_stderr(folder, tmp_path, caplog):
    for number in range(30):
        _write(folder / "anna" / f"x{number:02}.jpg", b"no")
    _pack(folder, tmp_path / "set")
    assert caplog.text.count("skipped: ") == 20
    assert "... and 10 more, all in" in caplog.text
    assert len(_table(tmp_path / "set" / "problems.csv")) == 31


def test_nothing_to_pack_leaves_the_old_set(folder, tmp_path):
    _pack(folder, tmp_path / "set")
    before = (tmp_path / "set" / "train.rec").read_bytes()
    _write(tmp_path / "bad" / "p" / "x.jpg", b"no")
    with pytest.raises(InputError, match="no image to write"):
        _pack(tmp_path / "bad", tmp_path / "set")
    assert (tmp_path / "set" / "train.rec").read_bytes() == before
    assert not [name for name in os.listdir(str(tmp_path / "set")) if name.startswith(".")]


def _list(tmp_path, *lines):
    (tmp_path / "faces.lst").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(tmp_path / "faces.lst")


def _pack_list(path, directory, root, margin=0.4):
    return convert.pack(path, str(directory), Settings(str(root), SIZE, margin=margin))


def test_list_order_boxes_and_landmarks(tmp_path):
    picture = smooth(200, 200, seed=5)
    _write(tmp_path / "a.png", encoded(picture, ".png"))
    points = alignment.TEMPLATE * 0.5 + 60
    marks = "\t".join(f"{value:.3f}" for value in points.T.ravel())
    path = _list(tmp_path, "0\ta.png\t7\t40\t50\t72\t82", "1\ta.png\t3\t1\t2\t3\t4",
                 "0\ta.png\t7\t0\t0\t9\t9\t" + marks, "", "0\ta.png\t3.0")
    assert _pack_list(path, tmp_path / "set", tmp_path, margin=0.0) == (4, 2, 0, 0)
    whole = pictures.encode(alignment.fit(picture, *SIZE), 95)
    with RecordSet(str(tmp_path / "set")) as records:
        assert records.num_classes == 8  # classes keep their numbers
        assert records.labels().tolist() == [3, 3, 7, 7]
        stored = [records.image(key)[1] for key in records.image_keys]
    assert stored[0] == stored[1] == whole  # aligned, or without a box
    assert stored[2] == pictures.encode(picture[50:82, 40:72], 95)
    rounded = np.array(marks.split("\t"), float).reshape(2, 5).T
    assert stored[3] == pictures.encode(alignment.align(picture, rounded, *SIZE), 95)
    assert not (tmp_path / "set" / "identities.csv").exists()


@pytest.mark.parametrize("line, text", [
    ("1\ta.png", "line 2: expected 3, 7 or 17 fields .* but found 2"),
    ("1\ta.png\t0\t1\t2\t3", "line 2: expected 3, 7 or 17 fields .* but found 6"),
    ("0\t3.0\ta.png", "line 2: expected aligned .* im2rec has another order"),
    ("2\ta.png\t0", "line 2: expected aligned"),
    ("1\ta.png\t-1", "line 2: expected aligned"),
    ("1\ta.png\t0.5", "line 2: expected aligned"),
    ("1\ta.png\tnan", "line 2: expected aligned"),
    ("1\ta.png\t99999999", "line 2: expected aligned"),
    ("0\ta.png\t0\t1\t2\tinf\t4", "line 2: expected aligned"),
    ("1\t../a.png\t0", "line 2: the path '../a.png' leaves"),
    ("1\tx/../../a.png\t0", "line 2: the path 'x/../../a.png' leaves"),
    ("1\t/etc/passwd\t0", "line 2: the path '/etc/passwd' leaves .* with root.$"),
    ("1\t\t0", "line 2: the path '' leaves"),
    ("1\ta\0b\t0", "line 2: the path"),
])
def test_bad_lists(tmp_path, line, text):
    _write(tmp_path / "a.png", encoded(smooth(*SIZE), ".png"))
    path = _list(tmp_path, "1\ta.png\t0", line)
    with pytest.raises(InputError, match=text):
        _pack_list(path, tmp_path / "set", tmp_path)
    assert not os.path.exists(str(tmp_path / "set" / "train.rec"))


def test_list_with_absolute_paths_below_the_root(tmp_path):
    _write(tmp_path / "deep" / "a.png", encoded(smooth(*SIZE), ".png"))
    path = _list(tmp_path, f"1\t{tmp_path}/deep/a.png\t0",
                 "1\tdeep/../deep/a.png\t0", "1\tgone.png\t0",
                 "0\tdeep/a.png\t0\t500\t500\t600\t600")
    assert _pack_list(path, tmp_path / "set", tmp_path) == (2, 1, 2, 0)
    assert [row[2] for row in _table(tmp_path / "set" / "problems.csv")[1:]] == [
        "No such file or directory",
        "the box is empty or outside the picture"]


@pytest.mark.parametrize("rotation, turn", [(1, lambda p: p), (6, lambda p: np.rot90(p, -1))])
def test_large_jpegs_decoded_small_show_the_same(tmp_path, rotation, turn):
    picture = smooth(901, 1203, seed=3)
    upright = np.ascontiguousarray(turn(picture))  # what a detector measured on
    (tmp_path / "a.jpg").write_bytes(rotated_jpeg(picture, rotation, 100))
    (tmp_path / "a.png").write_bytes(encoded(upright, ".png"))  # never decoded small
    points = alignment.TEMPLATE * 2 + (150, 250)
    for flag, extra in (("1", ""), ("0", "\t200\t240\t460\t610"),
                        ("0", "\t0\t0\t9\t9\t" + "\t".join(map(str, points.T.ravel())))):
        stored = []
        for name in ("a.jpg", "a.png"):
            path = _list(tmp_path, f"{flag}\t{name}\t0{extra}")
            assert _pack_list(path, tmp_path / "set", tmp_path)[0] == 1
            with RecordSet(str(tmp_path / "set")) as records:
                stored.append(pictures.decode(records.image(1)[1], "x").astype(int))
        assert np.abs(stored[0] - stored[1]).mean() < 2


@pytest.mark.parametrize("side, fields, reduction", [
    (63, "", 1), (127, "", 1), (128, "", 2), (256, "", 4), (512, "", 8), (4000, "", 8),
    (512, "\t0\t0\t90\t90", 1), (512, "\t0\t0\t64\t128", 2),
    (512, "\t0\t0\t9\t9" + "\t7" * 10, 1)])
def test_reduction(side, fields, reduction):
    picture = convert.parse_line("0\tx\t0" + fields, "w", "/r")[1]
    data = encoded(np.zeros((side // 2, side, 3), np.uint8))
    assert convert._reduction(data, picture, Settings("/r", SIZE)) == reduction
    assert convert._reduction(encoded(smooth(999, 999), ".png"), picture, Settings("/r", SIZE)) == 1


def test_parse_line():
    assert convert.parse_line("0\tx\t2\t1\t2\t3\t4\r\n", "w", "/r") == (
        2, Picture("x", 2, (1, 2, 3, 4)))
    line = "0\tx\t2\t1\t2\t3\t4\t" + "\t".join(str(value) for value in range(10))
    assert convert.parse_line(line, "w", "/r")[1].landmarks == tuple(range(10))


def test_quality(folder, tmp_path):
    _pack(folder, tmp_path / "low", quality=30)
    _pack(folder, tmp_path / "high", quality=100)
    assert (tmp_path / "low" / "train.rec").stat().st_size \
        < (tmp_path / "high" / "train.rec").stat().st_size


# ---------------------------------------------------------------------------------------- pairs


def _file(tmp_path, *lines):
    (tmp_path / "pairs.txt").write_text("".join(line + "\n" for line in lines))
    return str(tmp_path / "pairs.txt")


def _pack_pairs(path, root, out):
    return convert.pack_pairs(path, root, str(out), Settings(root, SIZE))


def _expected(root, name):
    with open(os.path.join(root, name), "rb") as file:
        return pictures.encode(alignment.fit(pictures.decode(file.read(), name), *SIZE), 95)


def test_lfw_protocol(lfw, tmp_path):
    path = _file(tmp_path, *lfw_pairs())
    assert _pack_pairs(path, lfw, tmp_path / "lfw.bin") == (20, 10)
    stored, issame = load_bin(str(tmp_path / "lfw.bin"))
    assert issame.tolist() == [True, False] * 10
    assert stored[0] == _expected(lfw, "P_0/P_0_0001.png")
    assert stored[1] == _expected(lfw, "P_0/P_0_0002.png")
    assert stored[6] == _expected(lfw, "P_1/P_1_0002.png")
    assert stored[7] == _expected(lfw, "P_2/P_2_0005.png")
    assert len(stored) == 40


def test_order_of_lfw_is_kept_even_when_uneven(lfw, tmp_path, caplog):
    caplog.set_level("INFO")
    lines = ["10"] + ["P_0\t1\t2"] * 10 + ["P_0\t1\tP_1\t1"] * 10
    _pack_pairs(_file(tmp_path, *lines), lfw, tmp_path / "x.bin")
    assert load_bin(str(tmp_path / "x.bin"))[1].tolist() == [True] * 10 + [False] * 10
    assert "the folds cannot be all alike: 10 same and 10 different pairs in 10 folds make 0 to 2" \
        in caplog.text


def test_plain_list_is_spread_over_the_folds(lfw, tmp_path, caplog):
    caplog.set_level("INFO")
    lines = [f"P_0/P_0_000{1 + k % 5}.png P_1/P_1_0001.png different" for k in range(20)]
    lines += [f"P_2/P_2_000{1 + k % 5}.png P_2/P_2_0001.png SAME" for k in range(20)]
    assert _pack_pairs(_file(tmp_path, *lines), lfw, tmp_path / "x.bin") == (40, 20)
    stored, issame = load_bin(str(tmp_path / "x.bin"))
    assert [fold.tolist().count(True) for fold in np.array_split(issame, 10)] == [2] * 10
    assert "put in another order" in caplog.text and "cannot be all alike" not in caplog.text
    firsts = [image for image, same in zip(stored[::2], issame) if same]
    assert firsts == [_expected(lfw, f"P_2/P_2_000{1 + k % 5}.png") for k in range(20)]


def test_even_plain_list_keeps_its_order(lfw, tmp_path, caplog):
    caplog.set_level("INFO")
    lines = ["P_0/P_0_0001.png\tP_0/P_0_0002.png\t1", "P_0/P_0_0001.png\tP_1/P_1_0002.png\t0"] * 10
    _pack_pairs(_file(tmp_path, *lines), lfw, tmp_path / "x.bin")
    assert load_bin(str(tmp_path / "x.bin"))[1].tolist() == [True, False] * 10
    assert caplog.text == ""


@pytest.mark.parametrize("same, different", [(150, 150), (155, 145), (13, 200), (7, 7), (30, 0),
                                             (17, 94), (109, 2)])
def test_spread(same, different):
    issame = np.array([True] * same + [False] * different)
    order = convert.spread(issame)
    assert sorted(order) == list(range(same + different))
    assert np.ptp(convert.fold_counts(issame[order]), axis=0).max() <= 1
    kept = order[issame[order]]
    assert (np.diff(kept) > 0).all()  # each kind in its own order


def test_uneven_numbers_are_explained(lfw, tmp_path, caplog):
    caplog.set_level("INFO")
    lines = ["P_0/P_0_0001.png P_0/P_0_0002.png 1"] * 15
    lines += ["P_0/P_0_0001.png P_1/P_1_0002.png 0"] * 8
    _pack_pairs(_file(tmp_path, *lines), lfw, tmp_path / "x.bin")
    assert "15 same and 8 different pairs in 10 folds make 1 to 2 same and 0 to 1" in caplog.text


@pytest.mark.parametrize("lines, text", [
    (["a b"], "line 1: expected `path path answer`"),
    (["a b maybe"], "line 1: expected `path path answer`"),
    (["a b 1", "a b"], "line 2: expected `path path answer`"),
    (["10 300", "P_0 1"], "line 2: expected `name i j`"),
    (["10 300", "P_0 1 x"], "line 2: expected `name i j`"),
    (["10 300", "P_0 1 P_1 2 3"], "line 2: expected `name i j`"),
    (["../a b 1"], "line 1: the path '../a' leaves"),
    (["a /etc/passwd 1"], "line 1: the path '/etc/passwd' leaves"),
    (["10", "../../P 1 2"], "line 2: the path .* leaves"),
    ([], "holds no pair"), (["10 300"], "holds no pair"),
    (["P_0/P_0_0001.png P_0/P_0_0002.png 1"] * 9, "has 9 pairs, but verification needs 10 folds"),
])
def test_bad_pairs(lfw, tmp_path, lines, text):
    with pytest.raises(InputError, match=text):
        _pack_pairs(_file(tmp_path, *lines), lfw, tmp_path / "x.bin")
    assert not (tmp_path / "x.bin").exists()


def test_missing_pictures_are_named(lfw, tmp_path, caplog):
    os.remove(os.path.join(lfw, "P_0", "P_0_0001.png"))
    with open(os.path.join(lfw, "P_1", "P_1_0002.png"), "wb") as file:
        file.write(b"damaged")
    with pytest.raises(InputError, match=r"2 pictures of .* cannot be read \(P_0/P_0_0001.jpg fir"):
        _pack_pairs(_file(tmp_path, *lfw_pairs()), lfw, tmp_path / "x.bin")
    assert caplog.text.count("unreadable: P_0/P_0_0001.jpg: No such file or directory") == 1
    assert "unreadable: P_1/P_1_0002.png: not a picture" in caplog.text
    assert not (tmp_path / "x.bin").exists()
    assert not [name for name in os.listdir(str(tmp_path)) if name.startswith(".")]
