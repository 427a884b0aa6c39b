"""The training loop. A stage of the recipe is a value (:class:`Stage`), not a copy of this loop."""
import json
import logging
import math
import os
import time
import warnings
import zlib
from typing import Callable, NamedTuple, Optional, Sequence

import mxnet as mx
import numpy as np

from unequal.errors import ArgumentError, InputError
from unequal.eval import bins, verification
from unequal.models import checkpoints
from unequal.models.embedder import Embedder, PictureList
from unequal.symbols import margins
from unequal.system import interrupts, progress
from unequal.training import config, setup
from unequal.training import state as run_state

logger = logging.getLogger(__name__)

# Beside the symbol's outputs, for metrics: the batch's labels and record keys.
LABEL, KEY = "label", "key"


class Metric(NamedTuple):
    """A number per log line: the mean of all that ``function`` returns since the last one.

    ``inputs`` are names of symbol outputs, ``label`` or ``key``; ``function`` takes them as numpy
    arrays (of all devices together) and returns one, which may be empty.
    """

    name: str
    inputs: Sequence[str]
    function: Callable


def accuracy(own, largest):
    """Share of samples whose largest margin logit is the label's.

    From the (log) probabilities of the label and of the most probable class, (N,) each: the index
    of the largest among all classes takes a GPU longer than it is worth for a line of the log.
    """
    return own >= largest


def cross_entropy(probability):
    """Negative log of the label's probability."""
    return -np.log(probability + 1e-12)


class Stage(NamedTuple):
    """What differs between the steps of the recipe.

    Attributes
    ----------
    name : str
        For the log.
    symbol : mxnet.symbol.Symbol
        A group of named outputs, among them the loss.
    data : mxnet.io.DataIter
        Training batches; has ``batches`` (per epoch), ``fingerprint()``, ``seek`` and ``tail``
        (:mod:`unequal.data.batches`).
    lr_steps : list of int
        Batches after which the learning rate falls tenfold.
    metrics : list of Metric
        Shown every 20 batches; the one called ``loss_name`` must stay finite.
    loss_name : str
        Which metric is the loss.
    verify_first : bool
        Verify and save after the first batch (steps 3 and 4 of the reference).
    stop_after_first : bool
        End once that checkpoint is saved (step 3.1).
    before_epoch : callable, optional
        Called with the epoch's number, arg_params and aux_params before its first batch (step 4's
        mining).
    before_batch : callable, optional
        Called with the module and the number of batches done (loss type 1's annealing).
    log_every : int
        Batches between log lines (the reference's Speedometer).
    saved_symbol : mxnet.symbol.Symbol, optional
        Saved in place of ``symbol``, where that holds an operator plain MXNet does not know.
    """

    name: str
    symbol: mx.sym.Symbol
    data: mx.io.DataIter
    lr_steps: Sequence[int]
    metrics: Sequence[Metric]
    loss_name: str = "softmaxloss"
    verify_first: bool = False
    stop_after_first: bool = False
    before_epoch: Optional[Callable] = None
    before_batch: Optional[Callable] = None
    log_every: int = 20
    saved_symbol: Optional[mx.sym.Symbol] = None


class EventLog:
    """The machine-readable log: one JSON object a line, written at once.

    Every event has ``event`` (start, train, lr, verify, save, stop, resume, end), ``time`` (seconds
    since the epoch) and, but for start, ``step`` (batches done).

    Parameters
    ----------
    path : str
    position : list, optional
        A :attr:`position` of this log: a resumed run takes off what the killed one wrote after it.
    """

    def __init__(self, path, position=None):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self._path = os.path.abspath(path)
        self._file = open(path, "ab", buffering=0)
        if position is not None and position[0] == self._path and (
                position[1] < self._file.tell()):
            self._file.truncate(position[1])
        else:  # a kill may have left half a line
            with open(path, "rb") as lines:
                self._file.truncate(sum(len(line) for line in lines if line.endswith(b"\n")))

    @property
    def position(self):
        """``[path, bytes]`` written so far."""
        return [self._path, self._file.tell()]

    def write(self, event, **fields):
        record = dict(event=event, time=round(time.time(), 3), **fields)
        line = json.dumps(record).encode() + b"\n"
        try:
            whole = self._file.write(line) == len(line)
        except OSError:
            whole = False
        if not whole:
            raise InputError("{}: cannot be written; is the disk full?".format(self._path))

    def close(self):
        self._file.close()


