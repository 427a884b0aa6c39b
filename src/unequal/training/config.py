"""The settings of a training run: a frozen dataclass, made once and checked once.

Each field is the row of a flag (:mod:`unequal.training.flags`); names and defaults of the
reference's are as it has them (home directories excepted), and ours have long, dashed names.
``tests/training/test_flags.py`` freezes the list, ``docs/flags.md`` shows it.

The scripts make a value of the parsed command line, a notebook by keyword::

    settings = SoftmaxConfig(data_dir="people", network="n8", lr=0.05)
    longer = dataclasses.replace(settings, max_steps=2000)
"""
import argparse
import os
import tempfile
from dataclasses import dataclass
from dataclasses import replace as replace  # the way to another configuration
from typing import Any, Dict, Type, TypeVar

from unequal.errors import ArgumentError
from unequal.symbols import networks
from unequal.system import files
from unequal.training.flags import (
    ANYWHERE,
    AT_RESUME,
    NEVER,
    NOT_NEGATIVE,
    OURS,
    POSITIVE,
    SHARE,
    SWITCH,
    UNUSED,
    Choice,
    Path,
    Range,
    flag,
    rows,
)


@dataclass(frozen=True)
class Config:
    """The settings that all steps of the recipe share.

    Raises
    ------
    ArgumentError
        For a value that is not allowed; the text names the field. Checks that need more than the
        value, such as the network's name or the data, are made where the value is used.
    """

    # The network.
    network: str = flag("r50", networks.ABOUT)
    version_se: int = flag(0, "1: squeeze-and-excitation", allowed=SWITCH)
    version_input: int = flag(1, "0: 7x7 stride 2, 1: 3x3 stride 1 first convolution")
    version_output: str = flag("E", "how the embedding is made of the features")
    version_unit: int = flag(3, "kind of residual unit")
    version_act: str = flag("prelu", "prelu or relu")
    use_deformable: int = flag(0, "only 0: the reference accepts 1 but builds the same network",
                               origin=UNUSED)
    emb_size: int = flag(512, "length of the embedding", allowed=Range(1, 65536))
    bn_mom: float = flag(0.9, "momentum of BatchNorm's moving averages", allowed=SHARE)

    # The margin.
    loss_type: int = flag(4, "0 softmax, 1 sphere, 2 cosine margin, 4 ArcFace, 5 combined",
                          allowed=Choice((0, 1, 2, 4, 5)))
    margin_m: float = flag(0.5, "additive margin (radians; cosine for loss type 2)")
    margin_s: float = flag(64.0, "scale of the logits", allowed=POSITIVE)
    margin_a: float = flag(1.0, "loss type 5: factor of the angle")
    margin_b: float = flag(0.0, "loss type 5: subtracted from the cosine")
    easy_margin: int = flag(0, "loss type 4: 1: no margin beyond 90 degrees", allowed=SWITCH)
    margin: int = flag(4, "loss type 1: factor of the angle", allowed=Range(1))
    sub_centers: int = flag(1, "loss types 2, 4, 5: rows of the classifier a class, of which the "
                               "nearest counts (sub-center ArcFace)", allowed=Range(1, 16),
                            origin=OURS)
    beta: float = flag(1000.0, "loss type 1: annealing, start value", allowed=NOT_NEGATIVE)
    beta_min: float = flag(5.0, "loss type 1: annealing, least value", allowed=NOT_NEGATIVE)
    beta_freeze: int = flag(0, "loss type 1: batches before annealing; also delays --lr-steps",
                            allowed=NOT_NEGATIVE)
    gamma: float = flag(0.12, "loss type 1: beta * (1 + gamma * batch) ** -power",
                        allowed=NOT_NEGATIVE)
    power: float = flag(1.0, "loss type 1: see --gamma", allowed=NOT_NEGATIVE)
    scale: float = flag(0.9993, "does nothing", origin=UNUSED)
    fc7_wd_mult: float = flag(1.0, "factor of the classifier's weight decay (the reference has the "
                                   "flag, but its optimizer never sees it)", allowed=NOT_NEGATIVE)

    # The run.
    data_dir: str = flag("", "record set to train on", change=ANYWHERE)
    prefix: str = flag("../model/model",
                       "of the checkpoints: PREFIX-symbol.json, PREFIX-NNNN.params",
                       allowed=Path(empty=False), change=AT_RESUME)
    pretrained: str = flag("", "PREFIX,EPOCH (or PREFIX,best) of a checkpoint to start from")
    ckpt: int = flag(1, "PREFIX-NNNN at a verification: 0 never, 1 when better, 2 always",
                     allowed=NOT_NEGATIVE, change=AT_RESUME)
    verbose: int = flag(2000, "batches between verifications", allowed=POSITIVE, change=AT_RESUME)
    max_steps: int = flag(0, "stop after so many batches; 0: no limit", allowed=NOT_NEGATIVE,
                          change=AT_RESUME)
    end_epoch: int = flag(100000, "stop after so many epochs", allowed=POSITIVE, change=AT_RESUME)
    lr: float = flag(0.1, "learning rate", allowed=POSITIVE)
    lr_steps: str = flag("", "batches after which lr falls tenfold: a,b,c")
    warmup: int = flag(0, "batches over which the learning rate rises to --lr", origin=OURS,
                       allowed=NOT_NEGATIVE)
    lr_schedule: str = flag("step", "step: --lr-steps; cosine: down to 0 at --max-steps or "
                                    "--end-epoch", origin=OURS, allowed=Choice(("step", "cosine")))
    accumulate: int = flag(1, "batches of the data whose gradients one update takes together; all "
                              "counts of batches are of updates", origin=OURS, allowed=POSITIVE)
    tensorboard: str = flag("", "directory for TensorBoard (extra [tensorboard]): numbers, and at "
                                "the end suspected pictures and the embedding", origin=OURS,
                            allowed=Path(), change=ANYWHERE)
    csv: int = flag(0, "1: losses and accuracies also as a table, PREFIX-NAME.csv", origin=OURS,
                    allowed=SWITCH, change=ANYWHERE)
    wd: float = flag(0.0005, "weight decay", allowed=NOT_NEGATIVE)
    mom: float = flag(0.9, "momentum", allowed=SHARE)
    rand_mirror: int = flag(1, "1: mirror half of the pictures", allowed=SWITCH)
    cutoff: int = flag(0, "side of a square painted over at random; 0: none", allowed=NOT_NEGATIVE)
    target: str = flag("lfw,cfp_fp,agedb_30", "verification sets")
    log_file: str = flag("trainlog", "name of the machine-readable log: PREFIX-NAME.jsonl",
                         allowed=Path(), change=ANYWHERE)
    log_dir: str = flag("", "its directory; default: beside the checkpoints", allowed=Path(),
                        change=ANYWHERE)

    # Not in the reference.
    seed: int = flag(0, "of the order, the augmentation and the initial weights", origin=OURS,
                     allowed=NOT_NEGATIVE)
    patience: int = flag(10, "stop when the accuracy (--select) has not risen for so many "
                             "verifications after the learning rate's last fall; 0: never",
                         origin=OURS, allowed=NOT_NEGATIVE, change=AT_RESUME)
    select: str = flag("mean", "the target whose accuracy chooses the best model and ends training "
                               "(--patience); mean: of all targets", origin=OURS,
                       change=AT_RESUME)
    eval_dir: str = flag("", "directory of the verification sets", origin=OURS, change=ANYWHERE)
    state_minutes: float = flag(0.0, "the state that --resume goes on from is written with every "
                                     "PREFIX-NNNN, at the end, and at a verification so many "
                                     "minutes after the last", origin=OURS, allowed=NOT_NEGATIVE,
                                change=ANYWHERE)
    save_floor: float = flag(0.0, "PREFIX-NNNN only when the first target reaches this accuracy "
                                  "(the reference asks 0.975 to 0.99)", origin=OURS, allowed=SHARE,
                             change=ANYWHERE)
    kv_store: str = flag("device", "local, device or nccl (GPUs): one process; dist_sync or "
                                   "dist_device_sync: one of several workers (`unequal launch`)",
                         origin=OURS, change=ANYWHERE)
    compress_gradients: float = flag(0.0, "between workers: 2 bits each, 0 or plus or minus this; "
                                          "0: uncompressed", origin=OURS, allowed=NOT_NEGATIVE)
    devices: str = flag("", "cpu, cpu:N (N contexts) or gpu:0,1; default by CUDA_VISIBLE_DEVICES",
                        origin=OURS, change=ANYWHERE)
    dtype: str = flag("float32", "float16 on GPUs, bfloat16 on CPUs: the backbone's arithmetic in "
                                 "16 bits, parameters, head and loss in float32", origin=OURS,
                      allowed=Choice(("float32", "float16", "bfloat16")))
    save_memory: int = flag(0, "1: compute activations anew for the backward pass instead of "
                               "keeping them", origin=OURS, allowed=SWITCH, change=AT_RESUME)
    model_parallel: int = flag(0, "1: each device holds the classifier's rows of its own classes",
                               origin=OURS, allowed=SWITCH, change=AT_RESUME)
    resume: str = flag("", "continue the run of --prefix that was stopped; auto: or start one when "
                           "there is none", origin=OURS, change=ANYWHERE,
                       allowed=Choice(("", "must", "auto")), const="must")
    config: str = flag("", "file of settings, .py or .json; the command line wins over it (the "
                           "config.py of a checkout is an example)", origin=OURS, change=ANYWHERE)
    debug: bool = flag(False, "show tracebacks", origin=OURS, change=ANYWHERE)

    def __post_init__(self) -> None:
        for row in rows(self):
            row.check(getattr(self, row.name))
        if self.use_deformable:
            raise ArgumentError(
                f"use_deformable {self.use_deformable} is not supported; the reference accepts it "
                "but builds the same network.", "use_deformable")


