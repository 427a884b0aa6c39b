"""unequal align: with a detector that finds coloured squares, and once with the real one."""
import csv
import os
from contextlib import closing

import cv2
import numpy as np
import pytest

from helpers.pictures import encoded, rotated_jpeg
from unequal.commands import align, cli
from unequal.data import alignment, detection
from unequal.data import pictures as images
from unequal.errors import InputError
from unequal.system.files import Lock

RED, BLUE = (250, 20, 20), (20, 20, 250)


def photo(*squares, height=200, width=240):
    """Grey, with squares (colour, x, y, side) in it."""
    picture = np.full((height, width, 3), 128, np.uint8)
    for colour, x, y, side in squares:
        picture[y:y + side, x:x + side] = colour
    return picture


class Squares:
    """Finds the squares of :func:`photo`; the landmarks fill each as the template fills a face."""

    def faces(self, pixels):
        found = []
        for channel in (0, 2):
            mask = (pixels[..., channel] > 200) & (pixels[..., 2 - channel] < 100)
            if mask.sum() > 100:
                rows, columns = np.nonzero(mask)
                x, y = columns.min(), rows.min()
                side = columns.max() - x + 1
                points = alignment.TEMPLATE * (side / 112) + (x, y)
                found.append(detection.Face((x, y, x + side, y + side), 0.9, points))
        return sorted(found, key=lambda face: -(face.box[2] - face.box[0]))


@pytest.fixture
def squares(monkeypatch):
    monkeypatch.setattr(align, "_detector", Squares)


