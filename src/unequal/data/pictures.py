"""One picture: encoded bytes to RGB pixels and back."""
import hashlib
import os
import struct
import sys
import tempfile
from typing import Dict, List, Optional, Tuple, Union

import cv2
import numpy as np

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

from unequal.data import expendable
from unequal.errors import InputError
from unequal.system import runtime
from unequal.system.files import open_input

JPEG_ENDINGS = (".jpg", ".jpeg")
# Endings by which pictures are recognised in folders that hold other files too.
ENDINGS = (*JPEG_ENDINGS, ".png", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")

Encoded = Union[bytes, bytearray, np.ndarray]  # a picture's file; an array is uint8 (bytes,)

_FRAME = struct.Struct(">HHB")
_PNG = b"\x89PNG\r\n\x1a\n"
_RADIANCE = (b"#?RADIANCE", b"#?RGBE")  # for which OpenCV writes a temporary file
_PNG_SIZE = struct.Struct(">II")  # width and height, at byte 16

# Limits, because a file of a few bytes can announce any number of pixels to the decoder.
MAX_PIXELS = runtime.MAX_PIXELS
MAX_BYTES = 1 << 28  # of a picture's file
_MAX_SEGMENTS = 10000  # before a JPEG's frame
_MAX_SCANS = 200  # of a progressive JPEG, each of which may cost a pass over all pixels
_SMALL = 1 << 18  # pixels, so few that any number of scans is quick
# What this process decodes itself; beyond it: unequal.data.expendable.
_PIXELS_HERE = 1 << 25  # 33 megapixels
_SCANNED_HERE = 1 << 29  # pixels times scans of a JPEG: two seconds
_SCAN_BYTES = 10  # the least that a scan of a JPEG takes
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")  # of a PNG; OpenCV makes room for what they announce
# The start of the last small JPEG, up to its size, and the longest file with that start whose scans
# need not be counted. The pictures of a set share this start, so most need only one comparison.
_small = (b"", 0)
# The same for the last JPEG that simplejpeg decoded, up to its first scan, and the pixels' shape.
_simple: Tuple[bytes, int, Tuple[int, ...]] = (b"", -1, ())
_EXIF = b"\xff\xe1"
# Of the three components: 4:4:4, 4:2:2, 4:2:0.
_SAMPLINGS = (b"\x11\x11\x11", b"\x21\x11\x11", b"\x22\x11\x11")
_agreed: Dict[bytes, bool] = {}  # for each of these, whether simplejpeg's pixels are OpenCV's

# JPEG decodes at a half, a quarter or an eighth of its size for a fraction of the time.
_FLAGS = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
          8: cv2.IMREAD_REDUCED_COLOR_8}


def decode(data: Encoded, source: object, height: Optional[int] = None,
           width: Optional[int] = None, reduction: int = 1) -> np.ndarray:
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
        The picture's name in an error; turned into text only then.
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
    if bgr:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, pixels)
    return pixels


def decode_into(out: np.ndarray, data: Encoded, source: object) -> None:
    """:func:`decode`, written to ``out``: uint8 (height, width, 3), contiguous.

    Ordinary JPEGs of that size are decoded by simplejpeg where it is installed (a newer
    libjpeg-turbo, no copies, red first), all else by OpenCV. The pixels are the same: see
    :func:`_is_simple`.
    """
    header, longest, shape = _simple
    if (simplejpeg is not None and isinstance(data, bytes)
            and (data.startswith(header) and len(data) <= longest and shape == out.shape
                 or _is_simple(data, source, out.shape))):
        try:
            _decode_simple(data, out)
            return
        except (RuntimeError, ValueError):  # OpenCV decides whether it can be decoded
            pass
    height, width, _ = out.shape
    pixels, bgr = _decode(data, source, height, width, cv2.IMREAD_COLOR)
    if bgr:
        cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, out)
    else:
        out[:] = pixels


def _decode_simple(data: bytes, out: np.ndarray) -> None:
    """Raises ValueError at any warning of libjpeg-turbo."""
    # In order: fastdct, fastupsample, min_height, min_width, min_factor, buffer.
    simplejpeg.decode_jpeg(data, "RGB", False, False, 0, 0, 1, out)


