"""``unequal denoise``: a record set minus a noise list, or as a person decided about it."""
import argparse

from unequal.data import copying
from unequal.system.text import say


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``unequal denoise``."""
    parser.add_argument("directory", metavar="DIR", help="the record set")
    parser.add_argument("noise_list", metavar="NOISELIST|DECISIONS",
                        help="the images to leave out: lines `label index maxP P[label]`, as "
                             "`unequal noise` writes them; or decisions, as `unequal review` "
                             "writes them, which also relabel")
    parser.add_argument("out", metavar="OUT", help="the record set to make")
    parser.add_argument("--renumber", action="store_true",
                        help="number the classes that are left anew from 0; otherwise they keep "
                             "their numbers, as step 4 of the recipe needs them")


def run(options: argparse.Namespace) -> None:
    """``unequal denoise``."""
    if not options.renumber and not copying.is_decisions(options.noise_list):
        count, identities, dropped = copying.denoise(options.directory, options.noise_list,
                                                     options.out)
        say(f"{options.out}: {count} images of {identities} identities, {dropped} images dropped")
        return
    made = copying.apply_decisions(options.directory, options.noise_list, options.out,
                                   options.renumber)
    say(f"{options.out}: {made.images} images of {made.identities} identities ({made.head} with "
        f"ten or more, {made.identities - made.head} with fewer), {made.dropped} dropped, "
        f"{made.relabelled} relabelled (changes.csv)")
