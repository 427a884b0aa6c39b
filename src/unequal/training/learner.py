"""How a batch is learnt: the network on its devices, the optimizer, its weights and momenta."""
import logging
import warnings
from typing import Any, Dict, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from unequal.errors import ArgumentError
from unequal.symbols import heads, margins
from unequal.system import mxnet_private, runtime
from unequal.training import setup

logger = logging.getLogger(__name__)

Params = Tuple[Dict[str, Any], Dict[str, Any]]  # arg_params, aux_params


class NotFinite(Exception):
    """A weight is infinite or not a number; the text names it."""


class Learner:
    """The interface by which :class:`unequal.training.trainer.Trainer` updates the weights.

    Methods marked "all" are collective: every worker of a job calls them at the same step.
    """

    learning_rate = 0.0  # of the next batch

    def start(self, step: int, saved: Any = None) -> None:
        """Prepare to learn batch ``step`` (from 0), with the weights of ``saved`` if given."""
        raise NotImplementedError

    def expected(self) -> Dict[str, Tuple[tuple, Any]]:
        """Shape and dtype of each array that a state of this learner has: ``arg:NAME``,
        ``aux:NAME`` and ``momentum:NAME``."""
        raise NotImplementedError

    def learn(self, batch: Any, number: int) -> None:
        """Compute a batch's gradients. ``number``, how many batches came before, seeds its random
        numbers (dropout)."""
        raise NotImplementedError

    def update(self) -> None:
        """Update the weights by the gradients of the batches learnt since the last update (all)."""
        raise NotImplementedError

    def outputs(self, names: Sequence[str]) -> Dict[str, List[Any]]:
        """Copies of the last batch's outputs: ``{name: [array of each device]}``; need not wait."""
        raise NotImplementedError

    def set_input(self, name: str, value: float) -> None:
        """Set an argument of the symbol that is not learnt, such as loss type 1's beta."""
        raise NotImplementedError

    def params(self) -> Params:
        """``(arg_params, aux_params)`` (all).

        Raises
        ------
        NotFinite
            When a weight is infinite or not a number.
        """
        raise NotImplementedError

    def momenta(self) -> Dict[str, Any]:
        """``{parameter: momentum}``."""
        raise NotImplementedError


def _schedule(config: Any, lr_steps: Sequence[int],
              length: int) -> Optional[mx.lr_scheduler.LRScheduler]:
    """The learning rate as a function of the number of updates; None if it is constant."""
    warmup = {"base_lr": config.lr, "warmup_steps": config.warmup, "warmup_begin_lr": 0.0}
    if config.lr_schedule == "cosine":
        if config.warmup >= length:
            raise ArgumentError(f"warmup {config.warmup} must be shorter than the training of "
                                f"{length} batches.", "warmup")
        return mx.lr_scheduler.CosineScheduler(length, final_lr=0.0, **warmup)
    if lr_steps or config.warmup:
        # MXNet's schedule needs at least one fall; without one, give a fall that is never reached.
        falls = [config.beta_freeze + step for step in lr_steps] or [2 ** 62]
        return mx.lr_scheduler.MultiFactorScheduler(falls, factor=0.1, **warmup)
    return None


def optimizer(config: Any, lr_steps: Sequence[int], devices: Sequence[mx.Context],
              num_devices: int, step: int = 0, length: int = 0) -> mx.optimizer.SGD:
    """SGD as the reference builds it, ``step`` updates into a schedule of ``length``.

    As in the reference, weight decay acts on every parameter, biases and BatchNorm's beta included,
    because MXNet's optimizer is given no parameter names. ``rescale_grad`` turns the gradients' sum
    over the ``num_devices`` devices of all workers and over accumulated batches into a mean, and
    divides by the loss scale of ``dtype``.
    """
    schedule = _schedule(config, lr_steps, length)
    result = mx.optimizer.SGD(
        learning_rate=config.lr, momentum=config.mom, wd=config.wd,
        rescale_grad=1.0 / (num_devices * config.accumulate * heads.LOSS_SCALE[config.dtype]),
        lr_scheduler=schedule, begin_num_update=step)
    result.wd_mult = {"fc7_weight": config.fc7_wd_mult}
    if runtime.wants_cpu_forms(devices):
        # By default MXNet updates four arrays in one call, which suits GPUs. On a CPU that takes
        # 2.5 times as long for the same bits (r50: 0.23 s of a step instead of 0.09).
        result.aggregate_num = 1
    return result


