"""``unequal train STEP``: the steps of the recipe; the scripts train_*.py of a checkout call them.

A step is a function of its configuration (:mod:`unequal.training.config`). :data:`STEPS` is the
table of sub-commands; one that is not a script of the reference brings its own arguments.
"""
import argparse
import json
import logging
import os
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from unequal.commands import arguments
from unequal.data import noise_lists
from unequal.data.records import RecordSet
from unequal.errors import ArgumentError, InputError
from unequal.models import checkpoints, noise_scan
from unequal.system.files import MAX_TABLE, open_append, open_input
from unequal.training import auto, config, flags, setup, stages, state
from unequal.training.trainer import Trainer

logger = logging.getLogger(__name__)


def softmax(args: config.Config) -> None:
    """Step 2: softmax on margin logits of the head identities."""
    run = setup.without_other_peoples_classifier(setup.prepare(args))
    Trainer(stages.softmax_stage(run), run).fit()


def _people(path: str) -> Optional[Dict[int, int]]:
    """True identities of ``--truth``, where it is given."""
    return {key: identity for key, (identity, _) in noise_lists.read_truth(path).items()
            } if path else None


def relusoft_savemodel(args: config.NraConfig) -> None:
    """Step 3.1: the model of step 2 saved anew with the head of step 3, after one batch."""
    run = setup.prepare(args)
    Trainer(stages.nra_stage(run, people=_people(args.truth), only_save=True), run).fit()


def _make_list(args: config.RelusoftConfig, run: setup.Run, path: str) -> None:
    if args.noise_threshold > 0:
        noise_scan.make_list(
            run.records, args.pretrained, run.margin, args.noise_threshold, path,
            devices=run.devices, batch_size=args.batch_size_mining)
    else:  # no probability is below 0: the reference makes the pass all the same
        noise_lists.write_list(path, {}, np.array([]))


def _clean_keys(args: config.RelusoftConfig, run: setup.Run) -> np.ndarray:
    """Keys of the images that are not on the noise list, which is read or made."""
    path = args.noise_list
    if not path:
        if not args.pretrained:
            raise ArgumentError("pretrained is missing: step 3.2 starts from the model of step "
                                "3.1 (train_relusoft_savemodel.py).", "pretrained")
        path = os.path.join(args.bin_dir or os.path.dirname(args.prefix), noise_lists.NAME)
        if args.resume and state.exists(args.prefix) and os.path.exists(path):
            logger.info("%s: the list of the run to be continued", path)  # no second pass
        elif run.workers.rank == 0:
            _make_list(args, run, path)
        run.workers.wait()
    _, noisy = noise_lists.read_list(path)
    keys = np.setdiff1d(run.records.image_keys, noisy)
    logger.info("%s: %d of %d images left out", path, len(run.records) - len(keys),
                 len(run.records))
    return keys


def relusoft(args: config.RelusoftConfig) -> None:
    """Step 3.2: the noise-robust loss on the images that are not on the noise list."""
    run = setup.prepare(args)
    # From here, so that of two runs only one makes the list.
    lock = None if run.workers.rank else state.lock(args.prefix)
    try:
        keys = _clean_keys(args, run)
        if run.arg_params is not None:
            for name in ("fc7_weight", "fc7_bias"):
                run.arg_params.pop(name, None)
        Trainer(stages.nra_stage(run, keys, _people(args.truth)), run, lock=lock).fit()
    finally:
        if lock is not None:
            lock.release()


def parse_weights(text: str) -> List[float]:
    """``interweight`` as a list of numbers."""
    try:
        weights = [float(weight) for weight in text.split(",")]
    except ValueError:
        weights = [-1]
    if min(weights) < 0 or not np.isfinite(weights).all():
        raise ArgumentError(f"interweight {text!r}: expected a number, or several with commas, "
                            "such as 1,5,10.", "interweight")
    return weights


def _at_weight(settings: config.UnequalConfig, weights: Sequence[float],
               several: bool) -> config.UnequalConfig:
    """The configuration for the last of ``weights``, those of the list up to it."""
    if several:
        settings = config.replace(
            settings, prefix=f"{settings.prefix}_w{weights[-1]:g}",
            # A list may be made longer before a resume, not changed in front.
            interweight=",".join(map("{:g}".format, weights)))
    if not state.exists(settings.prefix) and (
            len(weights) > 1 or settings.resume != "must"):
        settings = config.replace(settings, resume="")  # nothing to continue
    return settings


