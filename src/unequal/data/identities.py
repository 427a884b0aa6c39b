"""The names of the classes of a record set, and small tables in general."""
import csv
import os
from contextlib import suppress
from typing import Dict, Iterable, Sequence

from unequal.data.records import MAX_CLASSES
from unequal.errors import InputError
from unequal.system.files import bounded_lines, open_input, replacing
from unequal.system.text import from_cell, to_cells

_MAX_NAME = 255  # bytes, of file systems
_MAX_BYTES = 1 << 26  # of the table: twice what a million classes need


def write_table(path: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file; without a row no file, and an earlier one is removed.

    Text is written by :func:`unequal.system.text.to_cell`: names can come from anyone.
    """
    if not rows:
        with suppress(FileNotFoundError):
            os.remove(path)
        return
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(map(to_cells, rows))


def write_names(directory: str, names: Iterable[str]) -> None:
    """Write ``identities.csv``: which folder (``names[label]``) a class came from."""
    path = os.path.join(directory, "identities.csv")
    write_table(path, ("label", "name"), list(enumerate(names)))


def read_names(directory: str) -> Dict[int, str]:
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
        with open_input(path, _MAX_BYTES, encoding="utf-8", errors="surrogateescape",
                        newline="") as file:
            for row in csv.DictReader(bounded_lines(file, path)):
                label, name = int(row["label"]), from_cell(row["name"])
                if not 0 <= label < MAX_CLASSES:
                    raise ValueError
                if name in ("", os.curdir, os.pardir) or os.sep in name or "\0" in name \
                        or len(os.fsencode(name)) > _MAX_NAME:
                    raise InputError(f"{path}: the name {name!r} of class {label} is not that of a "
                                     "folder; correct or remove the file.")
                names[label] = name
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error):
        raise InputError(f"{path}: expected lines of `label,name`; correct or remove the "
                         "file.") from None
    if len(set(names.values())) < len(names):
        raise InputError(f"{path}: two classes have the same name; correct or remove the file.")
    return names
