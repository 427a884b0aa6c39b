"""``unequal verify``: verification accuracy, ROC and TAR@FAR of a model on ``.bin`` sets."""
import argparse
import logging
from typing import Iterator, List, Mapping, Sequence, Tuple

import mxnet as mx
import numpy as np

from unequal.commands import arguments
from unequal.data import pictures as images
from unequal.errors import ArgumentError, InputError
from unequal.eval import bins, verification
from unequal.models import checkpoints
from unequal.models.embedder import Embedder, PictureList, embedding_symbol, input_size
from unequal.report import tables
from unequal.system import runtime
from unequal.system.text import say

logger = logging.getLogger(__name__)

BOOTSTRAPS = verification.BOOTSTRAPS + ("none",)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``unequal verify``."""
    parser.description = (
        "Ten-fold verification accuracy of a model, with and without the mirror image, XNorm, and "
        "the true accept rate at false accept rates; docs/evaluation.md defines each.")
    parser.add_argument("--model", required=True, metavar="PREFIX,EPOCH", help="checkpoint")
    parser.add_argument("--data-dir", default=".", metavar="DIR",
                        help="NAME.bin is searched in DIR, ./eval_dataset and DIR/../eval_dataset")
    parser.add_argument("--eval-dir", default="", metavar="DIR", help="search NAME.bin only here")
    parser.add_argument("--target", default="lfw,cfp_fp,agedb_30", metavar="NAMES",
                        help="sets, separated by commas (default %(default)s)")
    arguments.add_inference(parser)
    parser.add_argument("--pca", type=arguments.integer(), default=0, metavar="COMPONENTS",
                        help="project by a PCA learnt on the other folds")
    parser.add_argument("--exact-thresholds", action="store_true",
                        help="search thresholds at the data, not in steps of 0.01")
    parser.add_argument("--bootstrap", choices=BOOTSTRAPS, default="pairs",
                        help="what is drawn again for 95%% intervals (default %(default)s)")
    parser.add_argument("--seed", type=arguments.integer(0), default=0, help="of the bootstrap")
    parser.add_argument("--json", metavar="FILE", help="write every number")
    parser.add_argument("--plot", metavar="FILE", help="draw the ROC curves (.png, .svg, .pdf)")


def _embedded(options: argparse.Namespace, paths: Mapping[str, str]
              ) -> Iterator[Tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield ``(name, plain, flipped, issame)`` of each set, one in memory at a time."""
    embedder = None
    devices = runtime.devices(options.devices or None)
    for name, path in paths.items():
        pictures, issame = bins.load_bin(path)
        size = images.decode(pictures[0], f"{path}: image 0").shape[:2]
        if embedder is None or embedder.image_size != size:
            embedder = _embedder(options, path, size, devices)
        plain, flipped = embedder.embed(PictureList(pictures, path), flip=True, label=name)
        yield name, plain, flipped, issame


def _embedder(options: argparse.Namespace, path: str, size: Tuple[int, ...],
              devices: List[mx.Context]) -> Embedder:
    """The model, bound for pictures of ``size``; an error names the set ``path``."""
    symbol, arg_params, aux_params = checkpoints.load(*checkpoints.parse(options.model, "model"))
    try:
        return Embedder(symbol, arg_params, aux_params, size, devices, options.batch_size)
    except ArgumentError:
        needed = input_size(embedding_symbol(symbol), arg_params)
        if needed == size:
            raise
        raise InputError(
            f"{path}: its pictures are {size[0]}x{size[1]}, but {options.model} takes "
            f"{needed[0]}x{needed[1]}; make the set at that size (`unequal pack-bin --size`)."
        ) from None


def _with_interval(numbers: Mapping[str, float], name: str) -> str:
    text = tables.percent(numbers[name])
    if name + "_low" in numbers:
        low, high = (tables.percent(numbers[name + end]) for end in ("_low", "_high"))
        text += f" [{low}, {high}]"
    return text


def report(results: Mapping[str, Mapping[str, float]],
           fars: Sequence[float] = verification.FARS) -> str:
    """The tables of ``unequal verify``.

    Parameters
    ----------
    results : dict
        Name of a set -> numbers of :func:`unequal.eval.verification.measure`.
    """
    names = [verification.far_name(far) for far in fars]
    accuracies = tables.text_table(
        ["set", "pairs", "accuracy %", "accuracy-flip %", "XNorm", "threshold", "AUC %", "EER %"]
        + [f"TAR@{far:.0e} %" for far in fars],
        [[name, str(row["pairs"])]
         + [f"{tables.percent(row[key], 3)} +- {tables.percent(row[key + '_std'], 3)}"
            for key in ("accuracy", "accuracy_flip")]
         + [f"{row['xnorm']:.3f}", f"{row['threshold']:.3f}",
            tables.percent(row["auc"]), tables.percent(row["eer"])]
         + [tables.percent(row[key]) for key in names]
         for name, row in results.items()])
    lines = [accuracies, ""]
    for name, row in results.items():
        lines.append(f"{name}: smallest FAR these pairs can show {row['min_far']:.1e}")
        if "auc_low" in row:
            shown = [key for key in ["accuracy_flip", "auc", "eer"] + names
                     if key + "_low" in row]
            lines[-1] += "; 95% intervals: " + ", ".join(
                f"{key} {_with_interval(row, key)}" for key in shown)
    return "\n".join(lines)


def run(options: argparse.Namespace) -> None:
    """``unequal verify``: embed the sets, print the tables, write JSON and plot if asked.

    Raises
    ------
    InputError
        When no set is found, or one cannot be used.
    """
    paths = bins.find_sets(options.data_dir, options.eval_dir, options.target.split(","))
    if not paths:
        raise InputError(f"--target {options.target}: no such verification set (NAME.bin) beside "
                         f"--data-dir {options.data_dir}; name its directory with --eval-dir.")
    if options.plot:
        tables.check_plot(options.plot)
    over = None if options.bootstrap == "none" else options.bootstrap
    results, curves = {}, {}
    for name, plain, flipped, issame in _embedded(options, paths):
        try:
            results[name] = dict(verification.measure(
                plain, flipped, issame, exact=options.exact_thresholds, pca=options.pca,
                over=over or "pairs", replicates=1000 if over else 0, seed=options.seed))
            if options.plot:
                decision = verification.decide(plain + flipped, issame, pca=options.pca)
                curves[name] = verification.roc(decision.distances, issame)[:2]
        except InputError as error:
            raise ArgumentError(f"{paths[name]}: {error}",
                                *getattr(error, "arguments", ())) from error
    say(*report(results).split("\n"))
    if options.json:
        tables.write_json(options.json, {"model": options.model, "sets": results})
    if options.plot:
        tables.plot_lines(options.plot, curves, xlabel="false accept rate",
                          ylabel="true accept rate")
