import numpy as np
import pytest

from helpers.pictures import encoded, smooth
from unequal.commands import cli
from unequal.data import detection, first_look
from unequal.data.detection import Face
from unequal.data.records import RecordWriter
from unequal.errors import InputError


def test_twins_by_plain_comparison():
    random = np.random.RandomState(0)
    pictures = [bytes([random.randint(12)]) for _ in range(60)]
    labels = np.sort(random.randint(0, 9, 60)).tolist()
    twins = first_look.Twins()
    for data, label in zip(pictures, labels):
        twins.add(data, label)
    expected = []
    for place, (data, label) in enumerate(zip(pictures, labels)):
        first = pictures.index(data)
        if labels[first] != label:
            expected.append([place, first])
    assert expected and twins.pairs().tolist() == expected
    assert first_look.Twins().pairs().shape == (0, 2)


def test_a_sample_is_of_as_many_folders_as_can_be():
    folders = [iter("abc"), iter("d"), iter("ef")]
    assert list(first_look.spread(folders, 5)) == ["a", "d", "e", "b", "f"]
    many = [iter([number, -number]) for number in range(1, 101)]
    assert list(first_look.spread(many, 3)) == [1, 50, 100]


class SeesNobodyInDark:
    """A detector: dark pictures show nobody, others a face as far right as they are bright."""

    def faces(self, pixels):
        if pixels.mean() < 60:
            return []
        points = np.full((5, 2), 10.0) + (pixels.mean() - 128) * np.array([1, 0])
        return [Face((0, 0, 1, 1), 1.0, points)]


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.setattr(first_look, "_loaded", [SeesNobodyInDark()])

    def make(levels):
        with RecordWriter(str(tmp_path), (48, 48)) as writer:
            for number, level in enumerate(levels):
                picture = encoded(np.full((48, 48, 3), level, np.uint8))
                writer.add(number // 4, picture, f"p{number // 4}/{number}.jpg")
        return str(tmp_path)

    return make


def test_pictures_without_a_face_are_named(packed, tmp_path, caplog):
    directory = packed([128] * 9 + [10] + [128] * 10)
    faces = first_look.say_faces(directory, 100)
    assert (faces.looked, faces.missing) == (20, ["p2/9.jpg"])
    assert faces.scatter < 0.01 and "aligned" not in caplog.text
    assert "1 of 20 pictures looked at show no face (p2/9.jpg first)" in caplog.text
    assert (tmp_path / "no_face.csv").read_text().splitlines() == ["path", "p2/9.jpg"]
    faces = first_look.say_faces(directory, 4)  # evenly spread: none of these
    assert (faces.looked, faces.missing) == (4, [])
    assert not (tmp_path / "no_face.csv").exists()


def test_faces_at_different_places_are_not_aligned(packed, caplog):
    levels = np.linspace(110, 146, 20).astype(int)
    assert first_look.say_faces(packed(levels), 100).scatter > 0.1
    assert "do not look aligned" in caplog.text


def test_pack_asks_for_the_detector_only_when_told(tmp_path, monkeypatch, caplog, capsys):
    def missing(self):
        raise InputError("finding faces needs a detector: install it.")

    monkeypatch.setattr(detection.Detector, "__init__", missing)
    monkeypatch.setattr(first_look, "_loaded", [])
    (tmp_path / "faces" / "a").mkdir(parents=True)
    (tmp_path / "faces" / "a" / "1.jpg").write_bytes(encoded(smooth(48, 48)))
    arguments = ["pack", str(tmp_path / "faces"), str(tmp_path / "set"), "--size", "48",
                 "--processes", "1"]
    caplog.set_level("INFO")
    assert cli.main(arguments) == 0
    assert "faces were not looked for: finding faces needs a detector" in caplog.text
    caplog.clear()
    assert cli.main([*arguments, "--check-faces", "0"]) == 0
    assert "faces" not in caplog.text.replace(str(tmp_path), "")
    assert cli.main([*arguments, "--check-faces", "5"]) == 1
    assert "needs a detector" in capsys.readouterr().err
    assert cli.main([*arguments[:-4], "--size", "16", "--check-faces", "5"]) == 1
    assert capsys.readouterr().err.startswith("error: --check-faces")