def _is_simple(data: bytes, source: object, shape: Tuple[int, ...]) -> bool:
    """Whether simplejpeg decodes this JPEG to ``shape`` and to the same pixels as OpenCV.

    It does for sequential JPEGs of three components with a usual subsampling and without EXIF, if
    the two libraries agree: the first picture of each subsampling is decoded by both.

    Raises
    ------
    InputError
        As :func:`_ordinary`.
    """
    global _simple
    frame = _frame_position(data)
    if not frame or data[frame - 4] not in (0xC0, 0xC1) or data[frame - 1] != 8 \
            or _EXIF in data[:frame]:
        return False
    height, width, components = _FRAME.unpack_from(data, frame)
    sampling = data[frame + _FRAME.size:frame + _FRAME.size + 9][1::3]
    if (height, width, components) != shape or sampling not in _SAMPLINGS:
        return False
    scan = _scan_position(data, frame)
    if not scan or not _ordinary(data, source):
        return False
    if sampling not in _agreed:
        pixels = np.empty(shape, np.uint8)
        try:
            _decode_simple(data, pixels)
        except (RuntimeError, ValueError):
            return False
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        _agreed[sampling] = np.array_equal(pixels[..., ::-1], expected)
    if not _agreed[sampling]:
        return False
    header, longest = _small
    if header and data.startswith(header) and scan < 1 << 12:
        _simple = (data[:scan], longest, shape)
    return True


def _decode(data: Encoded, source: object, height: Optional[int], width: Optional[int],
            flag: int) -> Tuple[np.ndarray, bool]:
    """Pixels, and whether blue comes first (it does not in pixels that need no decoding)."""
    bgr = not isinstance(data, np.ndarray) or data.ndim == 1
    pixels: Optional[np.ndarray]
    if isinstance(data, np.ndarray) and not bgr:
        pixels = data
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3 or not data.size:
            raise InputError(
                f"{source}: pixels must be uint8 of shape (height, width, 3) but are {data.dtype} "
                f"of shape {data.shape}; convert them.")
    else:
        pixels = _imdecode(bytes(data), flag, source)
        if pixels is None:
            raise InputError(f"{source}: not a picture, or cut short ({len(data)} bytes); replace "
                             "it or leave it out.")
    if height is not None and pixels.shape[:2] != (height, width):
        high, wide = pixels.shape[:2]
        raise InputError(f"{source}: the picture is {high} pixels high and {wide} wide but should "
                         f"be {height} and {width}; pack it again at that size.")
    return pixels, bgr


def _imdecode(data: bytes, flag: int, source: object) -> Optional[np.ndarray]:
    """``cv2.imdecode``, here or in :mod:`unequal.data.expendable`; None if it is no picture."""
    try:
        here = _ordinary(data, source)
    except EOFError:
        return None
    if not here:
        return expendable.imdecode(data, flag, source)
    try:
        pixels: Optional[np.ndarray] = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        return pixels
    except cv2.error:  # larger than OpenCV allows
        return None


def _ordinary(data: bytes, source: object) -> bool:
    """Whether, by its headers, this is a JPEG or PNG that takes little time and memory.

    OpenCV trusts the numbers in a file: a PNG of 51 bytes made it take 4 GB, a JPEG 2000 crashed
    it. It also has a limit of pixels for all formats (:func:`unequal.system.runtime.prepare`).

    Raises
    ------
    EOFError
        When there is nothing, or a PNG goes on beyond its end.
    InputError
        When it has too many pixels or scans, or is a Radiance HDR picture.
    """
    global _small
    header, longest = _small
    if header and data.startswith(header) and len(data) <= longest:
        return True
    if not data:
        raise EOFError
    if data.startswith(_PNG):
        still = _walk_png(data)
        width, height = _PNG_SIZE.unpack_from(data, 16)
        _check_pixels(height, width, source)
        return bool(still and height * width <= _PIXELS_HERE)
    if data.startswith(_RADIANCE):
        raise InputError(f"{source}: a Radiance HDR picture, of which not all is kept in 8 bits; "
                         "write it anew as JPEG or PNG.")
    frame = _frame_position(data)
    if not frame:
        return False
    height, width, _ = _FRAME.unpack_from(data, frame)
    _check_pixels(height, width, source)
    pixels = max(1, height * width)
    longest = _SCANNED_HERE * _SCAN_BYTES // pixels
    if len(data) > longest or pixels > _SMALL:
        scans = data.count(b"\xff\xda")
        if pixels > _SMALL and scans > _MAX_SCANS:
            raise InputError(f"{source}: a JPEG of more than {_MAX_SCANS} scans, each of which "
                             "takes the time of a whole picture; write it anew or leave it out.")
        return bool(pixels <= _PIXELS_HERE and scans * pixels <= _SCANNED_HERE)
    if frame < 1 << 12:  # remember no start with megabytes of EXIF
        _small = (data[:frame + _FRAME.size], longest)
    return True


def _check_pixels(height: int, width: int, source: object) -> None:
    if height * width > MAX_PIXELS:
        raise InputError(f"{source}: the picture is {height} pixels high and {width} wide, more "
                         f"than {MAX_PIXELS:,} in all; make it smaller or leave it out.")


