"""Checkpoints in InsightFace's form: ``prefix-symbol.json`` and ``prefix-NNNN.params``.

Plain ``mx.model.load_checkpoint`` reads them. A file appears under its final name only when it is
whole and on disk, so a checkpoint that was there before survives a crash while saving.
"""
import json
import math
import os
import re
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

import mxnet as mx

from unequal.errors import ArgumentError, InputError
from unequal.models import untrusted
from unequal.models.untrusted import Params
from unequal.symbols import margins
from unequal.system.files import MAX_TABLE, check_name, open_input, remove_leftovers, replacing_path


def params_path(prefix: str, epoch: int) -> str:
    """``prefix-NNNN.params``."""
    return f"{prefix}-{epoch:04d}.params"


def parse(text: str, argument: str = "pretrained") -> Tuple[str, int]:
    """``'prefix,epoch'`` as ``(prefix, epoch)``; an epoch ``best`` is looked up by :func:`best`.

    Raises
    ------
    ArgumentError
        For text of another form, naming ``argument``.
    InputError
        When no best checkpoint is known.
    """
    prefix, _, epoch = text.rpartition(",")
    if prefix and "\0" not in prefix:
        if epoch.strip() == "best":
            return prefix, best(prefix)
        if re.fullmatch(r"\s*[0-9]{1,9}\s*", epoch):
            return prefix, int(epoch)
    raise ArgumentError(f"{argument} {text!r}: expected PREFIX,EPOCH with a number or best, such "
                        "as ../models/model,12.", argument)


def _events(path: str) -> Iterator[Dict[str, Any]]:
    """The events of a log; other lines are skipped (a kill can leave half a line)."""
    with open_input(path) as file:
        # An event has a few hundred bytes; a much longer line cannot be one.
        for line in iter(lambda: file.readline(1 << 20), b""):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                yield event


def _numbered(epoch: Any) -> bool:
    return type(epoch) is int and 0 < epoch < 10 ** 9


def _mean_accuracy(event: Dict[str, Any]) -> float:
    """Mean accuracy of a verification over its sets; minus infinity without any."""
    try:
        values = [float(result["accuracy_flip"]) for result in event["results"].values()]
    except (KeyError, TypeError, ValueError, AttributeError):
        return -math.inf
    return sum(values) / len(values) if values else -math.inf


def best(prefix: str) -> int:
    """The epoch number of the checkpoint that the run's event log calls best.

    Of the last run under this prefix, the numbered checkpoint with the highest mean accuracy over
    the verification sets. The log is ``PREFIX-trainlog.jsonl``, unless ``--log-dir`` or
    ``--log-file`` put it elsewhere. It is read once, line by line.

    Raises
    ------
    InputError
        When there is no such log, or it knows of none.
    """
    path = prefix + "-trainlog.jsonl"
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file, so which checkpoint is best is not known; give "
                         "PREFIX,EPOCH with a number.")
    found: Optional[int] = None
    highest, risen_at = -math.inf, None
    for event in _events(path):
        kind, step = event.get("event"), event.get("step")
        if kind == "start":
            found, highest, risen_at = None, -math.inf, None
        elif kind == "verify" and _mean_accuracy(event) > highest:
            highest, risen_at = _mean_accuracy(event), step
        elif kind == "save" and step == risen_at and step is not None:
            epoch = event.get("epoch")
            found = epoch if _numbered(epoch) else found
        elif kind == "end" and _numbered(event.get("best_epoch")):
            found = event["best_epoch"]  # the run's own choice, by its --select
    if found is None:
        raise InputError(f"{path}: calls no checkpoint best (none was saved at a verification); "
                         "give PREFIX,EPOCH with a number.")
    return found


def alone(prefix: str) -> bool:
    """Whether the last run under this prefix started from no checkpoint, by its log.

    Its model has then learnt from its own pictures only. False without a log.
    """
    path, found = prefix + "-trainlog.jsonl", False
    if os.path.isfile(path):
        for event in _events(path):
            if event.get("event") == "start":
                options = event.get("options")
                found = isinstance(options, dict) and options.get("pretrained") == ""
    return found


