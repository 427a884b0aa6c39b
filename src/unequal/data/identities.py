"""The names of the classes of a record set, and small tables in general."""
import csv
import os
from contextlib import suppress

from unequal.errors import InputError
from unequal.system.files import replacing

_MAX_NAME = 255  # bytes, of file systems


def write_table(path, header, rows):
    """A CSV file, or none (not even an earlier one) where there is no row."""
    if not rows:
        with suppress(FileNotFoundError):
            os.remove(path)
        return
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_names(directory, names):
    """Write ``identities.csv``: which folder (``names[label]``) a class came from."""
    path = os.path.join(directory, "identities.csv")
    write_table(path, ("label", "name"), list(enumerate(names)))


def read_names(directory):
    """Names of the classes from ``identities.csv``: dict of int to str; empty without that file.

    Raises
    ------
    InputError
        When the file is damaged, or a name could not be that of one folder: it may come from
        anywhere.
    """
    path = os.path.join(directory, "identities.csv")
    names = {}
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            for row in csv.DictReader(file):
                label, name = int(row["label"]), row["name"]
                if name in ("", os.curdir, os.pardir) or os.sep in name or "\0" in name \
                        or len(os.fsencode(name)) > _MAX_NAME:
                    raise InputError("{}: the name {!r} of class {} is not that of a folder; "
                                     "correct or remove the file.".format(path, name, label))
                names[label] = name
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, csv.Error):
        raise InputError("{}: expected lines of `label,name`; correct or remove the file.".format(
            path)) from None
    if len(set(names.values())) < len(names):
        raise InputError("{}: two classes have the same name; correct or remove the file.".format(
            path))
    return names
