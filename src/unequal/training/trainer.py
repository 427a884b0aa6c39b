"""The training loop, one for all steps of the recipe: what differs between them is given to it as
a :class:`unequal.training.stages.Stage`."""
import dataclasses
import math
import os
import time
import zlib
from contextlib import closing
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from unequal.errors import ArgumentError, InputError
from unequal.system import interrupts
from unequal.system.files import Lock
from unequal.training import config, setup
from unequal.training import state as run_state
from unequal.training.board import TensorBoard
from unequal.training.learner import Learner, ModuleLearner, NotFinite
from unequal.training.metrics import Meter
from unequal.training.observers import (
    Console,
    CsvLog,
    EventLog,
    Observer,
    Observers,
    ProgressBar,
)
from unequal.training.setup import Run
from unequal.training.split_learner import SplitLearner
from unequal.training.stages import Stage
from unequal.training.verifying import Verifier


@dataclasses.dataclass
class Best:
    """The best accuracies so far, updated by each verification."""

    first: float = 0.0
    last: float = 0.0
    mean: float = 0.0  # or the accuracy that ``select`` names
    epoch: Optional[int] = None  # of the checkpoint with the best mean
    stale: int = 0  # verifications since the mean rose

    def update(self, accuracies: Sequence[float], floor: float,
               selected: Optional[float] = None) -> bool:
        """Take the targets' accuracies; return whether this model is worth keeping.

        The reference keeps a model when the first target's accuracy rises or the last one's does
        not fall. Here a model with the best mean (or the best ``selected``, which replaces the
        mean) is kept too, since ``patience`` waits for it.
        """
        mean = float(np.mean(accuracies)) if selected is None else selected
        better = (accuracies[0] > self.first or accuracies[-1] >= self.last or mean > self.mean)
        self.stale = 0 if mean > self.mean else self.stale + 1
        self.first = max(self.first, accuracies[0])
        self.last = max(self.last, accuracies[-1])
        self.mean = max(self.mean, mean)
        return better and accuracies[0] >= floor


@dataclasses.dataclass
class Progress:
    """How far a run has come; saved with its state."""

    step: int = 0  # batches done
    verified: int = 0  # batches done at the last verification
    saves: int = 0  # verifications that counted, which number the checkpoints
    best: Best = dataclasses.field(default_factory=Best)


