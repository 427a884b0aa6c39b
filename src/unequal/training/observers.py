"""Observers of a training run: the event log, the console, the progress bar, and your own.

An observer is told what happened (``notify``) and changes nothing. It must not make a collective
call: a worker without this observer would leave the others waiting.

Events and their fields, in the order in which they can come:

========= =======================================================================================
begin     title, step, limit, batches (of an epoch), batch_size (of all workers), lr_steps
start     stage (title), name, options, devices; or ``resume``: step, path
batch     step
lr        step, lr: the learning rate has fallen
train     step, epoch, speed (images/s), lr, metrics: every few batches
verify    step, results: ``{target: unequal.eval.verification.evaluate(...)}``
save      step, epoch: PREFIX-NNNN is written
highest   step, best (:class:`unequal.training.trainer.Best`)
stop      step, reason: a signal has come, and the state is being saved
end       step, reason, best_epoch, best_mean
========= =======================================================================================
"""
import json
import logging
import os
import time
from contextlib import suppress
from typing import IO, Any, Dict, Iterator, List, Optional, Tuple

from unequal.errors import InputError
from unequal.system import files, progress

logger = logging.getLogger(__name__)


class Observer:
    """Base of observers; one overrides what it needs."""

    def notify(self, event: str, **fields: Any) -> None:
        """Take note of an event (the table above). An error raised here ends the training."""

    def close(self) -> None:
        """The run is over, well or not; called once."""


