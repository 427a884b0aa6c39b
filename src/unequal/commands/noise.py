"""``unequal noise``: the images of a record set that look mislabelled, and why."""
import argparse
import logging
from typing import Any, Callable, Iterable, Tuple

import numpy as np

from unequal.commands import arguments
from unequal.data import noise_lists
from unequal.data.records import RecordSet
from unequal.errors import ArgumentError
from unequal.eval import noise_scores
from unequal.models import noise_scan
from unequal.symbols import margins
from unequal.system import runtime
from unequal.system.text import say
from unequal.training import config, flags

logger = logging.getLogger(__name__)

# What is given the true kinds and says how good a list is: (kind, its numbers) each.
Quality = Callable[[Any], Iterable[Tuple[str, Any]]]


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``unequal noise``."""
    parser.description = (
        "Without --method and --threshold: finds wrong labels (flip), pictures of nobody in the "
        "set (outlier), one person under two labels (split) and duplicates, each image judged by "
        "what was fitted without it, with thresholds from the scores' own distribution; F.csv "
        "says which is which. With them: the reference's list.")
    parser.add_argument("directory", metavar="DIR", help="record set")
    parser.add_argument("--pretrained", metavar="P,E",
                        help="a model; with --method or --threshold one trained on DIR; up to "
                             f"{noise_scan.SMALL} pictures need none, and are judged by their "
                             "texture where that tells more")
    parser.add_argument("--by-model", action="store_true",
                        help="always use the model, where texture would be used for a small set")
    parser.add_argument("--features", metavar="F",
                        help="instead of a model: the images' features by any other "
                             "(`unequal embed`'s forms)")
    parser.add_argument("--threshold", type=arguments.real(),
                        help="list images whose score is below (the authors' default: 0.007)")
    parser.add_argument("--method", choices=sorted(noise_scores.METHODS),
                        help="default with --threshold: max-probability, the reference's")
    parser.add_argument("--out", required=True, metavar="F",
                        help="the noise list to write, and F.csv")
    parser.add_argument("--probabilities", metavar="F.npz",
                        help="also write labels, features and out-of-sample probabilities")
    parser.add_argument("--scores", metavar="F", help="also keep every image's score")
    parser.add_argument("--truth", metavar="F", help="truth.csv: report how good the list is")
    arguments.add_inference(parser)
    flags.add_arguments(parser, config.Config, margins.Margin._fields)
    unused = parser.add_argument_group("unused, accepted for old command lines")
    unused.add_argument("--fc7-wd-mult", type=arguments.real(), help="does nothing")


def run(args: argparse.Namespace) -> None:
    """Write the list; print how many, and with ``--truth`` how good."""
    by_threshold = args.threshold is not None or args.method is not None
    if by_threshold:
        if args.threshold is None:
            raise ArgumentError("threshold is missing: a method lists what is below one (leave "
                                "out both to let the scores choose).", "threshold")
        for name in ("features", "probabilities"):
            if getattr(args, name):
                raise ArgumentError(f"{name} does not go with a threshold; leave out one of "
                                    "them.", name)
    elif args.scores:
        raise ArgumentError("scores are kept with a threshold only; probabilities are what there "
                            "is without.", "scores")
    if by_threshold and not args.pretrained:
        raise ArgumentError("pretrained is missing: name the model trained on this set.",
                            "pretrained")
    if args.by_model and (by_threshold or not args.pretrained):
        raise ArgumentError("by_model says that a model judges; name one (pretrained), without "
                            "method and threshold, whose lists are always the model's.",
                            "by_model", "pretrained", "method", "threshold")
    if args.pretrained and args.features:
        raise ArgumentError("features are given, so pretrained is not needed; leave out one of "
                            "them.", "features", "pretrained")
    with RecordSet(args.directory) as records:
        listed, quality = (_below_threshold if by_threshold else _found)(args, records)
    say(f"{args.out}: {int(listed.sum())} of {len(listed)} images listed")
    if not listed.any():
        logger.warning("%s: is empty; `unequal denoise` would copy the set unchanged",
                       args.out)
    if args.truth:
        say(f"{'kind':10s}{'images':>8s}{'precision':>11s}{'recall':>9s}"
            f"{'average precision':>19s}")
        for kind, numbers in quality(noise_lists.read_truth(args.truth)):
            say(f"{kind:10s}{numbers['count']:8d}{numbers['precision']:11.3f}"
                f"{numbers['recall']:9.3f}{numbers['average_precision']:19.3f}")


def _below_threshold(args: argparse.Namespace,
                     records: RecordSet) -> Tuple[np.ndarray, Quality]:
    for row in flags.rows(config.Config):
        if row.name in margins.Margin._fields:
            row.check(getattr(args, row.name))
    settings = margins.Margin(**{name: getattr(args, name) for name in margins.Margin._fields})
    columns, listed = noise_scan.make_list(
        records, args.pretrained, settings, args.threshold, args.out,
        method=args.method or "max-probability", devices=runtime.devices(args.devices or None),
        batch_size=args.batch_size, scores=args.scores)
    return listed, lambda truth: noise_scan.quality(columns, listed, truth)


def _found(args: argparse.Namespace, records: RecordSet) -> Tuple[np.ndarray, Quality]:
    labels, features, found = noise_scan.find(
        records, args.pretrained, args.features, by_model=args.by_model,
        devices=runtime.devices(args.devices or None), batch_size=args.batch_size)
    noise_scan.write_findings(args.out, records, labels, found)
    if args.probabilities:
        noise_scan.write_probabilities(args.probabilities, records.image_keys, labels, features,
                                       found)
    kinds, counts = np.unique(found.kinds[found.kinds != ""], return_counts=True)
    listed = ", ".join(f"{count} {kind}" for kind, count in zip(kinds, counts))
    say(f"{args.out}.csv: {listed or 'nothing found'}")
    return found.kinds != "", lambda truth: noise_scan.quality_of_kinds(
        records.image_keys, found, truth)