class ModuleLearner(Learner):
    """A :class:`Learner` on MXNet's Module.

    Memory: weights, gradients and momenta on each device, and one copy of the weights on the host.

    Parameters
    ----------
    stage : unequal.training.stages.Stage
    run : unequal.training.setup.Run
    """

    def __init__(self, stage: Any, run: Any) -> None:
        data = stage.data
        self._run, self._lr_steps = run, stage.lr_steps
        self._names = [name[:-len("_output")] for name in stage.symbol.list_outputs()]
        self.module = mx.mod.Module(
            stage.symbol, data_names=[desc.name for desc in data.provide_data],
            label_names=[desc.name for desc in data.provide_label], context=run.devices,
            fixed_param_names=[name for name in stage.symbol.list_arguments()
                               if name == margins.SPHERE_BETA])  # the loop sets it; no gradient
        self._batches = data.batches
        with mxnet_private.mirroring(bool(run.config.save_memory)):
            self.module.bind(data.provide_data, data.provide_label,
                             grad_req="add" if run.config.accumulate > 1 else "write")
        if run.config.accumulate > 1:
            mxnet_private.clear_gradients(self.module)
        self._optimizer: Optional[mx.optimizer.Optimizer] = None

    @property
    def learning_rate(self) -> float:  # type: ignore[override]
        """Of the next batch."""
        assert self._optimizer is not None
        return self._optimizer.learning_rate

    def start(self, step: int, saved: Any = None) -> None:
        """Set the weights (saved, ``pretrained`` or drawn), momenta and place in the schedule."""
        run, config = self._run, self._run.config
        if saved is None:
            self._initialise(run.arg_params, run.aux_params)
        else:
            self._initialise(saved.arg_params, saved.aux_params)
        self._optimizer = optimizer(config, self._lr_steps, run.devices, run.num_devices, step,
                                    setup.length(config, self._batches))
        with warnings.catch_warnings():
            # MXNet warns that rescale_grad is not 1/batch; right so, the loss is a mean already.
            warnings.simplefilter("ignore")
            self.module.init_optimizer(kvstore=run.workers.local_store, optimizer=self._optimizer)
        if saved is not None:
            mxnet_private.set_momenta(self.module, saved.momenta)

    def _initialise(self, arg_params: Optional[dict], aux_params: Optional[dict]) -> None:
        """Set these weights, and draw the missing ones as the reference does."""
        inputs = [*self.module.data_shapes, *(self.module.label_shapes or ())]
        initializer = setup.initializer(
            self.module.symbol, inputs, {**(arg_params or {}), **(aux_params or {})},
            self._run.config.seed)
        self.module.init_params(initializer, arg_params=arg_params, aux_params=aux_params,
                                allow_missing=True, allow_extra=True)

    def expected(self) -> Dict[str, Tuple[tuple, Any]]:
        """The arrays of the bound module, and momenta unless ``mom`` is 0."""
        arrays, learnt = mxnet_private.parameters(self.module)
        if self._run.config.mom:
            arrays.update({"momentum:" + name: arrays["arg:" + name] for name in learnt})
        return arrays

    def learn(self, batch: Any, number: int) -> None:
        """Forward and backward; does not wait."""
        self._seed(number)
        self.module.forward_backward(batch)

    def update(self) -> None:
        """Add up the workers' gradients and update; does not wait for the result."""
        self._run.workers.sum_gradients(self.module)
        self.module.update()
        if self._run.config.accumulate > 1:
            mxnet_private.clear_gradients(self.module)

    def _seed(self, step: int) -> None:
        """Seed the random numbers (dropout) of a batch, for each device of each worker (2 ms).

        MXNet's random state cannot be saved, so a resume needs a seed for each batch.
        """
        devices = self._run.devices
        for number, device in enumerate(devices, self._run.workers.rank * len(devices)):
            words = (self._run.config.seed, step, number)
            mx.random.seed(int(np.random.SeedSequence(words).generate_state(1)[0]), ctx=device)

    def outputs(self, names: Sequence[str]) -> Dict[str, List[mx.nd.NDArray]]:
        """Copies, queued on the device."""
        per_output = self.module.get_outputs(merge_multi_context=False)
        return {name: [part.copy() for part in per_output[self._names.index(name)]]
                for name in names}

    def set_input(self, name: str, value: float) -> None:
        """On all devices."""
        mxnet_private.set_argument(self.module, name, value)

    def params(self) -> Params:
        """Copies of the weights on the host, all finite."""
        # BatchNorm's backward writes its moving averages without telling MXNet's engine: a copy
        # taken too early would hold the old ones.
        mx.nd.waitall()
        arg_params, aux_params = mxnet_private.host_params(self.module)
        for name, value in (*arg_params.items(), *aux_params.items()):
            if not np.isfinite(value.asnumpy()).all():
                raise NotFinite(f"{name} is no longer finite")
        # BatchNorm's averages are over a worker's own pictures, so they differ between workers.
        return arg_params, self._run.workers.mean(aux_params)

    def momenta(self) -> Dict[str, mx.nd.NDArray]:
        """Of SGD, on a device; all devices have the same."""
        return mxnet_private.momenta(self.module)
