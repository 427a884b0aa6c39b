"""Write decoded pictures to the float32 planes of a batch, mirrored and with changed colours.

In C (planes.c), with one pass over memory and one release of Python's lock for many pictures. If
there was no compiler at installation, OpenCV computes the same values, picture by picture.
"""
import ctypes
import importlib.util
from typing import Any, Optional

import cv2
import numpy as np

from unequal.data import augmentation as aug


def _compiled() -> Optional[ctypes.CDLL]:
    """The library of planes.c; None where it was not built."""
    found = importlib.util.find_spec("unequal.data._planes")  # a plain library, not a module
    if found is None:
        return None
    library = ctypes.CDLL(found.origin)
    library.write_planes.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_size_t] * 4
    return library


COMPILED: Any = _compiled()  # its functions have no types


class Planes:
    """A batch that several threads fill, each with some of its pictures.

    Parameters
    ----------
    out : numpy.ndarray
        float32 (n, 3, H, W), contiguous: what :meth:`write` fills with RGB, 0-255 (beyond where
        colours change).
    draws : unequal.data.augmentation.Draws
        The changes of the ``n`` pictures: mirror, grey, jitter. The cutoff square is not painted.

    Memory: 80 bytes a picture; :attr:`out` is held.

    Raises
    ------
    ValueError
        When arrays have other types or sizes; checked because the C code writes by address.
    """

    def __init__(self, out: np.ndarray, draws: aug.Draws) -> None:
        if out.dtype != np.float32 or out.ndim != 4 or out.shape[1] != 3 \
                or not out.flags.c_contiguous or any(len(values) != len(out) for values in draws):
            raise ValueError("planes must be contiguous float32 (n, 3, H, W), with n draws")
        self.out, self.draws = out, draws
        self._shape = (*out.shape[2:], 3)
        self._colored = draws.gray.astype(bool) | draws.jitter.astype(bool)
        if COMPILED:
            # The arguments of all calls, converted once to bytes, which ctypes passes unchanged.
            mixes = aug.color_mixes(draws).tobytes() if self._colored.any() else b""
            self._arguments = (out.ctypes.data, draws.mirror.astype(bool).tobytes(),
                               self._colored.tobytes(), mixes)

    def write(self, pixels: np.ndarray, first: int, last: int) -> None:
        """Write the pictures ``first`` to ``last - 1``.

        Parameters
        ----------
        pixels : numpy.ndarray
            The pictures: uint8 (last - first or more, H, W, 3), RGB, contiguous. May be changed.
        """
        if not 0 <= first <= last <= len(self.out) or len(pixels) < last - first \
                or pixels.shape[1:] != self._shape or pixels.dtype != np.uint8 \
                or not pixels.flags.c_contiguous:
            raise ValueError("pixels must be contiguous uint8 (n, H, W, 3), as the planes are")
        if COMPILED:
            COMPILED.write_planes(pixels.ctypes.data, *self._arguments, first, last - first,
                                  *pixels.shape[1:3])
        else:
            self._write_plain(pixels, first, last)

    def _write_plain(self, pixels: np.ndarray, first: int, last: int) -> None:
        planes = np.empty(self.out.shape[1:], np.uint8)
        red_green_blue = list(planes)
        for i, picture in zip(range(first, last), pixels):
            if self.draws.mirror[i]:
                aug.flip(picture, picture)
            cv2.split(picture, red_green_blue)
            self.out[i] = planes
            if self._colored[i]:
                aug.apply_color(self.out[i], self.draws, i)
