"""``unequal denoise``: a record set minus a noise list (the paper's "third type of noise")."""
import os
import shutil

import numpy as np

from unequal.commands.split import check_different, keys_by_identity, list_lines, walk
from unequal.data.identities import write_table
from unequal.data.records import RecordSet, RecordWriter
from unequal.errors import InputError
from unequal.system.files import replacing
from unequal.system.progress import track


def read_noise_list(path):
    """Read a noise list: lines ``label index maxP P[label]``, the reference's 0_noiselist.txt.

    Returns
    -------
    labels, keys : numpy.ndarray
        int64, shape (lines,); ``index`` is the key of the record.

    Raises
    ------
    InputError
        When a line makes no sense.
    """
    labels, keys = [], []
    with open(path, encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.split()
            if not fields:
                continue
            try:
                label, key = (float(field) for field in fields[:2])  # the reference's are floats
                if len(fields) not in (2, 4) or label != int(label) or key != int(key) \
                        or not max(abs(label), abs(key)) < 2 ** 53:
                    raise ValueError
            except (ValueError, OverflowError):
                raise InputError(
                    "{}, line {}: expected `label index maxP P[label]`, such as `17 2045 0.0031 "
                    "0.0002`; give a list that `unequal noise` wrote.".format(path, number)
                ) from None
            labels.append(int(label))
            keys.append(int(key))
    return np.array(labels, np.int64), np.array(keys, np.int64)


def denoise(directory, noise_list, out):
    """Copy a set without the images of a noise list.

    Classes keep their numbers and ``property`` its count, so a classifier trained on the whole set
    still fits; an identity without images loses its identity record. Records are copied byte for
    byte (their ``id`` still tells the key they had) and numbered anew without gaps; with an empty
    list the result is the source, byte for byte.

    Returns
    -------
    images, identities, dropped : int

    Raises
    ------
    InputError
        When the list belongs to another set, or names every image.
    """
    check_different(directory, out)
    with RecordSet(directory) as records:
        labels, noise = read_noise_list(noise_list)
        missing = noise[~np.isin(noise, records.image_keys)]
        if len(missing):
            raise InputError("{}: names the image {}, which {} does not have; give the list that "
                             "was made from this set.".format(noise_list, missing[0], directory))
        if len(np.unique(noise)) == len(records):
            raise InputError("{}: names every image of {}; lower the threshold it was made "
                             "with.".format(noise_list, directory))
        identities = len(records.identity_ranges) > 0
        if identities:
            keys, ends = keys_by_identity(records)
            images = walk(records, keys, ends)
        else:  # any order, no identity records to check
            images = ((None,) + records.image_payload(key) for key in records.image_keys)
        noisy = np.isin(records.image_keys, noise)
        expected = dict(zip(noise.tolist(), labels.tolist()))
        left = np.zeros(records.num_classes, bool)
        with RecordWriter(out, records.image_size, records.num_classes, identities,
                          first_key=int(records.image_keys[0])) as writer:
            for key, drop, line, (_, label, payload) in zip(
                    records.image_keys, noisy, list_lines(records),
                    track(images, "images", len(noisy))):
                if not drop:
                    writer.add_payload(label, payload, line)
                    left[label] = True
                elif expected[int(key)] != label:
                    raise InputError(
                        "{}: says that image {} has class {}, but in {} it has {}; give the list "
                        "that was made from this set.".format(
                            noise_list, key, expected[int(key)], directory, label))
        _copy_names(directory, out)
        return int((~noisy).sum()), int(left.sum()), int(noisy.sum())


def _copy_names(directory, out):
    try:
        with open(os.path.join(directory, "identities.csv"), "rb") as source, \
                replacing(os.path.join(out, "identities.csv"), binary=True) as target:
            shutil.copyfileobj(source, target)
    except FileNotFoundError:
        write_table(os.path.join(out, "identities.csv"), (), ())


def configure(parser):
    """Options of ``unequal denoise``."""
    parser.add_argument("directory", metavar="DIR", help="the record set")
    parser.add_argument("noise_list", metavar="NOISELIST",
                        help="the images to leave out: lines `label index maxP P[label]`, as "
                             "`unequal noise` writes them")
    parser.add_argument("out", metavar="OUT", help="the record set to make")


def run(options):
    """``unequal denoise``."""
    count, identities, dropped = denoise(options.directory, options.noise_list, options.out)
    print("{}: {} images of {} identities, {} images dropped".format(
        options.out, count, identities, dropped))
