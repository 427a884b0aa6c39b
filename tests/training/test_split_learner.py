"""The classifier split over devices beside the whole one: same losses, updates and states."""
import mxnet as mx
import numpy as np
import pytest

from helpers.loops import assert_close
from unequal.cluster.workers import Workers
from unequal.errors import ArgumentError
from unequal.symbols import heads, margins
from unequal.symbols.margins import Margin
from unequal.training import state
from unequal.training.config import SoftmaxConfig
from unequal.training.learner import ModuleLearner
from unequal.training.setup import Run
from unequal.training.split_head import SplitHead
from unequal.training.split_learner import SplitLearner, shard_bounds
from unequal.training.stages import Stage

CLASSES, SIZE, INPUT, ROWS = 7, 5, 4, 24
DATA, LABEL = mx.sym.Variable("data"), mx.sym.Variable("softmax_label")
EMBEDDING = mx.sym.FullyConnected(DATA, num_hidden=SIZE, no_bias=True, name="embed")
MARGINS = [Margin(0), Margin(1), Margin(2, 8.0, 0.35), Margin(4, 8.0, 0.5),
           Margin(4, 8.0, 0.5, easy_margin=1), Margin(5, 8.0, 0.3, 0.9, 0.1),
           Margin(4, 8.0, 0.5, sub_centers=2)]
NRA = dict(beta=0.7, threshold=0.2)
# Step 4: of each device's rows some are head rows, the rest tail identities of two rows.
TAIL_IDENTITIES = 2


class Data:
    batch_size, batches = ROWS, 1
    provide_data = [mx.io.DataDesc("data", (ROWS, INPUT))]
    provide_label = [mx.io.DataDesc("softmax_label", (ROWS,))]


def stage_of(step, margin, devices, scale=1.0):
    given = EMBEDDING, LABEL, CLASSES, SIZE, margin
    rows = ROWS // devices
    if step == "softmax":
        return Stage(step, step, heads.softmax_head(*given, index=False, loss_scale=scale), Data,
                     [], [], split=SplitHead(CLASSES, SIZE, margin, rows, loss_scale=scale))
    if step == "nra":
        return Stage(step, step, heads.nra_head(*given, normalizer=2 * ROWS, loss_scale=scale,
                                                **NRA), Data, [], [],
                     split=SplitHead(CLASSES, SIZE, margin, 2 * ROWS, loss_scale=scale, **NRA))
    head_size = rows - 2 * TAIL_IDENTITIES
    tail = dict(images_per_identity=2, interweight=5.0)
    symbol = heads.unequal_head(*given, normalizer=ROWS, head_size=head_size, loss_scale=scale,
                                tail_identities=TAIL_IDENTITIES, **tail, **NRA)
    return Stage(step, step, symbol, Data, [], [], split=SplitHead(
        CLASSES, SIZE, margin, ROWS, head_size=head_size, loss_scale=scale,
        tail=dict(tail, identities=TAIL_IDENTITIES), **NRA))


def run_of(devices, margin, **settings):
    config = SoftmaxConfig(data_dir="x", lr=0.5, wd=0.01, **settings)
    return Run([mx.cpu(number) for number in range(devices)], None, EMBEDDING, LABEL, margin, None,
               None, Workers(), config)


def batches(steps=3):
    random = np.random.RandomState(4)
    return [mx.io.DataBatch([mx.nd.array(random.randn(ROWS, INPUT))],
                            [mx.nd.array(random.randint(0, CLASSES, ROWS))])
            for _ in range(steps)]


def trained(kind, step, margin, devices, scale=1.0, **settings):
    learner = kind(stage_of(step, margin, devices, scale), run_of(devices, margin, **settings))
    learner.start(0)
    if margin.loss_type == 1:
        learner.set_input(margins.SPHERE_BETA, 3.0)
    names = {"softmax": ("label_probability", "largest_probability"),
             "nra": ("loss", "label_log_probability", "largest_log_probability", "prediction"),
             "unequal": ("loss", "label_log_probability", "tail_loss")}[step]
    seen = []
    for number, batch in enumerate(batches()):
        learner.learn(batch, number)
        learner.update()
        seen.append({name: np.concatenate([part.asnumpy() for part in parts])
                     for name, parts in learner.outputs(names).items()})
    return learner, seen


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("margin", MARGINS,
                         ids=lambda m: f"{m.loss_type}-{m.easy_margin}-{m.sub_centers}")
@pytest.mark.parametrize("step", ["softmax", "nra", "unequal"])
def test_same_losses_and_updates_as_the_whole_classifier(step, margin, devices):
    whole, expected = trained(ModuleLearner, step, margin, devices)
    split, found = trained(SplitLearner, step, margin, devices)
    for ours, theirs in zip(found, expected):
        for name, value in theirs.items():
            if name == "loss":  # of each device there, their mean here
                value = value.mean(keepdims=True)
            assert_close(ours[name], value, 2e-5)
    assert split.expected() == whole.expected()
    for ours, theirs in ((split.params()[0], whole.params()[0]), (split.momenta(),
                                                                  whole.momenta())):
        assert set(ours) == set(theirs) >= {"fc7_weight", "embed_weight"}
        for name, value in theirs.items():
            assert_close(ours[name].asnumpy(), value.asnumpy(), 2e-5)
    start = ModuleLearner(stage_of(step, margin, devices), run_of(devices, margin))
    start.start(0)
    before = start.params()[0]["fc7_weight"].asnumpy()
    assert np.abs(whole.params()[0]["fc7_weight"].asnumpy() - before).max() > 1e-3


def test_loss_scale_is_taken_out():
    margin = MARGINS[3]
    plain, _ = trained(SplitLearner, "unequal", margin, 2)
    scaled, _ = trained(SplitLearner, "unequal", margin, 2, 1024.0, dtype="bfloat16")
    for name, value in plain.params()[0].items():
        assert_close(scaled.params()[0][name].asnumpy(), value.asnumpy(), 1e-6)


def test_a_state_goes_on_either_way():
    """Weights and momenta of a split run in a whole one, and of a whole one on other devices."""
    margin = MARGINS[3]
    expected, _ = trained(ModuleLearner, "nra", margin, 2)
    more = batches(5)[3:]
    for number, batch in enumerate(more, 3):
        expected.learn(batch, number)
        expected.update()
    for first, second, devices in ((SplitLearner, ModuleLearner, 2),
                                   (ModuleLearner, SplitLearner, 2)):
        learner, _ = trained(first, "nra", margin, devices)
        saved = state.State({}, *learner.params(), learner.momenta(), {})
        other = second(stage_of("nra", margin, devices), run_of(devices, margin))
        other.start(3, saved)
        for number, batch in enumerate(more, 3):
            other.learn(batch, number)
            other.update()
        for name, value in expected.params()[0].items():
            assert_close(other.params()[0][name].asnumpy(), value.asnumpy(), 2e-5)


@pytest.mark.parametrize("classes, shards", [(7, 4), (7, 1), (96_499, 8), (5, 5)])
def test_shards_are_even_and_complete(classes, shards):
    bounds = shard_bounds(classes, shards)
    sizes = np.diff(bounds)
    assert bounds[0] == 0 and bounds[-1] == classes and len(sizes) == shards
    assert sizes.min() >= 1 and sizes.max() - sizes.min() <= 1


def test_more_devices_than_classes():
    head = SplitHead(1, SIZE, Margin(), 4)
    with pytest.raises(ArgumentError, match="model_parallel 1 needs at least a class for each of "
                                            "the 2 devices"):
        SplitLearner(stage_of("softmax", Margin(), 2)._replace(split=head), run_of(2, Margin()))
