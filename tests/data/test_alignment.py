import cv2
import numpy as np
import pytest

from helpers.pictures import smooth
from unequal.data import alignment
from unequal.errors import InputError


def _turned(points, degrees, scale, shift):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T * scale + shift


@pytest.mark.parametrize("degrees, scale, shift", [
    (0, 1, (0, 0)), (30, 2.5, (40, -7)), (-170, 0.2, (3, 300))])
def test_similarity_undoes_a_turn(degrees, scale, shift):
    points = _turned(alignment.TEMPLATE, degrees, scale, shift)
    matrix = alignment.similarity(points, alignment.TEMPLATE)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], alignment.TEMPLATE,
                               atol=1e-9)
    assert np.hypot(*matrix[:, 0]) == pytest.approx(1 / scale)


def test_similarity_is_the_least_squares_one():
    random = np.random.RandomState(0)
    points = alignment.TEMPLATE + random.randn(5, 2) * 4

    def error(matrix):
        return np.sum((points @ matrix[:, :2].T + matrix[:, 2] - alignment.TEMPLATE) ** 2)

    matrix = alignment.similarity(points, alignment.TEMPLATE)
    assert np.linalg.det(matrix[:, :2]) > 0
    np.testing.assert_allclose(matrix[0, :2] @ matrix[1, :2], 0, atol=1e-12)
    best = error(matrix)
    for _ in range(200):  # no similarity near it is better
        a, b, x, y = random.randn(4) * (0.01, 0.01, 1, 1)
        assert error(matrix + np.array([[a, -b, x], [b, a, y]])) > best
    with pytest.raises(InputError, match="one point"):
        alignment.similarity(np.ones((5, 2)), alignment.TEMPLATE)


def test_template_of_other_sizes():
    np.testing.assert_array_equal(alignment.template(112, 112), alignment.TEMPLATE)
    np.testing.assert_allclose(alignment.template(112, 96), alignment.TEMPLATE - [8, 0])
    np.testing.assert_allclose(alignment.template(224, 224), alignment.TEMPLATE * 2)


def _face(points, height, width):
    """A picture with a dot at each landmark, each of its own brightness."""
    picture = np.zeros((height, width, 3), np.uint8)
    radius = max(2, int(np.ptp(points) / 12))
    for brightness, (x, y) in zip((50, 100, 150, 200, 250), points):
        cv2.circle(picture, (int(round(x)), int(round(y))), radius, (brightness,) * 3, -1)
    return picture


@pytest.mark.parametrize("degrees, scale", [(0, 1), (20, 0.8), (-35, 4), (10, 14)])
def test_landmarks_arrive_at_the_template(degrees, scale):
    # 14: a camera's picture, where the warp alone would skip most pixels
    points = _turned(alignment.TEMPLATE - 56, degrees, scale, (70 * scale, 80 * scale))
    picture = _face(points, int(170 * scale), int(150 * scale))
    face = alignment.align(picture, points, 112, 112)
    assert face.shape == (112, 112, 3) and face.dtype == np.uint8
    for brightness, (x, y) in zip((50, 100, 150, 200, 250), alignment.TEMPLATE):
        assert abs(int(face[int(round(y)), int(round(x)), 0]) - brightness) <= 12


def test_align_of_an_aligned_picture_changes_nothing():
    picture = smooth(112, 112)
    np.testing.assert_array_equal(alignment.align(picture, alignment.TEMPLATE, 112, 112), picture)


def test_shrinking_averages():
    picture = np.zeros((1120, 1120, 3), np.uint8)
    picture[::2] = 200  # one-pixel stripes: a warp without shrinking gives 0, 100 or 200 at random
    face = alignment.align(picture, alignment.TEMPLATE * 10 + 4.5, 112, 112)
    assert np.abs(face[5:-5, 5:-5].astype(int) - 100).max() <= 2
    assert np.abs(alignment.fit(picture, 112, 112).astype(int) - 100).max() <= 2


def test_crop_margin_and_shape():
    picture = smooth(100, 200)
    np.testing.assert_array_equal(alignment.crop(picture, (50, 20, 90, 60), 0, 40, 40),
                                  picture[20:60, 50:90])
    # 0.5 of the sides in total: 10 pixels on each side
    np.testing.assert_array_equal(alignment.crop(picture, (50, 20, 90, 60), 0.5, 60, 60),
                                  picture[10:70, 40:100])
    # the shorter side grows to the shape asked for
    np.testing.assert_array_equal(alignment.crop(picture, (60, 20, 80, 60), 0, 40, 40),
                                  picture[20:60, 50:90])
    np.testing.assert_array_equal(alignment.crop(picture, (60, 20, 80, 60), 0, 40, 80),
                                  picture[20:60, 30:110])


def test_crop_repeats_the_edge_outside():
    picture = smooth(30, 30)
    expected = np.pad(picture, ((0, 10), (5, 0), (0, 0)), mode="edge")[10:, :30]
    np.testing.assert_array_equal(alignment.crop(picture, (-5, 10, 25, 40), 0, 30, 30), expected)


@pytest.mark.parametrize("box, text", [
    ((5, 5, 5, 9), "is empty or outside"), ((9, 9, 5, 5), "is empty or outside"),
    ((40, 0, 50, 9), "is empty or outside"), ((-9, -9, 0.4, 5), "is empty or outside"),
    ((0, 0, float("nan"), 9), "is empty or outside"), ((0, 0, 1e9, 9), "far larger")])
def test_crop_refuses(box, text):
    with pytest.raises(InputError, match=text):
        alignment.crop(smooth(30, 30), box, 0.4, 112, 112)


def test_fit():
    picture = smooth(112, 92)
    np.testing.assert_array_equal(alignment.fit(picture, 112, 112),
                                  np.pad(picture, ((0, 0), (10, 10), (0, 0)), mode="edge"))
    square = smooth(112, 112)
    assert alignment.fit(square, 112, 112) is square
    flat = np.full((33, 500, 3), 77, np.uint8)
    face = alignment.fit(flat, 112, 96)
    assert face.shape == (112, 96, 3) and (face == 77).all()
    assert alignment.fit(smooth(20, 20), 112, 112).shape == (112, 112, 3)
