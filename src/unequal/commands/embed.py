"""``unequal embed``: features of pictures, of folders of pictures and of record sets."""
import logging
import os
import shutil
import zipfile

import numpy as np

from unequal.data.records import RecordSet
from unequal.errors import InputError
from unequal.eval.features import mat_bytes
from unequal.models.embedder import Embedder
from unequal.system import progress, runtime
from unequal.system.files import replacing

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


def _write_array(file, shape, dtype, parts):
    """Write a ``.npy`` array of ``shape`` into an open file from consecutive parts of its rows."""
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)})
    for part in parts:
        file.write(np.ascontiguousarray(part, dtype).tobytes())


def _write_npy(path, shape, batches):
    with replacing(path, binary=True) as file, replacing(path + ".txt") as lines:
        def rows():
            for names, features in batches:
                lines.writelines(name + "\n" for name in names)
                yield features

        _write_array(file, shape, np.float32, rows())


def _write_npz(path, shape, batches):
    every = []

    def rows():
        for names, features in batches:
            every.extend(names)
            yield features

    with replacing(path, binary=True) as file, zipfile.ZipFile(file, "w") as archive:
        for name, write in (
                ("features.npy", lambda member: _write_array(member, shape, np.float32, rows())),
                ("names.npy", lambda member: np.save(member, np.array(every, str)))):
            # A fixed date: the same features are the same bytes.
            with archive.open(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), "w",
                              force_zip64=True) as member:
                write(member)


def _write_tree(path, shape, batches):
    path = path.rstrip(os.sep)
    if os.path.isdir(path) and os.listdir(path):
        raise InputError("{}: is not empty; name a new folder, or remove this one.".format(path))
    building = "{}.{}".format(path, os.getpid())
    try:
        for names, features in batches:
            for name, feature in zip(names, features):
                # Never outside of the folder, wherever the picture came from.
                inside = os.path.normpath(os.sep + name).lstrip(os.sep)
                target = os.path.join(building, inside + ".bin")
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, "wb") as file:
                    file.write(mat_bytes(feature))
        os.replace(building, path)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _writer(path):
    if path.endswith(os.sep):
        return _write_tree
    writers = {".npy": _write_npy, ".npz": _write_npz}
    ending = os.path.splitext(path)[1]
    if ending not in writers:
        raise InputError("--out {}: end the name in .npy (features; names in a .txt beside it), "
                         ".npz (features and names) or {} (a folder of the MegaFace devkit's "
                         "files).".format(path, os.sep))
    return writers[ending]


def write_features(path, shape, batches):
    """Write features as they come, so that memory does not grow with them; whole or not at all.

    Parameters
    ----------
    path : str
        ``.npy``: the features, and their names in ``path + ".txt"``, one a line. ``.npz``: arrays
        ``features`` float32 (n, D) and ``names`` str (n,). A path that ends in a slash: a folder
        of the MegaFace devkit's feature files, ``NAME.bin``.
    shape : tuple of int
        (n, D).
    batches : iterable of tuple
        ``(names, features)``: a list of str and float32 (some, D).

    Raises
    ------
    InputError
        For another ending, or a folder that is not empty.
    """
    _writer(path)(path, shape, batches)


def configure(parser):
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
    _writer(options.out)
    sets = [path for path in options.images if os.path.exists(os.path.join(path, "train.rec"))]
    if sets and len(options.images) > 1:
        raise InputError("{}: is a record set; give it alone, as its pictures must not be mixed "
                         "with others.".format(sets[0]))
    if sets:
        pictures = RecordSet(sets[0])
        keys = pictures.image_keys
    else:
        pictures = keys = [found for path in options.images for found in find_pictures(path)]
    embedder = Embedder.from_checkpoint(
        options.model, image_size(options.image_size), runtime.devices(options.devices or None),
        options.batch_size, flip=not options.no_flip)

    def batches(bar):
        start = 0
        for labels, features in embedder.features(embedder.source(pictures)):
            names = keys[start:start + len(features)]
            if sets:  # the identity is the folder, as in a folder of pictures
                names = ["{:.0f}/{}".format(label, key) for label, key in zip(labels, names)]
            yield names, features
            start += len(features)
            bar.update(len(features))

    shape = (len(keys), embedder.embedding_size)
    with progress.Bar(shape[0], "embedding", "images") as bar:
        write_features(options.out, shape, batches(bar))
    print("{}: {} features of length {}".format(options.out, *shape))
