"""One picture: encoded bytes to RGB pixels and back."""
import os
import stat
import struct
import sys
import tempfile

import cv2
import numpy as np

from unequal.errors import InputError
from unequal.system import runtime

# Endings of the files that are taken for pictures in folders of other things too.
ENDINGS = (".jpg", ".png", ".jpeg", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")

_FRAME = struct.Struct(">HHB")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_SIZE = struct.Struct(">II")  # width and height, at byte 16

# A few bytes can announce any number of pixels, for which a decoder then finds memory and time.
MAX_PIXELS = runtime.MAX_PIXELS
MAX_BYTES = 1 << 28  # of a picture's file
_MAX_SEGMENTS = 10000  # before a JPEG's frame
_MAX_SCANS = 200  # of a progressive JPEG, each of which may cost a pass over all pixels
_SMALL = 1 << 18  # pixels, for which any number of scans is soon done
# The start of the last small JPEG, up to its size. The pictures of a set have it in common, so most
# need no more than one comparison.
_small_header = b""

# JPEG decodes at a half, a quarter or an eighth of its size for a fraction of the time.
_FLAGS = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
          8: cv2.IMREAD_REDUCED_COLOR_8}


def decode(data, source, height=None, width=None, reduction=1):
    """Decode a picture.

    Exactly the pixels of ``cv2.imdecode(data, cv2.IMREAD_COLOR)``, in RGB order: grey, palette and
    CMYK become RGB, 16 bits become 8, the rotation an EXIF tag asks for is done, transparency is
    dropped.

    Parameters
    ----------
    data : bytes or numpy.ndarray
        An encoded picture (uint8 arrays of one dimension too), or RGB pixels, uint8 of shape
        (height, width, 3), which are returned as they are.
    source : object
        What to call the picture in an error; made text only then.
    height, width : int, optional
        The size it must have, in pixels.
    reduction : int
        1, 2, 4 or 8: by how much to decode it smaller (encoded pictures; sides rounded up).

    Returns
    -------
    numpy.ndarray
        uint8, shape (height, width, 3).

    Raises
    ------
    InputError
        When it is not a picture, is cut short, or has another size.
    """
    pixels, bgr = _decode(data, source, height, width, _FLAGS[reduction])
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, pixels) if bgr else pixels


def decode_bgr(data, source, height=None, width=None):
    """:func:`decode`, but blue first as OpenCV has it: one pass over the pixels less."""
    pixels, bgr = _decode(data, source, height, width, cv2.IMREAD_COLOR)
    return pixels if bgr else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)


def _decode(data, source, height, width, flag):
    """Pixels, and whether blue comes first (it does not in pixels that need no decoding)."""
    bgr = not isinstance(data, np.ndarray) or data.ndim == 1
    if not bgr:
        pixels = data
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3:
            raise InputError(
                "{}: pixels must be uint8 of shape (height, width, 3) but are {} of shape {}; "
                "convert them.".format(source, data.dtype, data.shape))
    else:
        _check_size(data, source)
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        except (cv2.error, ValueError):  # no bytes at all; larger than OpenCV allows
            pixels = None
        if pixels is None:
            raise InputError(
                "{}: not a picture, or cut short ({} bytes); replace it or leave it out.".format(
                    source, len(data)))
    if height is not None and pixels.shape[:2] != (height, width):
        raise InputError("{}: the picture is {} pixels high and {} wide but should be {} and {}; "
                         "pack it again at that size.".format(
                             source, *pixels.shape[:2], height, width))
    return pixels, bgr


