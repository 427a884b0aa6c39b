"""``unequal pack-bin``: a verification set from a list of pairs (docs/data.md)."""
import argparse
import os

from unequal.commands import arguments
from unequal.data import convert
from unequal.errors import InputError
from unequal.system.text import say


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``unequal pack-bin``."""
    parser.add_argument("pairs", metavar="PAIRS",
                        help="LFW's pairs.txt, or lines `path path answer` (same or different)")
    parser.add_argument("source", metavar="SRC", help="the folder the pictures are in")
    parser.add_argument("out", metavar="OUT.bin", help="the verification set to make")
    arguments.add_picture_options(parser)


def run(options: argparse.Namespace) -> None:
    """``unequal pack-bin``."""
    if not os.path.isdir(options.source):
        raise InputError(f"{options.source}: no such folder; give the one the pictures are in.")
    settings = convert.Settings(options.source, options.size, options.quality)
    count, same = convert.pack_pairs(
        options.pairs, options.source, options.out, settings, options.processes)
    say(f"{options.out}: {count} pairs, {same} same and {count - same} different")