def save(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def table(out):
    with open(out / align.TABLE, encoding="utf-8", newline="") as rows:
        return {row["path"]: row for row in csv.DictReader(rows)}


def colour(path):
    return images.decode(path.read_bytes(), str(path)).mean(axis=(0, 1))


def test_the_whole_way_with_odd_names_and_files(tmp_path, squares, capsys):
    source, out = tmp_path / "photos", tmp_path / "out"
    save(source / "Åsa Öberg" / "a b.jpg", encoded(photo((RED, 40, 30, 60))))
    save(source / "Åsa Öberg" / "turned.jpg", rotated_jpeg(photo((RED, 40, 30, 60)), 6))
    save(source / "x" / "alpha.png", cv2.imencode(".png", np.dstack(
        [photo((BLUE, 90, 50, 80))[..., ::-1], np.full((200, 240), 7, np.uint8)]))[1].tobytes())
    save(source / "x" / "nobody.png", encoded(photo(), ".png"))
    save(source / "x" / "note.txt", b"no picture")
    save(source / "x" / "short.jpg", encoded(photo((RED, 40, 30, 60)))[:300])
    assert cli.main(["align", str(source), str(out), "--processes", "1"]) == 0
    assert "3 faces of 112x112; 0 pictures had several faces, 3 pictures have none" in \
        capsys.readouterr().out
    rows = table(out)
    assert rows["x/nobody.png"]["result"] == "no face found"
    assert rows["x/note.txt"]["result"].startswith("not a picture")
    assert rows["Åsa Öberg/a b.jpg"]["x1"] == "40.0"
    # The square fills the cut-out, so nearly all of it has its colour.
    for name, expected in (("Åsa Öberg/a b.jpg", RED), ("Åsa Öberg/turned.jpg", RED),
                           ("x/alpha.png.jpg", BLUE)):
        assert images.decode((out / name).read_bytes(), name).shape == (112, 112, 3)
        np.testing.assert_allclose(colour(out / name), expected, atol=12)
    assert sorted(os.listdir(out / "x")) == ["alpha.png.jpg"]


@pytest.mark.parametrize("rule,expected", [("largest", RED), ("central", BLUE)])
def test_which_face_is_taken(tmp_path, squares, rule, expected):
    two = photo((RED, 5, 5, 80), (BLUE, 100, 80, 40))
    save(tmp_path / "photos" / "two.png", encoded(two, ".png"))
    settings = align.Settings(str(tmp_path / "photos"), faces=rule)
    assert align.align(str(tmp_path / "photos"), str(tmp_path / "out"), settings) == (1, 1, 0)
    np.testing.assert_allclose(colour(tmp_path / "out" / "two.png.jpg"), expected, atol=12)


class Colours:
    """An embedding that is a picture's mean colour."""

    @staticmethod
    def transform(pictures):
        means = np.array([picture.mean(axis=(0, 1)) for picture in pictures])
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def test_the_face_like_the_others_of_the_folder(tmp_path, squares):
    source = tmp_path / "photos"
    save(source / "p" / "1.png", encoded(photo((BLUE, 10, 10, 50)), ".png"))
    two = photo((RED, 5, 5, 80), (BLUE, 100, 80, 40))
    save(source / "p" / "2.png", encoded(two, ".png"))
    save(source / "q" / "2.png", encoded(two, ".png"))
    save(source / "q" / "3.png", encoded(photo((RED, 5, 5, 40)), ".png"))
    settings = align.Settings(str(source), faces="like")
    align.align(str(source), str(tmp_path / "out"), settings, embedder=Colours())
    np.testing.assert_allclose(colour(tmp_path / "out" / "p" / "2.png.jpg"), BLUE, atol=12)
    np.testing.assert_allclose(colour(tmp_path / "out" / "q" / "2.png.jpg"), RED, atol=12)


def test_a_stopped_run_goes_on(tmp_path, squares, monkeypatch):
    source, out = tmp_path / "photos", tmp_path / "out"
    for number in range(4):
        save(source / "p" / f"{number}.png", encoded(photo((RED, 10, 10, 50)), ".png"))
    settings = align.Settings(str(source))
    align.align(str(source), str(out), settings)
    whole = (out / align.TABLE).read_text()
    (out / align.TABLE).write_text(whole[:whole.index("p/2.png") + 12])  # killed while writing
    looked = []
    original = align.cut

    def noted(name, *rest):
        looked.append(name)
        return original(name, *rest)

    monkeypatch.setattr(align, "cut", noted)
    assert align.align(str(source), str(out), settings) == (4, 0, 0)
    assert looked == ["p/2.png", "p/3.png"]
    assert (out / align.TABLE).read_text() == whole


def test_with_other_settings_it_is_another_folder(tmp_path, squares):
    save(tmp_path / "photos" / "a.png", encoded(photo((RED, 10, 10, 50)), ".png"))
    source, out = str(tmp_path / "photos"), str(tmp_path / "out")
    align.align(source, out, align.Settings(source))
    with pytest.raises(InputError, match=r"was made with other settings \(largest 112x"):
        align.align(source, out, align.Settings(source, size=(64, 64)))


@pytest.mark.parametrize("row", ("a.jpg,aligned,many,,,,,,", "", "a" * 140000 + ",,1,,,,,,"))
def test_a_damaged_table_is_one_sentence(tmp_path, row):
    path = tmp_path / "aligned.csv"
    rule = align.Settings("").rule
    path.write_text(",".join(align.FIELDS) + "\n" + row + rule + "\n")
    if not row:  # a line that is not whole is done again
        assert align.read_table(str(path), rule) == {}
        return
    with pytest.raises(InputError, match="is not the table of `unequal align`"):
        align.read_table(str(path), rule)


@pytest.mark.parametrize("arguments,said", [
    (("none", "out"), "none: no such folder"),
    (("photos", "photos/out"), "lies inside photos"),
    (("photos", "out", "--faces", "like"), "go together"),
    (("photos", "out"), "no picture in it"),
])
def test_bad_usage_is_one_sentence(tmp_path, squares, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert cli.main(["align", *arguments, "--processes", "1"]) == 1
    assert said in capsys.readouterr().err


def test_one_table_at_a_time(tmp_path, squares):
    """Two in one folder would lose rows of the table."""
    save(tmp_path / "photos" / "x" / "a.jpg", encoded(photo((RED, 40, 30, 60))))
    settings = align.Settings(str(tmp_path / "photos"))
    (tmp_path / "out").mkdir()
    with closing(Lock(str(tmp_path / "out" / ".aligned.lock"))):
        with pytest.raises(InputError, match=r"cut out there already \(process \d+ on .*another"):
            align.align(str(tmp_path / "photos"), str(tmp_path / "out"), settings)
    align.align(str(tmp_path / "photos"), str(tmp_path / "out"), settings)
    assert sorted(os.listdir(str(tmp_path / "out"))) == ["aligned.csv", "x"]
