"""Features of a face that need no training: local binary patterns.

Ahonen, Hadid and Pietikainen, "Face Description with Local Binary Patterns", PAMI 2006: the face is
divided into 8x8 cells, and each has a histogram of which neighbours of a pixel are brighter than
it. A network needs thousands of pictures to give better features, and learns wrong labels along
with right ones (docs/clean-your-photos.md).
"""
from typing import Iterable

import cv2
import numpy as np

_SIDE, _CELLS, _RADII = 96, 8, (1, 2)
_NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))


def _uniform() -> np.ndarray:
    """Which of 59 bins each of the 256 codes falls into: one for each code with at most two changes
    between 0 and 1 around the circle, and one for all others."""
    changes = [bin(code ^ ((code >> 1) | (code & 1) << 7)).count("1") for code in range(256)]
    few = np.array(changes) <= 2
    bins: np.ndarray = np.where(few, np.cumsum(few) - 1, few.sum())
    return bins


_BINS = _uniform()
_BIN_COUNT = int(_BINS.max()) + 1


def patterns(grey: np.ndarray) -> np.ndarray:
    """Square roots of the cells' histograms, float64 (radii * cells * bins,), of uint8 (H, W)."""
    height, width = grey.shape
    cell = ((np.arange(height) * _CELLS // height)[:, None] * _CELLS
            + np.arange(width) * _CELLS // width)
    parts = []
    for radius in _RADII:
        wide = cv2.copyMakeBorder(grey, radius, radius, radius, radius, cv2.BORDER_REPLICATE)
        code = np.zeros(grey.shape, np.int64)
        for bit, (down, right) in enumerate(_NEIGHBOURS):
            top, left = radius + radius * down, radius + radius * right
            code |= (wide[top:top + height, left:left + width] >= grey).astype(np.int64) << bit
        counts = np.bincount((cell * _BIN_COUNT + _BINS[code]).ravel(),
                             minlength=_CELLS ** 2 * _BIN_COUNT).reshape(-1, _BIN_COUNT)
        parts.append(np.sqrt(counts / counts.sum(axis=1, keepdims=True)))
    joined: np.ndarray = np.concatenate(parts).ravel()
    return joined


def features(pictures: Iterable[np.ndarray], size: int = 128) -> np.ndarray:
    """Features of the faces of one set: the principal components of their patterns.

    Parameters
    ----------
    pictures : iterable of numpy.ndarray
        RGB, uint8, (height, width, 3): one is held at a time.
    size : int
        At most so many principal components.

    Returns
    -------
    numpy.ndarray
        float32 (n, size or fewer), rows of length 1. Memory: 30 kB a picture and 16 n^2 bytes.
    """
    rows = []
    for pixels in pictures:
        grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE),
                          interpolation=cv2.INTER_AREA)
        row = patterns(grey) + patterns(np.ascontiguousarray(grey[:, ::-1]))
        rows.append((row / np.linalg.norm(row)).astype(np.float32))
    values = np.array(rows)
    values -= values.mean(axis=0)
    spread, directions = np.linalg.eigh((values @ values.T).astype(np.float64))
    largest = np.argsort(-spread)[:size]
    scores = directions[:, largest] * np.sqrt(np.maximum(spread[largest], 0))
    length = np.linalg.norm(scores, axis=1, keepdims=True)
    unit: np.ndarray = scores / np.maximum(length, 1e-12)
    return unit.astype(np.float32)
