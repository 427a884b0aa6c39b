
import mxnet as mx
import numpy as np
import pytest

from helpers.fitting import CLASSES, SIZE, Batches, arguments, events, train, weights, write_targets
from unequal.errors import InputError
from unequal.symbols import margins, networks
from unequal.system import interrupts
from unequal.training import metrics as measures
from unequal.training import setup
from unequal.training.trainer import Best

GOLDEN_LOSSES = [5.133804, 6.783361, 6.214981, 1.638753, 2.611506, 1.508893, 0.915952, 0.451014]


def test_a_seed_gives_the_same_weights(tmp_path):
    results = []
    for name in ("a", "b"):
        args = arguments(tmp_path / name, "--max-steps", "5", "--version-output", "E")
        train(args, Batches())  # with dropout
        results.append(weights(args))
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][name], err_msg=name)


def test_two_devices_update_as_one_with_the_same_total_batch(tmp_path):
    """BatchNorm normalises per device, so each device gets the same pictures: then it, too, sees
    what one device sees with all of them."""
    results = []
    for devices in (1, 2):
        args = arguments(tmp_path / str(devices), "--max-steps", "3", "--lr", "0.01")
        train(args, Batches(repeat=2), devices)
        results.append(weights(args))
    initial = arguments(tmp_path / "0", "--max-steps", "1", "--lr", "1e-9")
    train(initial, Batches(repeat=2))
    start = weights(initial)
    results[0].pop("fc1_gamma")  # fixed at 1 by BatchNorm's forward, whatever the optimizer does
    for name, value in results[0].items():
        moved = np.abs(value - start[name]).max()
        np.testing.assert_allclose(value, results[1][name], atol=2e-3 * max(moved, 1e-3),
                                   err_msg=name)
    assert np.abs(results[0]["fc7_weight"] - start["fc7_weight"]).max() > 1e-3


def test_first_update_is_sgd_of_the_mean_loss(tmp_path):
    """``w -= lr * (gradient of the mean loss + wd * w)``, biases and beta decayed like the rest."""
    args = arguments(tmp_path, "--max-steps", "1", "--lr", "0.01", "--wd", "0.1")
    data = Batches()
    train(args, data)
    after = weights(args)
    still = arguments(tmp_path / "still", "--max-steps", "1", "--lr", "1e-12", "--wd", "0.1")
    train(still, Batches())
    before = weights(still)
    embedding = networks.get_symbol("n8", 16, version_output="I")
    label = mx.sym.Variable("softmax_label")
    logits = margins.margin_logits(embedding, label, CLASSES, 16, setup.margin_of(args))
    probability = mx.sym.pick(mx.sym.softmax(logits), label)
    loss = mx.sym.MakeLoss(-mx.sym.mean(mx.sym.log(probability)))
    data.reset()
    batch = data.next()
    executor = loss.simple_bind(mx.cpu(), data=(8, 3, SIZE, SIZE), softmax_label=(8,))
    executor.copy_params_from(
        {name: mx.nd.array(before[name]) for name in loss.list_arguments() if name in before},
        {name: mx.nd.array(value) for name, value in before.items() if "moving" in name})
    executor.forward(is_train=True, data=batch.data[0], softmax_label=batch.label[0])
    executor.backward()
    for name in ("fc7_weight", "conv0_weight", "pre_fc1_bias", "bn1_beta", "relu0_gamma"):
        gradient = executor.grad_dict[name].asnumpy()
        expected = before[name] - 0.01 * (gradient + 0.1 * before[name])
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_schedule(tmp_path):
    args = arguments(tmp_path, "--max-steps", "8", "--lr", "0.1", "--beta-freeze", "1")
    train(args, Batches(), lr_steps=(3, 5))
    rates = [event["lr"] for event in events(args, "train")]
    np.testing.assert_allclose(rates, [0.1] * 4 + [0.01] * 2 + [0.001] * 2)


@pytest.mark.parametrize("flags, steps", [
    (("--max-steps", "4"), 4), (("--end-epoch", "2"), 6),
    (("--end-epoch", "2", "--max-steps", "9"), 6)])