class EventLog(Observer):
    """The machine-readable log: one JSON object a line, written at once.

    Every event has ``event`` (start, train, lr, verify, save, stop, resume, end), ``time`` (seconds
    since the epoch) and, but for start, ``step`` (batches done). A power failure loses no more than
    what was written since the last verification.

    Parameters
    ----------
    path : str
    position : list, optional
        An earlier :attr:`position` of this log: whatever the killed run wrote after it is removed.
    """

    EVENTS = frozenset(("start", "resume", "train", "lr", "verify", "save", "stop", "end"))
    # After these events the log is flushed to disk, like the files they report.
    FLUSHED = frozenset(("verify", "save", "stop", "end"))

    def __init__(self, path: str, position: Optional[List[Any]] = None) -> None:
        files.make_directory(os.path.dirname(path))
        self._path = os.path.abspath(path)
        self._file = files.open_append(path, buffering=0)
        if position is not None and position[0] == self._path and (
                position[1] < self._file.tell()):
            self._file.truncate(position[1])
        else:  # a kill may have left half a line
            with files.open_input(path) as lines:
                self._file.truncate(sum(len(line) for line in lines if line.endswith(b"\n")))

    @property
    def position(self) -> List[Any]:
        """``[path, bytes]`` written so far."""
        return [self._path, self._file.tell()]

    def notify(self, event: str, **fields: Any) -> None:
        """Write those of :attr:`EVENTS`."""
        if event in self.EVENTS:
            self.write(event, **fields)

    def write(self, event: str, **fields: Any) -> None:
        """One line; InputError when it cannot be written."""
        record = dict(event=event, time=round(time.time(), 3), **fields)
        line = json.dumps(record, default=vars).encode() + b"\n"  # vars: a verification.Summary
        try:
            whole = self._file.write(line) == len(line)
            if event in self.FLUSHED:
                os.fsync(self._file.fileno())
        except OSError:
            whole = False
        if not whole:
            raise InputError(f"{self._path}: cannot be written; is the disk full?")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Console(Observer):
    """Lines as the reference and MXNet's Speedometer write them."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._run: Dict[str, Any] = {}

    def notify(self, event: str, **fields: Any) -> None:
        """Call the method of that name."""
        method = getattr(self, "_" + event, None)
        if method is not None:
            method(**fields)

    def _begin(self, **fields: Any) -> None:
        self._run = fields
        logger.info("lr_steps %s", fields["lr_steps"])

    def _resume(self, step: int, path: str) -> None:
        logger.info("continuing after batch %d: %s", step, path)

    def _lr(self, step: int, lr: float) -> None:
        logger.info("lr change to %g", lr)

    def _train(self, step: int, epoch: int, speed: float, lr: float,
               metrics: Dict[str, float]) -> None:
        rest = (self._run["limit"] - step) * self._run["batch_size"]
        logger.info("Epoch[%d] Batch [%d]\tSpeed: %.2f samples/sec\t%s\tends=%s", epoch,
                    (step - 1) % self._run["batches"], speed,
                    "\t".join(f"{name}={value:.6f}" for name, value in metrics.items()),
                    progress.end_time(rest / speed))
        if step % 1000 == 0:
            logger.info("lr-batch-epoch: %g %d %d", lr, (step - 1) % self._run["batches"], epoch)

    def _verify(self, step: int, results: Dict[str, Any]) -> None:
        for name, result in results.items():
            logger.info("[%s][%d]XNorm: %f", name, step, result.xnorm)
            logger.info("[%s][%d]Accuracy: %1.5f+-%1.5f", name, step, result.accuracy,
                        result.accuracy_std)
            logger.info("[%s][%d]Accuracy-Flip: %1.5f+-%1.5f", name, step, result.accuracy_flip,
                        result.accuracy_flip_std)

    def _save(self, step: int, epoch: int) -> None:
        if epoch:
            logger.info("saving %d", epoch)

    def _highest(self, step: int, best: Any) -> None:
        logger.info("[%d]Accuracy-Highest: %1.5f", step, best.last)

    def _end(self, step: int, reason: str, best_epoch: Optional[int], best_mean: float) -> None:
        logger.info("ended after %d batches: %s", step, reason)
        if best_epoch is not None:
            logger.info("best model: %s,%d with mean accuracy %1.5f", self._prefix, best_epoch,
                        best_mean)


class ProgressBar(Observer):
    """The batches done, on a terminal."""

    def __init__(self) -> None:
        self._bar: Optional[progress.Bar] = None

    def notify(self, event: str, **fields: Any) -> None:
        """Show ``begin`` and ``batch``."""
        if event == "begin":
            self._bar = progress.Bar(fields["limit"], fields["title"], "batches", lines=False)
            self._bar.__enter__()
            self._bar.update(fields["step"])
        elif event == "batch" and self._bar is not None:
            self._bar.update()

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None


def scalars(event: str, fields: Dict[str, Any]) -> Iterator[Tuple[str, float]]:
    """The numbers of an event, each with a name."""
    if event == "train":
        yield from ((f"train/{name}", value) for name, value in fields["metrics"].items())
        yield "train/lr", fields["lr"]
        yield "train/images_per_second", fields["speed"]
    elif event == "verify":
        for target, result in fields["results"].items():
            yield f"verify/{target}", result.accuracy_flip
            yield f"verify/{target}_unflipped", result.accuracy
            yield f"verify/{target}_xnorm", result.xnorm


class CsvLog(Observer):
    """Losses and accuracies as a table: ``step,name,value``, a line each, for a spreadsheet.

    A resumed run removes the lines after its first batch; a new run replaces the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: Optional[IO[str]] = None

    def notify(self, event: str, **fields: Any) -> None:
        """Write the numbers of ``train`` and ``verify``."""
        if event in ("start", "resume"):
            self._open(fields["step"] if event == "resume" else 0)
        for name, value in scalars(event, fields):
            self._write(f"{fields['step']},{name},{value!r}\n")

    def _open(self, step: int) -> None:
        kept = []
        if step and os.path.isfile(self._path):
            with files.open_input(self._path, encoding="utf-8", errors="replace") as lines:
                for line in files.bounded_lines(lines, self._path):
                    number = line.partition(",")[0]
                    if line.endswith("\n") and number.isdigit() and int(number[:20]) <= step:
                        kept.append(line)
        with files.replacing(self._path) as file:
            file.write("step,name,value\n" + "".join(kept))
        self._file = open(self._path, "a", encoding="utf-8", buffering=1)

    def _write(self, line: str) -> None:
        assert self._file is not None
        try:
            self._file.write(line)
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({error.strerror}).") from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()


class Observers(Observer):
    """Several observers as one; they are notified in the order given."""

    def __init__(self, observers: Any) -> None:
        self.all: List[Observer] = list(observers)

    def notify(self, event: str, **fields: Any) -> None:
        """Tell all."""
        for observer in self.all:
            observer.notify(event, **fields)

    def close(self) -> None:
        """Close all."""
        for observer in self.all:
            observer.close()
