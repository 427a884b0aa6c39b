"""The preparation that all stages share: devices, record set, network, initial weights."""
import logging
import os
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, TypeVar

import mxnet as mx
import numpy as np

from unequal.cluster.workers import Workers
from unequal.data.batches import LABEL_NAME
from unequal.data.records import RecordSet
from unequal.errors import ArgumentError
from unequal.models import checkpoints
from unequal.symbols import heads, margins, networks
from unequal.system import progress, runtime
from unequal.training import config

logger = logging.getLogger(__name__)

Params = Dict[str, mx.nd.NDArray]  # by name
AnyConfig = TypeVar("AnyConfig", bound=config.Config)


class Run(NamedTuple):
    """What all stages of a training run use; made by :func:`prepare`."""

    devices: List[mx.Context]
    records: RecordSet
    embedding: mx.sym.Symbol  # fc1_output (N, emb_size)
    label: mx.sym.Symbol
    margin: margins.Margin
    arg_params: Optional[Params]
    aux_params: Optional[Params]
    workers: Workers
    config: Any = None  # unequal.training.config.Config, as the reference overrules it

    @property
    def num_classes(self) -> int:
        return self.records.num_classes

    @property
    def loss_scale(self) -> float:
        """The loss scale of ``dtype``: a factor in the loss, which the optimizer divides by."""
        return heads.LOSS_SCALE[self.config.dtype]

    @property
    def num_devices(self) -> int:
        """Of all workers."""
        return len(self.devices) * self.workers.count


def prepare(options: config.Config) -> Run:
    """Check the options, seed the random numbers, open the data and build the network.

    Parameters
    ----------
    options : unequal.training.config.Config

    Returns
    -------
    Run

    Raises
    ------
    InputError
        For an argument, a file or a checkpoint that cannot be used.
    """
    if not options.data_dir:
        raise ArgumentError("data_dir is missing: name a record set (`unequal synth DIR` makes one "
                            "to try).", "data_dir")
    workers = Workers(options.kv_store, options.compress_gradients)
    if workers.rank:  # worker 0 speaks for all
        logging.getLogger().setLevel(logging.WARNING)
        progress.bars = False
    mx.random.seed(options.seed)
    np.random.seed(options.seed)
    devices = runtime.devices(options.devices or None)
    if options.kv_store == "nccl" and devices[0].device_type != "gpu":
        raise ArgumentError(f"kv_store nccl: NCCL adds gradients between GPUs, and this run is on "
                            f"{devices[0]}; use the default, device.", "kv_store")
    kinds = ("CPUs", "bfloat16") if devices[0].device_type == "cpu" else ("GPUs", "float16")
    if options.dtype not in ("float32", kinds[1]):
        raise ArgumentError(f"dtype {options.dtype} is not for {kinds[0]}; there it is "
                            f"{kinds[1]}.", "dtype")
    records = RecordSet(options.data_dir)
    embedding = networks.get_symbol(
        options.network, options.emb_size, version_se=options.version_se,
        version_input=options.version_input, version_output=options.version_output,
        version_unit=options.version_unit, version_act=options.version_act,
        bn_momentum=options.bn_mom, depthwise_prelu=runtime.wants_cpu_forms(devices),
        dtype=options.dtype)
    networks.check_size(embedding, options.network, records.image_size)
    arg_params = aux_params = None
    if options.pretrained:
        prefix, epoch = checkpoints.parse(options.pretrained)
        logger.info("loading %s", checkpoints.params_path(prefix, epoch))
        _, arg_params, aux_params = checkpoints.load(prefix, epoch)
    logger.info("%s: %d classes, %d images of %dx%d on %s", os.path.abspath(options.data_dir),
                records.num_classes, len(records), *records.image_size,
                ", ".join(map(str, devices)))
    if not workers.rank:
        config.check_prefix(options.prefix)
    return Run(devices, records, embedding, mx.sym.Variable(LABEL_NAME),
               margin_of(options), arg_params, aux_params, workers,
               overruled(options, records.num_classes))


