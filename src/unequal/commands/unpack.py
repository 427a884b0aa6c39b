"""``unequal unpack``: a record set to a folder of folders."""
from unequal.data import copying
from unequal.system.text import say


def configure(parser):
    """Options of ``unequal unpack``."""
    parser.add_argument("directory", metavar="DIR", help="the record set")
    parser.add_argument("out", metavar="OUT", help="the folder to make, one folder an identity")


def run(options):
    """``unequal unpack``."""
    count = copying.unpack(options.directory, options.out)
    say("{}: {} images".format(options.out, count))
