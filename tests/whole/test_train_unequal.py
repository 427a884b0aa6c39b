"""Step 4 by its command: train_unequal.py."""
from argparse import Namespace

import mxnet as mx
import numpy as np
import pytest

from helpers.flags import OURS, REFERENCE, flags
from helpers.scripts import events, script
from unequal.data.records import RecordSet
from unequal.synthetic.dataset import make_dataset
from unequal.training.tail import Miner

SMALL = ("--network", "n8", "--emb-size", "16", "--margin-s", "16", "--target", "lfw")
TAIL = ("--batch-size1", "16", "--batchsize_id", "12", "--bag-size", "30", "--bags", "3",
        "--batch-size2", "20", "--interweight", "1", "--verbose", "4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data set and a head model of some batches."""
    directory = tmp_path_factory.mktemp("unequal")
    make_dataset(str(directory / "data"), seed=1, image_size=16, head_identities=6,
                 tail_identities=30, eval_pairs=20, eval_identities=20)
    head = str(directory / "data" / "MF2_pic9_head")
    script("train_softmax.py", *SMALL, "--per-batch-size", "16", "--data-dir", head,
           "--max-steps", "10", "--prefix", str(directory / "arcface" / "model"))
    return Namespace(
        directory=directory, model=str(directory / "arcface" / "model"),
        data=("--data-dir", head, "--data-dir-interclass",
              str(directory / "data" / "MF2_pic9_tail"),
              "--pretrained", str(directory / "arcface" / "model") + ",0"))


def run(trained, name, *arguments, code=0):
    prefix = str(trained.directory / name / "model")
    done = script("train_unequal.py", *SMALL, *TAIL, *trained.data, "--prefix", prefix, *arguments,
                  code=code)
    return prefix, done


def test_flags():
    not_in_step_4 = ("--bndrop", "--per-batch-size")
    common = {name: value for name, value in REFERENCE.items() if name not in not_in_step_4}
    assert flags("train_unequal.py") == {
        **common, **OURS, "--verbose": 50, "--lr": 0.001, "--noise": 1, "--noise-beta": 0.9,
        "--batch-size1": 90, "--batchsize_id": 90, "--bag-size": 3600, "--images-per-identity": 3,
        "--batch-size2": 180, "--margin-inter": 1.0, "--interweight": "0.01",
        "--data-dir-interclass": "", "--mining": 1, "--bags": 100, "--patience": 100,
        "--state-minutes": 5.0}


def test_two_epochs_of_mined_batches(trained):
    prefix, done = run(trained, "two", "--max-steps", "5")
    assert "interloss=" in done.stdout and "acc=" in done.stdout
    logged = events(prefix)
    # After the first batch as in the reference, after four, and at the end.
    assert [event["step"] for event in logged if event["event"] == "verify"] == [1, 4, 5]
    losses = [event["metrics"] for event in logged if event["event"] == "train"]
    assert [sorted(metrics) for metrics in losses] == 2 * [["acc", "interloss", "softmaxloss"]]
    assert all(0 < metrics["interloss"] < 1 for metrics in losses)
    symbol, arguments, _ = mx.model.load_checkpoint(prefix, 0)
    assert "noise_robust" not in symbol.tojson()  # plain MXNet loads it
    before = mx.model.load_checkpoint(trained.model, 0)[1]
    assert sorted(arguments) == sorted(before)  # no weight for tail identities
    assert arguments["fc7_weight"].shape[0] == 6
    # The classifier is kept from the model before, not drawn anew.
    kept, now = (a["fc7_weight"].asnumpy() for a in (before, arguments))
    assert np.abs(kept - now).max() < 0.1 * np.abs(kept).max()


def test_same_seed_same_weights(trained):
    weights = []
    for name in ("first", "second"):
        prefix, _ = run(trained, name, "--max-steps", "4")
        weights.append(mx.model.load_checkpoint(prefix, 0)[1])
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value.asnumpy(), weights[1][name].asnumpy(), name)


def test_weights_are_raised_from_the_best_model(trained):
    prefix, done = run(trained, "raised", "--interweight", "0,1,5", "--verbose", "1", "--patience",
                       "1", "--max-steps", "4", "--ckpt", "1")
    best = None
    for weight in (0, 1, 5):
        end = events(f"{prefix}_w{weight}")[-1]
        assert end["event"] == "end"
        if best is None or end["best_mean"] > best[0]:
            best = end["best_mean"], f"{prefix}_w{weight},{end['best_epoch']}"
        if weight < 5:
            assert f"starts from {best[1]}" in done.stdout
    reasons = [events(f"{prefix}_w{weight}")[-1]["reason"] for weight in (0, 1, 5)]
    assert any("patience" in reason for reason in reasons)


def test_two_devices(trained):
    prefix, _ = run(trained, "devices", "--max-steps", "2", "--devices", "cpu:2")
    assert events(prefix)[0]["devices"] == ["cpu(0)", "cpu(1)"]


def test_random_tail_needs_no_mining_pass(trained):
    """By --mining 0 chance alone chooses, by the seed: no network is asked."""
    tails = {}
    for name, mining in (("mined", "1"), ("random", "0")):
        prefix, done = run(trained, name, "--max-steps", "2", "--mining", mining, "--noise", "0")
        with np.load(prefix + "-resume.npz") as state:
            tails[name] = state["tail"]
    with RecordSet(str(trained.directory / "data" / "MF2_pic9_tail")) as records:
        expected = Miner(records, identities=4, bag_size=30, bags=3).random(0)
    np.testing.assert_array_equal(tails["random"], expected)
    assert tails["mined"].shape == expected.shape and (tails["mined"] != expected).any()
    assert [event["step"] for event in events(prefix) if event["event"] == "save"]


@pytest.mark.parametrize("arguments, text", [
    (("--interweight", "1,x"), "--interweight '1,x'"),
    (("--interweight", "-1"), "--interweight '-1'"),
    (("--batchsize_id", "10"), "--batchsize_id 10 must be a multiple of 3"),
    (("--batch-size1", "15", "--devices", "cpu:2"), "--batch-size1 15 must be a multiple of 2"),
    (("--batchsize_id", "33"), "--bag-size 30 must be at least"),
    (("--images-per-identity", "0"), "--images-per-identity must be above 0"),
    (("--bags", "0"), "--bags must be above 0"),
    (("--data-dir-interclass", ""), "--data-dir-interclass is missing"),
])
def test_bad_flags_are_one_sentence(trained, arguments, text):
    _, done = run(trained, "bad", *arguments, code=1)
    assert text in done.stderr and len(done.stderr.strip().splitlines()) == 1