@dataclass(frozen=True)
class SoftmaxConfig(Config):
    """Step 2, train_softmax.py."""

    per_batch_size: int = flag(100, "batch size of each device", allowed=NOT_NEGATIVE)
    bndrop: int = flag(0, "does nothing", origin=UNUSED)


@dataclass(frozen=True)
class NraConfig(Config):
    """Step 3.1, train_relusoft_savemodel.py; step 3.2 has more."""

    per_batch_size: int = flag(100, "batch size of each device", allowed=NOT_NEGATIVE)
    noise_beta: float = flag(1.0, "trust in the label; the rest goes to the model's prediction",
                             allowed=SHARE)
    bin_dir: str = flag("", "directory of the noise list 0_noiselist.txt; empty: the checkpoints'",
                        allowed=Path(), change=ANYWHERE)
    batch_size_mining: int = flag(20, "batch size of the pass that makes the noise list",
                                  allowed=POSITIVE, change=ANYWHERE,
                                  spelling="--batch_size_mining")
    mean_loss: int = flag(0, "1: the mean loss; 0: the sum over twice the batch, as the reference",
                          origin=OURS, allowed=SWITCH)
    gate: float = flag(0.0, "samples whose largest probability does not exceed it carry no weight",
                       origin=OURS, allowed=SHARE)
    truth: str = flag("", "truth.csv of `unequal synth`: log how often predictions are right",
                      origin=OURS, change=ANYWHERE)


