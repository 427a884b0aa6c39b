"""A small network, its checkpoint, and pictures for it."""
import cv2
import mxnet as mx
import numpy as np
import pytest

from unequal.models import checkpoints
from unequal.symbols import networks

SIDE = 32


def initialised(symbol, size, seed=0):
    """Parameters drawn as for training."""
    mx.random.seed(seed)
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", (1, 3) + size)], for_training=False)
    module.init_params(mx.init.Xavier())
    return module.get_params()


@pytest.fixture(scope="module")
def network():
    symbol = networks.get_symbol("n8", 24)
    return (symbol,) + initialised(symbol, (SIDE, SIDE))


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    prefix = str(tmp_path_factory.mktemp("model") / "model")
    checkpoints.save(prefix, 3, *network)
    return prefix + ",3"


@pytest.fixture(scope="module")
def faces():
    """RGB arrays, some smooth shapes of random colours."""
    random = np.random.RandomState(0)
    coarse = random.randint(0, 256, (11, 4, 4, 3)).astype(np.uint8)
    return [cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            for picture in coarse]


def png(picture):
    return cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()


def by_hand(network, pictures, flip):
    """Features by a module of its own, one picture at a time."""
    symbol, arg_params, aux_params = network
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", (1, 3, SIDE, SIDE))], for_training=True)
    module.set_params(arg_params, aux_params)
    rows = []
    for picture in pictures:
        total = 0
        for view in (picture, picture[:, ::-1])[:2 if flip else 1]:
            data = mx.nd.array(view.transpose(2, 0, 1)[None])
            module.forward(mx.io.DataBatch([data]), is_train=False)
            total = total + module.get_outputs()[0].asnumpy()[0]
        rows.append(total / np.linalg.norm(total))
    return np.array(rows)
