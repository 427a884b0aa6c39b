"""training/setup.py: what a run has before its first batch."""
from argparse import Namespace

import mxnet as mx
import numpy as np
import pytest

from helpers.fitting import CLASSES, SIZE, Batches, arguments, train
from unequal.cluster.workers import Workers
from unequal.errors import InputError
from unequal.symbols import heads, networks
from unequal.training import setup
from unequal.training.config import SoftmaxConfig
from unequal.training.stages import Stage
from unequal.training.trainer import Trainer


def test_default_steps_scale_with_the_batch():
    args = Namespace(lr_steps="")
    assert setup.lr_steps(args, (32000, 48000, 60000), 200) == [81920, 122880, 153600]
    assert setup.lr_steps(Namespace(lr_steps="5,9"), (1,), 200) == [5, 9]
    for text in ("5,x", "9,5", "0,3", "4,4"):
        with pytest.raises(InputError, match="^lr_steps"):
            setup.lr_steps(Namespace(lr_steps=text), (1,), 200)


def test_sphere_annealing(tmp_path):
    args = arguments(tmp_path, "--loss-type", "1", "--max-steps", "4", "--beta", "100",
                     "--beta-min", "40", "--gamma", "1", "--beta-freeze", "1")
    seen = []
    set_beta = setup.sphere_annealing(args)

    def before_batch(learner, batches):
        set_beta(learner, batches)
        seen.append(learner.module._exec_group.execs[0].arg_dict["sphere_beta"].asscalar())

    train(args, Batches(), before_batch=before_batch)
    np.testing.assert_allclose(seen, [100, 100, 50, 40])
    assert setup.sphere_annealing(arguments(tmp_path)) is None
    args = setup.overruled(SoftmaxConfig(loss_type=1), 20001)
    assert (args.beta_freeze, args.gamma) == (5000, 0.06)
    args = setup.overruled(SoftmaxConfig(loss_type=1), 20000)
    assert (args.beta_freeze, args.gamma) == (0, 0.12)


def test_pretrained_weights_that_do_not_fit(tmp_path):
    args = arguments(tmp_path, "--max-steps", "1")
    train(args, Batches())
    _, arguments_, states = mx.model.load_checkpoint(args.prefix, 0)
    arguments_["fc7_weight"] = mx.nd.zeros((3, 16))
    symbol = heads.softmax_head(networks.get_symbol("n8", 16, version_output="I"),
                                 mx.sym.Variable("softmax_label"), CLASSES, 16)
    run = setup.Run([mx.cpu()], Namespace(image_size=(SIZE, SIZE)), None, None, None, arguments_,
                    states, Workers(), args)
    stage = Stage("test", "test", symbol, Batches(), [], [])
    with pytest.raises(InputError, match="^pretrained: the checkpoint's weights do not fit .*"
                                         "fc7_weight is 3x16 there, .*x16 here"):
        Trainer(stage, run).fit()


@pytest.mark.parametrize("max_steps, end_epoch, accumulate, updates", [
    (0, 3, 1, 30), (25, 3, 1, 25), (99, 3, 1, 30), (0, 2, 3, 6), (5, 2, 3, 5), (1, 0, 1, 0)])
def test_whichever_end_comes_first(max_steps, end_epoch, accumulate, updates):
    """Of epochs of ten batches; those that do not fill an update are not counted."""
    options = Namespace(max_steps=max_steps, end_epoch=end_epoch, accumulate=accumulate)
    assert setup.length(options, 10) == updates