@dataclass(frozen=True)
class RelusoftConfig(NraConfig):
    """Step 3.2, train_relusoft.py."""

    noise_threshold: float = flag(0.0, "drop images whose largest probability under --pretrained "
                                       "is below (the authors' iterator: 0.007)", origin=OURS,
                                  allowed=SHARE)
    first_epoch_order: str = flag("shuffled", "order of the first epoch's images: shuffled, or by "
                                              "their keys, as the reference has it", origin=OURS,
                                  allowed=Choice(("shuffled", "reference")))
    noise_list: str = flag("", "a noise list to use instead of making one", origin=OURS,
                           change=ANYWHERE)


@dataclass(frozen=True)
class UnequalConfig(Config):
    """Step 4, train_unequal.py."""

    # Defaults of the reference's step 4.
    lr: float = flag(0.001, "learning rate", allowed=POSITIVE)
    verbose: int = flag(50, "batches between verifications", allowed=POSITIVE, change=AT_RESUME)
    # Step 4 verifies often, and writing a state takes as long as ten batches.
    state_minutes: float = flag(5.0, "the state that --resume goes on from is written with every "
                                     "PREFIX-NNNN, at the end, and at a verification so many "
                                     "minutes after the last", origin=OURS, allowed=NOT_NEGATIVE,
                                change=ANYWHERE)
    # In the authors' logs a new best comes after up to 90 verifications without one.
    patience: int = flag(100, "stop when the accuracy (--select) has not risen for so many "
                              "verifications, from the start unless --lr-steps is given; 0: never",
                         origin=OURS, allowed=NOT_NEGATIVE, change=AT_RESUME)

    noise: int = flag(1, "1: noise-robust loss on the head images; 0: cross-entropy",
                      allowed=SWITCH)
    noise_beta: float = flag(0.9, "trust in the label; the rest goes to the model's prediction",
                             allowed=SHARE)
    batch_size1: int = flag(90, "head images a batch, over all devices", allowed=POSITIVE)
    batchsize_id: int = flag(90, "tail images a batch, over all devices", allowed=POSITIVE,
                             spelling="--batchsize_id")
    images_per_identity: int = flag(3, "images of each tail identity in a batch", allowed=POSITIVE)
    data_dir_interclass: str = flag("", "record set of the tail identities", change=ANYWHERE)
    bag_size: int = flag(3600, "tail images from which a batch is mined", allowed=POSITIVE)
    batch_size2: int = flag(180, "batch size of the mining pass, over a worker's devices",
                            allowed=POSITIVE)
    interweight: str = flag("0.01", "weight of the center-dispersed loss; a list such as 1,5,10: "
                                    "one after the other, each from the best model so far")
    margin_inter: float = flag(1.0, "does nothing", origin=UNUSED)
    mining: int = flag(1, "1: the tail identities the model confuses most; 0: random ones",
                       origin=OURS, allowed=SWITCH)
    bags: int = flag(100, "batches an epoch, each mined from a bag of its own", origin=OURS,
                     allowed=POSITIVE)


