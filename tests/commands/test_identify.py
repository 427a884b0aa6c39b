import json
import os
import struct

import numpy as np
import pytest

from unequal.commands import cli
from unequal.data import noise_lists
from unequal.errors import InputError
from unequal.eval import features, identification


@pytest.fixture
def arrays():
    random = np.random.RandomState(0)
    centres = random.randn(5, 6)
    probes = np.repeat(centres, 3, axis=0) + 0.5 * random.randn(15, 6)
    names = ["set/p{}/p{}_{}.png".format(row // 3, row // 3, row % 3) for row in range(15)]
    return probes.astype(np.float32), names, random.randn(40, 6).astype(np.float32)


def write_npz(path, array, names):
    np.savez(path, features=array, names=np.array(names, str))
    return str(path)


def write_npy(path, array, names):
    np.save(path, array)
    with open(str(path) + ".txt", "w", encoding="utf-8") as file:
        file.writelines(name + "\n" for name in names)
    return str(path)


def write_tree(path, array, names):
    for row, name in zip(array, names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        features.write_mat(str(path / (name + "_r50.bin")), row)
    return str(path)


WRITERS = {"a.npz": write_npz, "a.npy": write_npy, "a": write_tree}


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
        "p{}".format(row // 3) for row in range(15)]
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


def test_noise_lists(tmp_path):
    path = tmp_path / "noise.txt"
    path.write_text("# comment\np1_0.png\n\n7\tp2/p2_1.jpg\nnobody.jpg\nx/p1_1.png\n")
    entries = noise_lists.read_names(str(path))
    assert entries == ["p1_0.png", "p2/p2_1.jpg", "nobody.jpg", "x/p1_1.png"]
    noisy, unknown = noise_lists.noisy(
        ["p1/p1_0.png_r50.bin", "p1/p1_1.png", "s/p2/p2_1.png", "p3/p2_1.png", "p1/p1_0x"], entries)
    assert noisy.tolist() == [True, False, True, False, False]
    assert unknown == 2
    names = ["A.J._Buckley/A.J._Buckley_{}.png{}".format(number, ending)
             for number in (1, 2) for ending in ("", "_r50.bin", ".bin")]
    noisy, unknown = noise_lists.noisy(names, ["A.J._Buckley_2.JPEG"])
    assert noisy.tolist() == [False] * 3 + [True] * 3 and unknown == 0


@pytest.mark.parametrize("kind", WRITERS)
def test_identify(arrays, tmp_path, capsys, kind):
    probes, names, strangers = arrays
    write = WRITERS[kind]
    stranger_names = ["d/{}/{}.jpg".format(row % 7, row) for row in range(40)]
    noise, bad = tmp_path / "noise.txt", tmp_path / "bad.txt"
    noise.write_text("p0/p0_1.png\n")
    bad.write_text("3/3.jpg\n5/5.jpg\n")
    command = ["identify", "--probes", write(tmp_path / ("p" + kind), probes, names),
               "--distractors", write(tmp_path / ("d" + kind), strangers[:25], stranger_names[:25]),
               write(tmp_path / ("e" + kind), strangers[25:], stranger_names[25:]),
               "--probe-noise", str(noise), "--distractor-noise", str(bad), "--max-rank", "5",
               "--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    assert cli.main(command) == 0
    kept = np.arange(15) != 1
    result = identification.identify(
        features.unit_rows(probes, "")[kept], np.repeat(np.arange(5), 3)[kept],
        features.from_array(np.delete(strangers, (3, 5), axis=0)), max_rank=5)
    expected = dict(identification.measure(result))
    with open(tmp_path / "out.json", encoding="utf-8") as file:
        written = json.load(file)
    assert {name: written[name] for name in ("probes", "identities", "distractors")} == {
        "probes": 14, "identities": 5, "distractors": 38}
    for name, value in expected.items():
        assert written[name] == (None if np.isnan(value) else pytest.approx(value)), name
    assert written["cmc"] == pytest.approx(identification.cmc(result).tolist())
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["probes", "identities", "distractors", "pairs", "rank-1", "%",
                                "rank-5", "%", "TAR@1e-04", "%", "TAR@1e-05",
                                "%", "TAR@1e-06", "%"]
    assert lines[1].split()[:5] == ["14", "5", "38", "26",
                                    "{:.2f}".format(100 * expected["rank_1"])]
    assert "smallest FAR these 532 impostor pairs" in lines[2]


def test_identify_in_a_gallery(arrays, tmp_path):
    probes, names, strangers = arrays
    first = np.arange(15) % 3 == 0
    out = str(tmp_path / "out.json")
    assert cli.main([
        "identify", "--probes",
        write_npz(tmp_path / "p.npz", probes[~first], np.array(names)[~first]),
        "--gallery", write_npz(tmp_path / "g.npz", probes[first], np.array(names)[first]),
        "--distractors",
        write_npz(tmp_path / "d.npz", strangers, [str(row) for row in range(40)]),
        "--json", out]) == 0
    with open(out, encoding="utf-8") as file:
        written = json.load(file)
    assert written["pairs"] == 10
    assert written["impostors"] == 10 * (40 + 4)


@pytest.mark.parametrize("change, message", (
    ({"--probes": "none.npz"}, "none.npz: No such file"),
    ({"--probes": "bad.txt"}, "bad.txt: features are .npy, .npz or .bin files"),
    ({"--probes": "flat.npz"}, "'a.png': names must be IDENTITY/PICTURE"),
    ({"--probes": "bad.npz"}, "bad.npz: no arrays `features` and `names`"),
    ({"--distractors": "long.npz"}, "long.npz: features have length 7 but the probes' 6"),
    ({"--gallery": "long.npz"}, "--gallery: features have length 7"),
    ({"--distractors": "nan.npz"}, "nan.npz: a feature holds nan or infinity"),
    ({"--distractors": "empty"}, "empty: no .bin feature file"),
    ({"--max-rank": "0"}, "--max-rank 0: must be 1 or more"),
    ({"--plot": "cmc"}, "cmc: no plot format"),
    ({"--probe-noise": "none.txt"}, "none.txt: No such file"),
))
def test_identify_errors(arrays, tmp_path, monkeypatch, capsys, change, message):
    probes, names, strangers = arrays
    monkeypatch.chdir(tmp_path)
    write_npz("p.npz", probes, names)
    write_npz("d.npz", strangers, names * 2 + names[:10])
    write_npz("long.npz", np.ones((3, 7), np.float32), names[:3])
    write_npz("nan.npz", np.full((3, 6), np.nan, np.float32), names[:3])
    write_npz("flat.npz", probes[:2], ["a.png", "b.png"])
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    os.mkdir("empty")
    options = dict({"--probes": "p.npz", "--distractors": "d.npz"}, **change)
    assert cli.main(["identify"] + [part for option in options.items() for part in option]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
