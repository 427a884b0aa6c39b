import itertools

import mxnet as mx
import numpy as np
import pytest

from unequal.data import augmentation as aug
from unequal.errors import InputError


def picture(seed=0, size=9):
    return np.random.RandomState(seed).uniform(0, 255, (3, size, size)).astype(np.float32)


def draws(count=1, **changes):
    base = aug.draw(aug.NONE, np.random.RandomState(0), count, 9, 9)
    return base._replace(**{name: np.array(value) for name, value in changes.items()})


def test_gray_is_mxnets():
    planes = picture()
    expected = mx.image.RandomGrayAug(1.0)(mx.nd.array(planes.transpose(1, 2, 0))).asnumpy()
    aug.apply_color(planes, draws(gray=[True]), 0)
    np.testing.assert_allclose(planes, expected.transpose(2, 0, 1), rtol=1e-5)


AUGMENTERS = (mx.image.BrightnessJitterAug, mx.image.ContrastJitterAug,
              mx.image.SaturationJitterAug)


@pytest.mark.parametrize("which, augmenter", list(enumerate(AUGMENTERS)))
@pytest.mark.parametrize("alpha", [0.8, 1.13])
def test_each_jitter_is_mxnets(monkeypatch, which, augmenter, alpha):
    """MXNet draws ``alpha = 1 + uniform(-b, b)`` itself; give it ours."""
    planes = picture()
    monkeypatch.setattr("random.uniform", lambda low, high: alpha - 1)
    expected = augmenter(0.2)(mx.nd.array(planes.transpose(1, 2, 0))).asnumpy()
    alphas = np.ones((1, 3), np.float32)
    alphas[0, which] = alpha
    aug.apply_color(planes, draws(jitter=[True], alphas=alphas), 0)
    np.testing.assert_allclose(planes, expected.transpose(2, 0, 1), rtol=1e-4)


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_all_changes_are_mxnets_in_any_order(monkeypatch, gray, order):
    alphas = np.array([[1.2, 0.8, 0.9]], np.float32)
    planes = picture()
    expected = mx.nd.array(planes.transpose(1, 2, 0))
    if gray:
        expected = mx.image.RandomGrayAug(1.0)(expected)
    for which in order:
        monkeypatch.setattr("random.uniform", lambda low, high, a=alphas[0, which]: float(a) - 1)
        expected = AUGMENTERS[which](0.2)(expected)
    aug.apply_color(planes, draws(gray=[gray], jitter=[True], alphas=alphas), 0)
    np.testing.assert_allclose(planes, expected.asnumpy().transpose(2, 0, 1), rtol=1e-4)


def test_nothing_is_clipped():
    bright = np.full((3, 4, 4), 250, np.float32)
    aug.apply_color(bright, draws(jitter=[True], alphas=[[1.2, 1, 1]]), 0)
    np.testing.assert_allclose(bright, 300)


def test_flip():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert (aug.flip(image) == image[:, ::-1]).all()


@pytest.mark.parametrize("center, rows, columns", [
    ((4, 4), (2, 6), (2, 6)), ((0, 8), (0, 2), (6, 9)), ((8, 0), (6, 9), (0, 2))])
def test_cutoff(center, rows, columns):
    planes = picture()
    expected = planes.copy()
    expected[:, slice(*rows), slice(*columns)] = 127.5
    aug.apply_cutoff(planes, draws(centers=[center]), 0, 4)
    np.testing.assert_array_equal(planes, expected)


def test_probabilities():
    drawn = aug.draw(aug.COLOR, np.random.RandomState(1), 20000, 9, 9)
    for array, expected in ((drawn.mirror, 0.5), (drawn.gray, 0.2), (drawn.jitter, 0.2)):
        assert abs(array.mean() - expected) < 0.015
    assert drawn.alphas.min() >= 0.8 and drawn.alphas.max() <= 1.2
    nothing = aug.draw(aug.NONE, np.random.RandomState(1), 100, 9, 9)
    assert not (nothing.mirror.any() or nothing.gray.any() or nothing.jitter.any())


def test_negative_cutoff():
    with pytest.raises(InputError, match="^cutoff -1"):
        aug.draw(aug.Augmentation(cutoff=-1), np.random.RandomState(0), 1, 9, 9)
