import json

import numpy as np
import pytest

from helpers.models import SIDE, png
from helpers.pictures import encoded, smooth
from unequal.commands import cli
from unequal.eval import bins, verification
from unequal.models.embedder import Embedder, PictureList


@pytest.fixture
def sets(tmp_path, faces):  # noqa: F811
    """Directory with two sets of 20 pairs: same pairs are mild changes of one picture."""
    for seed, name in enumerate(("lfw", "agedb_30")):
        random = np.random.RandomState(seed)
        pictures, issame = [], []
        for pair in range(20):
            first = faces[random.randint(len(faces))]
            issame.append(pair % 2 == 0)
            other = first if issame[-1] else faces[random.randint(len(faces))][:, ::-1]
            noise = random.randint(0, 60, other.shape)
            pictures += [png(first), png(np.minimum(other + noise, 255).astype(np.uint8))]
        bins.save_bin(str(tmp_path / (name + ".bin")), pictures, issame)
    return tmp_path


def test_verify(sets, checkpoint, network, capsys):  # noqa: F811
    command = ["verify", "--model", checkpoint, "--data-dir", str(sets), "--batch-size", "8",
               "--json", str(sets / "out" / "numbers.json"), "--plot", str(sets / "roc.svg")]
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:8] == ["set", "pairs", "accuracy", "%", "accuracy-flip", "%", "XNorm",
                                    "threshold"]
    assert [line.split()[:2] for line in lines[1:3]] == [["lfw", "20"], ["agedb_30", "20"]]
    with open(sets / "out" / "numbers.json", encoding="utf-8") as file:
        written = json.load(file)
    assert list(written["sets"]) == ["lfw", "agedb_30"]
    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=8)
    for name, numbers in written["sets"].items():
        pictures, issame = bins.load_bin(str(sets / (name + ".bin")))
        plain, flipped = model.embed(PictureList(pictures, name), flip=True)
        expected = verification.evaluate(plain, flipped, issame)
        for key, value in vars(expected).items():
            assert numbers[key] == pytest.approx(value, rel=1e-5), (name, key)
        assert numbers["min_far"] == 0.1
        assert numbers["tar_at_1e-02"] is None
        mean, deviation = 100 * expected.accuracy_flip, 100 * expected.accuracy_flip_std
        assert f"{mean:.3f} +- {deviation:.3f}" in "\n".join(lines)
        assert f"{name}: smallest FAR these pairs can show 1.0e-01" in "\n".join(lines)
    assert b"<svg" in (sets / "roc.svg").read_bytes()


def test_verify_options_reach_the_protocol(sets, checkpoint, capsys):  # noqa: F811
    numbers = []
    for more in ([], ["--exact-thresholds"], ["--pca", "3"], ["--bootstrap", "folds"],
                 ["--bootstrap", "none"]):
        path = str(sets / "numbers.json")
        assert cli.main(["verify", "--model", checkpoint, "--eval-dir", str(sets), "--target",
                         "lfw", "--batch-size", "8", "--json", path] + more) == 0
        with open(path, encoding="utf-8") as file:
            numbers.append(json.load(file)["sets"]["lfw"])
    grid, exact, pca, folds, none = numbers
    assert round(grid["threshold"] / 0.001) * 0.001 == pytest.approx(grid["threshold"], abs=1e-9)
    assert exact["threshold"] != grid["threshold"] and exact["auc"] == grid["auc"]
    assert pca["xnorm"] == grid["xnorm"] and pca["threshold"] != grid["threshold"]
    assert folds["auc"] == grid["auc"] and folds["auc_low"] != grid["auc_low"]
    assert "auc_low" not in none
    assert "intervals" not in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("arguments, message", (
    (["--target", "none"], "--target none: no such verification set (NAME.bin)"),
    (["--model", "nowhere,1"], "nowhere-symbol.json: no such file"),
    (["--model", "nowhere"], "--model 'nowhere': expected PREFIX,EPOCH"),
    (["--pca", "99"], "lfw.bin: --pca 99: choose 1 to 24 components"),
    (["--plot", "roc.xyz"], "roc.xyz: no plot format"),
    (["--devices", "tpu"], "--devices tpu"),
    (["--target", "damaged"], "damaged.bin: record 1: not a picture"),
    (["--target", "short"], "short.bin: 2 pairs do not make 10 folds"),
    (["--target", "large"], "large.bin: its pictures are 64x64, but "),
))
def test_verify_errors(sets, checkpoint, capsys, arguments, message):  # noqa: F811
    pictures, issame = bins.load_bin(str(sets / "lfw.bin"))
    bins.save_bin(str(sets / "damaged.bin"), [pictures[0], b"no"] + pictures[2:], issame)
    bins.save_bin(str(sets / "short.bin"), pictures[:4], issame[:2])
    bins.save_bin(str(sets / "large.bin"), [encoded(smooth(64, 64))] * len(pictures), issame)
    assert cli.main(["verify", "--model", checkpoint, "--data-dir", str(sets), "--batch-size", "8"]
                    + arguments) == 1
    captured = capsys.readouterr()
    error = captured.err.splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_a_missing_set_is_skipped(sets, checkpoint, capsys, caplog):  # noqa: F811
    assert cli.main(["verify", "--model", checkpoint, "--data-dir", str(sets), "--target",
                     "cfp_fp,lfw", "--batch-size", "8"]) == 0
    assert "cfp_fp.bin is in none of" in caplog.text
    assert capsys.readouterr().out.splitlines()[1].startswith("lfw")