def _walk_png(data: bytes) -> bool:
    """Whether a PNG is one still picture; EOFError when a chunk is longer than the file."""
    cursor, still = len(_PNG), True
    while True:
        if cursor + 12 > len(data):
            raise EOFError
        length, name = int.from_bytes(data[cursor:cursor + 4], "big"), data[cursor + 4:cursor + 8]
        if cursor == len(_PNG) and (name != b"IHDR" or length != 13):
            raise EOFError
        cursor += 12 + length
        if cursor > len(data):
            raise EOFError
        if name == b"IEND":
            return still
        still = still and name not in _ANIMATION


def read(path: str) -> bytes:
    """The bytes of a picture's file.

    Raises
    ------
    InputError
        When it is no plain file (a pipe or a device may never end), or too large.
    OSError
        When it cannot be read.
    """
    with open_input(path, MAX_BYTES, optional=True) as file:
        data: bytes = file.read()
    return data


def encode(pixels: np.ndarray, quality: int) -> bytes:
    """JPEG bytes of RGB pixels (uint8, shape (height, width, 3)); ``quality`` from 1 to 100."""
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)


class Complaints:
    """Catch what the JPEG and PNG libraries print while they decode.

    Damaged JPEG data decode to some picture; the only sign is a line that the C library prints on
    stderr. Within the block stderr goes to a file; :meth:`take` returns what was printed.
    """

    def __enter__(self) -> "Complaints":
        sys.stderr.flush()
        self._caught = tempfile.TemporaryFile()
        self._real = os.dup(2)
        os.dup2(self._caught.fileno(), 2)
        return self

    def take(self) -> str:
        """What was printed since the last call, as one line; empty when nothing was."""
        file = self._caught.fileno()
        size = os.fstat(file).st_size
        if not size:
            return ""
        text = os.pread(file, size, 0)
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        return " ".join(text.decode("utf-8", "replace").split())

    def __exit__(self, *_: object) -> None:
        os.dup2(self._real, 2)
        os.close(self._real)
        self._caught.close()


def is_plain_jpeg(data: bytes, pixels: np.ndarray) -> bool:
    """Whether every reader decodes ``data`` to ``pixels``, the result of :func:`decode`.

    False for other formats than JPEG, for four colour components (CMYK) and for an EXIF rotation,
    which readers treat differently.
    """
    frame = jpeg_frame(data)
    if frame is None or frame[2] not in (1, 3):
        return False
    if b"Exif" not in data[:1 << 16]:
        return True
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    unturned = _imdecode(bytes(data), flags, "picture")
    return unturned is not None and np.array_equal(unturned[..., ::-1], pixels)


def jpeg_frame(data: bytes) -> Optional[Tuple[int, int, int]]:
    """``(height, width, components)`` that a JPEG declares, before any rotation; None for others.
    """
    position = _frame_position(data)
    if not position:
        return None
    height, width, components = _FRAME.unpack_from(data, position)
    return height, width, components


def declared_size(data: bytes) -> Optional[Tuple[int, int]]:
    """``(height, width)`` that a JPEG or PNG declares, before any rotation; None for others."""
    if data.startswith(_PNG) and len(data) >= 16 + _PNG_SIZE.size:
        width, height = _PNG_SIZE.unpack_from(data, 16)
        return height, width
    frame = jpeg_frame(data)
    return frame[:2] if frame else None


def digest(data: bytes) -> bytes:
    """16 bytes that are the same for pictures of the same bytes, and for no others."""
    return hashlib.blake2b(data, digest_size=16).digest()


def _scan_position(data: bytes, frame: int) -> Optional[int]:
    """Position of the first scan's data; None if there is EXIF before it, or no scan."""
    cursor = frame - 3
    for _ in range(_MAX_SEGMENTS):
        cursor += int.from_bytes(data[cursor:cursor + 2], "big")
        marker = data[cursor:cursor + 2]
        cursor += 2
        if marker == b"\xff\xda":
            return cursor
        if len(marker) < 2 or marker[0] != 0xFF or marker in (b"\xff\xff", _EXIF):
            break
    return None


def _frame_position(data: bytes) -> Optional[int]:
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


def find_pictures(path: str) -> List[str]:
    """Paths of all pictures below a folder, sorted; a file is itself, whatever its name."""
    if not os.path.isdir(path):
        return [path]
    found = sorted(os.path.join(folder, name) for folder, _, names in os.walk(path)
                   for name in names if name.lower().endswith(ENDINGS))
    if not found:
        raise InputError(f"{path}: neither a record set (train.rec) nor a folder with pictures "
                         f"({', '.join(ENDINGS)}).")
    return found
