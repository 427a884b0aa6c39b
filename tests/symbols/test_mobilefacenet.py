import mxnet as mx
import numpy as np
import pytest

from unequal.errors import ArgumentError
from unequal.models.embedder import Embedder
from unequal.symbols import networks

# Names, shapes and the output itself: test_parity.py, beside a recording of InsightFace's symbol.


def test_a_million_parameters():
    symbol = networks.get_symbol("y1", 128)
    shapes, outputs, _ = symbol.infer_shape(data=(2, 3, 112, 112))
    count = sum(np.prod(shape) for name, shape in zip(symbol.list_arguments(), shapes)
                if name != "data")
    assert outputs == [(2, 128)] and symbol.list_outputs() == ["fc1_output"]
    assert 1.0e6 < count < 1.3e6


@pytest.mark.parametrize("depthwise", [True, False])
def test_it_learns_in_either_form(depthwise):
    symbol = networks.get_symbol("y1", 8, depthwise_prelu=depthwise)
    executor = symbol.simple_bind(mx.cpu(), data=(2, 3, 112, 112))
    initializer = mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2)
    mx.random.seed(0)
    for name, array in executor.arg_dict.items():
        if name.endswith("relu_gamma"):
            array[:] = 0.25
        elif name != "data":
            initializer(mx.init.InitDesc(name), array)
    executor.arg_dict["data"][:] = mx.nd.array(
        np.random.RandomState(0).randint(0, 256, (2, 3, 112, 112)))
    executor.forward(is_train=True)
    executor.backward([mx.nd.array(np.random.RandomState(1).randn(2, 8))])
    for name in ("conv_1_conv2d_weight", "res_3_block0_conv_dw_relu_gamma", "pre_fc1_weight"):
        gradient = executor.grad_dict[name].asnumpy()
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize("option", [{"version_se": 1}, {"version_input": 0},
                                    {"version_output": "GAP"}])
def test_versions_of_fresnet_are_refused(option):
    with pytest.raises(ArgumentError) as error:
        networks.get_symbol("y1", **option)
    (name, value), = option.items()
    assert str(error.value) == f"{name} {value!r} is not for network y1; leave it out."


def test_pictures_that_are_too_small_are_refused_before_binding():
    symbol = networks.get_symbol("y1", 8)
    networks.check_size(symbol, "y1", (97, 112))
    with pytest.raises(ArgumentError, match="^network y1: pictures of 96x112 are too small for "
                                            "its layers; pack them larger"):
        networks.check_size(symbol, "y1", (96, 112))


def test_an_embedder_of_too_small_pictures_is_refused_without_mxnets_words():
    symbol = networks.get_symbol("y1", 8)
    with pytest.raises(ArgumentError, match="^The network's layers do not fit pictures of "
                                            "48x64 pixels: give pictures of the size it was "):
        Embedder(symbol, {}, {}, (48, 64))