def unequal(args: config.UnequalConfig) -> None:
    """Step 4: head and tail identities in one batch, one stage a weight of ``interweight``."""
    weights = parse_weights(args.interweight)
    if not args.data_dir_interclass:
        raise ArgumentError("data_dir_interclass is missing: name the record set of the tail "
                            "identities (`unequal split` makes one).", "data_dir_interclass")
    prepared, best = setup.prepare(args), None
    with RecordSet(args.data_dir_interclass) as tail:
        for number, weight in enumerate(weights, 1):
            run = prepared._replace(config=_at_weight(
                prepared.config, weights[:number], len(weights) > 1))
            found = Trainer(stages.unequal_stage(run, tail, weight), run).fit()
            if found.epoch is not None and (best is None or found.mean > best[0]):
                best = found.mean, run.config.prefix, found.epoch
            if number < len(weights) and best is not None:
                logger.info("the next weight starts from %s,%d with mean accuracy %1.5f",
                            *best[1:], best[0])
                _, *parameters = checkpoints.load(*best[1:])
                prepared = prepared._replace(arg_params=parameters[0], aux_params=parameters[1])


def _configure_auto(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="the record set")
    parser.add_argument("--prefix", required=True, metavar="P",
                        help="of the checkpoints; the model is P,best")
    parser.add_argument("--seed", type=arguments.integer(0), default=0,
                        help="of the order, the augmentation and the initial weights")
    parser.add_argument("--devices", default="",
                        help="cpu, cpu:N or gpu:0,1; default by CUDA_VISIBLE_DEVICES")


def auto_settings(options: argparse.Namespace) -> None:
    """Step 2 with settings from the set's size; the last checkpoint is the one called best."""
    with RecordSet(options.directory) as records:
        images, classes = len(records), records.num_classes
    if classes < 2:
        raise InputError(f"{options.directory}: has pictures of one class only; training needs "
                         "at least two people.")
    # Pairs of people held out (`unequal pack --verify`) are measured, but do not choose: the
    # length is chosen so that the last model has not learnt the wrong labels.
    target = "verify" if os.path.exists(os.path.join(options.directory, "verify.bin")) else ""
    chosen = auto.settings(options.directory, options.prefix, images, classes, seed=options.seed,
                           devices=options.devices, target=target, debug=options.debug)
    words = " ".join(f"{row.spelling} {getattr(chosen, row.name)}" for row in flags.rows(chosen)
                     if row.name in _CHOSEN)
    logger.info("chosen for %d pictures of %d people: %s; the margin is constant", images, classes,
                words)
    softmax(chosen)
    log = options.prefix + "-trainlog.jsonl"
    with open_input(log, MAX_TABLE, encoding="utf-8") as lines:
        last = max((event["epoch"] for event in map(json.loads, lines)
                    if event["event"] == "save"), default=0)
    if not last:
        raise InputError(f"{log}: says that no checkpoint was saved; was the training stopped? "
                         "Start it again.")
    with open_append(log, encoding="utf-8") as file:
        file.write(json.dumps({"event": "end", "time": round(time.time(), 3),
                               "step": chosen.max_steps, "reason": "train auto: the last one",
                               "best_epoch": last, "best_mean": 0.0}) + "\n")
    logger.info("the model: %s,best (%s)", options.prefix,
                checkpoints.params_path(options.prefix, last))


_CHOSEN = ("network", "emb_size", "margin_m", "margin_s", "per_batch_size", "lr", "lr_steps",
           "max_steps")


class Step(NamedTuple):
    """One sub-command of ``unequal train``."""

    help: str
    run: Callable[[Any], Optional[int]]
    # A script of the reference: its flags are those of this class, whose value `run` gets.
    config: Optional[type] = None
    # Any other: adds its arguments, and `run` gets what was parsed.
    configure: Optional[Callable[[argparse.ArgumentParser], None]] = None


STEPS = {
    "auto": Step("step 2 with settings chosen from the set's size", auto_settings,
                 configure=_configure_auto),
    "softmax": Step("step 2: ArcFace (or another margin) on the head identities", softmax,
                    config.SoftmaxConfig),
    "relusoft-savemodel": Step("step 3.1: that model saved anew with the head of step 3",
                               relusoft_savemodel, config.NraConfig),
    "relusoft": Step("step 3.2: training with the noise-robust loss (NRA)", relusoft,
                     config.RelusoftConfig),
    "unequal": Step("step 4: head and tail identities in one batch", unequal,
                    config.UnequalConfig),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``unequal train``: a step and its own."""
    commands = parser.add_subparsers(dest="step", metavar="STEP", required=True,
                                     parser_class=arguments.Parser)
    for name, step in STEPS.items():
        sub = commands.add_parser(name, help=step.help, description=step.help, allow_abbrev=False,
                                  formatter_class=flags.HelpFormatter,
                                  usage=flags.USAGE if step.config else None)
        if step.config is not None:
            flags.add_arguments(sub, step.config)
            arguments.add_config_file(sub, step.config)
        else:
            assert step.configure is not None
            sub.add_argument("--debug", action="store_true", help="show tracebacks")
            step.configure(sub)


def run(options: argparse.Namespace) -> Optional[int]:
    """Train; a signal saves and stops it as it does a script."""
    step = STEPS[options.step]
    if step.config is None:
        return step.run(options)
    return step.run(config.from_options(step.config, options))
