"""The steps of the recipe as stages of the training loop, all built in the same way.

A stage holds what differs between the steps. Programs look it up by ``name`` (the report, a
comparison of runs); ``title`` is for people.
"""
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence

import mxnet as mx
import numpy as np

from unequal.data.augmentation import COLOR, Augmentation
from unequal.data.batches import FaceIter, UnequalIter
from unequal.data.records import RecordSet
from unequal.models.embedder import Embedder
from unequal.symbols import heads
from unequal.system import runtime
from unequal.training import setup
from unequal.training.metrics import KEY, LABEL, Metric, accuracy, cross_entropy
from unequal.training.setup import Run
from unequal.training.split_head import SplitHead
from unequal.training.tail import Miner

# Two outputs; a sample is classified correctly where the first is at least the second.
LOGS = ("label_log_probability", "largest_log_probability")


class Stage(NamedTuple):
    """What differs between the steps of the recipe.

    Attributes
    ----------
    name : str
        For programs: ``softmax``, ``nra_save``, ``nra`` or ``unequal``; any other in your own.
    title : str
        For people and the log.
    symbol : mxnet.symbol.Symbol
        A group of named outputs, among them the loss.
    data : mxnet.io.DataIter
        Training batches; has ``batches`` (per epoch), ``fingerprint()``, ``seek``, ``state()`` and
        ``restore`` (:mod:`unequal.data.batches`).
    lr_steps : list of int
        Batches after which the learning rate falls tenfold.
    metrics : list of Metric
        Shown every ``log_every`` batches; the one called ``loss_name`` must stay finite.
    loss_name : str
        Which metric is the loss.
    verify_first : bool
        Verify and save after the first batch (steps 3 and 4 of the reference).
    stop_after_first : bool
        End once that checkpoint is saved (step 3.1).
    before_epoch : callable, optional
        Called with the epoch's number, arg_params and aux_params before its first batch, by all
        workers (step 4's mining).
    before_batch : callable, optional
        Called with the :class:`unequal.training.learner.Learner` and the number of batches done
        (loss type 1's annealing).
    last_fall : int
        Batches after which ``patience`` counts: the learning rate's last fall.
    log_every : int
        Batches between log lines (the reference's Speedometer).
    saved_symbol : mxnet.symbol.Symbol, optional
        Saved in place of ``symbol``, where that holds an operator plain MXNet does not know.
    split : unequal.training.split_head.SplitHead, optional
        The head of ``symbol`` for a classifier split over the devices (``model_parallel`` 1).
    """

    name: str
    title: str
    symbol: mx.sym.Symbol
    data: mx.io.DataIter
    lr_steps: Sequence[int]
    metrics: Sequence[Metric]
    loss_name: str = "softmaxloss"
    verify_first: bool = False
    stop_after_first: bool = False
    before_epoch: Optional[Callable[[int, dict, dict], None]] = None
    before_batch: Optional[Callable[[Any, int], None]] = None
    last_fall: int = 0
    log_every: int = 20
    saved_symbol: Optional[mx.sym.Symbol] = None
    split: Optional[SplitHead] = None


def _split(run: Run, normalizer: float, **options: Any) -> Optional[SplitHead]:
    """The head's settings if ``model_parallel`` 1 asks for a split classifier, else None."""
    if not run.config.model_parallel:
        return None
    return SplitHead(run.num_classes, run.config.emb_size, run.margin, normalizer,
                     loss_scale=run.loss_scale, **options)


def _batch_size(run: Run) -> int:
    """Pictures a batch, over all devices of this worker."""
    return (run.config.per_batch_size or 128) * len(run.devices)


def _face_iter(run: Run, augmentation: Augmentation, keys: Optional[np.ndarray] = None,
               shuffled_from: int = 0) -> FaceIter:
    config = run.config
    return FaceIter(
        run.records, _batch_size(run),
        augmentation._replace(mirror=0.5 * config.rand_mirror, cutoff=config.cutoff),
        keys=keys, seed=config.seed, shuffled_from=shuffled_from,
        num_parts=run.workers.count, part_index=run.workers.rank)


def _last_fall(run: Run, lr_steps: Sequence[int], batches: int) -> int:
    """Batches until the last fall of the learning rate within the run's length; 0 if none.

    ``batches`` of the data are an epoch.
    """
    config = run.config
    limit = setup.length(config, batches)
    if config.lr_schedule == "cosine":  # it falls until the end
        return limit
    return max((config.beta_freeze + step for step in lr_steps
                if config.beta_freeze + step < limit), default=0)