def publish(path: str, write: Callable[[str], None]) -> None:
    """Call ``write`` with a temporary name, then rename the complete file to ``path``.

    Raises
    ------
    InputError
        When it cannot be written. What stood there before is untouched.
    """
    check_name(path)
    try:
        with replacing_path(path) as temporary:
            write(temporary)
    except (mx.base.MXNetError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[-1].strip()
        raise InputError(f"{path}: cannot be written ({reason}); is the disk full or the directory "
                         "read-only? What was saved before is still there.") from error


def _write_symbol(path: str, symbol: mx.sym.Symbol) -> None:
    # Not symbol.save: on a full disk that leaves an empty file and says nothing.
    with open(path, "w", encoding="utf-8") as file:
        file.write(symbol.tojson())


def _write_arrays(path: str, arrays: Params) -> None:
    mx.nd.save(path, arrays)
    # A disk that is full just before the end goes unnoticed by MXNet, so count: 32 bytes of the
    # file's own, for each array a head of 24, 8 a dimension, the values, 8 and the name.
    size = 32 + sum(32 + 8 * array.ndim + array.size * array.dtype().itemsize + len(name.encode())
                    for name, array in arrays.items())
    if os.path.getsize(path) != size:
        raise OSError(f"{os.path.getsize(path)} of {size} bytes were written")


def save(prefix: str, epoch: int, symbol: mx.sym.Symbol, arg_params: Params, aux_params: Params
         ) -> None:
    """Write a checkpoint; its directory is made when missing.

    Raises
    ------
    InputError
        When it cannot be written. What stood there before is untouched.
    """
    arrays = {"arg:" + name: value for name, value in arg_params.items()}
    arrays.update(("aux:" + name, value) for name, value in aux_params.items())
    publish(prefix + "-symbol.json", lambda path: _write_symbol(path, symbol))
    publish(params_path(prefix, epoch), lambda path: _write_arrays(path, arrays))


def sub_centers(prefix: str) -> int:
    """Rows of the classifier a class (``--sub-centers``), 1 where the symbol says nothing.

    For a checkpoint that :func:`load` has read: the head is no part of what it returns.
    """
    with open_input(prefix + "-symbol.json", MAX_TABLE, encoding="utf-8") as file:
        for node in json.load(file)["nodes"]:
            if isinstance(node, dict) and node.get("name") == "fc7_weight":
                attributes = node.get("attrs")
                text = str(attributes.get(margins.SUB_CENTERS) if isinstance(attributes, dict)
                           else "")
                return max(1, int(text)) if re.fullmatch(r"[0-9]{1,3}", text) else 1
    return 1


def clean(prefix: str) -> None:
    """Remove what a killed run of this prefix was writing, its state (.npz) included."""
    directory, name = os.path.split(prefix)
    remove_leftovers(directory, re.escape(name)
                     + r"-(?:\d{4,}\.params|symbol\.json|resume(?:\.1)?\.npz)")


def load(prefix: str, epoch: int) -> Tuple[mx.sym.Symbol, Params, Params]:
    """Return ``(symbol, arg_params, aux_params)``.

    The symbol is the embedding network, without a training head; the parameters are all. The files
    may come from anywhere (:mod:`unequal.models.untrusted`).

    Raises
    ------
    InputError
        When a file is missing or is not what its name says.
    """
    for path in (prefix + "-symbol.json", params_path(prefix, epoch)):
        if not os.path.isfile(path):
            raise InputError(f"{path}: no such file; a checkpoint PREFIX,EPOCH is "
                             "PREFIX-symbol.json and PREFIX-EPOCH.params.")
    return (untrusted.read_symbol(prefix + "-symbol.json"),
            *untrusted.read_arrays(params_path(prefix, epoch)))
