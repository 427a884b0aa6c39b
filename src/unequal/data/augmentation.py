"""Random changes to training pictures, drawn in advance from one random state.

Drawing is separate from applying, so that the decoding threads cannot change the order of the
random numbers: the same seed gives the same batches, whatever the number of threads.
"""
from typing import NamedTuple, Optional

import cv2
import numpy as np

from unequal.errors import ArgumentError


class Augmentation(NamedTuple):
    """Which changes, with which probability.

    Attributes
    ----------
    mirror : float
        Probability of a horizontal flip.
    cutoff : int
        Side in pixels of a square painted in mid grey at a random place (``--cutoff``); 0: none.
    gray : float
        Probability of a grey picture (``mx.image.RandomGrayAug``).
    jitter : float
        Probability of a change of brightness, contrast and saturation by up to +-20% each
        (``mx.image.ColorJitterAug(0.2, 0.2, 0.2)``).
    """

    mirror: float = 0.5
    cutoff: int = 0
    gray: float = 0.0
    jitter: float = 0.0


NONE = Augmentation(mirror=0.0)
# Steps 3 and 4 of the reference (data_boot_gs.py, data_longtail_gs.py).
COLOR = Augmentation(gray=0.2, jitter=0.2)

STRENGTH = 0.2
# The weights of R, G, B that MXNet's two augmenters use (they differ).
_GRAY = (0.21, 0.72, 0.07)
_LUMA = (0.299, 0.587, 0.114)


class Draws(NamedTuple):
    """Random numbers for ``n`` pictures; see :func:`draw`."""

    mirror: np.ndarray  # bool (n,)
    gray: np.ndarray  # bool (n,)
    jitter: np.ndarray  # bool (n,)
    alphas: np.ndarray  # float32 (n, 3): factors of brightness, contrast, saturation
    centers: np.ndarray  # int (n, 2): row, column of the cutoff square


def draw(augmentation: Augmentation, random: np.random.RandomState, count: int, height: int,
         width: int) -> Draws:
    """Draw the changes of ``count`` pictures of height x width from ``random``."""
    if augmentation.cutoff < 0:
        raise ArgumentError(f"cutoff {augmentation.cutoff} must not be negative.", "cutoff")
    uniform = random.rand(8, count)  # in one call, since decoding threads wait for this
    return Draws(
        uniform[0] < augmentation.mirror,
        uniform[1] < augmentation.gray,
        uniform[2] < augmentation.jitter,
        (1 + STRENGTH * (2 * uniform[3:6].reshape(count, 3) - 1)).astype(np.float32),
        (uniform[6:].T * (height, width)).astype(np.int64))


def flip(picture: np.ndarray, out: Optional[np.ndarray] = None) -> np.ndarray:
    """A height x width x 3 picture mirrored left to right, written to ``out`` if there is one."""
    mirrored: np.ndarray = cv2.flip(picture, 1, out)
    return mirrored


def color_mixes(draws: Draws) -> np.ndarray:
    """The linear map that grey and jitter apply to each of ``n`` pictures, float64 (n, 8).

    A row is ``red, green, blue, own, level, *weights``: with m the sum of the picture's mean red,
    green and blue, each times its weight, a pixel's x becomes

        own * x + red * R + green * G + blue * B + level * m.

    As in the reference, results are neither rounded nor clipped to 0-255. The reference applies
    brightness, contrast and saturation in a random order, which only affects rounding: brightness
    multiplies by b; contrast mixes x with the picture's mean luminance m (c to 1 - c) and does not
    change m; saturation mixes x with the pixel's luminance (s to 1 - s) and does not change that.
    In any order the result is

        x  ->  b c s x + b c (1 - s) luminance(x) + b (1 - c) m,

    which takes one pass over the picture instead of three.
    """
    weights = np.where(draws.gray[:, None], _GRAY, _LUMA)
    alphas = np.where(draws.jitter[:, None], draws.alphas, np.float32(1)).astype(np.float64)
    brightness, contrast, saturation = alphas.T
    keep = np.where(draws.gray, 0.0, saturation)  # how much of its own colour a pixel keeps
    factor = brightness * contrast
    return np.column_stack([(factor * (1 - keep))[:, None] * weights, factor * keep,
                            brightness * (1 - contrast), weights])


def apply_color(planes: np.ndarray, draws: Draws, index: int) -> None:
    """Grey and jitter ``planes``, float32 (3, H, W) in RGB order and contiguous, in place."""
    mix = color_mixes(Draws(*(values[index:index + 1] for values in draws)))[0]
    red, green, blue, own, level, *weights = mix.tolist()
    mean = sum(weight * cv2.mean(plane)[0] for weight, plane in zip(weights, planes))
    # By OpenCV, which needs one pass for a weighted sum; numpy's BLAS (a matrix product) would
    # start threads of its own in every decoding thread.
    added = cv2.addWeighted(planes[0], red, planes[1], green, level * mean)
    cv2.scaleAdd(planes[2], blue, added, added)
    for plane in planes:
        cv2.scaleAdd(plane, own, added, plane)


def apply_cutoff(planes: np.ndarray, draws: Draws, index: int, size: int) -> None:
    """Paint the square of ``size`` pixels around the drawn centre in 127.5, in place."""
    row, column = draws.centers[index]
    half = size // 2
    planes[:, max(0, row - half):row + half, max(0, column - half):column + half] = 127.5