def test_what_ends_training(tmp_path, flags, steps):
    args = arguments(tmp_path, *flags)
    train(args, Batches())
    assert len(events(args, "train")) == steps
    assert events(args, "end")[0]["step"] == steps
    assert weights(args)  # the last weights are saved even between two verifications


def test_verification_saves_and_patience(tmp_path, caplog):
    (tmp_path / "sets").mkdir()
    write_targets(tmp_path / "sets")
    args = arguments(tmp_path, "--end-epoch", "50", "--verbose", "2", "--patience", "3", "--lr",
                     "1e-12", "--eval-dir", str(tmp_path / "sets"),
                     "--target", "lfw,cfp_fp,agedb_30")
    with caplog.at_level("INFO"):
        best = train(args, Batches())
    verified = events(args, "verify")
    # The weights hardly move, so nothing rises after the first verifications.
    assert 4 <= len(verified) < 20
    assert list(verified[0]["results"]) == ["lfw", "agedb_30"]
    assert events(args, "end")[0]["reason"].startswith("the mean accuracy has not risen for 3")
    assert best.epoch == events(args, "end")[0]["best_epoch"]
    assert "[lfw][2]Accuracy-Flip: " in caplog.text and "[2]Accuracy-Highest: " in caplog.text
    assert "cfp_fp" in caplog.text  # said to be missing
    assert weights(args, best.epoch)


@pytest.mark.parametrize("ckpt, kept", [("0", set()), ("2", {1, 2})])
def test_ckpt(tmp_path, ckpt, kept):
    write_targets(tmp_path)
    args = arguments(tmp_path, "--max-steps", "4", "--verbose", "2", "--ckpt", ckpt)
    train(args, Batches())
    assert {event["epoch"] for event in events(args, "save")} == kept | {0}


def test_best():
    best = Best()
    assert best.update([0.5, 0.5, 0.5], floor=0)
    assert not best.update([0.4, 0.5, 0.4], floor=0) and best.stale == 1
    assert best.update([0.5, 0.1, 0.5], floor=0) and best.stale == 2  # the last did not fall
    assert best.update([0.6, 0.1, 0.1], floor=0) and best.stale == 3  # the first rose
    assert best.update([0.55, 0.9, 0.45], floor=0) and best.stale == 0  # the mean rose
    assert (best.first, best.last, round(best.mean, 4)) == (0.6, 0.5, 0.6333)
    assert not best.update([0.7, 0.9, 0.9], floor=0.75)


def test_divergence_stops_before_anything_is_overwritten(tmp_path):
    args = arguments(tmp_path, "--max-steps", "2")
    train(args, Batches())
    before = (tmp_path / "m" / "model-0000.params").read_bytes()
    metrics = [measures.Metric("softmaxloss", ["label_probability"], lambda p: p * float("nan"))]
    with pytest.raises(InputError, match="loss is nan at batch 1: training has diverged"):
        train(args, Batches(), metrics=metrics)
    assert (tmp_path / "m" / "model-0000.params").read_bytes() == before


def test_golden_trajectory(tmp_path):
    """The losses of a small ArcFace run as they were recorded: a change of the loop, the network,
    the head or the optimizer that changes training shows here. To record anew after an intended
    change, print ``losses`` and say why in the commit."""
    args = arguments(tmp_path, "--max-steps", "8", "--lr", "0.01", "--margin-s", "8")
    train(args, Batches())
    losses = [event["metrics"]["softmaxloss"] for event in events(args, "train")]
    np.testing.assert_allclose(losses, GOLDEN_LOSSES, rtol=2e-3)


def test_the_weights_are_equal_on_all_devices(tmp_path):
    """So that one device's are saved; BatchNorm's averages are each device's own."""
    args = arguments(tmp_path, "--max-steps", "3", "--version-output", "E")
    groups = []
    train(args, Batches(), 4, before_batch=lambda learner, _: groups.append(
        learner.module._exec_group))
    group = groups[0]
    saved = weights(args)
    for name, copies in zip(group.param_names, group.param_arrays):
        for copy in copies:
            np.testing.assert_array_equal(copy.asnumpy(), saved[name], err_msg=name)
    differ = 0
    for name, copies in zip(group.aux_names, group.aux_arrays):
        copies = np.stack([copy.asnumpy() for copy in copies])
        differ += (copies[0] != copies[1]).any()
        np.testing.assert_allclose(saved[name], copies.mean(axis=0), rtol=1e-6, atol=1e-7,
                                   err_msg=name)
    assert len(group.param_names) > 20 and differ


