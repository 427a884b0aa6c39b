"""Step 3 by its commands: train_relusoft_savemodel.py, unequal noise, train_relusoft.py, NRA.sh."""
import os
import sys
from argparse import Namespace

import mxnet as mx
import numpy as np
import pytest

from helpers import scripts
from helpers.flags import OURS, REFERENCE, flags
from unequal.commands import cli, train
from unequal.data.records import RecordSet
from unequal.errors import InputError
from unequal.models import noise_scan
from unequal.symbols.margins import Margin
from unequal.synthetic.dataset import make_dataset
from unequal.training import state

SMALL = ("--network", "n8", "--emb-size", "16", "--per-batch-size", "16", "--margin-s", "16")
STEP_3 = {"--noise-beta": 1.0, "--bin-dir": "", "--batch_size_mining": 20,
          "--mean-loss": 0, "--gate": 0.0, "--truth": ""}


def script(name, *arguments):
    return scripts.script(name, *SMALL, *arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data set, and a directory with step 2's and step 3.1's models."""
    directory = tmp_path_factory.mktemp("nra")
    make_dataset(str(directory / "data"), seed=1, image_size=16, head_identities=6,
                 tail_identities=8, eval_pairs=20, eval_identities=20)
    head = str(directory / "data" / "MF2_pic9_head")
    script("train_softmax.py", "--data-dir", head, "--max-steps", "20", "--target", "lfw",
           "--prefix", str(directory / "arcface" / "model"))
    done = script("train_relusoft_savemodel.py", "--data-dir", head, "--end-epoch", "1", "--lr",
                  "0.01", "--noise-beta", "0.9", "--target", "lfw",
                  "--prefix", str(directory / "nra" / "model_t"), "--bin-dir", str(directory),
                  "--pretrained", str(directory / "arcface" / "model") + ",0")
    return Namespace(directory=directory, head=head, log=done.stdout,
                     model_t=str(directory / "nra" / "model_t") + ",0")


def test_flags():
    without_bndrop = {name: value for name, value in REFERENCE.items() if name != "--bndrop"}
    expected = {**without_bndrop, **OURS, **STEP_3}
    assert flags("train_relusoft_savemodel.py") == expected
    assert flags("train_relusoft.py") == {**expected, "--noise-threshold": 0.0, "--noise-list": "",
                                            "--first-epoch-order": "shuffled"}


def test_savemodel_ends_by_itself_with_the_classifier_kept(trained):
    assert "ended after 1 batches: the checkpoint is saved" in trained.log
    _, before, _ = mx.model.load_checkpoint(str(trained.directory / "arcface" / "model"), 0)
    symbol, after, _ = mx.model.load_checkpoint(str(trained.directory / "nra" / "model_t"), 0)
    moved = np.abs((before["fc7_weight"] - after["fc7_weight"]).asnumpy()).max()
    assert 0 < moved < 0.05
    assert "loss_output" in symbol.list_outputs()
    # MXNet alone must load it: no operator of ours in the file.
    assert "noise_robust" not in symbol.tojson() and '"op": "Custom"' not in symbol.tojson()


def noise_command(trained, out, *arguments):
    return cli.main(["noise", trained.head, "--pretrained", trained.model_t, "--margin-s", "16",
                     "--out", str(out), *arguments])


def test_noise_list(trained, tmp_path, capsys):
    truth = str(trained.directory / "data" / "truth.csv")
    assert noise_command(trained, tmp_path / "all.txt", "--threshold", "2", "--truth", truth) == 0
    output = capsys.readouterr().out
    assert "outlier" in output and "average precision" in output
    rows = [line.split() for line in (tmp_path / "all.txt").read_text().splitlines()]
    with RecordSet(trained.head) as records:
        assert [int(row[1]) for row in rows] == records.image_keys.tolist()
        assert [int(row[0]) for row in rows] == records.labels().tolist()
    largest = np.array([float(row[2]) for row in rows])
    own = np.array([float(row[3]) for row in rows])
    assert (own <= largest).all() and (largest > 0).all() and (largest <= 1).all()
    threshold = float(np.median(largest))
    assert noise_command(trained, tmp_path / "half.txt", "--threshold", repr(threshold)) == 0
    listed = [int(line.split()[1]) for line in (tmp_path / "half.txt").read_text().splitlines()]
    assert listed == [int(row[1]) for row, most in zip(rows, largest) if most < threshold]
    assert sorted(os.listdir(tmp_path)) == ["all.txt", "half.txt"]


def test_scoring_continues_where_it_was_killed(trained, tmp_path):
    settings = Margin(margin_s=16.0)
    with RecordSet(trained.head) as records:
        whole = str(tmp_path / "whole.part")
        noise_scan.score_records(records, trained.model_t, settings, whole)
        content = (tmp_path / "whole.part").read_bytes()
        part = tmp_path / "killed.part"
        part.write_bytes(content[:len(content) // 2])  # in the middle of a row
        columns = noise_scan.score_records(records, trained.model_t, settings, str(part))
        assert part.read_bytes().count(b"\n") == len(records) + 2
        assert columns["key"].tolist() == records.image_keys.tolist()
        np.testing.assert_allclose(
            columns["score"], np.loadtxt(whole, delimiter=",", skiprows=2)[:, 4], rtol=1e-4)
        # Scores of another rule are not continued.
        columns = noise_scan.score_records(records, trained.model_t, settings, str(part),
                                           method="label-margin")
        assert columns["score"].min() < 0


def test_a_model_of_another_set_is_refused(trained, tmp_path):
    make_dataset(str(tmp_path / "other"), seed=2, image_size=16, head_identities=5,
                 tail_identities=8, eval_pairs=20, eval_identities=20)
    with RecordSet(str(tmp_path / "other" / "MF2_pic9_head")) as records:
        with pytest.raises(InputError, match="classifier has 6 classes, but .* has 5"):
            noise_scan.score_records(records, trained.model_t, Margin(), str(tmp_path / "p"))


def test_nra_by_its_shell_script(trained, tmp_path):
    done = scripts.call(
        "sh", str(scripts.ROOT / "NRA.sh"), "--emb-size", "16", "--margin-s", "16",
        "--max-steps", "4", "--verbose", "2", "--target", "lfw", "--noise-threshold", "0.9",
        "--truth", str(trained.directory / "data" / "truth.csv"), PYTHON=sys.executable,
        NETWORK="n8", PER_BATCH_SIZE="2", DATA_DIR=trained.head, PREFIX=str(tmp_path / "model"),
        PRETRAINED=trained.model_t, BIN_DIR=str(tmp_path / "bin"), LR_STEPS="")
    listed = (tmp_path / "bin" / "0_noiselist.txt").read_text().splitlines()
    assert listed and f"{len(listed)} of " in done.stdout
    events = scripts.events(tmp_path / "model")
    assert events[0]["options"]["noise_beta"] == 0.9 and events[0]["options"]["lr"] == 0.01
    # A verification and a save after batch 1.
    assert [event["step"] for event in events if event["event"] == "verify"] == [1, 2, 4]


def test_the_classifier_is_learned_anew(trained, tmp_path):
    script("train_relusoft.py", "--data-dir", trained.head, "--max-steps", "1", "--lr", "1e-9",
           "--target", "lfw", "--prefix", str(tmp_path / "model"), "--pretrained", trained.model_t)
    _, before, _ = mx.model.load_checkpoint(str(trained.directory / "nra" / "model_t"), 0)
    _, after, _ = mx.model.load_checkpoint(str(tmp_path / "model"), 0)
    assert np.abs((before["fc7_weight"] - after["fc7_weight"]).asnumpy()).max() > 0.1
    np.testing.assert_allclose(before["conv0_weight"].asnumpy(), after["conv0_weight"].asnumpy(),
                               atol=1e-5)
    assert (tmp_path / "0_noiselist.txt").read_text() == ""  # threshold 0: nobody is dropped


def test_the_noise_list_is_made_under_the_lock_of_the_prefix(tmp_path, monkeypatch):
    """Of two runs at once the second is refused before it makes the list too."""
    args = Namespace(prefix=str(tmp_path / "model"))
    refused = []

    def second(*_):
        with pytest.raises(InputError, match="another run has it") as error:
            state.lock(args.prefix)
        refused.append(error)
        raise InputError("the list cannot be made")

    monkeypatch.setattr(train.setup, "prepare",
                        lambda _: Namespace(workers=Namespace(rank=0), arg_params=None))
    monkeypatch.setattr(train, "_clean_keys", second)
    with pytest.raises(InputError, match="the list cannot be made"):
        train.relusoft(args)
    assert len(refused) == 1 and os.listdir(str(tmp_path)) == []


def test_two_scans_for_one_list(tmp_path, monkeypatch):
    """Their rows would mix in the file of scores."""
    path = str(tmp_path / "list.txt")

    def scan(*_, **__):
        with pytest.raises(InputError, match="another process is making this list"):
            noise_scan.make_list(None, "", None, 0.5, path)
        raise InputError("stopped")

    monkeypatch.setattr(noise_scan, "score_records", scan)
    with pytest.raises(InputError, match="stopped"):
        noise_scan.make_list(None, "", None, 0.5, path)
    assert os.listdir(str(tmp_path)) == []
