"""One picture: encoded bytes to RGB pixels and back."""
import cv2
import numpy as np

from unequal.errors import InputError


def decode(data, source, height=None, width=None):
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

    Returns
    -------
    numpy.ndarray
        uint8, shape (height, width, 3).

    Raises
    ------
    InputError
        When it is not a picture, is cut short, or has another size.
    """
    if isinstance(data, np.ndarray) and data.ndim != 1:
        pixels = data
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3:
            raise InputError(
                "{}: pixels must be uint8 of shape (height, width, 3) but are {} of shape {}; "
                "convert them.".format(source, data.dtype, data.shape))
    else:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, pixels)
        except (cv2.error, ValueError):  # no bytes at all; None; larger than OpenCV allows
            raise InputError(
                "{}: not a picture, or cut short ({} bytes); replace it or leave it out.".format(
                    source, len(data))) from None
    if height is not None and pixels.shape[:2] != (height, width):
        raise InputError("{}: the picture is {} pixels high and {} wide but should be {} and {}; "
                         "pack it again at that size.".format(
                             source, *pixels.shape[:2], height, width))
    return pixels


def encode(pixels, quality):
    """JPEG bytes of RGB pixels (uint8, shape (height, width, 3)); ``quality`` from 1 to 100."""
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