class Meter:
    """Collect named outputs without waiting for the device; average them when asked."""

    def __init__(self, metrics, symbol):
        self._metrics = metrics
        names = [name[:-len("_output")] for name in symbol.list_outputs()]
        wanted = {name for metric in metrics for name in metric.inputs} - {LABEL, KEY}
        self._index = {name: names.index(name) for name in wanted}
        self._batches = []

    def add(self, module, batch):
        """Note the outputs of the batch just run (copies, queued on the device)."""
        per_output = module.get_outputs(merge_multi_context=False)
        outputs = {name: [part.copy() for part in per_output[index]]
                   for name, index in self._index.items()}
        self._batches.append((outputs, batch.label[0], batch.index))

    def take(self):
        """``{metric: mean}`` over the batches added since; waits for the device."""
        values = {metric.name: [] for metric in self._metrics}
        for outputs, label, keys in self._batches:
            arrays = {name: np.concatenate([part.asnumpy() for part in parts])
                      for name, parts in outputs.items()}
            arrays.update({LABEL: label.asnumpy(), KEY: keys})
            for metric in self._metrics:
                value = metric.function(*(arrays[name] for name in metric.inputs))
                values[metric.name].append(np.ravel(value))
        self._batches.clear()
        joined = {name: np.concatenate(parts) for name, parts in values.items() if parts}
        return {name: float(np.mean(value)) for name, value in joined.items() if len(value)}


class Verifier:
    """Verification of the network in training on the target sets.

    Keeps the encoded pictures (a few hundred MB for lfw, cfp_fp and agedb_30 at 112x112); decodes
    them batch by batch each time.
    """

    def __init__(self, options, stage_symbol, records, devices):
        self._symbol, self._devices = stage_symbol, devices
        self._size = records.image_size
        paths = bins.find_sets(options.data_dir, options.eval_dir, options.target.split(","))
        self._sets = []
        for name, path in paths.items():
            pictures, issame = bins.load_bin(path)
            self._sets.append((name, PictureList(pictures, path), issame))
            logger.info("ver %s (%s, %d pairs)", name, path, len(issame))

    def __call__(self, arg_params, aux_params, step):
        """``{target: verification.evaluate(...)}``, logged as InsightFace does."""
        results = {}
        if not self._sets:
            return results
        embedder = Embedder(self._symbol, arg_params, aux_params, self._size, self._devices,
                            batch_size=64 * len(self._devices))
        for name, pictures, issame in self._sets:
            plain, flipped = embedder.embed(pictures, flip=True, label=name)
            result = results[name] = verification.evaluate(plain, flipped, issame)
            logger.info("[%s][%d]XNorm: %f", name, step, result.xnorm)
            logger.info("[%s][%d]Accuracy: %1.5f+-%1.5f", name, step, result.accuracy,
                        result.accuracy_std)
            logger.info("[%s][%d]Accuracy-Flip: %1.5f+-%1.5f", name, step, result.accuracy_flip,
                        result.accuracy_flip_std)
        return results


class Best:
    """The best accuracies so far, and what follows from a new verification."""

    def __init__(self, first=0.0, last=0.0, mean=0.0, epoch=None, stale=0):
        self.first, self.last, self.mean = first, last, mean
        self.epoch = epoch  # of the checkpoint with the best mean
        self.stale = stale  # verifications since the mean rose

    def update(self, accuracies, floor):
        """Take the targets' accuracies; return whether this model is worth keeping.

        The reference keeps one when the first target rises, or the last does not fall; we also keep
        the best mean, which is what ends a stage (``--patience``).
        """
        mean = float(np.mean(accuracies))
        better = (accuracies[0] > self.first or accuracies[-1] >= self.last or mean > self.mean)
        self.stale = 0 if mean > self.mean else self.stale + 1
        self.first = max(self.first, accuracies[0])
        self.last = max(self.last, accuracies[-1])
        self.mean = max(self.mean, mean)
        return better and accuracies[0] >= floor


