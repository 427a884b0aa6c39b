"""Random changes to training pictures, each drawn in advance from one random state.

Drawing and applying are apart so that decoding threads cannot change the order of the random
numbers: the same seed gives the same batches whatever the number of threads.
"""
from itertools import permutations
from typing import NamedTuple

import cv2
import numpy as np

from unequal.errors import InputError


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
        Probability of a change of brightness, contrast and saturation by up to +-20% each, in
        random order (``mx.image.ColorJitterAug(0.2, 0.2, 0.2)``).
    """

    mirror: float = 0.5
    cutoff: int = 0
    gray: float = 0.0
    jitter: float = 0.0


NONE = Augmentation(mirror=0.0)
# Steps 3 and 4 of the reference (data_boot_gs.py, data_longtail_gs.py).
COLOR = Augmentation(gray=0.2, jitter=0.2)

STRENGTH = 0.2
_ORDERS = list(permutations(range(3)))
# The weights of R, G, B that MXNet's two augmenters use (they differ).
_GRAY = np.array([0.21, 0.72, 0.07], np.float32)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Draws(NamedTuple):
    """Random numbers for ``n`` pictures; see :func:`draw`."""

    mirror: np.ndarray  # bool (n,)
    gray: np.ndarray  # bool (n,)
    jitter: np.ndarray  # bool (n,)
    alphas: np.ndarray  # float32 (n, 3): factors of brightness, contrast, saturation
    orders: np.ndarray  # int (n,), index of a permutation of the three
    centers: np.ndarray  # int (n, 2): row, column of the cutoff square


def draw(augmentation, random, count, height, width):
    """Draw everything ``count`` pictures of height x width need from ``random``, a RandomState."""
    if augmentation.cutoff < 0:
        raise InputError("--cutoff {} must not be negative.".format(augmentation.cutoff))
    return Draws(
        random.rand(count) < augmentation.mirror,
        random.rand(count) < augmentation.gray,
        random.rand(count) < augmentation.jitter,
        (1 + random.uniform(-STRENGTH, STRENGTH, (count, 3))).astype(np.float32),
        random.randint(len(_ORDERS), size=count),
        np.stack([random.randint(height, size=count), random.randint(width, size=count)], 1))


def _brightness(planes, alpha):
    planes *= alpha


def _contrast(planes, alpha):
    # A blend with the picture's mean luminance.
    mean = float(_LUMA @ planes.reshape(3, -1).mean(1))
    planes *= alpha
    planes += (1 - alpha) * mean


def _saturation(planes, alpha):
    # A blend with the picture's own grey version.
    grey = np.tensordot(_LUMA, planes, 1)
    planes *= alpha
    planes += (1 - alpha) * grey


_JITTERS = (_brightness, _contrast, _saturation)


def flip(picture):
    """A height x width x 3 picture mirrored left to right."""
    return cv2.flip(picture, 1)


def apply_color(planes, draws, index):
    """Grey and jitter ``planes``, float32 (3, H, W) in RGB order, in place.

    Results are neither rounded nor clipped to 0-255; the reference's are not either.
    """
    if draws.gray[index]:
        planes[:] = np.tensordot(_GRAY, planes, 1)
    if draws.jitter[index]:
        for which in _ORDERS[draws.orders[index]]:
            _JITTERS[which](planes, draws.alphas[index, which])


def apply_cutoff(planes, draws, index, size):
    """Paint the square of ``size`` pixels around the drawn centre in 127.5, in place."""
    row, column = draws.centers[index]
    half = size // 2
    planes[:, max(0, row - half):row + half, max(0, column - half):column + half] = 127.5
