"""``unequal denoise``: a record set minus a noise list (the paper's "third type of noise")."""
from unequal.data import copying


def configure(parser):
    """Options of ``unequal denoise``."""
    parser.add_argument("directory", metavar="DIR", help="the record set")
    parser.add_argument("noise_list", metavar="NOISELIST",
                        help="the images to leave out: lines `label index maxP P[label]`, as "
                             "`unequal noise` writes them")
    parser.add_argument("out", metavar="OUT", help="the record set to make")


def run(options):
    """``unequal denoise``."""
    count, identities, dropped = copying.denoise(options.directory, options.noise_list, options.out)
    print("{}: {} images of {} identities, {} images dropped".format(
        options.out, count, identities, dropped))
