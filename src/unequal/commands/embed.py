"""``unequal embed``: features of pictures, of folders of pictures and of record sets."""
import argparse
import os
from typing import Any, Iterator, List, Sequence, Tuple, Union

import numpy as np

from unequal.commands import arguments
from unequal.data.pictures import find_pictures
from unequal.data.records import RecordSet
from unequal.errors import InputError
from unequal.eval import features
from unequal.models.embedder import Embedder
from unequal.system import progress, runtime
from unequal.system.text import say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``unequal embed``."""
    parser.description = (
        "L2-normalised features of pictures. Pictures of another size than the network's are "
        "scaled; faces must be cropped and aligned before (`unequal pack`).")
    parser.add_argument("images", nargs="+", metavar="IMAGES",
                        help="picture files and folders of them, or one record set")
    parser.add_argument("--model", required=True, metavar="PREFIX,EPOCH", help="checkpoint")
    parser.add_argument("--out", required=True, metavar="FILE",
                        help=".npy (names go to FILE.txt), .npz with features and names, or a "
                             "folder FILE/ of the MegaFace devkit's files")
    parser.add_argument("--no-flip", action="store_true",
                        help="do not add the mirror image's embedding (twice as fast)")
    arguments.add_image_size(parser)
    arguments.add_inference(parser)


def run(options: argparse.Namespace) -> None:
    """``unequal embed``: write features and names, say what was written.

    Raises
    ------
    InputError
        When there is nothing to embed, or a picture that cannot be read.
    """
    features.writer(options.out)
    sets = [path for path in options.images if os.path.exists(os.path.join(path, "train.rec"))]
    if sets and len(options.images) > 1:
        raise InputError(f"{sets[0]}: is a record set; give it alone, as its pictures must not be "
                         "mixed with others.")
    pictures: Union[RecordSet, List[str]]
    keys: Any  # a sequence of them, cut into batches
    if sets:
        pictures = RecordSet(sets[0])
        keys = pictures.image_keys
    else:
        pictures = keys = [found for path in options.images for found in find_pictures(path)]
    embedder = Embedder.from_checkpoint(
        options.model, options.image_size,
        runtime.devices(options.devices or None), options.batch_size, flip=not options.no_flip)

    def batches(bar: progress.Bar) -> Iterator[Tuple[Sequence[str], np.ndarray]]:
        start = 0
        for labels, some in embedder.features(embedder.source(pictures)):
            names = keys[start:start + len(some)]
            if sets:  # the identity is the folder, as in a folder of pictures
                names = [f"{label:.0f}/{key}" for label, key in zip(labels, names)]
            yield names, some
            start += len(some)
            bar.update(len(some))

    shape = (len(keys), embedder.embedding_size)
    with progress.Bar(shape[0], "embedding", "images") as bar:
        features.write_features(options.out, shape, batches(bar))
    say(f"{options.out}: {shape[0]} features of length {shape[1]}")
