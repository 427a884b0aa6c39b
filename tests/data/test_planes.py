"""Pixels to planes: the compiled pass and OpenCV's, value for value."""
import numpy as np
import pytest

from unequal.data import augmentation as aug
from unequal.data import planes
from unequal.data.planes import Planes

needs_compiled = pytest.mark.skipif(
    not planes.COMPILED, reason="planes.c was not built: no compiler when installed")


def pixels(count, height, width, seed=0):
    random = np.random.RandomState(seed)
    return random.randint(0, 256, (count, height, width, 3)).astype(np.uint8)


def draws(count, changes, seed=0):
    return aug.draw(changes, np.random.RandomState(seed), count, 9, 9)


def filled(pictures, drawn, compiled, steps=(0, None)):
    out = np.full((len(pictures), 3) + pictures.shape[1:3], -1, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes, "COMPILED", compiled)
        batch = Planes(out, drawn)
        for first, last in zip(steps, steps[1:]):
            last = len(pictures) if last is None else last
            batch.write(pictures[first:last].copy(), first, last)
    return out


@pytest.mark.parametrize("compiled", [None, pytest.param(planes.COMPILED, marks=needs_compiled)])
def test_mirrored_planes(compiled):
    pictures = pixels(7, 5, 35)
    drawn = draws(7, aug.Augmentation(mirror=0.5))
    assert 0 < drawn.mirror.sum() < 7
    expected = pictures.copy()
    expected[drawn.mirror] = expected[drawn.mirror][:, :, ::-1]
    np.testing.assert_array_equal(filled(pictures, drawn, compiled, (0, 3, 7)),
                                  expected.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("compiled", [None, pytest.param(planes.COMPILED, marks=needs_compiled)])
def test_colours_are_those_of_float_planes(compiled):
    pictures = pixels(40, 6, 20)
    drawn = draws(40, aug.Augmentation(mirror=0, gray=0.5, jitter=0.5))
    expected = pictures.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    for i in (drawn.gray | drawn.jitter).nonzero()[0]:
        aug.apply_color(expected[i], drawn, i)
    np.testing.assert_allclose(filled(pictures, drawn, compiled), expected, rtol=1e-6, atol=1e-4)


@needs_compiled
@pytest.mark.parametrize("size", [(112, 112), (3, 1), (1, 17), (7, 48), (31, 33)])
def test_the_compiled_pass_rounds_as_opencv(size):
    """A run goes on alike on a machine without a compiler (of the same processor)."""
    pictures = pixels(24, *size)
    drawn = draws(24, aug.Augmentation(gray=0.3, jitter=0.6))
    np.testing.assert_array_equal(filled(pictures, drawn, planes.COMPILED),
                                  filled(pictures, drawn, None))


def test_only_memory_of_the_right_shape_is_written_to():
    drawn = draws(2, aug.NONE)
    good = np.zeros((2, 3, 5, 8), np.float32)
    for wrong in (good.astype(np.float64), good[:, ::-1], good[:1], good[:, :2].copy()):
        with pytest.raises(ValueError, match="^planes must be"):
            Planes(wrong, drawn)
    batch = Planes(good, drawn)
    for given, first, last in ((pixels(2, 8, 5), 0, 2), (pixels(1, 5, 8), 0, 2),
                               (pixels(2, 5, 8), 1, 3), (pixels(2, 5, 8)[:, :, ::-1], 0, 2),
                               (pixels(2, 5, 8).astype(np.int8), 0, 2)):
        with pytest.raises(ValueError, match="^pixels must be"):
            batch.write(given, first, last)
    assert not good.any()
