"""``unequal split``: a record set's frequent and rare identities."""
import argparse

from unequal.commands import arguments
from unequal.data import copying
from unequal.system.text import say


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``unequal split``."""
    parser.add_argument("directory", metavar="DIR", help="the record set")
    parser.add_argument("head", metavar="HEAD", help="the set of the frequent identities to make")
    parser.add_argument("tail", metavar="TAIL", help="the set of the rare identities to make")
    parser.add_argument("--head-min-images", type=arguments.integer(), default=10, metavar="N",
                        help="identities with N images or more are head (default 10)")


def run(options: argparse.Namespace) -> None:
    """``unequal split``."""
    sides = copying.split(options.directory, options.head, options.tail, options.head_min_images)
    for target, (count, identities) in zip((options.head, options.tail), sides):
        say(f"{target}: {count} images of {identities} identities")
