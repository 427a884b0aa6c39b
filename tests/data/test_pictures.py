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
    for wrong in (PICTURE[..., 0], PICTURE.astype(np.float32), PICTURE[..., :2], PICTURE[:0]):
        with pytest.raises(InputError, match=r"^row 3: pixels must be uint8 of shape"):
            pictures.decode(wrong, "row 3")


@pytest.mark.parametrize("data", [
    b"", b"text", encoded(PICTURE)[:-2], encoded(PICTURE)[:300], encoded(PICTURE, ".png")[:-20],
    np.zeros(0, np.uint8)])
def test_what_is_no_picture(data):
    with pytest.raises(InputError, match="^record 7: not a picture, or cut short "
                                         rf"\({len(data)} bytes\)"):
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


def test_decoded_into_an_array():
    out = np.empty((12, 20, 3), np.uint8)
    for data in (PICTURE, cv2.imencode(".png", PICTURE[:, :, ::-1])[1].tobytes()):
        out[:] = 0
        pictures.decode_into(out, data, "x")
        np.testing.assert_array_equal(out, PICTURE)
    with pytest.raises(InputError, match="x: not a picture"):
        pictures.decode_into(out, b"no", "x")
    with pytest.raises(InputError, match="12 pixels high and 20 wide but should be 20 and 12"):
        pictures.decode_into(np.empty((20, 12, 3), np.uint8), encoded(PICTURE), "x")


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


needs_simplejpeg = pytest.mark.skipif(pictures.simplejpeg is None,
                                      reason="simplejpeg has no wheels for this machine")


def same_as_decode(data):
    """Whether both ways to decode a picture of PICTURE's size give the same pixels or words."""
    out = np.zeros(PICTURE.shape, np.uint8)
    try:
        pictures.decode_into(out, data, "x")
        into = out
    except InputError as error:
        into = str(error)
    try:
        expected = pictures.decode(data, "x", *PICTURE.shape[:2])
    except InputError as error:
        expected = str(error)
    return (into == expected if isinstance(into, str) or isinstance(expected, str)
            else np.array_equal(into, expected))


def jpegs():
    """Every kind of JPEG: (name, bytes, whether it is simplejpeg's)."""
    for name in ("444", "422", "420"):
        yield name, encoded(PICTURE, ".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                            getattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR_" + name)), True
    for name in ("440", "411"):
        yield name, encoded(PICTURE, ".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                            getattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR_" + name)), False
    yield "own tables", encoded(PICTURE, ".jpg", cv2.IMWRITE_JPEG_OPTIMIZE, 1), True
    yield "restarts", encoded(PICTURE, ".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 1), True
    yield "progressive", encoded(PICTURE, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), False
    yield "grey", encoded(PICTURE[..., 0]), False
    yield "CMYK", CMYK_RED, False
    yield "turned", rotated_jpeg(PICTURE, 3), False
    plain = encoded(PICTURE)
    frame = plain.index(b"\xff\xc0")
    exif = rotated_jpeg(PICTURE, 3)
    tag = exif[2:4 + int.from_bytes(exif[4:6], "big")]
    assert tag[:2] == b"\xff\xe1"
    end = frame + 2 + int.from_bytes(plain[frame + 2:frame + 4], "big")
    yield "turned after the frame", plain[:end] + tag + plain[end:], False
    yield "comment", plain[:2] + b"\xff\xfe\x00\x05abc" + plain[2:], True


@needs_simplejpeg
@pytest.mark.parametrize("name, data, simple", list(jpegs()), ids=[kind[0] for kind in jpegs()])
def test_who_decodes_what_and_alike(name, data, simple, monkeypatch):
    decoded = []
    real = pictures._decode_simple
    monkeypatch.setattr(pictures, "_decode_simple",
                        lambda *given: (decoded.append(given), real(*given)))
    monkeypatch.setattr(pictures, "_simple", (b"", -1, ()))
    for _ in range(2):  # the second time by its beginning alone
        assert same_as_decode(data)
    assert bool(decoded) == simple


@needs_simplejpeg
def test_real_sizes_alike():
    """A photograph's sizes, odd ones too, at every subsampling and quality."""
    random = np.random.RandomState(0)
    for height, width in ((112, 112), (113, 111), (57, 96), (1, 1), (8, 17)):
        picture = cv2.resize(random.randint(0, 256, (9, 9, 3)).astype(np.uint8), (width, height))
        picture = cv2.add(picture, random.randint(0, 40, picture.shape).astype(np.uint8))
        for quality in (20, 75, 95, 100):
            for sampling in ("444", "422", "420"):
                data = encoded(picture, ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality,
                               cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                               getattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR_" + sampling))
                out = np.empty((height, width, 3), np.uint8)
                assert pictures._is_simple(data, "x", out.shape)
                pictures.decode_into(out, data, "x")
                np.testing.assert_array_equal(out, pictures.decode(data, "x"))


@needs_simplejpeg
def test_damaged_jpegs_fare_alike():
    """Cut anywhere, or with bytes changed: the same pixels or the same words."""
    random = np.random.RandomState(0)
    whole = encoded(PICTURE)
    given = [whole[:length] for length in range(0, len(whole), 9)] + [whole + b"more", whole[:-1]]
    for _ in range(150):
        data = bytearray(whole)
        for place in random.randint(2, len(data), random.randint(1, 4)):
            data[place] = random.randint(256)
        given.append(bytes(data))
    with pictures.Complaints():
        assert [len(data) for data in given if not same_as_decode(data)] == []


@needs_simplejpeg
def test_a_simplejpeg_of_other_pixels_is_not_used(monkeypatch):
    def other(data, out):
        out[:] = 7

    monkeypatch.setattr(pictures, "_decode_simple", other)
    monkeypatch.setattr(pictures, "_agreed", {})
    monkeypatch.setattr(pictures, "_simple", (b"", -1, ()))
    for _ in range(2):
        assert same_as_decode(encoded(PICTURE))


def test_without_simplejpeg(monkeypatch):
    monkeypatch.setattr(pictures, "simplejpeg", None)
    assert all(same_as_decode(data) for _, data, _ in jpegs())
