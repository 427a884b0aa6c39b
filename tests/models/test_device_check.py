import functools

import mxnet as mx
import numpy as np
import pytest

from unequal.models import device_check
from unequal.symbols import layers
from unequal.system import runtime


def test_the_gpus_form_agrees_with_the_cpus():
    found = device_check.small_network(mx.cpu(1))
    assert found.good
    assert 0 < found.error < 1e-5  # two forms, not the same one twice


@pytest.mark.parametrize("wrong", [
    lambda right, data, *rest: right(1.01 * data, *rest),
    lambda right, *arguments: mx.sym.BlockGrad(right(*arguments)),
])
def test_a_wrong_value_or_gradient_is_found(wrong, monkeypatch):
    monkeypatch.setattr(layers, "prelu", functools.partial(wrong, layers.prelu))
    assert not device_check.small_network(mx.cpu()).good


def test_dropout_that_drops_nothing_is_found(monkeypatch):
    monkeypatch.setattr(mx.sym, "Dropout", lambda data, p: data * 1)
    found = device_check.small_network(mx.cpu())
    assert found.name == "dropout"
    assert not found.good


def test_the_worst_array_is_named():
    reference = {"a": np.ones(2), "b": np.array([1.0, 4.0])}
    assert device_check.worst({"a": np.ones(2), "b": np.array([1.0, 5.0])}, reference,
                              0.2) == ("b", 0.25, 0.2)
    assert not device_check.worst({"a": np.ones(2)}, reference, 1.0).good


def test_what_is_zero_but_for_rounding_is_compared_with_its_kind():
    reference = {"gradient of a": np.array([100.0]), "gradient of b": np.array([1e-5]),
                 "loss": np.array([1e-5])}
    ours = dict(reference, **{"gradient of b": np.array([2e-5])})
    assert device_check.worst(ours, reference, 1.0).error == 1
    assert device_check.worst(ours, reference, 1.0, 1e-3).error == pytest.approx(1e-4)
    assert device_check.worst(dict(ours, loss=np.array([3e-5])), reference, 1.0, 1e-3) == (
        "loss", pytest.approx(2), 1.0)


@pytest.mark.parametrize("capability, override, allowed", [
    ((8, 6), None, device_check.TF32_TOLERANCE),
    ((8, 6), "0", device_check.TOLERANCE),
    ((7, 5), None, device_check.TOLERANCE),
])
def test_tf32_is_allowed_for(capability, override, allowed, monkeypatch):
    monkeypatch.setattr(runtime, "visible_gpus", lambda: [("A", (7, 0)), ("B", capability)])
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    if override is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    assert device_check.tolerance(mx.gpu(1)) == allowed
    assert device_check.tolerance(mx.cpu(1)) == device_check.TOLERANCE
