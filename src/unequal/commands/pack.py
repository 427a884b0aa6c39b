"""``unequal pack``: pictures of people to a record set (docs/data.md)."""
import os

from unequal.commands import arguments
from unequal.data import convert
from unequal.errors import InputError


def configure(parser):
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


def run(options):
    """``unequal pack``."""
    source, directory = options.source, options.directory
    listed = os.path.isfile(source)
    if not listed and not os.path.isdir(source):
        raise InputError("{}: no such folder or list; give a folder with one folder of pictures "
                         "for each identity.".format(source))
    if options.root and not listed:
        raise InputError("--root: only a list needs it, and {} is a folder; leave it out.".format(
            source))
    inside = os.path.join(os.path.realpath(source), "")
    if not listed and os.path.join(os.path.realpath(directory), "").startswith(inside):
        raise InputError("{}: lies inside {}, where it would become an identity; name a folder "
                         "elsewhere.".format(directory, source))
    root = os.path.abspath(options.root or (os.path.dirname(source) if listed else source))
    settings = convert.Settings(root, options.size, options.quality, options.margin)
    count, identities, skipped, complained = convert.pack(
        source, directory, settings, options.processes, options.plain)
    print("{}: {} images of {} identities, {}x{}; {} pictures skipped, {} kept with complaints{}"
          .format(directory, count, identities, *options.size, skipped, complained,
                  " (problems.csv)" if skipped or complained else ""))
