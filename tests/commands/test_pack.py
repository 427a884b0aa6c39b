import os

import pytest

from helpers.pictures import encoded, faces_folder, smooth
from unequal.commands import cli
from unequal.data import convert, copying, pictures
from unequal.data.convert import Settings
from unequal.data.records import RecordSet

SIZE = (32, 32)


@pytest.fixture
def folder(tmp_path):
    return faces_folder(tmp_path / "faces", SIZE)


def _pack(source, directory):
    return convert.pack(str(source), str(directory), Settings(str(source), SIZE))


def _list(tmp_path, *lines):
    (tmp_path / "faces.lst").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(tmp_path / "faces.lst")


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
    assert capsys.readouterr().out == f"{tmp_path}/empty: 12 images\n"


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
