"""A person's decisions about suspected pictures: a CSV file to which lines are only appended.

Lines are ``key,decision,label``: the record's key, one of :data:`DECISIONS`, and for ``relabel``
the class that the picture shows. The last line of a key counts. Because each decision is one
appended line, a kill loses none, and two pages on one file do not overwrite each other.
"""
import csv
import fcntl
import logging
import os
from typing import Dict, List, NamedTuple, Optional

from unequal.errors import InputError
from unequal.system.files import open_input

logger = logging.getLogger(__name__)

DECISIONS = ("keep", "drop", "relabel", "unsure")
FIELDS = ("key", "decision", "label")
MAX_BYTES = 1 << 28  # ten million decisions


class Decision(NamedTuple):
    """One line."""

    key: int
    decision: str  # of DECISIONS
    label: Optional[int] = None  # the class shown; for relabel only


def _parse(line: str, where: str) -> Decision:
    try:
        key, decision, label = next(csv.reader([line]))
        if decision not in DECISIONS or (decision == "relabel") != bool(label):
            raise ValueError
        parsed = Decision(int(key), decision, int(label) if label else None)
        if parsed.key < 0 or not 0 <= (parsed.label or 0) < 1 << 24:
            raise ValueError
        return parsed
    except (ValueError, StopIteration, csv.Error):
        raise InputError(
            f"{where}: expected `key,decision,label` with a decision of {', '.join(DECISIONS)} "
            "and a label only for relabel, such as `17,relabel,4` or `18,drop,`; correct the "
            "line.") from None


class DecisionFile:
    """Read and append decisions; safe between threads that share a lock, and between processes.

    Memory grows by about 200 bytes a key that was decided on.

    Parameters
    ----------
    path : str
        Made with a header line at the first decision.

    Raises
    ------
    InputError
        When the file holds something else.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.last: Dict[int, Decision] = {}
        self.cut = False  # whether a last line without an end was left
        self._position = 0  # bytes read so far
        self._lines = 0
        self.read()

    def read(self) -> List[Decision]:
        """The decisions that have come since the last call, from this process or another.

        An incomplete last line is not read: another process is writing it, or was killed.
        """
        try:
            with open_input(self.path, MAX_BYTES) as file:
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data.rfind(b"\n") + 1
        self.cut = whole < len(data)
        data = data[:whole]
        self._position += len(data)
        new = []
        for line in data.decode("utf-8", "replace").splitlines():
            self._lines += 1
            if self._lines == 1 and line.strip() == ",".join(FIELDS) or not line.strip():
                continue
            new.append(_parse(line, f"{self.path}, line {self._lines}"))
        self.last.update((decision.key, decision) for decision in new)
        return new

    def append(self, decision: Decision) -> None:
        """Write one decision to disk and wait until it is there."""
        os.makedirs(os.path.dirname(self.path) or os.curdir, exist_ok=True)
        with open(self.path, "ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released with the file
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":  # a writer was killed in the middle of its line
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            if not file.seek(0, os.SEEK_END):
                file.write((",".join(FIELDS) + "\n").encode())
            label = "" if decision.label is None else decision.label
            file.write(f"{decision.key},{decision.decision},{label}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        self.read()


def read_decisions(path: str) -> Dict[int, Decision]:
    """The decision that counts for each key.

    Raises
    ------
    InputError
        When there is no such file, or a line makes no sense.
    """
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file; `unequal review` writes one.")
    file = DecisionFile(path)
    if file.cut:
        logger.warning("%s: the last line is left out, as it has no end and may be half of one; "
                       "end it with a line break if it is whole", path)
    return file.last
