"""What a resume needs, in one file: ``PREFIX-resume.npz``.

One rename publishes weights, momentum, tail and position together, so that they belong together
whenever the process is killed. Checkpoints (PREFIX-NNNN.params) are for everybody else.

The file is a zip of ``.npy`` arrays, as numpy.savez makes it (no pickle, a checksum each):
``arg:NAME``, ``aux:NAME`` and ``momentum:NAME`` of each parameter, ``tail`` (step 4: the epoch's
tail keys) and ``header``, UTF-8 JSON. It takes as much room as two checkpoints; while it is
replaced, four.

What is not in it follows from the batches done: the learning rate, loss type 1's annealing, the
order of the pictures (:meth:`unequal.data.batches.FaceIter.seek`), their augmentation and the
random numbers of dropout, which the loop seeds for each batch.
"""
import json
import logging
import os
import zipfile
import zlib
from typing import Any, Dict, NamedTuple, Optional

import mxnet as mx
import numpy as np

from unequal.errors import InputError
from unequal.models import checkpoints
from unequal.training import config

logger = logging.getLogger(__name__)

_VERSION = 1


class State(NamedTuple):
    """A run at the end of a batch."""

    position: dict  # what the loop counts: batches done, verifications, best accuracies, ...
    arg_params: dict  # name -> NDArray
    aux_params: dict
    momenta: dict  # name -> NDArray; empty before the first update and without momentum
    data: Dict[str, np.ndarray]  # what the stage's data saves (step 4: `tail`)


def path(prefix):
    """``prefix-resume.npz``."""
    return prefix + "-resume.npz"


def identity(stage, run, options):
    """What must be the same for a run to be continued: ``{name: value}``, fit for JSON.

    ``--data-dir`` and ``--devices`` are compared by what they mean: the images, the number.
    """
    facts = config.identity(options)
    facts.update({"the stage": stage.title, "the images": stage.data.fingerprint(),
                  "the number of devices": run.num_devices})
    return json.loads(json.dumps(facts))


def save(prefix, facts, state):
    """Replace the state of a run, all at once.

    Parameters
    ----------
    prefix : str
    facts : dict
        :func:`identity`.
    state : State

    Raises
    ------
    InputError
        When it cannot be written. The earlier state is untouched.
    """
    header = {"version": _VERSION, "identity": facts, "position": state.position}

    def arrays():
        yield "header", np.frombuffer(json.dumps(header).encode(), np.uint8)
        for kind, values in (("arg:", state.arg_params), ("aux:", state.aux_params),
                             ("momentum:", state.momenta)):
            for name, value in values.items():
                yield kind + name, value.asnumpy() if hasattr(value, "asnumpy") else value
        yield from state.data.items()

    def write(temporary):
        # As numpy.savez, which holds all arrays at once, and on a full disk complains once more
        # when its archive is collected.
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, array in arrays():
                with archive.open(name + ".npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    checkpoints.publish(path(prefix), write)


def find(prefix, resume, facts):
    """The state to continue from, or None to start anew.

    Parameters
    ----------
    prefix : str
    resume : str
        ``--resume``: ``""`` start anew, ``"must"``, or ``"auto"``: when there is one.
    facts : dict
        :func:`identity`.

    Raises
    ------
    InputError
        When there is none but must be, when it cannot be read, or when it belongs to another run;
        the text says what differs.
    """
    there = os.path.exists(path(prefix))
    if not resume:
        if there:
            logger.warning("%s of an earlier run will be replaced; stop and add --resume to "
                           "continue that run instead", path(prefix))
        return None
    if not there:
        if resume == "must":
            raise InputError("--resume: {}: no such file; nothing was saved under this --prefix "
                             "(--resume auto would start anew).".format(path(prefix)))
        logger.info("%s: no such file, so this run starts anew", path(prefix))
        return None
    found, state = _load(path(prefix))
    differing = ["{} was {}, is {}".format(name, found.get(name, "not given"),
                                           facts.get(name, "not given"))
                 for name in sorted({**found, **facts}) if found.get(name) != facts.get(name)]
    if differing:
        raise InputError("--resume: {} belongs to another run: {}; give what it was made with, or "
                         "another --prefix, or leave --resume out.".format(
                             path(prefix), "; ".join(differing)))
    return state


def _load(name):
    """``(identity, State)`` of a file that may be anybody's."""
    kinds = {"arg": {}, "aux": {}, "momentum": {}}
    try:
        with np.load(name, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            if header["version"] != _VERSION:
                raise ValueError("of version {}".format(header["version"]))
            data = {}
            for key in arrays.files:
                kind, _, parameter = key.partition(":")
                value = arrays[key]
                if parameter:
                    kinds[kind][parameter] = mx.nd.array(value, dtype=value.dtype)
                elif key != "header":
                    data[key] = value
            return header["identity"], State(header["position"], kinds["arg"], kinds["aux"],
                                             kinds["momentum"], data)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, MemoryError,
            NotImplementedError, zipfile.BadZipFile, zlib.error, mx.base.MXNetError) as error:
        raise InputError("--resume: {}: not the state of a run, or damaged ({}: {}); start from a "
                         "checkpoint with --pretrained instead.".format(
                             name, type(error).__name__, error)) from error


class RunStore:
    """A run's checkpoints and state under its prefix. Worker 0 writes, all read.

    Parameters
    ----------
    prefix : str
    facts : dict
        :func:`identity`.
    symbol : mxnet.symbol.Symbol
        Saved with the checkpoints.
    leading : bool
        Whether this is worker 0.
    """

    def __init__(self, prefix: str, facts: dict, symbol: Any, leading: bool = True) -> None:
        self.prefix, self.facts, self._symbol, self._leading = prefix, facts, symbol, leading
        if leading:
            checkpoints.clean(prefix)

    @property
    def path(self) -> str:
        """Of the state."""
        return path(self.prefix)

    def find(self, resume: str) -> Optional[State]:
        """:func:`find`."""
        return find(self.prefix, resume, self.facts)

    def save_model(self, epoch: int, params: Any) -> None:
        """PREFIX-NNNN.params and PREFIX-symbol.json."""
        if self._leading:
            checkpoints.save(self.prefix, epoch, self._symbol, *params)

    def save_state(self, state: State) -> None:
        """:func:`save`."""
        if self._leading:
            save(self.prefix, self.facts, state)
