"""Step 2 by its entry script, as a user runs it."""
import os
import runpy
import subprocess
import sys

import mxnet as mx
import pytest

from helpers import ROOT
from helpers.scripts import events
from unequal.commands import cli
from unequal.synthetic.dataset import make_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("synth") / "data"
    make_dataset(str(directory), **SMALL)
    return directory


SMALL = dict(seed=1, image_size=16, head_identities=6, tail_identities=8, eval_pairs=20,
             eval_identities=20)


def script(cwd, *flags, **environment):
    """Run train_softmax.py in ``cwd``; returns the finished process."""
    return subprocess.run(
        [sys.executable, "-u", str(ROOT / "train_softmax.py"), *flags], cwd=str(cwd),
        env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        universal_newlines=True, timeout=300)


SMALL_NETWORK = ("--network", "n8", "--emb-size", "16", "--per-batch-size", "16")


def test_the_recipes_command(dataset, tmp_path):
    done = script(tmp_path, "--loss-type", "4", "--margin-m", "0.5", "--data-dir",
                  str(dataset / "MF2_pic9_head") + "/", "--end-epoch", "1", "--verbose", "3",
                  "--prefix", "models/r50_arc_pic9/model", *SMALL_NETWORK,
                  CUDA_VISIBLE_DEVICES="0,1")
    assert done.returncode == 0, done.stderr
    assert "[lfw][3]XNorm: " in done.stdout and "[agedb_30][3]Accuracy-Flip: " in done.stdout
    assert "lr_steps [1024000, 1536000, 1920000]" in done.stdout
    assert "Traceback" not in done.stderr
    prefix = tmp_path / "models" / "r50_arc_pic9" / "model"
    logged = events(prefix)
    assert {"start", "verify", "save", "end"} <= {event["event"] for event in logged}
    best = logged[-1]["best_epoch"]
    symbol, arguments, _ = mx.model.load_checkpoint(str(prefix), best)
    assert "softmax_output" in symbol.list_outputs() and "fc7_weight" in arguments


def test_the_step_as_a_sub_command(dataset, tmp_path, capsys):
    """What there is after `pip install`, without the script."""
    prefix = tmp_path / "a" / "model"
    assert cli.main(["train", "softmax", *SMALL_NETWORK, "--data-dir",
                     str(dataset / "MF2_pic9_head"), "--prefix", str(prefix), "--max-steps", "1",
                     "--target", ""]) == 0
    _, weights, _ = mx.model.load_checkpoint(str(prefix), 0)
    assert "fc7_weight" in weights
    assert cli.main(["train", "softmax", "--data-dir", "x", "--lr", "0"]) == 1
    assert capsys.readouterr().err.endswith("error: --lr 0.0 must be above 0.\n")


def test_start_from_a_model_of_other_people(dataset, tmp_path, caplog):
    head = str(dataset / "MF2_pic9_head")

    def train(name, *words):
        return cli.main(["train", "softmax", *SMALL_NETWORK, "--data-dir", head, "--prefix",
                         str(tmp_path / name), "--max-steps", "1", "--target", "", "--lr", "1e-9",
                         *words])

    assert train("model") == 0
    symbol, weights, states = mx.model.load_checkpoint(str(tmp_path / "model"), 0)
    weights["fc7_weight"] = mx.nd.zeros((3, 16))
    mx.model.save_checkpoint(str(tmp_path / "three"), 1, symbol, weights, states)
    del weights["fc7_weight"]
    mx.model.save_checkpoint(str(tmp_path / "none"), 1, symbol, weights, states)
    for name in ("three", "none"):
        caplog.clear()
        assert train("from_" + name, "--pretrained", str(tmp_path / name) + ",1") == 0
        assert ("classifier has 3 rows" in caplog.text) == (name == "three")
        _, after, _ = mx.model.load_checkpoint(str(tmp_path / ("from_" + name)), 0)
        assert after["fc7_weight"].shape == (6, 16)
        assert abs(after["conv0_weight"] - weights["conv0_weight"]).max().asscalar() < 1e-6


def test_start_from_a_checkpoint(dataset, tmp_path):
    flags = ("--data-dir", str(dataset / "MF2_pic9_head"), "--max-steps", "2", *SMALL_NETWORK)
    assert script(tmp_path, "--prefix", "a/model", *flags).returncode == 0
    done = script(tmp_path, "--prefix", "b/model", "--pretrained", "a/model,0", "--lr", "1e-9",
                  *flags)
    assert done.returncode == 0, done.stderr
    _, first, _ = mx.model.load_checkpoint(str(tmp_path / "a" / "model"), 0)
    _, second, _ = mx.model.load_checkpoint(str(tmp_path / "b" / "model"), 0)
    assert abs(first["fc7_weight"] - second["fc7_weight"]).max().asscalar() < 1e-6


@pytest.mark.parametrize("flags, message", [
    ((), "--data-dir is missing"),
    (("--data-dir", "nowhere"), "nowhere/property: no such file"),
    (("--data-dir", "DATA", "--network", "r51"), "--network 'r51' is unknown; known are n8, r18"),
    (("--data-dir", "DATA", "--loss-type", "3"), "--loss-type 3 is unknown; known are 0, 1, 2, 4"),
    (("--data-dir", "DATA", "--pretrained", "model,xx"), "--pretrained 'model,xx': expected"),
    (("--data-dir", "DATA", "--per-batch-size", "9999"), "do not fill one batch of 9999"),
    (("--data-dir", "DATA", "--devices", "tpu"), "--devices tpu"),
    (("--data-dir", "DATA", "--margin-s", "0"), "--margin-s 0.0 must be above 0"),
])
def test_bad_input_is_one_line_and_exit_code_1(dataset, monkeypatch, capsys, flags, message):
    flags = [str(dataset / "MF2_pic9_head") if flag == "DATA" else flag for flag in flags]
    monkeypatch.setattr(sys, "argv", ["train_softmax.py", *SMALL_NETWORK, *flags])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(ROOT / "train_softmax.py"), run_name="__main__")
    assert exit_.value.code == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and message in errors and errors.count("\n") == 1


def test_bad_usage_is_exit_code_2(tmp_path):
    done = script(tmp_path, "--lr", "fast")
    assert done.returncode == 2 and "Traceback" not in done.stderr
