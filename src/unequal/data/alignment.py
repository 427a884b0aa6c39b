"""Bring a face to the size a network takes: by five landmarks, by a box, or as it is."""
from typing import Sequence, Tuple

import cv2
import numpy as np

from unequal.errors import InputError

# Where ArcFace's networks expect the left eye, right eye, nose tip and the left and right corner of
# the mouth (as seen in the picture) in 112x112 pixels: x, y.
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366],
                     [41.5493, 92.3655], [70.7299, 92.2041]])


def template(height: int, width: int) -> np.ndarray:
    """The five points for another size: scaled with the height, centred across the width.

    112x96 gives the older, narrower template of SphereFace, as it should.
    """
    points: np.ndarray = TEMPLATE * (height / 112)
    points[:, 0] += (width - height) / 2
    return points


def similarity(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The turn, uniform scale and shift that bring ``points`` closest to ``targets``.

    Least squares, no mirroring; Umeyama's estimate (PAMI 1991) where that does not mirror. As
    complex numbers the map is ``z -> a z + b``, so it is a linear regression.

    Parameters
    ----------
    points, targets : numpy.ndarray
        Shape (n, 2), pixels.

    Returns
    -------
    numpy.ndarray
        float64, shape (2, 3), as ``cv2.warpAffine`` takes it.

    Raises
    ------
    InputError
        When all points are the same.
    """
    source = np.asarray(points, float) @ (1, 1j)
    target = np.asarray(targets, float) @ (1, 1j)
    centred = source - source.mean()
    spread = np.vdot(centred, centred).real
    if spread < 1e-6:
        raise InputError("the landmarks are one point")
    a = np.vdot(centred, target - target.mean()) / spread
    b = target.mean() - a * source.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(picture: np.ndarray, landmarks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Warp a picture so that five landmarks fall on the template; outside it is black.

    A face much larger than the result is first shrunk by area, because the warp reads only four
    pixels for each it writes.

    Parameters
    ----------
    picture : numpy.ndarray
        uint8, shape (H, W, 3).
    landmarks : numpy.ndarray
        Shape (5, 2): left eye, right eye, nose, corners of the mouth; x, y in pixels.
    height, width : int
        Of the result.
    """
    landmarks = np.asarray(landmarks, float)
    targets = template(height, width)
    matrix = similarity(landmarks, targets)
    scale = np.hypot(matrix[0, 0], matrix[1, 0])
    if scale < 0.5:
        rows, columns = (max(1, int(round(side * 2 * scale))) for side in picture.shape[:2])
        ratio = (columns / picture.shape[1], rows / picture.shape[0])
        picture = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
        matrix = similarity((landmarks + 0.5) * ratio - 0.5, targets)  # pixel centres are whole
    warped: np.ndarray = cv2.warpAffine(picture, matrix, (width, height))
    return warped


def crop(picture: np.ndarray, box: Sequence[float], margin: float, height: int, width: int
         ) -> np.ndarray:
    """Cut a box out of a picture, without distortion, and bring it to a size.

    The box grows by ``margin`` of its sides in total, then on its shorter side to the shape of the
    result. What lies outside the picture repeats its edge.

    Parameters
    ----------
    picture : numpy.ndarray
        uint8, shape (H, W, 3).
    box : sequence of float
        x1, y1, x2, y2 in pixels; x2 and y2 are the first column and row outside.
    margin : float
        0.4 turns a box of 100x100 pixels into one of 140x140 with the same centre.
    height, width : int
        Of the result.

    Raises
    ------
    InputError
        When the box is empty or lies outside the picture.
    """
    rows, columns = picture.shape[:2]
    left, top, right, bottom = box
    if not (max(left, 0) + 1 <= min(right, columns) and max(top, 0) + 1 <= min(bottom, rows)):
        raise InputError("the box is empty or outside the picture")
    wide, high = (right - left) * (1 + margin), (bottom - top) * (1 + margin)
    wide, high = max(wide, high * width / height), max(high, wide * height / width)
    if max(wide, high) > 8 * max(rows, columns):  # the picture would be a few pixels of the result
        raise InputError("the box is far larger than the picture")
    x1 = int(round((left + right - wide) / 2))
    y1 = int(round((top + bottom - high) / 2))
    x2, y2 = x1 + max(1, int(round(wide))), y1 + max(1, int(round(high)))
    inside = picture[max(y1, 0):y2, max(x1, 0):x2]
    # Resize first, then repeat the edges, so that a large picture is not copied.
    above, inner_height, below = _place(y1, y2, rows, height)
    before, inner_width, after = _place(x1, x2, columns, width)
    if inside.shape[:2] != (inner_height, inner_width):
        shrinks = inside.shape[0] > inner_height
        inside = cv2.resize(inside, (inner_width, inner_height),
                            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    cut: np.ndarray = cv2.copyMakeBorder(inside, above, below, before, after,
                                         cv2.BORDER_REPLICATE)
    return cut


def _place(begin: int, end: int, side: int, length: int) -> Tuple[int, int, int]:
    """Divide a result of ``length`` pixels when ``[begin, end)`` is cut from ``side`` pixels.

    Returns how many lie before the picture, in it, and after it.
    """
    scale = length / (end - begin)
    inner = min(length, max(1, int(round((min(end, side) - max(begin, 0)) * scale))))
    before = min(length - inner, int(round(max(-begin, 0) * scale)))
    return before, inner, length - before - inner


def fit(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bring a whole picture to a size: widened to its shape by repeating the edges, then resized.

    Nothing is cut off or distorted. A picture of the right size is returned as it is.
    """
    if picture.shape[:2] == (height, width):
        return picture
    return crop(picture, (0, 0, picture.shape[1], picture.shape[0]), 0.0, height, width)