def test_accumulated_batches_are_one_update(tmp_path):
    """Two batches of the same pictures give the mean loss's gradient of one of them; BatchNorm's
    averages alone see both."""
    results = []
    for accumulate in ("1", "2"):
        args = arguments(tmp_path / accumulate, "--max-steps", "3", "--lr", "0.01",
                         "--accumulate", accumulate)
        train(args, Batches(count=2, same=True))
        results.append({name: value for name, value in weights(args).items()
                        if "moving" not in name and name != "fc1_gamma"})
        assert events(args, "end")[0]["step"] == 3
    for name, value in results[0].items():
        np.testing.assert_allclose(results[1][name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_accumulated_batches_resume_with_the_same_bits(tmp_path):
    """Five batches an epoch, two an update: the fifth is left out; cut in the second epoch."""
    flags = ("--version-output", "E", "--accumulate", "2", "--warmup", "2", "--lr-schedule",
             "cosine", "--end-epoch", "3")
    whole, cut = arguments(tmp_path / "whole", *flags), arguments(tmp_path / "cut", *flags)
    train(whole, Batches(count=5))

    def stop(learner, batches):
        if batches == 3:
            interrupts._received.append("SIGTERM")

    try:
        with pytest.raises(interrupts.Interrupted):
            train(cut, Batches(count=5), before_batch=stop)
    finally:
        interrupts._received.clear()
    cut.resume = "must"
    train(cut, Batches(count=5))
    assert events(cut, "end")[0]["step"] == 6
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(weights(cut)[name], value, err_msg=name)


def test_warmup_and_cosine(tmp_path):
    args = arguments(tmp_path / "warm", "--max-steps", "6", "--lr", "0.4", "--warmup", "4")
    train(args, Batches(), lr_steps=(5,))
    np.testing.assert_allclose([event["lr"] for event in events(args, "train")],
                               [0.1, 0.2, 0.3, 0.4, 0.4, 0.04], rtol=1e-6)
    assert [event["step"] for event in events(args, "lr")] == [6]
    args = arguments(tmp_path / "cosine", "--max-steps", "8", "--lr", "0.4", "--lr-schedule",
                     "cosine")
    train(args, Batches())
    rates = [event["lr"] for event in events(args, "train")]
    expected = [0.2 * (1 + np.cos(np.pi * step / 8)) for step in range(1, 9)]
    np.testing.assert_allclose(rates, expected, atol=1e-6)
    args.warmup = 8
    with pytest.raises(InputError, match="warmup 8 must be shorter than the training of 8 batches"):
        train(args, Batches())


def test_a_csv_and_tensorboard_beside_the_log(tmp_path):
    write_targets(tmp_path, names=("lfw",))
    args = arguments(tmp_path, "--max-steps", "2", "--csv", "1", "--tensorboard",
                     str(tmp_path / "board"), "--target", "lfw")
    train(args, Batches())
    path = tmp_path / "m" / "model-trainlog.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    logged = events(args, "train")[1]["metrics"]["softmaxloss"]
    assert rows[0] == ["step", "name", "value"] and ["2", "train/softmaxloss", repr(logged)] in rows
    assert sum(row[1] == "verify/lfw" for row in rows) == 1
    before = path.read_text()
    args.resume, args.max_steps = "must", 3
    with open(path, "a") as file:
        file.write("3,train/acc,0.5\n2,train/half")  # what a killed run wrote after its state
    train(args, Batches())
    assert path.read_text().startswith(before + "3,train/acc,")
    found = b"".join(file.read_bytes() for file in (tmp_path / "board").iterdir())
    assert b"train/softmaxloss" in found and b"verify/lfw" in found