class Trainer:
    """Train a stage until ``max_steps``, ``end_epoch`` or ``patience`` ends it.

    The state (:mod:`unequal.training.state`) is saved after each verification and when a signal
    asks to stop; with ``resume`` training continues from it. Each batch is determined by the state
    before it: on one CPU device a resumed run has the weights of an uninterrupted one, bit for bit.

    Several workers take the same steps and have the same weights. Worker 0 verifies and writes the
    checkpoints and the state; with ``resume`` all workers read them. Methods marked "all" are
    collective: every worker must call them at the same step, so observers never call them.

    Parameters
    ----------
    stage : unequal.training.stages.Stage
    run : unequal.training.setup.Run
        With its ``config``.
    observers : sequence of unequal.training.observers.Observer
        Told what happens, after the event log, the console and the progress bar.
    learner : unequal.training.learner.Learner, optional
        Default: MXNet's Module on the run's devices.
    verifier : callable, optional
        ``(arg_params, aux_params)`` to ``{target: result}``, whose ``accuracy_flip`` counts;
        default :class:`unequal.training.verifying.Verifier`.
    store : unequal.training.state.RunStore, optional
    lock : unequal.system.files.Lock, optional
        Of the prefix, when work for this run began before: :func:`unequal.training.state.lock`.
    """

    def __init__(self, stage: Stage, run: Run, observers: Sequence[Observer] = (), *,
                 learner: Optional[Learner] = None,
                 verifier: Optional[Callable[[dict, dict], Dict[str, Any]]] = None,
                 store: Optional[run_state.RunStore] = None,
                 lock: Optional[Lock] = None) -> None:
        self.stage, self.run, self.config, self.workers = stage, run, run.config, run.workers
        self.leading = run.workers.rank == 0
        run.workers.leave_together(False)
        self.store = store or run_state.RunStore(
            self.config.prefix, run_state.identity(stage, run, self.config),
            stage.symbol if stage.saved_symbol is None else stage.saved_symbol, self.leading,
            lock)
        kind = ModuleLearner if stage.split is None else SplitLearner
        self.learner: Learner = learner or kind(stage, run)
        self.verifier = verifier
        self.observers = Observers([Console(self.config.prefix), ProgressBar(),
                                    *(self._files() if self.leading else ()), *observers])
        self.progress = Progress()
        self.meter = Meter(stage.metrics)
        self.batches = stage.data.batches // self.config.accumulate  # updates of an epoch
        if not self.batches:
            raise ArgumentError(f"accumulate {self.config.accumulate} is more than the "
                                f"{stage.data.batches} batches of an epoch.", "accumulate")
        self.metrics: Dict[str, float] = {}
        self._fetched: Optional[Tuple[int, Tuple[dict, dict]]] = None
        self._state_time = -math.inf  # of the last state written

    def fit(self) -> Best:
        """Train to the end.

        Returns
        -------
        Best
            Accuracies and the epoch number of the best checkpoint.

        Raises
        ------
        InputError
            Bad data, weights or a state that do not fit, or a loss or weights that are no longer
            finite.
        Interrupted
            A signal asked to stop, and the state is saved.
        """
        with closing(self.store), closing(self.observers):
            self.store.open()
            self.restore_or_start()
            with interrupts.postponed(self.workers.count > 1):
                try:
                    while True:
                        if self.verification_is_due():
                            self.verify()
                        reason = self.reason_to_end()
                        if reason:
                            break
                        self.check_interrupts()
                        self.train_batch()
                except interrupts.Interrupted as signal:
                    self.save_and_stop(signal)
            self.notify("end", reason=reason, best_epoch=self.progress.best.epoch,
                        best_mean=self.progress.best.mean)
        self.leave()
        return self.progress.best

    def notify(self, event: str, **fields: Any) -> None:
        """Tell the observers."""
        self.observers.notify(event, step=self.progress.step, **fields)

    def _files(self) -> Iterator[Observer]:
        """The logs that the configuration asks for beside the event log."""
        if self.config.csv:
            yield CsvLog(os.path.splitext(self._log_path())[0] + ".csv")
        if self.config.tensorboard:
            yield TensorBoard(self.config.tensorboard, self.run)

    # Beginning

    def restore_or_start(self) -> None:
        """Continue from a saved state if ``resume`` asks for it, else start anew (all)."""
        stage, settings = self.stage, self.config
        saved = self.store.find(settings.resume, self.learner.expected(), stage.data.restore)
        log_position = None
        if saved:
            position = dict(saved.position)
            log_position = position.pop("log")
            self.progress = Progress(**{**position, "best": Best(**position["best"])})
        self.log = EventLog(self._log_path(), log_position)
        self.observers.all.insert(0, self.log)
        if saved:
            self.notify("resume", path=self.store.path)
        else:
            self.observers.notify(
                "start", stage=stage.title, name=stage.name, options=vars(settings),
                devices=[str(device) for device in self.run.devices])
        if self.leading and self.verifier is None:
            self.verifier = Verifier(settings, stage.symbol, self.run.records.image_size,
                                     self.run.devices)
        self.learner.start(self.progress.step, saved)
        if saved:
            epoch, index = divmod(self.progress.step, self.batches)
            stage.data.seek(epoch, index * settings.accumulate)
        self._check_workers()
        self.limit = self._step_limit()
        self.batch_size = stage.data.batch_size * self.workers.count * settings.accumulate
        self.notify("begin", title=stage.title, limit=self.limit, batches=self.batches,
                    batch_size=self.batch_size, lr_steps=list(stage.lr_steps))
        self.first_step = self.speed_step = self.progress.step
        self.speed_start = time.time()

    def _log_path(self) -> str:
        folder, name = os.path.split(self.config.prefix)
        worker = "" if self.leading else f"-worker{self.workers.rank}"
        return os.path.join(self.config.log_dir or folder,
                            f"{name}-{self.config.log_file}{worker}.jsonl")

    def _step_limit(self) -> int:
        """Batches until ``max_steps`` or ``end_epoch``, whichever comes first."""
        if self.stage.stop_after_first:
            return 1
        return setup.length(self.config, self.stage.data.batches)

    def _check_workers(self) -> None:
        """Raise InputError unless all workers have the same flags, data and weights (all)."""
        if self.workers.count == 1:
            return
        weights = self.learner.params()[0]
        facts = {**self.store.facts, **config.shared(self.config),
                 "the number of batches done": self.progress.step,
                 "the state of the weights": zlib.crc32(b"".join(
                     weights[name].asnumpy().tobytes() for name in sorted(weights)))}
        self.workers.check_equal({config.argument(fact): value for fact, value in facts.items()})

    # A batch

    def train_batch(self) -> None:
        """One update; before an epoch's first also the stage's ``before_epoch`` (all)."""
        stage, progress = self.stage, self.progress
        epoch, index = divmod(progress.step, self.batches)
        if index == 0:
            if progress.step > self.first_step:
                stage.data.reset()
            if stage.before_epoch is not None:
                stage.before_epoch(epoch, *self.params())
        if stage.before_batch is not None:
            stage.before_batch(self.learner, progress.step)
        rate, parts = self.learner.learning_rate, self.config.accumulate
        for number in range(progress.step * parts, (progress.step + 1) * parts):
            batch = stage.data.next()
            self.learner.learn(batch, number)
            self.meter.add(self.learner.outputs(self.meter.names), batch)
        self.learner.update()
        progress.step += 1
        self.notify("batch")
        if self.learner.learning_rate < 0.5 * rate:  # a step, not the slow fall of a cosine
            self.notify("lr", lr=self.learner.learning_rate)
        if progress.step % stage.log_every == 0:
            self.read_metrics()
            speed = ((progress.step - self.speed_step) * self.batch_size
                     / (time.time() - self.speed_start))
            self.notify("train", epoch=epoch, speed=round(speed, 2),
                        lr=self.learner.learning_rate, metrics=self.metrics)
            self.speed_start, self.speed_step = time.time(), progress.step

    def read_metrics(self) -> None:
        """The metrics since the last time; InputError when the loss is not finite."""
        self.metrics = self.meter.take() or self.metrics
        loss = self.metrics.get(self.stage.loss_name, 0.0)
        if not math.isfinite(loss):
            raise self._diverged(f"The loss is {loss}")

    def params(self) -> Tuple[dict, dict]:
        """The weights, all finite; fetched once a step (all)."""
        if self._fetched is None or self._fetched[0] != self.progress.step:
            try:
                self._fetched = self.progress.step, self.learner.params()
            except NotFinite as error:
                raise self._diverged(str(error)) from None
        return self._fetched[1]

    def _diverged(self, what: str) -> InputError:
        verified = self.progress.verified
        last = (f"the last good checkpoint is {self.config.prefix},0 of batch {verified}"
                if verified else "no checkpoint was saved before")
        return ArgumentError(
            f"{what} at batch {self.progress.step}: training has diverged; {last}. Usual causes: "
            "lr too high (go on from that checkpoint with pretrained and a lower one), margin_m "
            "or margin_s too large, damaged data (`unequal inspect`).",
            "lr", "pretrained", "margin_m", "margin_s")

    # A verification

    def verification_is_due(self) -> bool:
        """Every ``verbose`` batches and at the end; in steps 3 and 4 also after batch 1."""
        step = self.progress.step
        return step > self.progress.verified and (
            self._counts() or (step == 1 and self.stage.verify_first))

    def _counts(self) -> bool:
        """Whether a verification at this batch can be the best one and counts for patience."""
        step = self.progress.step
        return not self.stage.stop_after_first and (
            step % self.config.verbose == 0 or step >= self.limit)

    def verify(self) -> None:
        """Save the weights, verify them, keep a better model, save the state when due (all)."""
        self.read_metrics()
        params = self.params()
        self.store.save_model(0, params)
        accuracies: List[float] = []
        selected: Optional[float] = None
        if self.leading:
            assert self.verifier is not None
            results = self.verifier(*params)
            # Only now: if verification is interrupted, the resumed run repeats (and logs) it.
            self.notify("save", epoch=0)
            self.notify("verify", results=results)
            accuracies = [result.accuracy_flip for result in results.values()]
            if self.config.select != "mean":
                selected = results[self.config.select].accuracy_flip
        self.workers.wait()  # for worker 0, however long it verifies
        accuracies, selected = self.workers.broadcast([accuracies, selected])
        kept = self._counts() and self.keep_when_better(accuracies, selected, params)
        self.progress.verified = self.progress.step
        waited = time.monotonic() - self._state_time
        if kept or waited >= 60 * self.config.state_minutes or self.reason_to_end():
            self.save_state(params)

    def keep_when_better(self, accuracies: Sequence[float], selected: Optional[float],
                         params: Tuple[dict, dict]) -> bool:
        """Save PREFIX-NNNN if ``ckpt`` asks for it; return whether it was written."""
        progress, best = self.progress, self.progress.best
        progress.saves += 1
        better = risen = False
        if accuracies:
            before = best.mean
            better = best.update(accuracies, self.config.save_floor, selected)
            risen = best.mean > before
            if progress.step <= self.stage.last_fall:  # a plateau may end with the next fall
                best.stale = 0
        kept = self.config.ckpt > 1 or (self.config.ckpt == 1 and better)
        if kept:
            self.store.save_model(progress.saves, params)
            if self.leading:
                self.notify("save", epoch=progress.saves)
            if risen:
                best.epoch = progress.saves
        if accuracies:
            self.notify("highest", best=best)
        return kept

    def save_state(self, params: Tuple[dict, dict]) -> None:
        """Write the state from which a resume continues."""
        position = {**dataclasses.asdict(self.progress), "log": self.log.position}
        self.store.save_state(run_state.State(
            position, *params, self.learner.momenta(), self.stage.data.state()))
        self._state_time = time.monotonic()

    # The end

    def reason_to_end(self) -> Optional[str]:
        """Why training ends here; None when it goes on."""
        step, settings, stale = self.progress.step, self.config, self.progress.best.stale
        if 0 < settings.patience <= stale:
            what = ("the mean accuracy" if settings.select == "mean"
                    else f"the accuracy on {settings.select}")
            return f"{what} has not risen for {stale} verifications (patience)"
        if step < self.limit:
            return None
        if self.stage.stop_after_first:
            return "the checkpoint is saved"
        return (f"max_steps {step}" if step == settings.max_steps
                else f"end_epoch {settings.end_epoch}")

    def check_interrupts(self) -> None:
        """Raise Interrupted once a signal has come to any worker (all)."""
        if self.workers.count == 1:
            interrupts.check()
        elif self.workers.any(interrupts.pending()):  # all stop after the same batch
            by = interrupts.pending() or "another worker's signal"
            raise interrupts.Interrupted(f"stopped by {by}")

    def save_and_stop(self, signal: interrupts.Interrupted) -> None:
        """Save the state, and raise Interrupted with how to go on (all)."""
        self.read_metrics()
        self.notify("stop", reason=str(signal))
        self.save_state(self.params())
        self.leave()
        raise interrupts.Interrupted(f"{signal} after batch {self.progress.step}; resume continues "
                                     f"from {self.store.path}", "resume") from None

    def leave(self) -> None:
        """Wait until worker 0 has saved; then all end (all)."""
        self.workers.wait()
        self.workers.leave_together(True)
