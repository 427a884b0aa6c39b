"""Other forms of the same training, through the whole loop on CPU contexts: the GPUs' symbols, the
split classifier, 16-bit arithmetic, activations computed anew."""
import mxnet as mx
import numpy as np
import pytest

from helpers.scripts import events
from unequal.commands import cli
from unequal.symbols import heads, networks
from unequal.synthetic.dataset import make_dataset
from unequal.system import mxnet_private, runtime

SIDE = 16


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("synth") / "data"
    make_dataset(str(directory), seed=1, image_size=SIDE, head_identities=6, tail_identities=8,
                 eval_pairs=20, eval_identities=20)
    return directory


def train(step, dataset, prefix, *flags, steps=3):
    """The weights and the logged metrics of a few batches on four contexts, without dropout."""
    if step == "unequal":
        flags += ("--data-dir-interclass", str(dataset / "MF2_pic9_tail"), "--batch-size1", "16",
                  "--batchsize_id", "24", "--bag-size", "24", "--bags", "2", "--batch-size2", "8")
    else:
        flags += ("--per-batch-size", "8")
    if step == "relusoft-savemodel":
        steps = 1
    code = cli.main(["train", step, "--data-dir", str(dataset / "MF2_pic9_head"), "--prefix",
                     str(prefix), "--network", "n8", "--emb-size", "16", "--version-output", "I",
                     "--devices", "cpu:4", "--max-steps", str(steps), "--target", "", "--lr",
                     "0.01", *flags])
    assert code == 0
    _, weights, _ = mx.model.load_checkpoint(str(prefix), 0)
    metrics = [event["metrics"] for event in events(prefix) if event["event"] == "train"]
    return {name: value.asnumpy() for name, value in weights.items()}, metrics


def assert_same(found, expected, tolerance=2e-4):
    """Within a small part of what was learnt; absolute, since biases before a BatchNorm move by
    rounding alone."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=tolerance, rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("step", ["softmax", "relusoft-savemodel", "unequal"])
def test_form_for_gpus_trains_as_that_for_cpus(step, dataset, tmp_path, monkeypatch):
    expected, metrics = train(step, dataset, tmp_path / "cpu")
    built = []
    monkeypatch.setattr(runtime, "wants_cpu_forms", lambda devices: built.append(devices) or False)
    found, others = train(step, dataset, tmp_path / "gpu")
    assert built
    assert_same(found, expected)
    for ours, theirs in zip(others, metrics):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("step", ["softmax", "relusoft-savemodel", "unequal"])
def test_split_classifier_trains_as_the_whole_one(step, dataset, tmp_path):
    expected, metrics = train(step, dataset, tmp_path / "whole")
    found, others = train(step, dataset, tmp_path / "split", "--model-parallel", "1")
    assert_same(found, expected)
    for ours, theirs in zip(others, metrics):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("first, second", [("1", "0"), ("0", "1")])
def test_a_split_run_goes_on_whole_and_back(first, second, dataset, tmp_path):
    expected, _ = train("softmax", dataset, tmp_path / "at_once", steps=4)
    train("softmax", dataset, tmp_path / "model", "--model-parallel", first, steps=2)
    found, _ = train("softmax", dataset, tmp_path / "model", "--model-parallel", second,
                     "--resume", steps=4)
    assert_same(found, expected)


def test_activations_computed_anew_change_nothing(dataset, tmp_path):
    expected, _ = train("softmax", dataset, tmp_path / "kept")
    found, _ = train("softmax", dataset, tmp_path / "anew", "--save-memory", "1")
    assert_same(found, expected, 1e-5)


def test_activations_computed_anew_need_less_memory():
    symbol = heads.softmax_head(networks.get_symbol("r18", 16, depthwise_prelu=False),
                                mx.sym.Variable("softmax_label"), 5, 16, index=False)
    planned = []
    for wanted in (False, True):
        with mxnet_private.mirroring(wanted):
            executor = symbol.simple_bind(mx.cpu(), data=(8, 3, 64, 64), softmax_label=(8,))
        line, = (line for line in executor.debug_str().splitlines() if line.endswith("allocated"))
        planned.append(int(line.split()[1]))
    assert planned[1] < 0.85 * planned[0]


def test_sixteen_bits_through_the_loop(dataset, tmp_path, capsys):
    expected, metrics = train("softmax", dataset, tmp_path / "32")
    found, _ = train("softmax", dataset, tmp_path / "16", "--dtype", "bfloat16")
    assert found["conv0_weight"].dtype == np.float32 and set(found) == set(expected)
    difference = max(np.abs(found[name] - expected[name]).max() for name in expected)
    assert 0 < difference < 0.1
    capsys.readouterr()
    assert cli.main(["train", "softmax", "--data-dir", str(dataset / "MF2_pic9_head"), "--dtype",
                     "float16", "--devices", "cpu", "--prefix", str(tmp_path / "no")]) == 1
    assert "--dtype float16 is not for CPUs; there it is bfloat16." in capsys.readouterr().err
