import os

import cv2
import numpy as np
import pytest

from helpers.pictures import CMYK_RED, damaged_jpeg, encoded, palette_png, rotated_jpeg, smooth
from unequal.data import pictures
from unequal.errors import InputError

PICTURE = smooth(12, 20)


def test_pixels_are_plain_imdecode_in_rgb():
    for data in (encoded(PICTURE), encoded(PICTURE, ".png"), encoded(PICTURE[..., 0])):
        flat = np.frombuffer(data, np.uint8)
        expected = cv2.imdecode(flat, cv2.IMREAD_COLOR)[..., ::-1]
        for given in (data, bytearray(data), flat):
            pixels = pictures.decode(given, "x", 12, 20)
            np.testing.assert_array_equal(pixels, expected)
            assert pixels.flags.c_contiguous and pixels.dtype == np.uint8


def test_png_is_exact_in_every_kind():
    wide = PICTURE.astype(np.uint16) * 257
    np.testing.assert_array_equal(pictures.decode(encoded(PICTURE, ".png"), "x"), PICTURE)
    np.testing.assert_array_equal(pictures.decode(encoded(wide, ".png"), "x"), PICTURE)
    grey = pictures.decode(encoded(PICTURE[..., 1], ".png"), "x")
    np.testing.assert_array_equal(grey, np.repeat(PICTURE[..., 1:2], 3, axis=2))
    colours = np.array([[255, 0, 0], [0, 7, 250]], np.uint8)
    indices = np.random.RandomState(0).randint(0, 2, (5, 9)).astype(np.uint8)
    np.testing.assert_array_equal(pictures.decode(palette_png(colours, indices), "x"),
                                  colours[indices])
    clear = np.dstack([PICTURE[..., ::-1], np.zeros((12, 20), np.uint8)])
    data = cv2.imencode(".png", clear)[1].tobytes()
    np.testing.assert_array_equal(pictures.decode(data, "x"), PICTURE)


def test_cmyk():
    pixels = pictures.decode(CMYK_RED, "x", 8, 8)
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("orientation, turn", [
    (1, lambda p: p), (2, lambda p: p[:, ::-1]), (3, lambda p: p[::-1, ::-1]),
    (6, lambda p: np.rot90(p, -1)), (8, lambda p: np.rot90(p, 1))])
def test_exif_rotation(orientation, turn):
    upright = pictures.decode(encoded(PICTURE, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95), "x")
    pixels = pictures.decode(rotated_jpeg(PICTURE, orientation), "x")
    np.testing.assert_array_equal(pixels, turn(upright))


def test_pixels_pass_through():
    assert pictures.decode(PICTURE, "x", 12, 20) is PICTURE
    for wrong in (PICTURE[..., 0], PICTURE.astype(np.float32), PICTURE[..., :2]):
        with pytest.raises(InputError, match=r"^row 3: pixels must be uint8 of shape"):
            pictures.decode(wrong, "row 3")


@pytest.mark.parametrize("data", [
    b"", b"text", encoded(PICTURE)[:-2], encoded(PICTURE)[:300], encoded(PICTURE, ".png")[:-20],
    np.zeros(0, np.uint8)])
def test_what_is_no_picture(data):
    with pytest.raises(InputError, match=r"^record 7: not a picture, or cut short \({} bytes\)"
                       .format(len(data))):
        pictures.decode(data, "record 7")


def test_wrong_size():
    with pytest.raises(InputError, match="12 pixels high and 20 wide but should be 20 and 12"):
        pictures.decode(encoded(PICTURE), "x", 20, 12)
    with pytest.raises(InputError, match="^y: the picture is 12"):
        pictures.decode(PICTURE, "y", 112, 112)


def test_encode_quality():
    low, high = pictures.encode(PICTURE, 20), pictures.encode(PICTURE, 100)
    assert len(low) < len(high)
    loss = [np.abs(pictures.decode(data, "x").astype(int) - PICTURE).mean() for data in (low, high)]
    assert loss[1] < loss[0] and loss[1] < 12
    assert pictures.encode(PICTURE, 95) == encoded(PICTURE, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95)


def test_blue_first():
    for data in (PICTURE, cv2.imencode(".png", PICTURE[:, :, ::-1])[1].tobytes()):
        np.testing.assert_array_equal(pictures.decode_bgr(data, "x", 12, 20), PICTURE[:, :, ::-1])
    with pytest.raises(InputError, match="x: not a picture"):
        pictures.decode_bgr(b"no", "x")


def test_reduction_rounds_up():
    assert pictures.decode(encoded(smooth(101, 200)), "x", reduction=4).shape == (26, 50, 3)
    flat = encoded(np.full((64, 64, 3), 90, np.uint8))
    assert (pictures.decode(flat, "x", 8, 8, reduction=8) == 90).all()


def test_jpeg_frame():
    assert pictures.jpeg_frame(encoded(PICTURE)) == (12, 20, 3)
    assert pictures.jpeg_frame(encoded(PICTURE[..., 0])) == (12, 20, 1)
    assert pictures.jpeg_frame(rotated_jpeg(PICTURE, 6)) == (12, 20, 3)
    assert pictures.jpeg_frame(CMYK_RED) == (8, 8, 4)
    progressive = encoded(PICTURE, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert pictures.jpeg_frame(progressive) == (12, 20, 3)
    for other in (b"", b"\xff\xd8", b"\xff\xd8\xff\xff\xff", encoded(PICTURE, ".png"),
                  encoded(PICTURE)[:150]):
        assert pictures.jpeg_frame(other) is None


def test_complaints_are_per_picture(capfd):
    with pictures.Complaints() as complaints:
        pictures.decode(encoded(smooth(32, 32)), "x")
        assert complaints.take() == ""
        pictures.decode(damaged_jpeg(smooth(32, 32)), "x")
        assert complaints.take().startswith("Corrupt JPEG data")
        assert complaints.take() == ""
    os.write(2, b"back")
    assert capfd.readouterr().err == "back"
    assert cv2.imdecode(np.frombuffer(damaged_jpeg(smooth(32, 32)), np.uint8), 1) is not None
    assert "Corrupt" in capfd.readouterr().err