def initializer(symbol: mx.sym.Symbol, inputs: Sequence[mx.io.DataDesc], given: Params,
                seed: int) -> mx.init.Initializer:
    """An initializer that takes a checkpoint's weights and draws the others as the reference does.

    Seeds MXNet's random numbers.

    Parameters
    ----------
    symbol : mxnet.symbol.Symbol
    inputs : sequence of mxnet.io.DataDesc
        Data and labels.
    given : dict of NDArray
        The checkpoint's parameters and averages; names that the network lacks are ignored.
    seed : int

    Raises
    ------
    ArgumentError
        When a given array has another shape than the network needs.
    """
    shapes, _, states = symbol.infer_shape(**dict(desc[:2] for desc in inputs))
    needed = dict(zip(symbol.list_arguments(), shapes))
    needed.update(zip(symbol.list_auxiliary_states(), states))
    for name, value in given.items():
        if name in needed and value.shape != needed[name]:
            there, here = ("x".join(map(str, shape)) for shape in (value.shape, needed[name]))
            raise ArgumentError(
                f"pretrained: the checkpoint's weights do not fit this network and data ({name} is "
                f"{there} there, {here} here); use the flags it was trained with.", "pretrained")
    mx.random.seed(seed)
    return mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2)


def without_other_peoples_classifier(run: Run) -> Run:
    """The run without its checkpoint's classifier, if that has another number of classes.

    Its rows then stand for other people.
    """
    given = run.arg_params or {}
    weight = given.get("fc7_weight")
    if weight is None or weight.shape[0] == run.num_classes * run.margin.sub_centers:
        return run
    logger.warning("the checkpoint's classifier has %d rows, but %s asks for %d: it is left out "
                   "and learnt anew", weight.shape[0], run.records.path,
                   run.num_classes * run.margin.sub_centers)
    return run._replace(arg_params={name: value for name, value in given.items()
                                    if not name.startswith("fc7_")})


def margin_of(options: Any) -> margins.Margin:
    """The margin's arguments as a :class:`unequal.symbols.margins.Margin`."""
    return margins.Margin(**{name: getattr(options, name) for name in margins.Margin._fields})


def lr_steps(options: Any, default: Sequence[int], batch_size: int) -> List[int]:
    """``lr_steps``, or ``default`` (for batches of 512) scaled to the batch size."""
    if not options.lr_steps:
        return [step * 512 // batch_size for step in default]
    try:
        steps = [int(step) for step in options.lr_steps.split(",")]
        if steps != sorted(set(steps)) or steps[0] < 1:
            raise ValueError
    except ValueError:
        raise ArgumentError(f"lr_steps {options.lr_steps!r}: expected rising numbers of batches, "
                            "such as 50000,90000.", "lr_steps") from None
    return steps


def length(options: Any, batches: int) -> int:
    """Updates until ``max_steps`` or ``end_epoch``, whichever comes first; an epoch has ``batches``
    of the data."""
    limit = batches // options.accumulate * options.end_epoch
    return min(limit, options.max_steps) if options.max_steps else limit


def overruled(options: AnyConfig, num_classes: int) -> AnyConfig:
    """The configuration as the reference overrules it: loss type 1 with more than 20,000 classes
    always has ``beta_freeze`` 5000 and ``gamma`` 0.06."""
    if options.loss_type == 1 and num_classes > 20000:
        return config.replace(options, beta_freeze=5000, gamma=0.06)
    return options


def sphere_annealing(options: Any) -> Optional[Callable[[Any, int], None]]:
    """The function that sets loss type 1's beta before each batch; None for other loss types.

    ``max(beta_min, beta * (1 + gamma * n) ** -power)`` after ``n`` batches beyond ``beta_freeze``.
    """
    if options.loss_type != 1:
        return None

    def set_beta(learner: Any, batches: int) -> None:
        moved = max(0, batches - options.beta_freeze)
        learner.set_input(margins.SPHERE_BETA, max(
            options.beta_min, options.beta * (1 + options.gamma * moved) ** -options.power))

    return set_beta
