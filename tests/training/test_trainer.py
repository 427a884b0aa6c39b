"""The loop by itself, over a learner without a network: what it counts, saves, resumes, tells."""
import csv
import os
from argparse import Namespace

import numpy as np
import pytest

from helpers import TESTS, scripts
from unequal.cluster.workers import Workers
from unequal.errors import InputError
from unequal.training import state, trainer
from unequal.training.config import SoftmaxConfig, UnequalConfig
from unequal.training.learner import Learner, NotFinite
from unequal.training.metrics import Metric
from unequal.training.observers import Observer
from unequal.training.stages import Stage
from unequal.training.trainer import Trainer


class Data:
    """Five batches an epoch; remembers which were given, and saves a number of its own."""

    batches, batch_size = 5, 4

    def __init__(self):
        self.given, self.position, self.tail = [], 0, np.array([7])

    def fingerprint(self):
        return "five"

    def seek(self, epoch, batch):
        self.position = batch

    def reset(self):
        self.position = 0

    def state(self):
        return {"tail": self.tail}

    def restore(self, arrays):
        self.tail = arrays["tail"]

    def next(self):
        self.given.append(self.position)
        self.position += 1
        return Namespace(label=[np.zeros(4)], index=np.arange(4))


class Counter(Learner):
    """Its one weight counts the batches, its momentum twice as fast."""

    def __init__(self, finite=10 ** 6):
        self.weight, self.speed, self.finite = np.zeros(1, np.float32), np.zeros(1), finite
        self.learnt = []

    @property
    def learning_rate(self):
        return 0.1 if self.weight[0] < 7 else 0.01

    def start(self, step, saved=None):
        if saved is not None:
            self.weight = saved.arg_params["w"].asnumpy()
            self.speed = saved.momenta["w"].asnumpy()
        assert self.weight[0] == step

    def expected(self):
        return {"arg:w": ((1,), np.float32), "momentum:w": ((1,), np.float64)}

    def learn(self, batch, number):
        self.learnt.append(number)

    def update(self):
        self.weight, self.speed = self.weight + 1, self.speed + 2

    def outputs(self, names):
        return {name: [self.weight + 1] for name in names}  # of the batch being learnt

    def params(self):
        if self.weight[0] > self.finite:
            raise NotFinite("w is no longer finite")
        return {"w": self.weight}, {}

    def momenta(self):
        return {"w": self.speed}


class Store(state.RunStore):
    """Notes which checkpoints were saved; the state is written as always."""

    saved = ()

    def save_model(self, epoch, params):
        self.saved += ((epoch, float(params[0]["w"][0])),)


class Ear(Observer):
    def __init__(self):
        self.heard, self.closed = [], 0

    def notify(self, event, **fields):
        self.heard.append((event, fields))

    def close(self):
        self.closed += 1


def make(tmp_path, accuracies=(), learner=None, observers=(), stage=None, **settings):
    """A trainer whose Nth verification has the Nth of ``accuracies``."""
    given = iter(accuracies)

    def verifier(arg_params, aux_params):
        one = next(given, None)
        return {} if one is None else {"lfw": Result(
            xnorm=1.0, accuracy=one, accuracy_std=0.0, accuracy_flip=one, accuracy_flip_std=0.0)}

    config = SoftmaxConfig(**{**dict(prefix=str(tmp_path / "model"), verbose=2, max_steps=12),
                              **settings})
    run = Namespace(config=config, workers=Workers(), devices=["cpu(0)"], num_devices=1)
    stage = Stage("test", "a test", None, Data(), [7], [Metric("softmaxloss", ["w"], np.array)],
                  log_every=1)._replace(**(stage or {}))
    made = Trainer(stage, run, observers, learner=learner or Counter(), verifier=verifier,
                   store=Store(config.prefix, state.identity(stage, run, config), None))
    return made


class Result(dict):
    """As `verification.evaluate` gives it."""

    __getattr__ = dict.__getitem__


def events(tmp_path, *kinds):
    return [event for event in scripts.events(tmp_path / "model")
            if not kinds or event["event"] in kinds]


def test_patience_ends_and_the_best_is_kept(tmp_path):
    run = make(tmp_path, [0.5, 0.7, 0.6, 0.7, 0.6, 0.9], patience=3)
    best = run.fit()
    assert (best.mean, best.epoch, best.stale) == (0.7, 2, 3)
    assert run.store.saved == ((0, 2), (1, 2), (0, 4), (2, 4), (0, 6), (0, 8), (4, 8), (0, 10))
    end = events(tmp_path, "end")[0]
    assert end["step"] == 10 and end["reason"].startswith("the mean accuracy has not risen for 3")


