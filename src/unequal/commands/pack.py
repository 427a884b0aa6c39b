"""``unequal pack``: pictures of people to a record set (docs/data.md)."""
import argparse
import logging
import os

from unequal.commands import arguments
from unequal.data import convert, first_look
from unequal.data.detection import SMALLEST, Detector
from unequal.errors import ArgumentError, InputError
from unequal.system.text import say

logger = logging.getLogger(__name__)

_LOOKED_AT = 500  # pictures: seven seconds of processor time


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``unequal pack``."""
    parser.add_argument("source", metavar="SRC",
                        help="a folder with one folder of pictures for each identity, or an "
                             "InsightFace .lst")
    parser.add_argument("directory", metavar="DIR", help="the record set to make")
    arguments.add_picture_options(parser)
    parser.add_argument("--margin", type=arguments.margin, default=0.4,
                        help="share of its sides by which a listed box without landmarks grows "
                             "(default 0.4)")
    parser.add_argument("--root", help="folder the paths of a list are in (default: the list's)")
    parser.add_argument("--plain", action="store_true",
                        help="without header and identity records, for mx.io.ImageRecordIter")
    parser.add_argument("--check-faces", type=arguments.integer(0), metavar="N",
                        help="look for a face in N pictures, spread over the set, and name those "
                             f"without one in DIR/{first_look.NO_FACE} (extra [align]; default "
                             f"{_LOOKED_AT}, where it is installed)")
    parser.add_argument("--verify", type=share, metavar="PERCENT",
                        help="hold out so many of the people (folders only) and make pairs of "
                             "their pictures: DIR/verify.bin, for --target verify")


def share(text: str) -> float:
    """``20%`` or ``0.2``."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        if not 0 < value < 1:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share such as 20%") from None
    return value


def run(options: argparse.Namespace) -> None:
    """``unequal pack``."""
    source, directory = options.source, options.directory
    listed = os.path.isfile(source)
    if not listed and not os.path.isdir(source):
        raise InputError(f"{source}: no such folder or list; give a folder with one folder of "
                         "pictures for each identity.")
    if options.root and not listed:
        raise InputError(f"--root: only a list needs it, and {source} is a folder; leave it out.")
    inside = os.path.join(os.path.realpath(source), "")
    if not listed and os.path.join(os.path.realpath(directory), "").startswith(inside):
        raise InputError(f"{directory}: lies inside {source}, where it would become an identity; "
                         "name a folder elsewhere.")
    root = os.path.abspath(options.root or (os.path.dirname(source) if listed else source))
    settings = convert.Settings(root, options.size, options.quality, options.margin)
    if options.verify and listed:
        raise ArgumentError("verify holds out folders of people, and a list has none; leave it "
                            "out, and make pairs with `unequal pack-bin`.", "verify")
    pairs = None
    if options.check_faces:
        if min(options.size) < SMALLEST:
            raise ArgumentError(f"check_faces: no face is found in pictures of less than "
                                f"{SMALLEST} pixels; leave it out.", "check_faces")
        Detector()  # says at once when the extra is missing
    if not listed and first_look.look_uncut(
            (os.path.join(root, picture.name) for picture in convert.sample(source, 50)),
            options.size):
        logger.warning("%s: most pictures look like photographs, not like faces cut to one size: "
                       "`unequal align %s ALIGNED` finds and cuts them", source, source)
    if options.verify:
        pictures, pairs = convert.hold_out(list(convert.in_folders(source)), settings,
                                           options.verify)
        count, identities, skipped, complained = convert.pack_pictures(
            pictures, directory, settings, options.processes, options.plain)
    else:
        count, identities, skipped, complained = convert.pack(
            source, directory, settings, options.processes, options.plain)
    if pairs is not None:
        bin_path = os.path.join(directory, "verify.bin")
        made, same = convert.write_pairs(pairs, source, root, bin_path, settings, options.processes)
        say(f"{bin_path}: {made} pairs, {same} of the same person, of people who are not in the "
            "set")
    named = " (problems.csv)" if skipped or complained else ""
    say(f"{directory}: {count} images of {identities} identities, "
        f"{'x'.join(map(str, options.size))}; {skipped} pictures skipped, {complained} kept with "
        f"complaints{named}")
    if options.check_faces != 0 and min(options.size) >= SMALLEST:
        try:
            first_look.say_faces(directory, options.check_faces or _LOOKED_AT, options.processes)
        except InputError as error:  # without the detector
            if options.check_faces:
                raise
            logger.info("faces were not looked for: %s", error)