def _optimizer(options, stage, run, step):
    """SGD as the reference builds it, ``step`` batches into its schedule.

    Given no parameter names, MXNet's optimizer decays every parameter, biases and BatchNorm's beta
    included; the reference's does so too. ``rescale_grad`` makes the sum over devices, of all
    workers, a mean.
    """
    schedule = None
    if stage.lr_steps:
        schedule = mx.lr_scheduler.MultiFactorScheduler(
            [options.beta_freeze + step for step in stage.lr_steps], factor=0.1,
            base_lr=options.lr)
    optimizer = mx.optimizer.SGD(
        learning_rate=options.lr, momentum=options.mom, wd=options.wd,
        rescale_grad=1.0 / run.num_devices, lr_scheduler=schedule, begin_num_update=step)
    optimizer.wd_mult = {"fc7_weight": options.fc7_wd_mult}
    if run.devices[0].device_type == "cpu":
        # Updating several arrays in one call, four unless told, is meant for GPUs: on a CPU it
        # takes 2.5 times as long for the same bits (r50: 0.23 s of a step instead of 0.09).
        optimizer.aggregate_num = 1
    return optimizer


def _module(stage, devices):
    data = stage.data
    module = mx.mod.Module(
        stage.symbol, data_names=[desc.name for desc in data.provide_data],
        label_names=[desc.name for desc in data.provide_label], context=devices,
        fixed_param_names=[name for name in stage.symbol.list_arguments()
                           if name == margins.SPHERE_BETA])  # the loop sets it; no gradient
    module.bind(data.provide_data, data.provide_label)
    return module


def _step_limit(stage, options):
    """Batches until --max-steps or --end-epoch, whichever comes first."""
    if stage.stop_after_first:
        return 1
    limit = stage.data.batches * options.end_epoch
    return min(limit, options.max_steps) if options.max_steps else limit


def _seed(seed, step, run):
    """Seed of a batch's random numbers (dropout): MXNet's cannot be saved, so each batch has its
    own (2 ms), and each device of each worker."""
    first = run.workers.rank * len(run.devices)
    for number, device in enumerate(run.devices, first):
        mx.random.seed(int(np.random.SeedSequence((seed, step, number)).generate_state(1)[0]),
                       ctx=device)


def _initialise(module, run, seed):
    """Pretrained weights where there are any; the rest drawn as the reference draws them."""
    misfit = setup.misfit(module, run.arg_params, run.aux_params)
    if misfit:
        raise ArgumentError(
            f"pretrained: the checkpoint's weights do not fit this network and data ({misfit}); "
            "use the flags it was trained with.", "pretrained")
    mx.random.seed(seed)
    initializer = mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2)
    module.init_params(initializer, arg_params=run.arg_params, aux_params=run.aux_params,
                       allow_missing=True, allow_extra=True)


def _check_workers(workers, module, identity, step, options):
    """Raise InputError unless all workers are about to do the same."""
    if workers.count > 1:
        weights = module.get_params()[0]
        workers.check_equal(dict(
            identity, **config.shared(options),
            **{"the number of batches done": step,
               "the state of the weights": zlib.crc32(b"".join(
                   weights[name].asnumpy().tobytes() for name in sorted(weights)))}))


def _log_speed(epoch, index, speed, metrics, limit, step, batch_size):
    """A line as MXNet's Speedometer writes it, and when it will all end."""
    logger.info("Epoch[%d] Batch [%d]\tSpeed: %.2f samples/sec\t%s\tends=%s", epoch, index, speed,
                "\t".join("{}={:.6f}".format(*item) for item in metrics.items()),
                progress.end_time((limit - step) * batch_size / speed))