def softmax_stage(run: Run) -> Stage:
    """Step 2: a margin softmax over the head identities."""
    config = run.config
    default_steps = (16000, 24000) if config.loss_type == 0 else (32000, 48000, 60000)
    data = _face_iter(run, Augmentation())
    lr_steps = setup.lr_steps(config, default_steps, _batch_size(run) * run.workers.count)
    return Stage(
        "softmax", "step 2",
        heads.softmax_head(run.embedding, run.label, run.num_classes, config.emb_size,
                           run.margin, index=False, loss_scale=run.loss_scale),
        data, lr_steps, last_fall=_last_fall(run, lr_steps, data.batches),
        metrics=[Metric("acc", ["label_probability", "largest_probability"], accuracy),
                 Metric("softmaxloss", ["label_probability"], cross_entropy)],
        before_batch=setup.sphere_annealing(config),
        split=_split(run, _batch_size(run) // len(run.devices)))


def _disagree(own: np.ndarray, largest: np.ndarray) -> np.ndarray:
    return own < largest


def _right_when_it_differs(people: Dict[int, int]) -> Callable[..., np.ndarray]:
    """Metric: share of the samples predicted as another class that do show that class's person."""
    def right(prediction: np.ndarray, label: np.ndarray, keys: np.ndarray) -> np.ndarray:
        differs = prediction != label
        shown = np.array([people.get(int(key), -1) for key in keys])
        return (prediction == shown)[differs]

    return right


def nra_stage(run: Run, keys: Optional[np.ndarray] = None, people: Optional[Dict[int, int]] = None,
              only_save: bool = False) -> Stage:
    """Step 3.2: the noise-robust loss on the images ``keys`` of the set (default all).

    At ``d`` devices (of all workers) and batch size ``n`` over all of them, the reference divides
    the summed loss by ``2 n`` and the gradient by ``d``: 1 / (2 d) of the mean loss's update.
    ``mean_loss`` 1 takes the mean.

    Parameters
    ----------
    people : dict, optional
        Record key -> true identity, where it is known, for a line in the log.
    only_save : bool
        Step 3.1: one batch, and the model is saved with this head.
    """
    config = run.config
    size = _batch_size(run)
    total = size * run.workers.count
    loss = dict(beta=config.noise_beta, threshold=config.gate,
                normalizer=size // len(run.devices) if config.mean_loss else 2 * total)
    symbol, saved_symbol = (
        heads.nra_head(
            run.embedding, run.label, run.num_classes, config.emb_size, run.margin, **loss,
            composed=composed, on_cpu=runtime.wants_cpu_forms(run.devices),
            index=people is not None, loss_scale=run.loss_scale)
        for composed in (False, True))
    metrics = [Metric("acc", LOGS, accuracy),
               Metric("loss", ["loss"], np.ravel),
               Metric("differ", LOGS, _disagree)]
    if people is not None:
        metrics.append(Metric("right", ["prediction", LABEL, KEY], _right_when_it_differs(people)))
    name, title = ("nra_save", "step 3.1") if only_save else ("nra", "step 3.2")
    order = getattr(config, "first_epoch_order", "shuffled")  # step 3.1 has one batch only
    data = _face_iter(run, COLOR, keys, shuffled_from=int(order == "reference"))
    lr_steps = setup.lr_steps(config, (100000, 140000, 160000), total)
    return Stage(
        name, title, symbol, data, lr_steps, metrics, loss_name="loss",
        last_fall=_last_fall(run, lr_steps, data.batches),
        verify_first=True, stop_after_first=only_save,
        before_batch=setup.sphere_annealing(config), saved_symbol=saved_symbol,
        split=_split(run, **loss))


def unequal_stage(run: Run, tail: RecordSet, weight: float) -> Stage:
    """Step 4 at one weight of the center-dispersed loss.

    Patience counts from the first batch unless ``lr_steps`` is given: the authors ended each weight
    after a twentieth of the batches before the default schedule's first fall.
    """
    config, devices = run.config, run.num_devices
    identities = config.batchsize_id // config.images_per_identity
    data = UnequalIter(
        run.records, tail, config.batch_size1, config.batchsize_id,
        COLOR._replace(mirror=0.5 * config.rand_mirror, cutoff=config.cutoff),
        devices=len(run.devices), images_per_identity=config.images_per_identity,
        batches=config.bags, seed=config.seed, num_parts=run.workers.count,
        part_index=run.workers.rank)
    loss = dict(head_size=config.batch_size1 // devices,
                beta=config.noise_beta if config.noise else 1.0,
                normalizer=max(1, config.batch_size1 // 2))
    symbol, saved_symbol = (
        heads.unequal_head(
            run.embedding, run.label, run.num_classes, config.emb_size, run.margin, **loss,
            tail_identities=identities // devices,
            images_per_identity=config.images_per_identity, interweight=weight,
            composed=composed, on_cpu=runtime.wants_cpu_forms(run.devices), index=False,
            loss_scale=run.loss_scale)
        for composed in (False, True))
    miner = Miner(tail, identities, config.images_per_identity, config.bag_size, config.bags,
                  config.seed)

    def choose_tail(epoch: int, arg_params: dict, aux_params: dict) -> None:
        if not config.mining:
            data.tail = miner.random(epoch)
            return
        embedder = Embedder(run.embedding, arg_params, aux_params, tail.image_size,
                            run.devices, config.batch_size2)
        data.tail = miner.mined(epoch, embedder, run.workers)

    lr_steps = setup.lr_steps(config, (100000, 140000, 160000), config.batch_size1)
    return Stage(
        "unequal", f"step 4, interweight {weight:g}", symbol, data, lr_steps,
        last_fall=(_last_fall(run, lr_steps, data.batches)
                   if config.lr_steps or config.lr_schedule == "cosine" else 0),
        metrics=[Metric("acc", LOGS, accuracy),
                 Metric("softmaxloss", ["label_log_probability"], np.negative),
                 Metric("interloss", ["tail_loss"], np.ravel)],
        verify_first=True, before_epoch=choose_tail,
        before_batch=setup.sphere_annealing(config), log_every=2, saved_symbol=saved_symbol,
        split=_split(run, tail={"identities": identities // devices, "interweight": weight,
                                "images_per_identity": config.images_per_identity}, **loss))
