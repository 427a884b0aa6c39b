"""``unequal identify``: rank-1, CMC and TAR@FAR among distractors (MF2, MegaFace)."""
import argparse
import logging
from typing import Dict, Iterator, Optional, Sequence, Tuple

import numpy as np

from unequal.commands import arguments
from unequal.data import noise_lists
from unequal.errors import InputError
from unequal.eval import features, identification
from unequal.report import tables
from unequal.system.text import say

logger = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``unequal identify``."""
    parser.description = (
        "MegaFace's identification protocol on features: .npy or .npz files as `unequal embed` "
        "writes them, or folders of the MegaFace devkit's .bin files. Who a picture shows is the "
        "folder in its name. docs/evaluation.md defines each number.")
    parser.add_argument("--probes", required=True, metavar="FEATURES",
                        help="several pictures a person; each is searched with the others")
    parser.add_argument("--gallery", metavar="FEATURES",
                        help="search the probes here instead, other people included")
    parser.add_argument("--distractors", required=True, nargs="+", metavar="FEATURES",
                        help="people who are not among the probes")
    parser.add_argument("--probe-noise", metavar="LIST",
                        help="pictures to leave out of probes and gallery, one name a line")
    parser.add_argument("--distractor-noise", metavar="LIST",
                        help="pictures to leave out of the distractors")
    parser.add_argument("--max-rank", type=arguments.integer(), default=100,
                        help="end of the CMC curve (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write every number, and the CMC curve")
    parser.add_argument("--plot", metavar="FILE", help="draw the CMC curve (.png, .svg, .pdf)")


def without_noise(opened: features.Features, path: Optional[str]) -> features.Features:
    """Features without the pictures a noise list names; says how many these are."""
    if path is None:
        return opened
    noisy, unknown = noise_lists.noisy(opened.names, noise_lists.read_names(path))
    logger.info("%s: %d of %d left out by %s, %d of whose entries name none of them",
                opened.source, noisy.sum(), len(noisy), path, unknown)
    return opened.without(noisy)


def joined(several: Sequence[features.Features]) -> features.Features:
    """Several Features as one."""
    if len({some.size for some in several}) > 1:
        lengths = ", ".join(f"{some.source} has features of length {some.size}"
                            for some in several)
        raise InputError(f"--distractors: {lengths}; all must come from one model.")

    def read(count: int) -> Iterator[np.ndarray]:
        for some in several:
            yield from some.read(count)

    return features.Features(several[0].source, [name for some in several for name in some.names],
                             several[0].size, read)


def _pictures(path: str, noise: Optional[str]) -> Tuple[np.ndarray, np.ndarray]:
    opened = without_noise(features.open_features(path), noise)
    return opened.array(), features.identities(opened.kept_names(), opened.source)


def run(options: argparse.Namespace) -> None:
    """``unequal identify``: print the table, write JSON and plot if asked.

    Raises
    ------
    InputError
        When features cannot be read or do not belong together.
    """
    if options.max_rank < 1:
        raise InputError(f"--max-rank {options.max_rank}: must be 1 or more.")
    if options.plot:
        tables.check_plot(options.plot)
    probes, people = _pictures(options.probes, options.probe_noise)
    gallery = gallery_people = None
    if options.gallery:
        gallery, gallery_people = _pictures(options.gallery, options.probe_noise)
        if gallery.shape[1] != probes.shape[1]:
            raise InputError(f"--gallery: features have length {gallery.shape[1]} but the probes' "
                             f"{probes.shape[1]}; all must come from one model.")
    distractors = without_noise(
        joined([features.open_features(path) for path in options.distractors]),
        options.distractor_noise)
    result = identification.identify(probes, people, distractors, gallery, gallery_people,
                                     max_rank=options.max_rank)
    numbers: Dict[str, float] = {"probes": len(probes), "identities": len(np.unique(people)),
                                 "distractors": len(distractors)}
    numbers.update(identification.measure(result))
    rates = [name for name in numbers if name.startswith(("rank_", "tar_"))]
    counts = ["probes", "identities", "distractors", "pairs"]
    say(*tables.text_table(
        counts + [name.replace("tar_at_", "TAR@").replace("rank_", "rank-") + " %"
                  for name in rates],
        [[str(numbers[name]) for name in counts]
         + [tables.percent(numbers[name]) for name in rates]]).split("\n"))
    say(f"smallest FAR these {numbers['impostors']} impostor pairs can show "
        f"{numbers['min_far']:.1e}")
    curve = identification.cmc(result)
    if options.json:
        tables.write_json(options.json, dict(numbers, cmc=curve.tolist()))
    if options.plot:
        tables.plot_lines(options.plot, {"CMC": (1 + np.arange(len(curve)), curve)},
                          xlabel="rank", ylabel="share of mates found")
