"""Pictures that are lies, decoded where they do no harm."""
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import zlib

import cv2
import numpy as np
import pytest

from helpers.pictures import damaged_jpeg, encoded, smooth
from unequal.data import convert, expendable, pictures
from unequal.errors import InputError

PICTURE = smooth(24, 20)


@pytest.mark.parametrize("ending", (".bmp", ".webp", ".tiff", ".jp2", ".ppm"))
def test_other_formats_are_decoded_elsewhere(ending, monkeypatch):
    data = encoded(smooth(64, 64), ending)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    monkeypatch.setattr(cv2, "imdecode", None)  # of this process
    np.testing.assert_array_equal(pictures.decode(data, "x"), expected[..., ::-1])


def test_jpeg_and_png_are_decoded_here(monkeypatch):
    monkeypatch.setattr(expendable, "imdecode", None)
    for ending in (".jpg", ".png"):
        assert pictures.decode(encoded(PICTURE, ending), "x").shape == (24, 20, 3)


def chunk(name, data, length=None):
    return struct.pack(">I", len(data) if length is None else length) + name + data + struct.pack(
        ">I", zlib.crc32(name + data))


START = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))


@pytest.mark.parametrize("data", (
    START + chunk(b"tEXt", b"", 0x7fffffff)[:12] + b"xx",
    START + chunk(b"IDAT", b"x", 1 << 31), START, START[:20],
    b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", zlib.compress(b"x" * 100)) + chunk(b"IEND", b"")))
def test_a_png_that_goes_on_beyond_its_end(data, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr(expendable, "imdecode", None)
    with pytest.raises(InputError, match="x: not a picture, or cut short"):
        pictures.decode(data, "x")


def test_an_animated_png_is_decoded_elsewhere(monkeypatch):
    still = encoded(PICTURE, ".png")
    data = still[:33] + chunk(b"acTL", struct.pack(">II", 1, 0)) + still[33:]
    monkeypatch.setattr(expendable, "imdecode", lambda *_: PICTURE.copy())
    monkeypatch.setattr(cv2, "imdecode", None)
    assert pictures.decode(data, "x").shape == (24, 20, 3)


def test_a_crash_costs_one_picture_and_is_named():
    bmp = encoded(PICTURE, ".bmp")
    pictures.decode(bmp, "x")
    os.kill(expendable._process.pid, signal.SIGSEGV)
    expendable._process.wait()
    with pytest.raises(InputError, match=r"bad.jp2: the picture crashes its decoder \(SIGSEGV\)"):
        pictures.decode(bmp, "bad.jp2")
    np.testing.assert_array_equal(pictures.decode(bmp, "x"), PICTURE)


def test_processor_time_is_bounded(monkeypatch):
    expendable._end()
    monkeypatch.setattr(expendable, "SECONDS", 1e-6)
    try:
        with pytest.raises(InputError, match="takes more than 1e-06 seconds to decode"):
            pictures.decode(encoded(smooth(1000, 1000), ".webp"), "x")
    finally:
        expendable._end()


def many_components(place):
    """A JPEG 2000 that announces 49,536 components, in its box (0) or in its codestream (1):
    after a PNG that fails, such a one crashed OpenCV."""
    data = bytearray(encoded(smooth(64, 64), ".jp2"))
    place = (data.index(b"ihdr") + 12, data.index(b"\xff\x51") + 38)[place]
    assert data[place:place + 2] == b"\0\3"
    data[place:place + 2] = struct.pack(">H", 49536)
    return bytes(data)


def many_scans(count, side):
    """A progressive JPEG of so many scans, the last of them again and again."""
    data = encoded(smooth(side, side), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    last, end = data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd9")
    more = count - data.count(b"\xff\xda")
    return data[:end] + data[last:end] * more + data[end:]


def test_a_hostile_list_of_picture_kinds_takes_little_memory(tmp_path):
    """Files of a few bytes that announce 10,000 x 13,000 pixels, or as many bytes."""
    hdr = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 10000 +X 13000\n" + b"\0" * 1600
    pfm = b"PF\n10000 13000\n-1.0\n" + b"\0" * 100
    png = START + chunk(b"tEXt", b"", 0x7fffffff)[:12] + b"xx"
    (tmp_path / "a").mkdir()
    for name, data in (("a.hdr", hdr), ("b.pfm", pfm), ("d.png", png),
                       ("e.jp2", many_components(0)), ("f.jp2", many_components(1)),
                       ("g.txt", b"text"), ("h.bmp", encoded(PICTURE, ".bmp")),
                       ("i.jpg", many_scans(190, 2000))):
        (tmp_path / "a" / name).write_bytes(data)
    code = ("import resource, sys, unequal; from unequal.data import convert;"
            "print(convert.pack(*sys.argv[1:], convert.Settings(sys.argv[1], (24, 20))));"
            "from unequal.data import expendable; expendable._end();"
            # Not ru_maxrss of its own, which would begin with pytest's.
            "own, = (int(line.split()[1]) for line in open('/proc/self/status')"
            "        if 'VmHWM' in line);"
            "decoder = resource.getrusage(resource.RUSAGE_CHILDREN);"
            "print(max(own, decoder.ru_maxrss) // 1024);"
            "print(decoder.ru_utime + decoder.ru_stime)")
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(tmp_path) + ".set"],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=600)
    assert ended.returncode == 0, ended.stderr.decode()
    counts, megabytes, seconds = ended.stdout.decode().splitlines()
    assert counts == "(2, 1, 6, 1)" and int(megabytes) < 700 and float(seconds) < 20


def test_complaints_of_the_other_process_are_heard(monkeypatch):
    monkeypatch.setattr(pictures, "_small", (b"", 0))
    monkeypatch.setattr(pictures, "_SMALL", 0)
    monkeypatch.setattr(pictures, "_PIXELS_HERE", 0)
    with pictures.Complaints() as complaints:
        pictures.decode(damaged_jpeg(smooth(64, 64)), "x")
        assert "Corrupt JPEG data" in complaints.take()


def test_a_24_megapixel_picture_and_odd_names(tmp_path):
    folder = tmp_path / "so me" / "Zoë 王"
    folder.mkdir(parents=True)
    (folder / "groß.jpg").write_bytes(encoded(smooth(4000, 6000)))
    alpha = np.dstack([PICTURE, np.zeros((24, 20), np.uint8)])
    (folder / "alpha.png").write_bytes(cv2.imencode(".png", alpha)[1].tobytes())
    (folder / "notes.txt").write_text("no picture")
    (folder / "cut.jpg").write_bytes(encoded(PICTURE)[:-30])
    assert convert.pack(str(tmp_path / "so me"), str(tmp_path / "out put"),
                        convert.Settings(str(tmp_path / "so me"))) == (2, 1, 2, 0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20
    assert not [name for name in os.listdir(tmp_path / "out put") if name.startswith(".")]


def test_a_format_for_which_opencv_makes_a_file(tmp_path, monkeypatch):
    """The file would stay when the process is lost in between."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    hdr = cv2.imencode(".hdr", PICTURE.astype(np.float32))[1].tobytes()
    with pytest.raises(InputError, match="x: a Radiance HDR picture.*write it anew as JPEG or PNG"):
        pictures.decode(hdr, "x")
    expendable._end()
    monkeypatch.setattr(tempfile, "tempdir", None)
    try:
        assert expendable.imdecode(hdr, cv2.IMREAD_COLOR, "x") is None
        assert os.listdir(str(tmp_path)) == []
    finally:
        expendable._end()
