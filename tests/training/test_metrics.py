"""Numbers of the log, from the outputs of batches."""
from types import SimpleNamespace

import numpy as np
import pytest

from unequal.training.metrics import KEY, LABEL, Meter, Metric, accuracy, cross_entropy


class OnDevice:
    """What MXNet's arrays have in common with it: they are fetched."""

    def __init__(self, values):
        self._values = np.array(values)

    def asnumpy(self):
        return self._values


def batch(label, keys=()):
    return SimpleNamespace(label=[OnDevice(label)], index=np.array(keys))


def test_a_mean_of_samples_not_of_batches():
    meter = Meter([Metric("loss", ["p"], lambda p: p)])
    meter.add({"p": [np.array([1.0, 2.0]), np.array([3.0])]}, batch([0, 0, 0]))  # two devices
    meter.add({"p": [OnDevice([6.0])]}, batch([0]))
    assert meter.take() == {"loss": 3.0}
    assert meter.take() == {}  # of the batches since


def test_labels_and_keys_are_inputs_but_no_outputs():
    meter = Meter([Metric("same", ["own", LABEL], lambda own, label: own == label),
                   Metric("even", [KEY], lambda keys: keys % 2 == 0)])
    assert meter.names == ["own"]
    meter.add({"own": [np.array([1, 5])]}, batch([1, 2], [10, 12]))
    assert meter.take() == {"same": 0.5, "even": 1.0}


def test_a_metric_of_no_sample_is_left_out():
    """Such as of the images that a noise list names, where a batch has none."""
    meter = Meter([Metric("of noise", ["p"], lambda p: p[p > 9]),
                   Metric("of all", ["p"], lambda p: p)])
    meter.add({"p": [np.array([1.0, 3.0])]}, batch([0, 0]))
    assert meter.take() == {"of all": 2.0}
    meter.add({"p": [np.array([10.0, 0.0])]}, batch([0, 0]))
    meter.add({"p": [np.array([2.0])]}, batch([0]))
    assert meter.take() == {"of noise": 10.0, "of all": 4.0}


def test_accuracy_and_cross_entropy():
    own, largest = np.array([0.5, 0.1, 0.3]), np.array([0.5, 0.6, 0.3])
    assert accuracy(own, largest).tolist() == [True, False, True]
    np.testing.assert_allclose(cross_entropy(np.array([1.0, np.exp(-2)])), [0, 2], atol=1e-9)
    assert cross_entropy(np.array([0.0]))[0] == pytest.approx(27.63, abs=0.01)  # finite