SCRIPTS: Dict[str, Type[Config]] = {
    "train_softmax.py": SoftmaxConfig,
    "train_relusoft_savemodel.py": NraConfig,
    "train_relusoft.py": RelusoftConfig,
    "train_unequal.py": UnequalConfig,
}

# The rows of all scripts by name. A row in two scripts differs in its default only.
ROWS = {row.name: row for config in SCRIPTS.values() for row in rows(config)}

_Config = TypeVar("_Config", bound=Config)


def from_options(config: Type[_Config], options: argparse.Namespace) -> _Config:
    """The checked configuration of a parsed command line.

    Raises
    ------
    ArgumentError
        For the first value that is not allowed.
    """
    return config(**{row.name: getattr(options, row.name) for row in rows(config)})


def defaults(spellings: Any) -> Dict[str, Any]:
    """Defaults of flags by their spelling: values for a run that is older than a flag."""
    return {row.spelling: row.default for row in ROWS.values() if row.spelling in spellings}


def spelling(name: str) -> str:
    """The flag of an argument as it is typed: ``--margin-s`` for ``margin_s``."""
    return ROWS[name].spelling if name in ROWS else "--" + name.replace("_", "-")


def argument(fact: str) -> str:
    """The reverse of :func:`spelling` for training flags; other text is returned unchanged."""
    return next((row.name for row in ROWS.values() if row.spelling == fact), fact)


def _values(options: Any, changes: tuple) -> Dict[str, Any]:
    return {spelling(name): value for name, value in vars(options).items()
            if (ROWS[name].change if name in ROWS else NEVER) in changes}


def identity(options: Any) -> Dict[str, Any]:
    """The flags whose values a resume must repeat, ``{flag: value}``."""
    return _values(options, (NEVER,))


def shared(options: Any) -> Dict[str, Any]:
    """The flags that all workers of a job must have in common, ``{flag: value}``."""
    return _values(options, (NEVER, AT_RESUME))


def check_prefix(prefix: str) -> None:
    """Make the directory of ``prefix`` and check that checkpoints can be written there.

    This comes before training, so that no batch is lost to a name that cannot be written.

    Raises
    ------
    ArgumentError
        When they cannot.
    """
    directory, name = os.path.split(prefix)
    try:
        files.make_directory(directory)
        # A name as long as that of a checkpoint that is being written.
        with tempfile.NamedTemporaryFile(prefix=f".{name}-0000.params.", dir=directory or "."):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArgumentError(
            f"prefix {prefix}: cannot be written ({reason}); name a place for the checkpoints that "
            "this user may write to.", "prefix") from error


def table() -> str:
    """The page docs/flags.md: ``python -m unequal.training.config > docs/flags.md``."""
    steps = {"train_softmax.py": "2", "train_relusoft_savemodel.py": "3.1",
             "train_relusoft.py": "3.2", "train_unequal.py": "4"}
    every = {config: {row.name: row for row in rows(config)} for config in SCRIPTS.values()}
    lines = [
        "# Flags of the training scripts", "",
        "Made by `python -m unequal.training.config > docs/flags.md` from "
        "src/unequal/training/config.py; a test holds the two together.", "",
        "*Resume*: whether a run that is continued may have another value. `each worker`: so may "
        "each worker of a job; all other flags must be the same for all workers.", ""]
    for origin, title in (("the reference's", "The reference's"), ("ours", "Ours"),
                          ("unused", "Accepted, without effect")):
        lines += [f"## {title}", "",
                  "| flag | steps | type | default | allowed | resume | |",
                  "|---|---|---|---|---|---|---|"]
        for name, row in ROWS.items():
            if row.origin != origin:
                continue
            having = {steps[script]: every[config][name] for script, config in SCRIPTS.items()
                      if name in every[config]}
            defaults: Dict[Any, list] = {}
            for step, one in having.items():
                defaults.setdefault(one.default, []).append(step)
            default = "; ".join(
                f"`{value}`" + (f" (step {', '.join(of)})" if len(defaults) > 1 else "")
                if value != "" else "" for value, of in defaults.items())
            where = "all" if len(having) == len(SCRIPTS) else ", ".join(having)
            lines.append(f"| `{row.spelling}` | {where} | {row.kind.__name__} | {default} | "
                         f"{row.allowed or ''} | {row.change} | {row.help} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(), end="")
