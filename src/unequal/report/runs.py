"""A run as a page shows it: from ``run.json`` if there is one, otherwise from the training logs.

Both are untrusted: every value that is used is checked here, once, so that the sections can rely on
it.
"""
import json
import logging
import math
import os
from functools import cached_property
from typing import Any, Dict, List, Optional, Tuple

from unequal.data import pictures as images
from unequal.errors import InputError
from unequal.eval import bins
from unequal.models.embedder import Embedder, PictureList
from unequal.system import runtime
from unequal.system.files import open_input

logger = logging.getLogger(__name__)

HEAD = "MF2_pic9_head"  # as `unequal synth` and the recipe name it
LOG_ENDING = "-trainlog.jsonl"
_MAX_BYTES = 1 << 28  # of a log; MF2's longest stage writes some 30 MB
_MAX_LOGS = 100
_STEPS = ("train", "verify", "lr")  # events that are drawn at their batch
_TEXTS = ("eval_dir", "prefix", "pretrained")  # options that sections take apart

Event = Dict[str, Any]


def _read(path: str) -> str:
    """The text of a plain file of bounded size."""
    with open_input(path, _MAX_BYTES) as file:
        return file.read().decode("utf-8", "replace")


def _number(value: Any) -> float:
    """A finite number; NaN for null, and for numbers beyond float32.

    Sums of larger numbers could become infinite.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError
    return float(value) if abs(value) < 1 << 127 else math.nan


def _checked(event: Any) -> Event:
    """An event with the types that the sections use."""
    if not isinstance(event, dict) or not isinstance(event["event"], str):
        raise ValueError
    step = event["step"] if event["event"] in _STEPS else event.get("step", 0)
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 1 << 53:
        raise ValueError
    # In every event, because the first one, of whatever kind, is asked for the options.
    options = event.setdefault("options", {})
    if not all(isinstance(options.get(name) or "", str) for name in _TEXTS):
        raise ValueError
    for name in ("time", "lr", "speed"):
        if name in event:
            event[name] = _number(event[name])
    if event["event"] == "start":
        event["stage"] = str(event.get("title", event.get("stage", "")))
    elif event["event"] == "train":
        event["metrics"] = {str(name): _number(value)
                            for name, value in event.get("metrics", {}).items()}
    elif event["event"] == "verify":
        event["results"] = {
            str(name): {key: _number(value) for key, value in result.items()
                        if key in ("accuracy", "accuracy_flip", "pairs")}
            for name, result in event["results"].items()}
    return event


def last_training(path: str) -> List[Event]:
    """Events of a training log (``PREFIX-trainlog.jsonl``) since its last start.

    A last line that a kill has cut is left out. Memory: that of the events, about twice the file.

    Raises
    ------
    InputError
        When it is another file, or a value in it is none of a training log's.
    """
    events: List[Event] = []
    lines = _read(path).split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event = _checked(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            if number == len(lines) and events:  # half a line, left by a kill
                break
            raise InputError(f"{path}, line {number}: not an event of a training log; give the "
                             "PREFIX-trainlog.jsonl of a training script.") from None
        if event["event"] == "start":
            events = []
        events.append(event)
    return events


def best_checkpoint(events: List[Event]) -> Optional[int]:
    """The best checkpoint of a finished training, by its log; of an unfinished one the last."""
    for event in reversed(events):
        epoch = event.get("best_epoch") if event["event"] == "end" else None
        if isinstance(epoch, int):
            return epoch
    saved = [event.get("epoch") for event in events if event["event"] == "save"]
    kept = [epoch for epoch in saved if isinstance(epoch, int) and epoch > 0]
    return kept[-1] if kept else (0 if saved else None)


def accuracies(events: List[Event]) -> Dict[str, float]:
    """Accuracies (mirror images added) of the verification with the best mean; empty without one.
    """
    found = [{name: result.get("accuracy_flip", math.nan)
              for name, result in event["results"].items()}
             for event in events if event["event"] == "verify"]
    return max((rates for rates in found if rates), default={},
               key=lambda rates: sum(rates.values()) / len(rates))


def counted_pairs(events: List[Event]) -> Dict[str, int]:
    """Pairs of each verification set that a log tells of."""
    return {name: int(result["pairs"]) for event in events if event["event"] == "verify"
            for name, result in event["results"].items()
            if 1 <= result.get("pairs", 0) < 1 << 53}


def discovered(directory: str) -> Dict[str, Any]:
    """The content of a ``run.json``, made from the training logs in a directory and below it.

    It also has ``pairs``: how many pairs each verification set has.

    Raises
    ------
    InputError
        When there is no log.
    """
    paths: List[str] = []
    pairs: Dict[str, int] = {}
    for folder, inner, names in os.walk(directory):
        inner.sort()
        paths += [os.path.join(folder, name) for name in sorted(names)
                  if name.endswith(LOG_ENDING)]
    rows = []
    for path in paths[:_MAX_LOGS]:
        events = last_training(path)
        if not events or events[0]["event"] != "start":
            continue
        pairs.update(counted_pairs(events))
        prefix, epoch = path[:-len(LOG_ENDING)], best_checkpoint(events)
        name = os.path.relpath(prefix, directory)
        stage = events[0]["stage"]
        row = {"name": f"{stage}: {name}" if stage else name,
               "log": os.path.relpath(path, directory), "accuracies": accuracies(events)}
        if epoch is not None and os.path.exists(f"{prefix}-{epoch:04d}.params"):
            row["model"] = f"{name},{epoch}"
        rows.append((events[0].get("time", math.nan), row))
    if not rows:
        raise InputError(
            f"{directory}: neither run.json nor a training log (PREFIX{LOG_ENDING}) is in it; give "
            "the directory that holds the checkpoints of a run.")
    rows.sort(key=lambda pair: (not pair[0] == pair[0], pair[0]))
    return {"title": os.path.basename(os.path.abspath(directory)), "rows": [row for _, row in rows],
            "pairs": pairs}


class Run:
    """A run directory.

    Parameters
    ----------
    directory : str

    Attributes
    ----------
    facts : dict
        ``run.json`` as it is (docs/evaluation.md), or what the logs tell.
    title : str
    rows : list of dict
        Each with ``name`` and ``accuracies``; ``model`` and ``log`` where there are.
    targets : list of str
        The verification sets of all rows.
    logs : list of list of dict
        Of each row, the events of its training log; empty without one.
    from_logs : bool
        Whether there is no ``run.json``.

    Raises
    ------
    InputError
        When there is neither ``run.json`` nor a log, or what is there is damaged.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        if not os.path.isdir(directory):
            raise InputError(f"{directory}: no such directory; give that of a run.")
        path = os.path.join(directory, "run.json")
        self.from_logs = not os.path.exists(path)
        try:
            self.facts = (discovered(directory) if self.from_logs
                          else _checked_facts(json.loads(_read(path))))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            raise InputError(f"{path}: expected JSON with a title and rows, each with a name and "
                             "accuracies; docs/evaluation.md describes it.") from None
        self._pairs: Dict[str, int] = self.facts["pairs"] if self.from_logs else {}
        self.title, self.rows = self.facts["title"], self.facts["rows"]
        self.targets = list(dict.fromkeys(
            target for row in self.rows for target in row["accuracies"]))
        logs = [self.path(row.get("log")) for row in self.rows]
        self.logs = [last_training(log) if log else [] for log in logs]

    def path(self, *names: Optional[str]) -> Optional[str]:
        """The path ``RUN/name/...``; None when a name is None, or nothing is there."""
        known = [name for name in names if name is not None]
        if len(known) < len(names):
            return None
        path = os.path.join(self.directory, *known)
        if os.path.exists(path):
            return path
        logger.warning("%s is not there: left out of the page", path)
        return None

    def part(self, section: str, name: str) -> Optional[str]:
        """:meth:`path` of an entry of a section such as ``noise``."""
        return self.path(self.facts.get(section, {}).get(name))

    def data(self, *names: str) -> Optional[str]:
        """:meth:`path` within the data directory."""
        return self.path(self.facts.get("data"), *names)

    @cached_property
    def sets(self) -> Dict[str, Tuple[PictureList, Any]]:
        """Verification sets of the data: name -> ``(PictureList, issame)``.

        Memory: the encoded pictures (a few hundred MB at 112x112).
        """
        directory = self.data("eval_dataset")
        paths = bins.find_sets("", directory, self.targets) if directory else {}
        loaded = {}
        for name, path in paths.items():
            pictures, issame = bins.load_bin(path)
            loaded[name] = PictureList(pictures, path), issame
        return loaded

    def pairs(self, target: str) -> Optional[int]:
        """How many pairs a verification set has; None where that is not known."""
        if target in self._pairs:
            return self._pairs[target]
        return len(self.sets[target][1]) if target in self.sets else None

    def _trained_on(self, option: str) -> Optional[str]:
        """The record set that an option of the last training named, where it still is."""
        for events in reversed(self.logs):
            path = events[0].get("options", {}).get(option) if events else None
            if isinstance(path, str) and "\0" not in path and os.path.isfile(
                    os.path.join(path, "train.rec")):
                return path
        return None

    @property
    def head(self) -> Optional[str]:
        """Path of the head set, or None; without ``run.json`` what was trained on."""
        return self._trained_on("data_dir") if self.from_logs else self.data(HEAD)

    @property
    def tail(self) -> Optional[str]:
        """Path of the tail set, or None."""
        return (self._trained_on("data_dir_interclass") if self.from_logs
                else self.part("tail", "directory"))

    def embedder(self, row: Dict[str, Any], source: Any) -> Embedder:
        """The embedder of a row's model, for pictures like the first of ``source``."""
        devices = runtime.devices(None)
        first = source.image(source.image_keys[0])[1]
        size = images.decode(first, f"{source.path}: image 0").shape[:2]
        return Embedder.from_checkpoint(
            os.path.join(self.directory, row["model"]), size, devices, 64 * len(devices),
            argument=f"{row['name']}: the model")


def _checked_facts(facts: Any) -> Dict[str, Any]:
    facts["title"] = str(facts["title"])
    if not facts["rows"] or not isinstance(facts["rows"], list):
        raise ValueError
    for row in facts["rows"]:
        row["name"] = str(row["name"])
        row["accuracies"] = {str(target): _number(value)
                             for target, value in row["accuracies"].items()}
        for name in ("model", "log"):
            if row.get(name) is None:
                row.pop(name, None)
            elif not isinstance(row[name], str) or "\0" in row[name]:
                raise ValueError
    for section, names in (("noise", ("list", "scores", "truth")), ("tail", ("directory",))):
        entries = facts.setdefault(section, {})
        if not all(entries.get(name) is None or isinstance(entries[name], str) for name in names):
            raise ValueError
    if not isinstance(facts.get("data", ""), str):
        raise ValueError
    if "seconds" in facts and not 0 <= _number(facts["seconds"]) < 1e9:
        raise ValueError
    if "seed" in facts and not (isinstance(facts["seed"], int) and 0 <= facts["seed"] < 1 << 32):
        raise ValueError
    if not isinstance(facts.get("commands") or [], list):
        raise ValueError
    return facts