def fit(stage, run, options):
    """Train until ``--max-steps``, ``--end-epoch`` or ``--patience`` ends it.

    The state (:mod:`unequal.training.state`) is saved after each verification and when a signal
    asks to
    stop; with ``--resume`` training goes on from it. A batch follows from the state before it: on
    one CPU device a resumed run has the weights of an uninterrupted one, bit for bit.

    With several workers all take the same steps and have the same weights; worker 0 verifies,
    writes the checkpoints and the state, which all read again with ``--resume``.

    Parameters
    ----------
    stage : Stage
    run : unequal.training.setup.Run
    options : unequal.training.config.Config

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
    workers, devices, prefix = run.workers, run.devices, options.prefix
    leading = workers.rank == 0
    workers.leave_together(False)
    if leading:
        checkpoints.clean(prefix)
    identity = run_state.identity(stage, run, options)
    resumed = run_state.find(prefix, options.resume, identity)
    step, verified, saves, best, log_position = 0, 0, 0, Best(), None
    if resumed:
        run = run._replace(arg_params=resumed.arg_params, aux_params=resumed.aux_params)
        step, verified, saves, best, log_position = (
            resumed.position[name] for name in ("step", "verified", "saves", "best", "log"))
        best = Best(**best)
    event_log = EventLog(os.path.join(
        options.log_dir or os.path.dirname(prefix),
        "{}-{}{}.jsonl".format(os.path.basename(prefix), options.log_file,
                               "" if leading else "-worker{}".format(workers.rank))), log_position)
    if resumed:
        logger.info("continuing after batch %d: %s", step, run_state.path(prefix))
        event_log.write("resume", step=step)
    else:
        event_log.write("start", stage=stage.name, options=vars(options),
                        devices=[str(device) for device in devices])
    verifier = Verifier(options, stage.symbol, run.records, devices) if leading else None
    module = _module(stage, devices)
    _initialise(module, run, options.seed)
    _check_workers(workers, module, identity, step, options)
    optimizer = _optimizer(options, stage, run, step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rescale_grad is not 1/batch: the loss is a mean already
        module.init_optimizer(kvstore=workers.local_store, optimizer=optimizer)
    if resumed:
        run_state.restore_momenta(module, resumed.momenta)
        stage.data.tail = resumed.tail
        stage.data.seek(*divmod(step, stage.data.batches))
        resumed = None  # a second copy of the model
    logger.info("lr_steps %s", list(stage.lr_steps))

    saved_symbol = stage.symbol if stage.saved_symbol is None else stage.saved_symbol
    meter = Meter(stage.metrics, stage.symbol)
    batch_size = stage.data.batch_size * workers.count
    limit = _step_limit(stage, options)
    metrics, speed_start, speed_step, first_step = {}, time.time(), step, step

    def diverged(what):
        return InputError(
            "{} at batch {}: training has diverged; {}. Usual causes: --lr too high (go on from "
            "that checkpoint with --pretrained and a lower one), --margin-m or --margin-s too "
            "large, damaged data (`unequal inspect`).".format(
                what, step, "the last good checkpoint is {},0 of batch {}".format(prefix, verified)
                if verified else "no checkpoint was saved before"))

    def read_metrics():
        nonlocal metrics
        metrics = meter.take() or metrics
        loss = metrics.get(stage.loss_name, 0.0)
        if not math.isfinite(loss):
            raise diverged("The loss is {}".format(loss))

    def params():
        """The weights, of which none is infinite or not a number."""
        # BatchNorm's backward writes its moving averages without telling MXNet's engine, so a copy
        # may be taken before they are there.
        mx.nd.waitall()
        values = module.get_params()
        for name, value in (*values[0].items(), *values[1].items()):
            if not np.isfinite(value.asnumpy()).all():
                raise diverged("{} is no longer finite".format(name))
        # Each worker has BatchNorm's averages over its own pictures; so has each device, and MXNet
        # takes their mean.
        return values[0], workers.mean(values[1])

    def save(epoch, values):
        if not leading:
            return
        checkpoints.save(prefix, epoch, saved_symbol, *values)
        event_log.write("save", step=step, epoch=epoch)

    def save_state(values):
        if not leading:
            return
        position = {"step": step, "verified": verified, "saves": saves, "best": vars(best),
                    "log": event_log.position}
        run_state.save(prefix, identity, run_state.State(
            position, *values, run_state.momenta(module), stage.data.tail))

    def verify(counts):
        """Save, verify, keep when better, save the state."""
        nonlocal saves, verified
        read_metrics()
        values = params()
        save(0, values)
        accuracies = []
        if leading:
            results = verifier(*values, step)
            event_log.write("verify", step=step, results=results)
            accuracies = [result.accuracy_flip for result in results.values()]
        accuracies = workers.broadcast(accuracies)
        if counts:
            saves += 1
            better = False
            if accuracies:
                risen = np.mean(accuracies) > best.mean
                better = best.update(accuracies, options.save_floor)
            if options.ckpt > 1 or (options.ckpt == 1 and better):
                logger.info("saving %d", saves)
                save(saves, values)
                if accuracies and risen:
                    best.epoch = saves
            if accuracies:
                logger.info("[%d]Accuracy-Highest: %1.5f", step, best.last)
        verified = step
        save_state(values)

    def end():
        """Why training ends here; None when it goes on."""
        if 0 < options.patience <= best.stale:
            return "the mean accuracy has not risen for {} verifications (--patience)".format(
                best.stale)
        if step < limit:
            return None
        if stage.stop_after_first:
            return "the checkpoint is saved"
        return ("--max-steps {}".format(step) if step == options.max_steps else
                "--end-epoch {}".format(options.end_epoch))

    def check_interrupts():
        if workers.count == 1:
            interrupts.check()
        elif workers.any(interrupts.pending()):  # all stop after the same batch
            raise interrupts.Interrupted("stopped by {}".format(
                interrupts.pending() or "another worker's signal"))

    try:
        with progress.Bar(limit, stage.name, "batches", lines=False) as bar, \
                interrupts.postponed(workers.count > 1):
            bar.update(step)
            while True:
                counts = not stage.stop_after_first and (
                    step % options.verbose == 0 or step >= limit)
                if step > verified and (counts or (step == 1 and stage.verify_first)):
                    verify(counts)
                if end():
                    break
                check_interrupts()
                epoch, index = divmod(step, stage.data.batches)
                if index == 0:
                    if step > first_step:
                        stage.data.reset()
                    if stage.before_epoch is not None:
                        stage.before_epoch(epoch, *params())
                batch = stage.data.next()
                _seed(options.seed, step, run)
                if stage.before_batch is not None:
                    stage.before_batch(module, step)
                rate = optimizer.learning_rate
                module.forward_backward(batch)
                workers.sum_gradients(module)
                module.update()
                step += 1
                meter.add(module, batch)
                bar.update()
                if optimizer.learning_rate != rate:
                    logger.info("lr change to %g", optimizer.learning_rate)
                    event_log.write("lr", step=step, lr=optimizer.learning_rate)
                if step % stage.log_every == 0:
                    read_metrics()
                    seconds = time.time() - speed_start
                    speed = (step - speed_step) * batch_size / seconds
                    _log_speed(epoch, index, speed, metrics, limit, step, batch_size)
                    event_log.write("train", step=step, epoch=epoch, speed=round(speed, 2),
                                    lr=optimizer.learning_rate, metrics=metrics)
                    speed_start, speed_step = time.time(), step
                if step % 1000 == 0:
                    logger.info("lr-batch-epoch: %g %d %d", optimizer.learning_rate, index, epoch)
    except interrupts.Interrupted as interrupted:
        read_metrics()
        event_log.write("stop", step=step, reason=str(interrupted))
        save_state(params())
        workers.wait()  # until it is saved
        workers.leave_together(True)
        raise interrupts.Interrupted("{} after batch {}; --resume continues from {}".format(
            interrupted, step, run_state.path(prefix))) from None
    logger.info("ended after %d batches: %s", step, end())
    if best.epoch is not None:
        logger.info("best model: %s,%d with mean accuracy %1.5f", prefix, best.epoch, best.mean)
    event_log.write("end", step=step, reason=end(), best_epoch=best.epoch, best_mean=best.mean)
    event_log.close()
    workers.wait()  # until worker 0 has saved
    workers.leave_together(True)
    return best