def _check_size(data, source):
    """Refuse what a JPEG or PNG declares before memory is spent on it; OpenCV knows the limit too
    (:func:`unequal.system.runtime.prepare`), for every format, unless it was imported before."""
    global _small_header
    data = bytes(data)
    if _small_header and data.startswith(_small_header):
        return
    frame = _frame_position(data)
    if data.startswith(_PNG) and len(data) >= 24:
        width, height = _PNG_SIZE.unpack_from(data, 16)
    else:
        height, width, _ = _FRAME.unpack_from(data, frame) if frame else (0, 0, 0)
    if height * width > MAX_PIXELS:
        raise InputError("{}: the picture is {} pixels high and {} wide, more than {:,} in all; "
                         "make it smaller or leave it out.".format(
                             source, height, width, MAX_PIXELS))
    # Counting takes a tenth of the time a face takes to decode, and is about large pictures.
    if height * width <= _SMALL:
        if frame and frame < 1 << 12:  # not with megabytes of EXIF in it
            _small_header = data[:frame + _FRAME.size]
    elif data.count(b"\xff\xda") > _MAX_SCANS:
        raise InputError("{}: a JPEG of more than {} scans, each of which takes the time of a "
                         "whole picture; write it anew or leave it out.".format(source, _MAX_SCANS))


def read(path):
    """The bytes of a picture's file.

    Raises
    ------
    InputError
        When it is no plain file (a pipe or a device may never end), or too large.
    OSError
        When it cannot be read.
    """
    # Without O_NONBLOCK, opening a pipe waits for its other end.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise InputError("{}: is not a plain file; leave it out.".format(path))
        if facts.st_size > MAX_BYTES:
            raise InputError("{}: has {:,} bytes, more than {:,}; make it smaller or leave it "
                             "out.".format(path, facts.st_size, MAX_BYTES))
        return file.read()


def encode(pixels, quality):
    """JPEG bytes of RGB pixels (uint8, shape (height, width, 3)); ``quality`` from 1 to 100."""
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


class Complaints:
    """Catch what the JPEG and PNG libraries print while they decode.

    A JPEG with damaged data decodes to something, and the only sign is a line on the process's
    stderr. Within the block that stream goes to a file; :meth:`take` returns what came since.
    """

    def __enter__(self):
        sys.stderr.flush()
        self._caught = tempfile.TemporaryFile()
        self._real = os.dup(2)
        os.dup2(self._caught.fileno(), 2)
        return self

    def take(self):
        """What was printed since the last call, as one line; empty when nothing was."""
        file = self._caught.fileno()
        size = os.fstat(file).st_size
        if not size:
            return ""
        text = os.pread(file, size, 0)
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        return " ".join(text.decode("utf-8", "replace").split())

    def __exit__(self, *_):
        os.dup2(self._real, 2)
        os.close(self._real)
        self._caught.close()


def is_plain_jpeg(data, pixels):
    """Whether any reader gets ``pixels``, which :func:`decode` made of ``data``, from these bytes.

    Not so where it is no JPEG, has four colour components (CMYK) or an EXIF rotation: readers
    differ in what they do with these.
    """
    frame = jpeg_frame(data)
    if frame is None or frame[2] not in (1, 3):
        return False
    if b"Exif" not in data[:1 << 16]:
        return True
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    unturned = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return np.array_equal(unturned[..., ::-1], pixels)


def jpeg_frame(data):
    """``(height, width, components)`` that a JPEG declares, before any rotation; None for others.
    """
    position = _frame_position(data)
    return _FRAME.unpack_from(data, position) if position else None


def _frame_position(data):
    cursor = 2
    if data[:2] != b"\xff\xd8":
        return None
    for _ in range(_MAX_SEGMENTS):
        if cursor + 10 > len(data) or data[cursor] != 0xFF:
            break
        marker = data[cursor + 1]
        if marker == 0xFF:  # padding between segments
            cursor += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            return cursor + 5
        else:
            cursor += 2 + int.from_bytes(data[cursor + 2:cursor + 4], "big")
    return None


def find_pictures(path):
    """Paths of all pictures below a folder, sorted; a file is itself, whatever its name."""
    if not os.path.isdir(path):
        return [path]
    found = sorted(os.path.join(folder, name) for folder, _, names in os.walk(path)
                   for name in names if name.lower().endswith(ENDINGS))
    if not found:
        raise InputError("{}: neither a record set (train.rec) nor a folder with pictures "
                         "({}).".format(path, ", ".join(ENDINGS)))
    return found
