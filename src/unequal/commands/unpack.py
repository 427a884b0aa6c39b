"""``unequal unpack``: a record set to a folder of folders."""
import os
import shutil

from unequal.data.identities import read_names
from unequal.data.records import RecordSet
from unequal.errors import InputError
from unequal.system.progress import track

_EXTENSIONS = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"BM": ".bmp", b"RI": ".webp"}


def unpack(directory, out):
    """Write every image of a record set to ``out/identity/key.jpg``, the bytes as stored.

    Identities are called as in ``identities.csv``, or by number. Returns the number of images.

    Raises
    ------
    InputError
        When ``out`` holds something already, or a record is damaged; then nothing is left there.
    """
    out = os.path.normpath(out)
    if os.path.lexists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise InputError("{}: exists already and is not an empty folder; name another.".format(out))
    with RecordSet(directory) as records:
        names = read_names(directory)
        digits = len(str(records.num_classes - 1))
        key_digits = len(str(records.image_keys[-1]))
        parent, name = os.path.split(out)
        temporary = os.path.join(parent, ".{}.{}".format(name, os.getpid()))
        made = {}  # label -> folder
        try:
            os.makedirs(temporary)
            for key in track(records.image_keys, "images"):
                label, data = records.image(key)
                if label not in made:
                    folder = names.get(label, str(label).zfill(digits))
                    made[label] = _make_folder(temporary, folder, directory)
                name = str(key).zfill(key_digits) + _EXTENSIONS.get(data[:2], ".bin")
                with open(os.path.join(made[label], name), "wb") as file:
                    file.write(data)
            os.replace(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return len(records)


def _make_folder(parent, name, directory):
    path = os.path.join(parent, name)
    try:
        os.mkdir(path)
    except FileExistsError:  # the number of one class may be the name of another
        raise InputError("{}: two classes would share the folder {}; correct or remove the "
                         "file.".format(os.path.join(directory, "identities.csv"), name)) from None
    return path


def configure(parser):
    """Options of ``unequal unpack``."""
    parser.add_argument("directory", metavar="DIR", help="the record set")
    parser.add_argument("out", metavar="OUT", help="the folder to make, one folder an identity")


def run(options):
    """``unequal unpack``."""
    count = unpack(options.directory, options.out)
    print("{}: {} images".format(options.out, count))
