"""Values and options that several commands take."""
import argparse

from unequal.errors import InputError
from unequal.system.runtime import available_cpus


def picture_size(text):
    """``112`` or ``112x96`` (height, width) from the command line."""
    try:
        height, width = (int(side) for side in (text.split("x") * 2)[:2])
        if not (1 <= height <= 4096 and 1 <= width <= 4096 and text.count("x") < 2):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            "{!r} is not a size such as 112 or 112x96 (height x width)".format(text)) from None
    return height, width


def network_size(text):
    """``--image-size`` as (height, width); None when it is not given."""
    if text is None:
        return None
    sides = text.split(",")
    if len(sides) != 2 or not all(side.isdigit() and int(side) for side in sides):
        raise InputError("--image-size {!r}: expected HEIGHT,WIDTH in pixels, such as "
                         "112,112.".format(text))
    return tuple(map(int, sides))


def quality(text):
    """1 to 100."""
    if not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError("{!r} is not a quality from 1 to 100".format(text))
    return int(text)


def process_count(text):
    """1 or more."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError("{!r} is not a number of processes".format(text))
    return int(text)


def margin(text):
    """0 or more."""
    try:
        value = float(text)
        if not 0 <= value <= 10:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError("{!r} is not a share from 0 to 10".format(text)) from None
    return value


def add_picture_options(parser):
    """The options of every command that turns pictures into records."""
    parser.add_argument("--size", type=picture_size, default=(112, 112), metavar="HEIGHTxWIDTH",
                        help="of the images in pixels, or one number for squares (default 112)")
    parser.add_argument("--quality", type=quality, default=95,
                        help="of the JPEGs written anew, 1 to 100 (default 95)")
    parser.add_argument("--processes", type=process_count, default=available_cpus(),
                        help="default: one a processor, here %(default)s")


def add_image_size(parser):
    """Add ``--image-size``, for the checkpoint's network."""
    parser.add_argument("--image-size", metavar="HEIGHT,WIDTH",
                        help="of the network's input; default: found from its weights")
