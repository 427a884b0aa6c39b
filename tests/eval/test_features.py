"""Files of features, both ways."""
import os
import struct

import numpy as np
import pytest

from helpers.features import WRITERS, simulated
from unequal.errors import ArgumentError, InputError
from unequal.eval import features


@pytest.fixture
def arrays():
    return simulated()


@pytest.mark.parametrize("kind", WRITERS)
def test_read_block_by_block(arrays, tmp_path, kind):
    probes, names, _ = arrays
    opened = features.open_features(WRITERS[kind](tmp_path / kind, probes, names))
    assert len(opened) == 15 and opened.size == 6
    assert [name[:len(given)] for name, given in zip(opened.names, names)] == names
    expected = probes / np.linalg.norm(probes, axis=1, keepdims=True)
    np.testing.assert_allclose(opened.array(), expected, rtol=1e-6)
    blocks = list(opened.blocks(4))
    assert [len(block) for block in blocks] == [4, 4, 4, 3]
    np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=1e-6)
    assert features.identities(opened.names).tolist() == [
        f"p{row // 3}" for row in range(15)]
    kept = opened.without(np.arange(15) % 2 == 1)
    assert len(kept) == 8 and len(kept.kept_names()) == 8
    np.testing.assert_allclose(np.concatenate(list(kept.blocks(4))), expected[::2], rtol=1e-6)


def test_mat_as_the_devkit_has_it(tmp_path):
    path = str(tmp_path / "a.bin")
    features.write_mat(path, np.array([1, 2, 3], np.float32))
    with open(path, "rb") as file:
        assert file.read() == struct.pack("<4i3f", 3, 1, 4, 5, 1, 2, 3)
    assert features.read_mat(path).tolist() == [[1], [2], [3]]
    features.write_mat(path, np.array([[1, 2], [3, 4]], np.float64))
    assert features.read_mat(path).dtype == np.float64
    # Rows padded to 12 bytes, as OpenCV may write them; the last padding may be missing.
    rows = struct.pack("<4i", 2, 2, 12, 5) + struct.pack("<2f4x2f", 1, 2, 3, 4)
    for content in (rows, rows + bytes(4)):
        with open(path, "wb") as file:
            file.write(content)
        assert features.read_mat(path).tolist() == [[1, 2], [3, 4]]
    assert features.open_features(path).size == 2


@pytest.mark.parametrize("content", (
    b"", b"short", struct.pack("<4i", 1, 1, 4, 5), struct.pack("<4if", 1, 1, 4, 4, 0),
    struct.pack("<4if", 1, 2, 4, 5, 0), struct.pack("<4if", -1, 1, 4, 5, 0),
    struct.pack("<4i2f", 1, 1, 4, 5, 0, 0), struct.pack("<4i", 2**31 - 1, 2**28, 2**30, 5)))
def test_damaged_mat(tmp_path, content):
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match="a.bin: not a feature file of the MegaFace devkit"):
        features.read_mat(str(path))


@pytest.mark.parametrize("out", ["f.npz", "f.npy", "f" + os.sep])
def test_written_in_parts_and_read_again(arrays, tmp_path, out):
    probes, names, _ = arrays
    names = [name.replace("set/p0", "set/\udcff ö") for name in names]
    if out == "f.npz":  # numpy's text holds no stray bytes
        names = [name.replace("\udcff", "x") for name in names]
    path = str(tmp_path / "deep") + os.sep + out
    os.mkdir(tmp_path / "deep")
    parts = [(names[start:start + 4], probes[start:start + 4]) for start in range(0, 15, 4)]
    features.write_features(path, (15, 6), iter(parts))
    opened = features.open_features(path.rstrip(os.sep))
    order = np.argsort(names) if out.endswith(os.sep) else np.arange(15)
    endings = ".bin" if out.endswith(os.sep) else ""
    assert list(opened.names) == [names[row] + endings for row in order]
    np.testing.assert_allclose(opened.array(), features.unit_rows(probes[order], ""), rtol=1e-6)
    assert not [name for name in os.listdir(tmp_path / "deep") if name.startswith(".")]


def test_a_folder_holds_every_feature_whatever_its_name(tmp_path):
    path = str(tmp_path / "out") + os.sep
    features.write_features(path, (2, 1), [(["../../a", "/etc/b"], np.ones((2, 1), np.float32))])
    assert sorted(os.listdir(tmp_path)) == ["out"]
    assert features.open_features(str(tmp_path / "out")).names == ["a.bin", "etc/b.bin"]
    with pytest.raises(InputError, match="out: is not empty; name a new folder"):
        features.write_features(path, (1, 1), [(["a"], np.ones((1, 1), np.float32))])


def test_what_a_broken_writer_leaves(tmp_path):
    def breaks():
        yield ["a"], np.ones((1, 2), np.float32)
        raise OSError("disk full")

    for out in ("f.npz", "f.npy", "f" + os.sep):
        with pytest.raises(OSError, match="disk full"):
            features.write_features(str(tmp_path / "f") + out[1:], (2, 2), breaks())
    assert os.listdir(tmp_path) == []


def test_another_ending():
    with pytest.raises(ArgumentError, match="^path f.csv: end the name in .npy") as raised:
        features.writer("f.csv")
    assert raised.value.arguments == ("path",)


def test_unit_rows():
    rows = features.unit_rows(np.array([[3, 4], [0, 0], [1e-30, 0]]), "x")
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows[:2], [[0.6, 0.8], [0, 0]])
    unit = np.array([[0.6, 0.8]], np.float32)
    assert features.unit_rows(unit, "x") is unit
    for bad in (np.nan, np.inf):
        with pytest.raises(InputError, match="^x: a feature holds nan or infinity"):
            features.unit_rows(np.array([[bad, 1.0]]), "x")


def test_from_array():
    opened = features.from_array(np.ones((3, 2)))
    assert opened.names == ["0", "1", "2"] and len(opened) == 3
    none = opened.without(np.ones(3, bool))
    assert len(none) == 0 and none.array().shape == (0, 2)
    for array, names in ((np.ones(3), None), (np.ones((3, 2)), ["a"])):
        with pytest.raises(InputError, match="expected features .n, D. with n names"):
            features.from_array(array, names)


def test_two_writers_of_one_folder(tmp_path):
    """The second is told; nothing of it stays."""
    path = str(tmp_path / "out") + os.sep

    def meanwhile():
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a.bin").write_bytes(b"")
        yield ["b"], np.ones((1, 1), np.float32)

    with pytest.raises(InputError, match="out: is not empty; name a new folder"):
        features.write_features(path, (1, 1), meanwhile())
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["a.bin"]
