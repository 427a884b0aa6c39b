"""`unequal embed`; the embedder itself: tests/models/test_embedder.py."""
import numpy as np
import pytest

from helpers.models import SIDE, by_hand, png
from unequal.commands import cli
from unequal.data.records import RecordWriter
from unequal.eval import features


def test_a_folder_of_pictures(checkpoint, network, faces, tmp_path, capsys):
    folder = tmp_path / "people" / "a"
    folder.mkdir(parents=True)
    for number, picture in enumerate(faces):
        (folder / f"{number:02}.png").write_bytes(png(picture))
    (folder / "notes.txt").write_text("no picture")
    expected = by_hand(network, faces, True)
    names = [str(folder / f"{number:02}.png") for number in range(len(faces))]
    out = tmp_path / "out.npz"
    command = ["embed", "--model", checkpoint, str(folder.parent), "--batch-size", "4", "--out"]
    assert cli.main(command + [str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 11 features of length 24\n"
    with np.load(out) as written:
        np.testing.assert_allclose(written["features"], expected, atol=2e-5)
        assert written["names"].tolist() == names
    first = out.read_bytes()
    assert cli.main(command + [str(out)]) == 0
    assert out.read_bytes() == first
    assert cli.main(command + [str(tmp_path / "out.npy"), "--no-flip"]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), by_hand(network, faces, False),
                               atol=2e-5)
    assert (tmp_path / "out.npy.txt").read_text().splitlines() == names


def test_on_a_record_set(checkpoint, network, faces, tmp_path):
    with RecordWriter(str(tmp_path / "set"), (SIDE, SIDE)) as writer:
        keys = [writer.add(number // 4, png(picture)) for number, picture in enumerate(faces)]
    out = tmp_path / "out.npz"
    assert cli.main(["embed", "--model", checkpoint, str(tmp_path / "set"), "--out", str(out)]) == 0
    with np.load(out) as written:
        np.testing.assert_allclose(written["features"], by_hand(network, faces, True), atol=2e-5)
        assert written["names"].tolist() == [
            f"{number // 4}/{key}" for number, key in enumerate(keys)]


def test_for_the_devkit(checkpoint, network, faces, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, picture in enumerate(faces):
        folder = tmp_path / "set" / f"p{number // 4}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02}.png").write_bytes(png(picture))
    command = ["embed", "--model", checkpoint, "set/../set", "--batch-size", "4", "--out", "out/"]
    assert cli.main(command) == 0
    opened = features.open_features("out")
    assert opened.names == [f"set/p{number // 4}/{number:02}.png.bin"
                            for number in range(11)]
    np.testing.assert_allclose(opened.array(), by_hand(network, faces, True), atol=2e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]
    assert cli.main(command) == 1
    assert "out: is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, message", (
    (["--out", "x.txt", "."], "--out x.txt: end the name in .npy"),
    (["--out", "x.npy", "."], ".: neither a record set"),
    (["--out", "x.npy", "set", "more"], "set: is a record set; give it alone"),
    (["--out", "x.npy", "none.png"], "none.png: No such file"),
    (["--out", "x.npy", "none.png", "--image-size", "9"], "do not fit the network at 9x9 pixels"),
))
def test_errors(checkpoint, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.rec").write_bytes(b"")
    assert cli.main(["embed", "--model", checkpoint] + arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("x*")) + list(tmp_path.glob(".x*"))
