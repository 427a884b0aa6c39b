"""``unequal embed``: features of pictures, of folders of pictures and of record sets."""
import logging
import os
import zipfile

import numpy as np

from unequal import progress, runtime
from unequal.embedder import Embedder
from unequal.errors import InputError
from unequal.files import replacing
from unequal.records import RecordSet

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")


def find_pictures(path):
    """Paths of all pictures below a folder, sorted; a file is itself, whatever its name."""
    if not os.path.isdir(path):
        return [path]
    found = sorted(os.path.join(folder, name) for folder, _, names in os.walk(path)
                   for name in names if name.lower().endswith(SUFFIXES))
    if not found:
        raise InputError("{}: neither a record set (train.rec) nor a folder with pictures "
                         "({}).".format(path, ", ".join(SUFFIXES)))
    return found


def write_array(file, shape, dtype, parts):
    """Write a ``.npy`` array of ``shape`` into an open file from consecutive parts of its rows."""
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)})
    for part in parts:
        file.write(np.ascontiguousarray(part, dtype).tobytes())


def write_features(path, shape, features, names, labels):
    """Write features as they come, so that memory does not grow with their number.

    Parameters
    ----------
    path : str
        ``.npy``: the features, and their names in ``path + ".txt"``, one a line. ``.npz``: arrays
        ``features`` float32 (n, D), ``names`` str (n,), ``labels`` float32 (n,).
    shape : tuple of int
        (n, D).
    features : iterable of numpy.ndarray
        Consecutive rows.
    names : sequence of str
        (n,).
    labels : list of numpy.ndarray
        Filled by the time ``features`` ends; only ``.npz`` keeps them.

    Raises
    ------
    InputError
        For another ending.
    """
    check_output(path)
    if path.endswith(".npy"):
        with replacing(path, binary=True) as file, replacing(path + ".txt") as lines:
            write_array(file, shape, np.float32, features)
            lines.writelines(name + "\n" for name in names)
        return
    with replacing(path, binary=True) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open(_member("features.npy"), "w", force_zip64=True) as member:
            write_array(member, shape, np.float32, features)
        for name, array in (("names", np.array(names, str)), ("labels", np.concatenate(labels))):
            with archive.open(_member(name + ".npy"), "w", force_zip64=True) as member:
                write_array(member, array.shape, array.dtype, [array])


def _member(name):
    # A fixed date: the same features are the same bytes.
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


def check_output(path):
    """InputError unless ``path`` ends in a format :func:`write_features` knows."""
    if not path.endswith((".npy", ".npz")):
        raise InputError("--out {}: end the name in .npy (features; names in a .txt beside it) or "
                         ".npz (features, names and labels).".format(path))


def configure(parser):
    """Add the arguments of ``unequal embed``."""
    parser.description = (
        "L2-normalised features of pictures. Pictures of another size than the network's are "
        "scaled; faces must be cropped and aligned before (`unequal pack`).")
    parser.add_argument("images", nargs="+", metavar="IMAGES",
                        help="picture files and folders of them, or one record set")
    parser.add_argument("--model", required=True, metavar="PREFIX,EPOCH", help="checkpoint")
    parser.add_argument("--out", required=True, metavar="FILE",
                        help=".npy (names go to FILE.txt), or .npz with features, names, labels")
    parser.add_argument("--no-flip", action="store_true",
                        help="do not add the mirror image's embedding (twice as fast)")
    add_image_size(parser)
    parser.add_argument("--batch-size", type=int, default=64,
                        help="pictures a forward pass (default %(default)s)")
    parser.add_argument("--devices", default="", help="cpu, cpu:N or gpu:0,1")


def add_image_size(parser):
    """Add ``--image-size``, for the checkpoint's network."""
    parser.add_argument("--image-size", metavar="HEIGHT,WIDTH",
                        help="of the network's input; default: found from its weights")


def image_size(text):
    """``--image-size`` as (height, width); None when it is not given."""
    if text is None:
        return None
    sides = text.split(",")
    if len(sides) != 2 or not all(side.isdigit() and int(side) for side in sides):
        raise InputError("--image-size {!r}: expected HEIGHT,WIDTH in pixels, such as "
                         "112,112.".format(text))
    return tuple(map(int, sides))


def run(options):
    """``unequal embed``: write features and names, say what was written.

    Raises
    ------
    InputError
        When there is nothing to embed, or a picture that cannot be read.
    """
    check_output(options.out)
    sets = [path for path in options.images if os.path.exists(os.path.join(path, "train.rec"))]
    if sets and len(options.images) > 1:
        raise InputError("{}: is a record set; give it alone, as its pictures must not be mixed "
                         "with others.".format(sets[0]))
    if sets:
        pictures = RecordSet(sets[0])
        names = [str(key) for key in pictures.image_keys]
    else:
        pictures = names = [found for path in options.images for found in find_pictures(path)]
    embedder = Embedder.from_checkpoint(
        options.model, image_size(options.image_size), runtime.devices(options.devices or None),
        options.batch_size, flip=not options.no_flip)
    labels = []

    def features(bar):
        for some, rows in embedder.features(embedder.source(pictures)):
            labels.append(some)
            yield rows
            bar.update(len(rows))

    shape = (len(names), embedder.embedding_size)
    with progress.Bar(len(names), "embedding", "images") as bar:
        write_features(options.out, shape, features(bar), names, labels)
    print("{}: {} features of length {}".format(options.out, *shape))
