"""What is used of MXNet beyond its public interface does what it says there."""
import os

import mxnet as mx
import numpy as np
import pytest

from unequal.system import mxnet_private


def bound(devices, params=None):
    """A layer of (2, 3) weights with an optimizer; on each device a batch of two."""
    symbol = mx.sym.BatchNorm(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2,
                                                    name="fc"), name="bn")
    module = mx.mod.Module(symbol, label_names=None, context=[mx.cpu(i) for i in range(devices)])
    module.bind([("data", (2 * devices, 3))])
    module.init_params(mx.init.One())
    if params:
        module.set_params(*params)
    module.init_optimizer(optimizer=mx.optimizer.SGD(
        learning_rate=0.5, momentum=0.9, rescale_grad=0.5 / devices,
        param_idx2name=dict(enumerate(("fc_weight", "fc_bias", "bn_gamma", "bn_beta")))))
    return module


@pytest.fixture(params=(1, 2), ids=("one device", "two devices"))
def module(request):
    return bound(request.param)


def step(module):
    """Forward, a gradient of ones, an update."""
    rows = 2 * len(module._context)
    data = mx.nd.array(np.arange(3 * rows).reshape(rows, 3))
    module.forward(mx.io.DataBatch([data]), is_train=True)
    module.backward([mx.nd.ones((rows, 2))])


def test_parameters_and_their_gradients_by_name(module):
    arrays, learnt = mxnet_private.parameters(module)
    assert {name: shape for name, (shape, _) in arrays.items()} == {
        "arg:fc_weight": (2, 3), "arg:fc_bias": (2,), "arg:bn_gamma": (2,), "arg:bn_beta": (2,),
        "aux:bn_moving_mean": (2,), "aux:bn_moving_var": (2,)}
    assert {kind for _, kind in arrays.values()} == {np.float32}
    assert learnt == ["fc_weight", "fc_bias", "bn_gamma", "bn_beta"]
    step(module)
    beta = dict(mxnet_private.gradients(module))["bn_beta"]
    assert [value.asnumpy().tolist() for value in beta] == [[2, 2]] * len(module._context)
    mxnet_private.clear_gradients(module)
    assert [value.asnumpy().tolist() for value in beta] == [[0, 0]] * len(module._context)


def test_momenta_survive_another_module(module):
    assert mxnet_private.momenta(module) == {}
    step(module)
    module.update()
    saved = {name: value.copy() for name, value in mxnet_private.momenta(module).items()}
    assert set(saved) == {"fc_weight", "fc_bias", "bn_gamma", "bn_beta"}
    assert saved["bn_beta"].asnumpy().tolist() == [-0.5, -0.5]
    params = [{name: value.copy() for name, value in some.items()}
              for some in module.get_params()]
    step(module)
    module.update()
    expected = module.get_params()[0]["bn_beta"].asnumpy()
    other = bound(len(module._context), params)
    mxnet_private.set_momenta(other, saved)
    step(other)
    other.update()
    np.testing.assert_array_equal(other.get_params()[0]["bn_beta"].asnumpy(), expected)
    assert expected.tolist() == pytest.approx([-1.45, -1.45])  # -0.5, then 0.9 of it and -0.5


def test_an_argument_is_set_on_all_devices(module):
    mxnet_private.set_argument(module, "bn_beta", 7)
    assert [executor.arg_dict["bn_beta"].asnumpy().tolist()
            for executor in module._exec_group.execs] == [[7, 7]] * len(module._context)


def test_averages_are_means_of_the_devices_and_weights_the_first_ones(module):
    for number, executor in enumerate(module._exec_group.execs):
        executor.aux_dict["bn_moving_mean"][:] = 10 * number
        executor.arg_dict["fc_bias"][:] = 5 + number
    arg_params, aux_params = mxnet_private.host_params(module)
    assert arg_params["fc_bias"].asnumpy().tolist() == [5, 5]
    assert aux_params["bn_moving_mean"].asnumpy().tolist() == [
        10 * (len(module._context) - 1) / 2] * 2


@pytest.mark.parametrize("before", (None, "0"))
def test_mirroring_is_as_before_after_an_error_too(monkeypatch, before):
    name = "MXNET_BACKWARD_DO_MIRROR"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    with mxnet_private.mirroring(False):
        assert os.environ.get(name) == before
    with pytest.raises(KeyError), mxnet_private.mirroring(True):
        assert os.environ[name] == "1"
        raise KeyError
    assert os.environ.get(name) == before


def test_numpy_view_is_the_memory_itself():
    for dtype in (np.float32, np.float16, np.int32):
        array = mx.nd.array(np.arange(6).reshape(2, 3), dtype=dtype)
        array.wait_to_read()
        view = mxnet_private.numpy_view(array)
        assert view.dtype == dtype and view.shape == (2, 3)
        view[1, 2] = 40
        assert array.asnumpy()[1, 2] == 40 and array.asnumpy()[0, 1] == 1
