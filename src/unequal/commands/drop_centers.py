"""``unequal drop-centers``: one centre a class of a model trained with ``--sub-centers K``."""
import argparse

from unequal.commands import arguments
from unequal.data.records import RecordSet
from unequal.models import centers, checkpoints
from unequal.system import files, runtime
from unequal.system.text import say


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``unequal drop-centers``."""
    parser.description = (
        "Keeps of each class the centre that most of its images are nearest to, as sub-center "
        "ArcFace does before the noisy images are listed (`unequal noise`) and the model is "
        "trained anew.")
    parser.add_argument("model", metavar="PREFIX,EPOCH", help="trained with --sub-centers")
    parser.add_argument("out", metavar="OUT", help="prefix of the model to write: OUT-0000.params")
    parser.add_argument("--data-dir", required=True, metavar="DIR",
                        help="the record set it was trained on")
    arguments.add_inference(parser)


def run(options: argparse.Namespace) -> None:
    """Write OUT-symbol.json and OUT-0000.params; print how the images lie."""
    files.check_name(options.out)  # not after all the work
    with RecordSet(options.data_dir) as records:
        dropped = centers.drop(records, options.model,
                               devices=runtime.devices(options.devices or None),
                               batch_size=options.batch_size)
    checkpoints.save(options.out, 0, dropped.symbol, dropped.arg_params, dropped.aux_params)
    images = int(dropped.counts.sum())
    kept = int(dropped.counts.max(axis=1).sum())
    say(f"{checkpoints.params_path(options.out, 0)}: {len(dropped.counts)} classes, one centre "
        f"each instead of {dropped.counts.shape[1]}; {images - kept} of {images} images were "
        f"nearest to a centre that is dropped")
