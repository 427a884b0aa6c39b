"""The classifier split over the devices (``model_parallel`` 1), as InsightFace's arcface_mxnet.

Each device holds weight, gradient and momentum for some of the classes. The backbone stays data
parallel. A step copies the embeddings of all devices to each device, which computes the logits of
its own classes. The softmax takes two rounds: the largest logit over all devices, then the sum of
exponentials. Of the gradients only the embedding's, (N, D), is summed over devices.

At C classes, D columns, N images over all devices and d devices, each holds 4 * C * D / d bytes
three times (weight, gradient, momentum) and about 4 * N * C / d bytes four times (logits with and
without the margin, and their gradients): at a million classes, 512 and eight devices 0.77 GB of
classifier in place of 6.1. The host joins the shards for a checkpoint.
"""
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

import mxnet as mx
import numpy as np

from unequal.errors import ArgumentError
from unequal.symbols import heads, margins
from unequal.system import mxnet_private, runtime
from unequal.training import setup
from unequal.training.learner import ModuleLearner, NotFinite, Params, optimizer
from unequal.training.split_head import SplitHead

if TYPE_CHECKING:  # MXNet has no types
    Array = Any
else:
    Array = mx.nd.NDArray


def shard_bounds(num_classes: int, shards: int) -> List[int]:
    """First class of each device, and the number of classes; the parts differ by at most one."""
    return [num_classes * number // shards for number in range(shards + 1)]


class _Shard:
    """The classes ``begin`` to ``end`` on one device."""

    def __init__(self, device: mx.Context, begin: int, end: int, rows: int,
                 head: SplitHead) -> None:
        self.device, self.begin, self.end, self.rows = device, begin, end, rows
        names = ("embedding", "label", "own")
        embedding, label, own = (mx.sym.Variable(name) for name in names)
        on_cpu = runtime.wants_cpu_forms([device])
        if head.tail is not None and head.margin.loss_type == 0:
            embedding = margins.l2_rows(embedding)  # as in step 4's head
        logits = margins.margin_logits(
            embedding, label, end - begin, head.embedding_size, head.margin,
            heads.weight_rows(on_cpu, composed=False), own=own)
        inputs = {"label", "own", margins.SPHERE_BETA}
        shapes = {"embedding": (rows, head.embedding_size), "label": (rows,), "own": (rows,)}
        self.executor = logits.simple_bind(  # loss type 0 needs no label
            device, grad_req={name: "null" if name in inputs else "write"
                              for name in logits.list_arguments()},
            **{name: shape for name, shape in shapes.items() if name in logits.list_arguments()})
        self.learnt = [name for name in logits.list_arguments() if name.startswith("fc7_")]

    def forward(self, embedding: Array, label: np.ndarray) -> Array:
        """Logits with the margin, (N, classes here)."""
        own = (label >= self.begin) & (label < self.end)
        local = np.clip(label - self.begin, 0, self.end - self.begin - 1)
        self.own, self.label = (mx.nd.array(values, ctx=self.device) for values in (own, local))
        given = {"embedding": embedding.as_in_context(self.device), "label": self.label,
                 "own": self.own}
        self.logits, = self.executor.forward(is_train=True, **{
            name: value for name, value in given.items() if name in self.executor.arg_dict})
        return self.logits

    def exponentials(self, largest: Array) -> Array:
        """``sum(exp(z - largest))`` over this shard's classes, (N,)."""
        self.largest = largest.as_in_context(self.device).reshape((-1, 1))
        self.gradient = mx.nd.broadcast_sub(self.logits, self.largest)
        mx.nd.exp(self.gradient, out=self.gradient)
        return mx.nd.sum(self.gradient, axis=1)

    def own_logit(self) -> Array:
        """The label's logit, or 0 where the label is not of this shard; (N,)."""
        return mx.nd.pick(self.logits, self.label, axis=1) * self.own

    def backward(self, total: Array, factor: Array, beta: float) -> Array:
        """Backward from the logits' gradient; returns the embedding's gradient, (N, D).

        ``factor * (P - beta * [label] - (1 - beta) * [largest])`` with P = exponentials / total.
        """
        total, factor = (value.as_in_context(self.device) for value in (total, factor))
        gradient = self.gradient
        mx.nd.broadcast_mul(gradient, (factor / total).reshape((-1, 1)), out=gradient)
        if beta < 1:
            # The predicted class is the entry equal to the largest: no search for its index.
            gradient -= mx.nd.broadcast_mul(mx.nd.broadcast_equal(self.logits, self.largest),
                                            (factor * (1 - beta)).reshape((-1, 1)))
        label = self.label.astype("int32")
        row = mx.nd.arange(self.rows, dtype="int32", ctx=self.device)
        gradient[row, label] = mx.nd.pick(gradient, self.label, axis=1) - factor * beta * self.own
        self.executor.backward([gradient])
        self.gradient = None
        return self.executor.grad_dict["embedding"]

    def prediction(self) -> Array:
        """This shard's class with the largest logit, (N,)."""
        return mx.nd.argmax(self.logits, axis=1) + self.begin


class SplitLearner(ModuleLearner):
    """A learner whose classifier is split over the run's devices.

    Losses and updates equal those of :class:`ModuleLearner` up to float32 rounding, on any number
    of devices. States and checkpoints hold the whole classifier, so a run can be continued, and its
    model used, with or without the split.

    Parameters
    ----------
    stage : unequal.training.stages.Stage
        With a ``split``.
    run : unequal.training.setup.Run
        Of one worker.

    Raises
    ------
    ArgumentError
        For several workers, or more devices than classes.
    """

    def __init__(self, stage: Any, run: Any) -> None:
        head = stage.split
        if run.workers.count > 1:
            raise ArgumentError("model_parallel 1 splits the classifier over the devices of one "
                                "machine, not over workers; leave kv_store local or device.",
                                "model_parallel", "kv_store")
        if run.config.accumulate > 1:
            raise ArgumentError(f"accumulate {run.config.accumulate} does not go with "
                                "model_parallel 1.", "accumulate", "model_parallel")
        if head.num_classes < len(run.devices):
            raise ArgumentError(f"model_parallel 1 needs at least a class for each of the "
                                f"{len(run.devices)} devices.", "model_parallel")
        self._head, self._stage = head, stage
        super().__init__(stage._replace(symbol=head.backbone(run.embedding, run.label)), run)
        self._device_rows = stage.data.batch_size // len(run.devices)
        self._rows = head.head_size or self._device_rows  # of each device, with a class
        bounds = shard_bounds(head.num_classes, len(run.devices))
        self._shards = [_Shard(device, begin, end, self._rows * len(run.devices), head)
                        for device, begin, end in zip(run.devices, bounds, bounds[1:])]
        self._last: Dict[str, Array] = {}

    def _classifier(self) -> Dict[str, tuple]:
        """Shapes of the whole classifier's arrays."""
        return {name: (sum(shard.executor.arg_dict[name].shape[0] for shard in self._shards),
                       *self._shards[0].executor.arg_dict[name].shape[1:])
                for name in self._shards[0].learnt}

    def _scatter(self, name: str, whole: Array, targets: Sequence[Array]) -> None:
        """Copy the rows of ``whole`` to their shards."""
        begin = 0
        for target in targets:
            target[:] = whole[begin:begin + len(target)].as_in_context(target.context)
            begin += len(target)

    def _initialise(self, arg_params: Optional[dict], aux_params: Optional[dict]) -> None:
        """As ModuleLearner, with the same random draws: all arrays are drawn in order of name."""
        symbol, data = self._stage.symbol, self._stage.data
        descriptions = [*data.provide_data, *data.provide_label]
        initializer = setup.initializer(
            symbol, descriptions, {**(arg_params or {}), **(aux_params or {})},
            self._run.config.seed)
        inputs = dict(desc[:2] for desc in descriptions)
        names = symbol.list_arguments()
        shapes = {name: shape for name, shape in zip(names, symbol.infer_shape(**inputs)[0])
                  if name not in inputs and name != margins.SPHERE_BETA}
        attributes = symbol.attr_dict()
        drawn = {}
        for name, shape in sorted(shapes.items()):
            drawn[name] = (arg_params or {}).get(name)
            if drawn[name] is None:
                drawn[name] = mx.nd.zeros(shape)
                initializer(mx.init.InitDesc(name, attributes.get(name)), drawn[name])
        for name in self._classifier():
            self._scatter(name, drawn.pop(name),
                          [shard.executor.arg_dict[name] for shard in self._shards])
        self.module.init_params(initializer, arg_params=drawn, aux_params=aux_params,
                                allow_missing=True, allow_extra=True)

    def start(self, step: int, saved: Any = None) -> None:
        """As ModuleLearner; the classifier's momenta to their shards."""
        config, run = self._run.config, self._run
        momenta = dict(saved.momenta) if saved is not None else {}
        classifier = {name: momenta.pop(name) for name in self._classifier() if name in momenta}
        super().start(step, None if saved is None else saved._replace(momenta=momenta))
        self._rules = optimizer(config, self._lr_steps, run.devices, run.num_devices, step,
                                setup.length(config, self._batches))
        names = self._shards[0].learnt
        self._rules.idx2name = {
            number * len(names) + place: name
            for number in range(len(self._shards)) for place, name in enumerate(names)}
        self._updater = mx.optimizer.get_updater(self._rules)
        for name, whole in classifier.items():
            targets = []
            for index, shard in self._indices(name):
                weight = shard.executor.arg_dict[name]
                self._updater.states[index] = self._rules.create_state(index, weight)
                self._updater.states_synced[index] = True
                targets.append(self._updater.states[index])
            self._scatter(name, whole, targets)

    def _indices(self, name: str) -> List[tuple]:
        """``(index in the updater, shard)`` of each shard's array of this name."""
        names = self._shards[0].learnt
        return [(number * len(names) + names.index(name), shard)
                for number, shard in enumerate(self._shards)]

    def expected(self) -> Dict[str, Any]:
        """The backbone's arrays, and the whole classifier's."""
        arrays = super().expected()
        for name, shape in self._classifier().items():
            arrays["arg:" + name] = shape, np.float32
            if self._run.config.mom:
                arrays["momentum:" + name] = shape, np.float32
        if margins.SPHERE_BETA in self._shards[0].executor.arg_dict:
            arrays["arg:" + margins.SPHERE_BETA] = (1,), np.float32
        return arrays

    def learn(self, batch: Any, number: int) -> None:
        """Forward, the softmax over devices, backward; does not wait but for the labels."""
        self._seed(number)
        self.module.forward(batch, is_train=True)
        gradients = self._learn_classifier(batch.label[0].asnumpy())
        _, *others = self.module.get_outputs(merge_multi_context=False)
        mxnet_private.backward(self.module, [
            [gradient, *(mx.nd.ones_like(parts[number]) for parts in others)]  # ones are ignored
            for number, gradient in enumerate(gradients)])

    def update(self) -> None:
        """Update the backbone on all devices, and each device's classes."""
        self.module.update()
        for name in self._shards[0].learnt:
            for index, shard in self._indices(name):
                self._updater(index, shard.executor.grad_dict[name],
                              shard.executor.arg_dict[name])

    def _learn_classifier(self, label: np.ndarray) -> List[Array]:
        """Forward and backward of the split head; the embedding's gradient on each device."""
        head, first = self._head, self._run.devices[0]
        parts = self.module.get_outputs(merge_multi_context=False)[0]
        embedding = mx.nd.concat(*[part[:self._rows].as_in_context(first) for part in parts],
                                 dim=0)
        label = label.reshape(len(parts), -1)[:, :self._rows].ravel()

        def gathered(values: Sequence[Array]) -> Array:
            return mx.nd.stack(*[value.as_in_context(first) for value in values])

        largest = mx.nd.max(gathered([
            mx.nd.max(shard.forward(embedding, label), axis=1) for shard in self._shards]), axis=0)
        total = mx.nd.sum(gathered([
            shard.exponentials(largest) for shard in self._shards]), axis=0)
        own = mx.nd.sum(gathered([shard.own_logit() for shard in self._shards]), axis=0)
        largest_log = -mx.nd.log(total)
        label_log = own - largest + largest_log
        weight = mx.nd.exp(largest_log) > head.threshold
        terms = weight * (head.beta * label_log + (1 - head.beta) * largest_log)
        self._last = {
            "label_log_probability": label_log, "largest_log_probability": largest_log,
            "label_probability": mx.nd.exp(label_log),
            "largest_probability": mx.nd.exp(largest_log),
            # The mean over devices, as the metrics compute it when each device has a loss.
            "loss": mx.nd.sum(terms).reshape((1,)) * (-1.0 / (head.normalizer * len(parts)))}
        factor = weight * (head.loss_scale / head.normalizer)
        gradients = [shard.backward(total, factor, head.beta) for shard in self._shards]
        gradient = mx.nd.add_n(*[value.as_in_context(first) for value in gradients])
        whole = []
        for number, part in enumerate(parts):
            rows = gradient[number * self._rows:(number + 1) * self._rows].as_in_context(
                part.context)
            if len(part) > self._rows:  # the tail's rows have no class
                rest = mx.nd.zeros((len(part) - self._rows, head.embedding_size), part.context)
                rows = mx.nd.concat(rows, rest, dim=0)
            whole.append(rows)
        return whole

    def outputs(self, names: Sequence[str]) -> Dict[str, List[Array]]:
        """The head's over all rows at once, the backbone's by device."""
        ours = dict(self._last)
        if "prediction" in names:
            first = self._run.devices[0]
            largest, here = (mx.nd.stack(*[value.as_in_context(first) for value in values])
                             for values in zip(*((mx.nd.max(shard.logits, axis=1),
                                                  shard.prediction()) for shard in self._shards)))
            ours["prediction"] = mx.nd.pick(here, mx.nd.argmax(largest, axis=0), axis=0)
        return {**{name: [ours[name].copy()] for name in names if name in ours},
                **super().outputs([name for name in names if name not in ours])}

    def set_input(self, name: str, value: float) -> None:
        """On all devices."""
        for shard in self._shards:
            shard.executor.arg_dict[name][:] = value

    def params(self) -> Params:
        """The weights on the host, the classifier joined."""
        arg_params, aux_params = super().params()
        arg_params = dict(arg_params)  # the module's own
        for name in self._classifier():
            arg_params[name] = mx.nd.concat(*[
                shard.executor.arg_dict[name].as_in_context(mx.cpu()) for shard in self._shards],
                dim=0)
            if not np.isfinite(arg_params[name].asnumpy()).all():
                raise NotFinite(f"{name} is no longer finite")
        beta = self._shards[0].executor.arg_dict.get(margins.SPHERE_BETA)
        if beta is not None:
            arg_params[margins.SPHERE_BETA] = beta.as_in_context(mx.cpu())
        return arg_params, aux_params

    def momenta(self) -> Dict[str, Array]:
        """The classifier's joined on the host."""
        found = dict(mxnet_private.momenta(self.module))
        for name in self._classifier():
            states = [self._updater.states.get(index) for index, _ in self._indices(name)]
            if all(state is not None for state in states):
                found[name] = mx.nd.concat(*[state.as_in_context(mx.cpu()) for state in states],
                                           dim=0)
        return found
