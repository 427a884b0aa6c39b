"""``unequal unpack``: a record set to a folder of folders."""
import argparse

from unequal.data import copying
from unequal.system.text import say


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``unequal unpack``."""
    parser.add_argument("directory", metavar="DIR", help="the record set")
    parser.add_argument("out", metavar="OUT", help="the folder to make, one folder an identity")


def run(options: argparse.Namespace) -> None:
    """``unequal unpack``."""
    count = copying.unpack(options.directory, options.out)
    say(f"{options.out}: {count} images")
