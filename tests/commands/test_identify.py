import json
import os

import numpy as np
import pytest

from helpers.features import WRITERS, simulated, write_npz
from unequal.commands import cli
from unequal.eval import features, identification


@pytest.fixture
def arrays():
    return simulated()


@pytest.mark.parametrize("kind", WRITERS)
def test_identify(arrays, tmp_path, capsys, kind):
    probes, names, strangers = arrays
    write = WRITERS[kind]
    stranger_names = [f"d/{row % 7}/{row}.jpg" for row in range(40)]
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
                                    f"{100 * expected['rank_1']:.2f}"]
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
    ({"--probes": "flat.npz"}, "flat.npz: the name 'a.png' does not tell who is shown"),
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
