import csv
import os

import cv2
import mxnet as mx
import numpy as np
import pytest

from helpers.pictures import CMYK_RED, damaged_jpeg, encoded, palette_png, rotated_jpeg, smooth
from unequal.commands import cli
from unequal.data import alignment, convert, copying, pictures
from unequal.data.convert import Picture, Settings
from unequal.data.records import RecordSet
from unequal.errors import InputError

SIZE = (32, 32)


def _write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def folder(tmp_path):
    """Three people, a ready JPEG each and others that are not ready."""
    root = tmp_path / "faces"
    for person, name in enumerate(("Zoë", "anna", "Bob 2")):
        for number in range(4):
            size = SIZE if number == 0 else (20 + 7 * person, 44)
            extension = (".jpg", ".png", ".bmp", ".jpg")[number]
            _write(root / name / "{}{}".format(number, extension),
                   encoded(smooth(*size, seed=10 * person + number), extension))
    return root


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
        _write(folder / "carl" / "{:03}.png".format(number), encoded(smooth(9, 9, number), ".png"))
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
        _write(folder / "anna" / "x{:02}.jpg".format(number), b"no")
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
    marks = "\t".join("{:.3f}".format(value) for value in points.T.ravel())
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
    path = _list(tmp_path, "1\t{}\t0".format(tmp_path / "deep" / "a.png"),
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
    for extra in ("1\t{}\t0", "0\t{}\t0\t200\t240\t460\t610",
                  "0\t{}\t0\t0\t0\t9\t9\t" + "\t".join(map(str, points.T.ravel()))):
        stored = []
        for name in ("a.jpg", "a.png"):
            path = _list(tmp_path, extra.format(name))
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


def test_command(folder, tmp_path, capsys):
    out = str(tmp_path / "set")
    assert cli.main(["pack", str(folder), out, "--size", "32x24", "--processes", "1"]) == 0
    assert capsys.readouterr().out == (
        out + ": 12 images of 3 identities, 32x24; 0 pictures skipped, 0 kept with complaints\n")
    with RecordSet(out) as records:
        pixels = pictures.decode(records.image(1)[1], "x")
        assert records.image_size == (32, 24) and pixels.shape == (32, 24, 3)
    path = _list(tmp_path, "1\tanna/0.jpg\t0")
    assert cli.main(["pack", path, out, "--processes", "1"]) == 1  # the list's folder: no picture
    assert "no image to write" in capsys.readouterr().err
    outside = _list(tmp_path, "1\t../x.jpg\t0")
    assert cli.main(["pack", outside, out, "--root", str(folder), "--processes", "1"]) == 1
    assert capsys.readouterr().err.endswith(
        f"leaves {folder}; give the folder that holds all pictures with --root.\n")
    path = _list(tmp_path, "1\tanna/0.jpg\t0")
    assert cli.main(["pack", path, out, "--root", str(folder), "--processes", "1"]) == 0


@pytest.mark.parametrize("arguments, code, text", [
    (["nowhere", "set"], 1, "nowhere: no such folder or list"),
    (["faces", "faces/set"], 1, "faces/set: lies inside faces"),
    (["faces", "faces"], 1, "faces: lies inside faces"),
    (["faces", "set", "--root", "."], 1, "--root: only a list needs it"),
    (["faces", "set", "--size", "0"], 2, "'0' is not a size"),
    (["faces", "set", "--size", "1x2x3"], 2, "is not a size"),
    (["faces", "set", "--quality", "101"], 2, "is not a quality"),
    (["faces", "set", "--processes", "0"], 2, "is not a number of processes"),
    (["faces", "set", "--margin", "-1"], 2, "expected one argument|is not a share"),
    (["faces", "set", "--margin", "nan"], 2, "is not a share"),
    (["faces"], 2, "DIR"),
])
def test_bad_usage(folder, tmp_path, monkeypatch, capsys, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    try:
        found = cli.main(["pack"] + arguments)
    except SystemExit as stopped:
        found = stopped.code
    error = capsys.readouterr().err
    assert found == code
    assert any(part in error for part in text.split("|"))
    if code == 1:
        assert error.count("\n") == 1 and error.startswith("error: ")
    assert not os.path.exists("set")


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


def test_unpack_leaves_nothing_half_done(folder, tmp_path, capsys):
    _pack(folder, tmp_path / "set")
    (tmp_path / "faces.txt").write_text("mine")
    for taken in ("faces", "faces.txt"):
        assert cli.main(["unpack", str(tmp_path / "set"), str(tmp_path / taken)]) == 1
        assert "exists already" in capsys.readouterr().err
    record = tmp_path / "set" / "train.rec"
    with RecordSet(str(tmp_path / "set")) as records:
        place = int(records._offsets[9])
    data = bytearray(record.read_bytes())
    data[place:place + 4] = b"oops"
    record.write_bytes(bytes(data))
    assert cli.main(["unpack", str(tmp_path / "set"), str(tmp_path / "out")]) == 1
    assert "record 9 at byte" in capsys.readouterr().err
    assert sorted(os.listdir(str(tmp_path))) == ["faces", "faces.txt", "set"]
    (tmp_path / "empty").mkdir()
    record.write_bytes(record.read_bytes().replace(b"oops", b"\x0a\x23\xd7\xce"))
    assert cli.main(["unpack", str(tmp_path / "set"), str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().out == "{}: 12 images\n".format(tmp_path / "empty")


def test_complaints_are_per_picture(capfd):
    with pictures.Complaints() as complaints:
        pictures.decode(encoded(smooth(*SIZE)), "x")
        assert complaints.take() == ""
        pictures.decode(damaged_jpeg(smooth(*SIZE)), "x")
        assert complaints.take().startswith("Corrupt JPEG data")
        assert complaints.take() == ""
    os.write(2, b"back")
    assert capfd.readouterr().err == "back"
    assert cv2.imdecode(np.frombuffer(damaged_jpeg(smooth(*SIZE)), np.uint8), 1) is not None
    assert "Corrupt" in capfd.readouterr().err


def test_people_held_out_for_verification(tmp_path, capsys):
    for person in range(10):
        for number in range(4):
            path = tmp_path / "faces" / f"Ö {person}" / f"a b {number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(smooth(16, 16, 10 * person + number)))
    (tmp_path / "faces" / "Ö 1" / "broken.jpg").write_bytes(b"no picture")
    out = tmp_path / "set"
    assert cli.main(["pack", str(tmp_path / "faces"), str(out), "--size", "16", "--processes", "1",
                     "--verify", "30%"]) == 0
    text = capsys.readouterr().out
    assert "36 pairs, 18 of the same person" in text and "28 images of 7 identities" in text
    with open(str(out / "identities.csv"), encoding="utf-8") as file:
        trained = {line.strip().split(",")[1] for line in list(file)[1:]}
    assert len(trained) == 7
    from unequal.eval.bins import load_bin
    pictures, same = load_bin(str(out / "verify.bin"))[:2]
    assert len(same) == 36 and sum(same) == 18
    with RecordSet(str(out)) as records:
        inside = {records.image(key)[1] for key in records.image_keys}
    assert not inside & {bytes(picture) for picture in pictures}


@pytest.mark.parametrize("share, code", [("100%", 2), ("x", 2), ("0", 2), ("5%", 1), ("95%", 1)])
def test_shares_that_leave_nobody(tmp_path, capsys, share, code):
    for person in range(4):
        for number in range(2):
            path = tmp_path / "faces" / str(person) / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(smooth(16, 16, 10 * person + number)))
    arguments = ["pack", str(tmp_path / "faces"), str(tmp_path / "set"), "--size", "16",
                 "--processes", "1", "--verify", share]
    if code == 2:
        with pytest.raises(SystemExit):
            cli.main(arguments)
    else:
        assert cli.main(arguments) == 1
    assert "verify" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_picture_under_two_people_is_named(tmp_path, caplog):
    for name, seed in (("a/1", 1), ("a/2", 2), ("b/1", 3), ("b/2", 1), ("a/3", 1)):
        path = tmp_path / "faces" / (name + ".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(smooth(16, 16, seed)))
    out = tmp_path / "set"
    assert cli.main(["pack", str(tmp_path / "faces"), str(out), "--size", "16",
                     "--processes", "1"]) == 0
    assert "1 pictures are under two people" in caplog.text
    assert (out / "twins.csv").read_text().splitlines() == ["path,also", "a/1.jpg,b/2.jpg"]


@pytest.mark.parametrize("shape, said", [((16, 16), False), ((16, 18), False), ((16, 40), True),
                                         ((100, 100), True)])
def test_photographs_that_are_no_cut_faces(tmp_path, caplog, shape, said):
    for name in ("a/1", "b/1"):
        path = tmp_path / "faces" / (name + ".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(smooth(*shape)))
    assert cli.main(["pack", str(tmp_path / "faces"), str(tmp_path / "set"), "--size", "16",
                     "--processes", "1"]) == 0
    assert ("unequal align" in caplog.text) == said


def test_what_a_killed_unpack_left_goes_with_the_next(folder, tmp_path):
    directory = _pack(folder, tmp_path / "set")[0]
    left = tmp_path / ".out.unequal.17"
    (left / "ann").mkdir(parents=True)
    copying.unpack(str(tmp_path / "set"), str(tmp_path / "out"))
    assert directory and not left.exists() and (tmp_path / "out").is_dir()
