"""``--config FILE``: settings that a person keeps in a file, in the manner of InsightFace.

The file holds ``config``, values by the names of :mod:`unequal.training.config`, and may hold
``network`` and ``dataset``, presets by name. The network is chosen by ``--network`` or
``config.network``, the data set by ``config.dataset``. Later ones win: the defaults, the network's
preset, the data set's, ``config``, the command line. ``config.py`` of a checkout is an example.

A ``.json`` file is data. A ``.py`` file is a program, which is run: use none that you would not run
yourself.
"""
import difflib
import json
import logging
import runpy
import traceback
from typing import Any, Dict, List, Mapping, Type

from unequal.errors import InputError
from unequal.system.files import MAX_TABLE, open_input
from unequal.training.config import ROWS, Config
from unequal.training.flags import rows

logger = logging.getLogger(__name__)


def value_of(flag: str, words: List[str]) -> str:
    """The value of a flag on a command line, the last one if repeated; empty without it."""
    found = ""
    for index, word in enumerate(words):
        if word == "--":
            break
        if word == flag and index + 1 < len(words):
            found = words[index + 1]
        elif word.startswith(flag + "="):
            found = word[len(flag) + 1:]
    return found


def _read(path: str) -> Mapping[str, Any]:
    """The names that a file of settings defines."""
    if path.endswith(".json"):
        try:
            with open_input(path, MAX_TABLE, encoding="utf-8") as file:
                found = json.load(file)
        except (ValueError, RecursionError):
            raise InputError(f"{path}: is not JSON text.") from None
        if not isinstance(found, dict):
            raise InputError(f"{path}: expected an object of settings by name.")
        return found if isinstance(found.get("config"), dict) else {"config": found}
    if not path.endswith(".py"):
        raise InputError(f"{path}: a file of settings ends in .py (a program, which is run) or "
                         ".json.")
    logger.info("%s: this program is run for its settings", path)
    try:
        return runpy.run_path(path)
    except OSError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if frame.filename == path]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        raise InputError(f"{path}, line {line}: {type(error).__name__}: {error}; mend the "
                         "file.") from error


def _checked(settings: Any, path: str, what: str) -> Dict[str, Any]:
    if not isinstance(settings, Mapping):
        raise InputError(f"{path}: {what} must be settings by name (an EasyDict).")
    for name in settings:
        if name not in ROWS or name == "config":
            close = difflib.get_close_matches(str(name), ROWS, 1)
            raise InputError(f"{path}: {name!r} in {what} is no setting"
                             + (f"; did you mean {close[0]}?" if close else "."))
    return dict(settings)


def defaults(path: str, made: Type[Config], network: str = "") -> Dict[str, Any]:
    """The values of a file of settings that a configuration has a field for.

    Parameters
    ----------
    path : str
        ``.json``, or ``.py``, which is run.
    made : type
        The configuration; settings that only another step has are left out.
    network : str
        Chosen on the command line; default: the file's ``config.network``, or the usual one.

    Raises
    ------
    InputError
        When the file cannot be used, or for a name that is no setting of any step.
    """
    found = _read(path)
    if not isinstance(found.get("config"), Mapping):
        raise InputError(f"{path}: defines no config (an EasyDict of settings by name).")
    chosen = dict(found["config"])
    dataset = chosen.pop("dataset", "")
    own = _checked(chosen, path, "config")
    network = network or own.get("network", ROWS["network"].default)
    values: Dict[str, Any] = {}
    for kind, name in (("network", network), ("dataset", dataset)):
        presets = found.get(kind, {})
        if not isinstance(presets, Mapping):
            raise InputError(f"{path}: {kind} must be presets by name (an EasyDict).")
        if kind == "dataset" and name and name not in presets:
            raise InputError(f"{path}: {name!r} is no preset of dataset; there are "
                             f"{', '.join(map(str, presets)) or 'none'}.")
        if name in presets:
            values.update(_checked(presets[name], path, f"{kind}.{name}"))
    values.update(own)
    fields = {row.name for row in rows(made)}
    return {name: value for name, value in values.items() if name in fields}