def test_the_first_verification_of_steps_3_and_4_does_not_count(tmp_path):
    run = make(tmp_path, [0.9, 0.5, 0.6], stage=dict(verify_first=True), max_steps=3)
    assert run.fit().mean == 0.6
    assert [event["step"] for event in events(tmp_path, "verify")] == [1, 2, 3]


def test_a_run_that_stops_after_its_first_batch(tmp_path):
    run = make(tmp_path, [0.9], stage=dict(verify_first=True, stop_after_first=True))
    run.fit()
    assert run.store.saved == ((0, 1),)
    assert events(tmp_path, "end")[0]["reason"] == "the checkpoint is saved"


@pytest.mark.parametrize("cut", (1, 2, 5, 6, 11))
def test_stopped_anywhere_and_continued_it_does_the_same(tmp_path, monkeypatch, cut):
    accuracies = [0.1, 0.2, 0.2, 0.3, 0.1, 0.4]
    whole = make(tmp_path / "whole", accuracies)
    whole.fit()
    calls = []

    def check():
        calls.append(1)
        if len(calls) == cut + 1:
            raise trainer.interrupts.Interrupted("stopped by SIGTERM")

    monkeypatch.setattr(trainer.interrupts, "check", check)
    first = make(tmp_path / "cut", accuracies)
    with pytest.raises(trainer.interrupts.Interrupted, match=f"after batch {cut}; resume co"):
        first.fit()
    second = make(tmp_path / "cut", accuracies[cut // 2:], resume="must")
    assert second.fit() == whole.progress.best
    assert first.learner.learnt + second.learner.learnt == list(range(12))
    assert first.stage.data.given + second.stage.data.given == whole.stage.data.given
    assert second.learner.weight[0] == 12 and second.learner.speed[0] == 24
    assert first.store.saved + second.store.saved == whole.store.saved
    kinds = ("lr", "train", "verify", "save", "end")
    changing = dict(time=0, speed=0)
    assert [{**event, **changing} for event in events(tmp_path / "cut", *kinds)] == [
        {**event, **changing} for event in events(tmp_path / "whole", *kinds)]


def test_a_signal_while_verifying_logs_its_save_once(tmp_path):
    run, resumed = make(tmp_path, max_steps=4), make(tmp_path, [0.5, 0.6], max_steps=4,
                                                     resume="must")

    def interrupted(*params):
        raise trainer.interrupts.Interrupted("stopped by SIGTERM")

    run.verifier = interrupted
    with pytest.raises(trainer.interrupts.Interrupted, match="after batch 2"):
        run.fit()
    resumed.fit()
    assert [(event["step"], event["epoch"]) for event in events(tmp_path, "save")] == [
        (2, 0), (2, 1), (4, 0), (4, 2)]


def test_observers_listen_and_are_closed(tmp_path):
    ear = Ear()
    make(tmp_path, [0.5], observers=[ear], max_steps=2).fit()
    assert [event for event, _ in ear.heard] == [
        "start", "begin", "batch", "train", "batch", "train", "save", "verify", "save", "highest",
        "end"]
    assert ear.heard[3][1]["metrics"] == {"softmaxloss": 1.0} and ear.closed == 1
    broken = Ear()
    run = make(tmp_path, observers=[broken], learner=Counter(finite=1))
    with pytest.raises(InputError, match="w is no longer finite at batch 2: training has diverged"):
        run.fit()
    assert run.store.saved == () and broken.closed == 1
    assert broken.heard[-1][0] == "train"


def test_the_learning_rates_fall_is_told_once(tmp_path):
    make(tmp_path).fit()
    assert [(event["step"], event["lr"]) for event in events(tmp_path, "lr")] == [(7, 0.01)]


def test_what_an_epoch_begins_with(tmp_path):
    seen = []
    make(tmp_path, stage=dict(before_epoch=lambda epoch, arg, aux: seen.append(
        (epoch, float(arg["w"][0]))))).fit()
    assert seen == [(0, 0), (1, 5), (2, 10)]


def test_a_second_run_on_one_prefix_is_refused(tmp_path):
    """While the first one trains; when it has ended, however it did, the next may come."""
    def second(epoch, *params):
        with pytest.raises(InputError) as error:
            make(tmp_path).fit()
        assert str(error.value).startswith(
            f"prefix {tmp_path}/model: another run has it (process {os.getpid()} on ")
        refused.append(epoch)

    refused = []
    make(tmp_path, max_steps=3, stage=dict(before_epoch=second)).fit()
    with pytest.raises(InputError, match="finite"):
        make(tmp_path, learner=Counter(finite=1)).fit()
    make(tmp_path, max_steps=1).fit()
    assert refused == [0] and not (tmp_path / "model.lock").exists()
    assert [event["step"] for event in events(tmp_path, "end")] == [3, 1]


def test_a_plateau_before_the_last_fall_of_the_learning_rate_ends_nothing(tmp_path):
    flat = [0.5] * 20
    make(tmp_path, flat, patience=2, max_steps=40, stage=dict(last_fall=9)).fit()
    assert events(tmp_path, "end")[0]["step"] == 12  # 10 and 12 did not rise
    make(tmp_path, [0.5] * 5, patience=0, max_steps=10).fit()
    assert events(tmp_path, "end")[1]["reason"] == "max_steps 10"


def test_a_target_chooses_the_best_model(tmp_path):
    """The mean rises at the third verification, lfw at the second."""
    values = iter([(0.5, 0.5), (0.6, 0.1), (0.5, 0.9)])

    def verifier(*params):
        pair = next(values)
        return {name: Result(xnorm=1, accuracy=one, accuracy_std=0, accuracy_flip=one,
                             accuracy_flip_std=0) for name, one in zip(("lfw", "cfp"), pair)}

    run = make(tmp_path, select="lfw", patience=1)
    run.verifier = verifier
    best = run.fit()
    assert (best.mean, best.epoch) == (0.6, 2)
    reason = events(tmp_path, "end")[0]["reason"]
    assert reason.startswith("the accuracy on lfw has not risen for 1")


def replayed(weight, patience):
    """``(last batch, batch of the best)`` of the authors' step 4 at one weight under our rule."""
    with open(TESTS / "golden" / "step4_accuracies.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["interweight"] == str(weight)]
    best, at = trainer.Best(), 0
    for row in rows[1:]:  # the verification after batch 1 does not count
        before = best.mean
        best.update([float(row[name]) for name in ("lfw", "cfp_fp", "agedb_30")], 0)
        at = int(row["batch"]) if best.mean > before else at
        if 0 < patience <= best.stale:
            break
    return int(row["batch"]), at


@pytest.mark.parametrize("weight, handed_on, ran_to, best, with_10", [
    (1, 4900, 6950, 4900, 950), (5, 10050, 10450, 8800, 1100), (10, 6500, 6900, 6500, 850)])
def test_the_authors_step_4_would_not_have_been_cut_short(weight, handed_on, ran_to, best, with_10):
    """Their 490 verifications: the default reaches the end of each log; the earlier default, 10,
    was a seventh of the way. The first row is of batch 1; the last of interweight 5 is of batch
    10,450, of 10,500 that they ran."""
    assert replayed(weight, UnequalConfig().patience) == (ran_to, best)
    assert handed_on <= ran_to
    assert replayed(weight, 10)[0] == with_10
    assert replayed(10, 90)[0] < 6500  # the longest wait for a new best is of 90 verifications


def test_the_weights_are_fetched_once_a_step(tmp_path):
    class Fetched(Counter):
        def params(self):
            fetched.append(int(self.weight[0]))
            return super().params()

    fetched = []
    make(tmp_path, learner=Fetched(), verbose=5, max_steps=11,
         stage=dict(before_epoch=lambda *_: None)).fit()
    assert fetched == [0, 5, 10, 11]  # 5 and 10: a verification and an epoch's beginning


@pytest.mark.parametrize("minutes, written", [(0.0, [2, 4, 6, 8, 9]), (2.0, [2, 6, 8, 9]),
                                              (1000.0, [2, 8, 9])])
def test_when_the_state_is_written(tmp_path, monkeypatch, minutes, written):
    """With the first verification, a new best (8), after so many minutes, and at the end."""
    now = [0.0]
    monkeypatch.setattr(trainer.time, "monotonic", lambda: now[0])

    def verifier(*_):
        now[0] += 60
        return results.pop(0)

    results = [{"lfw": Result(xnorm=1, accuracy=one, accuracy_std=0, accuracy_flip=one,
                              accuracy_flip_std=0)} for one in (0.5, 0.4, 0.4, 0.6, 0.3)]
    run = make(tmp_path, max_steps=9, state_minutes=minutes)
    run.verifier = verifier
    steps, save = [], run.store.save_state
    monkeypatch.setattr(run.store, "save_state", lambda state: (
        steps.append(state.position["step"]), save(state)))
    run.fit()
    assert steps == written
