"""The state of a run, from which ``--resume`` continues, in one file: ``PREFIX-resume.npz``.

One rename publishes weights, momentum, tail and position together, so that they always match,
whenever the process is killed. All other programs use the checkpoints (PREFIX-NNNN.params).

The file is a zip of ``.npy`` arrays, as numpy.savez makes it (no pickle, a checksum each):
``arg:NAME``, ``aux:NAME`` and ``momentum:NAME`` of each parameter, ``tail`` (step 4: the epoch's
tail keys) and ``header``, UTF-8 JSON. It takes as much room as two checkpoints; with
the one before it, ``PREFIX-resume.1.npz``, four; while it is replaced, six.

A state may come from an untrusted source: names, shapes and dtypes are compared with the network's
before an array is read, so that reading takes no more memory than the network.

The file need not hold what follows from the number of batches done: the learning rate, loss type
1's annealing, the order of the pictures (:meth:`unequal.data.batches.FaceIter.seek`), their
augmentation and dropout's random numbers, which are seeded for each batch.
"""
import json
import logging
import math
import os
import struct
import zipfile
import zlib
from typing import IO, Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import mxnet as mx
import numpy as np

from unequal.errors import ArgumentError, InputError
from unequal.models import checkpoints
from unequal.system import files
from unequal.training import config

logger = logging.getLogger(__name__)

_VERSION = 1

# ``arg:NAME``, ``aux:NAME`` and ``momentum:NAME`` -> shape and dtype.
Expected = Dict[str, Tuple[tuple, Any]]


class State(NamedTuple):
    """A run at the end of a batch."""

    position: dict  # the loop's counters: batches done, verifications, best accuracies, ...
    arg_params: dict  # name -> NDArray
    aux_params: dict
    momenta: dict  # name -> NDArray; empty before the first update and without momentum
    data: Dict[str, np.ndarray]  # what the stage's data saves (step 4: `tail`)


def path(prefix: str) -> str:
    """``prefix-resume.npz``."""
    return prefix + "-resume.npz"


def exists(prefix: str) -> bool:
    """Whether there is a state to continue from."""
    return os.path.exists(path(prefix)) or os.path.exists(previous(prefix))


def previous(prefix: str) -> str:
    """``prefix-resume.1.npz``, the state before the last one."""
    return prefix + "-resume.1.npz"


def identity(stage: Any, run: Any, options: Any) -> Dict[str, Any]:
    """Settings that must not change when a run is continued: ``{name: value}``, fit for JSON.

    Of ``data_dir`` the images count and not the path, of ``devices`` only their number.
    """
    facts = config.identity(options)
    facts.update({"the stage": stage.title, "the images": stage.data.fingerprint(),
                  "the number of devices": run.num_devices})
    return json.loads(json.dumps(facts))


def save(prefix: str, facts: dict, state: State) -> None:
    """Replace the state of a run, all at once; the one before it stays as :func:`previous`.

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

    def arrays() -> Iterator[Tuple[str, np.ndarray]]:
        yield "header", np.frombuffer(json.dumps(header).encode(), np.uint8)
        for kind, values in (("arg:", state.arg_params), ("aux:", state.aux_params),
                             ("momentum:", state.momenta)):
            for name, value in values.items():
                yield kind + name, value.asnumpy() if hasattr(value, "asnumpy") else value
        yield from state.data.items()

    def write(temporary: str) -> None:
        # Not numpy.savez: it needs all arrays at once, and after a full disk prints a second error
        # when its archive is garbage-collected.
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, array in arrays():
                with archive.open(name + ".npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        files.keep_as(path(prefix), previous(prefix))

    checkpoints.publish(path(prefix), write)


def find(prefix: str, resume: str, facts: dict, expected: Expected,
         restore: Callable[[Dict[str, np.ndarray]], None]) -> Optional[State]:
    """The state to continue from, or None to start anew.

    Parameters
    ----------
    prefix : str
    resume : str
        ``""`` start anew, ``"must"``, or ``"auto"``: when there is one.
    facts : dict
        :func:`identity`.
    expected : dict
        :meth:`unequal.training.learner.Learner.expected`.
    restore : callable
        Takes the arrays that the stage's data saved; ValueError when they do not fit it.

    Raises
    ------
    InputError
        When ``resume`` is "must" and there is no state, when neither the last state nor the one
        before it can be read, or when it belongs to another run; the text says what differs.
    """
    there = [name for name in (path(prefix), previous(prefix)) if os.path.exists(name)]
    if not resume:
        if there:
            logger.warning("%s of an earlier run will be replaced; to continue that run instead, "
                           "stop this one and resume it", there[0])
        return None
    if not there:
        if resume == "must":
            raise ArgumentError(f"resume: {path(prefix)}: no such file; nothing was saved under "
                                "this prefix (resume auto would start anew).",
                                "resume", "prefix", "resume")
        logger.info("%s: no such file, so this run starts anew", path(prefix))
        return None
    damaged: List[Tuple[str, BaseException]] = []
    for name in there:
        try:
            state = _load(name, facts, expected)
            restore(state.data)
        except InputError:  # another run's, or no plain file; not damage, so no older state is used
            raise
        except _ERRORS as error:
            damaged.append((name, error))
            continue
        if damaged:
            logger.warning("%s: damaged (%s); continuing from the state before it, %s",
                           damaged[0][0], _words(damaged[0][1]), name)
        return state
    name, reason = damaged[0]
    raise ArgumentError(f"resume: {name}: not the state of a run, or damaged ({_words(reason)}); "
                        "start from a checkpoint with pretrained instead.",
                        "resume", "pretrained") from reason


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"


# The exceptions of zipfile, numpy, json and our own checks for a damaged or foreign file.
_ERRORS = (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, MemoryError,
           RecursionError, NotImplementedError, RuntimeError, OverflowError, zipfile.BadZipFile,
           zlib.error, struct.error)
_MAX_DIRECTORY = 1 << 22  # bytes of a zip directory: 40,000 arrays of usual names
_MAX_HEADER = 1 << 24  # bytes of an array's header and of ours
_MAX_DATA = 1 << 30  # bytes of an array of the data (8 a tail picture of an epoch)


def _load(name: str, facts: dict, expected: Expected) -> State:
    """Read a state from an untrusted file; takes the memory of the arrays in ``expected``."""
    with files.open_input(name) as file:
        _check_directory(file)
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if len(members) < len(archive.infolist()):
                raise ValueError("an array is in it twice")
            header = json.loads(_read(archive, members.pop("header.npy"), None, np.uint8,
                                      _MAX_HEADER).tobytes())
            if header["version"] != _VERSION:
                raise ValueError(f"of version {header['version']}")
            _check_identity(name, header["identity"], facts)
            position = _checked_position(header["position"])
            names = _checked_names(members, expected, position["step"])
            kinds: Dict[str, Dict[str, Any]] = {"arg": {}, "aux": {}, "momentum": {}}
            data = {}
            for key in names:
                kind, _, parameter = key.partition(":")
                info = members[key + ".npy"]
                if parameter:
                    shape, dtype = expected[key]
                    value = _read(archive, info, shape, dtype, _MAX_HEADER)
                    kinds[kind][parameter] = mx.nd.array(value, dtype=value.dtype)
                else:
                    data[key] = _read(archive, info, None, np.int64, _MAX_DATA)
    return State(position, kinds["arg"], kinds["aux"], kinds["momentum"], data)


def _check_directory(file: IO[bytes]) -> None:
    """Refuse a zip directory that takes long to read: zipfile reads it whole, 600 bytes an entry.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 98))
    tail = file.read(98)
    if tail[-22:-18] != b"PK\5\6":
        raise ValueError("no zip archive ends here")
    sizes = [struct.unpack("<L", tail[-10:-6])[0]]
    if tail[-42:-38] == b"PK\6\7" and tail[:4] == b"PK\6\6":  # zip64
        sizes = [struct.unpack("<Q", tail[40:48])[0]]
    if sizes[0] > _MAX_DIRECTORY:
        raise ValueError("too many arrays")


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, shape: Optional[tuple], dtype: Any,
          limit: int) -> np.ndarray:
    """An array whose shape (None: any of up to ``limit`` bytes) and dtype are known beforehand."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f"{info.filename} is compressed or encrypted")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):
            raise ValueError(f"{info.filename} has a header of version {version}")
        found, fortran, kind = np.lib.format.read_array_header_1_0(member)
        if kind != dtype or fortran:
            raise ValueError(f"{info.filename} is of {kind}, not {np.dtype(dtype)}")
        if shape is not None and found != tuple(shape):
            raise ValueError(f"{info.filename} is of shape {found}, not {tuple(shape)}")
        size = int(math.prod(found)) * kind.itemsize
        if (shape is None and size > limit) or not size <= info.file_size <= size + 65546:
            raise ValueError(f"{info.filename} says {found}, but has {info.file_size} bytes")
        array = np.empty(found, kind)
        view = array.reshape(-1).view(np.uint8).data
        done = 0
        while done < size:
            block = member.read(min(1 << 20, size - done))
            if not block:
                raise EOFError(f"{info.filename} ends early")
            view[done:done + len(block)] = block
            done += len(block)
        if member.read(1):  # zipfile compares the checksum only at the member's end
            raise ValueError(f"{info.filename} is too long")
    return array


def _check_identity(name: str, found: Any, facts: dict) -> None:
    """ArgumentError when the state is of another run."""
    if not isinstance(found, dict):
        raise ValueError("the identity is no table")
    found = {**config.defaults(facts), **found}  # it may be older than some flags
    differing = [fact for fact in sorted({**found, **facts}) if found.get(fact) != facts.get(fact)]
    if differing:
        names = [config.argument(fact) for fact in differing]
        words = "; ".join(
            f"{argument} was {found.get(fact, 'not given')}, is {facts.get(fact, 'not given')}"
            for argument, fact in zip(names, differing))
        raise ArgumentError(
            f"resume: {name} belongs to another run: {words}; give what it was made with, or "
            "another prefix, or leave resume out.", "resume", *names, "prefix", "resume")


def _checked_position(position: Any) -> Dict[str, Any]:
    """``State.position``, its names and types checked; ValueError when they are wrong."""
    def count(value: Any) -> bool:
        return type(value) is int and 0 <= value < 1 << 53

    def number(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value)

    checks = {"step": count, "verified": count, "saves": count,
              "log": lambda log: (type(log) is list and len(log) == 2 and type(log[0]) is str
                                  and count(log[1])),
              "best": lambda best: type(best) is dict}
    best = {"first": number, "last": number, "mean": number, "stale": count,
            "epoch": lambda epoch: epoch is None or count(epoch)}
    for table, values, where in ((checks, position, ""), (best, position["best"], "best ")):
        if type(values) is not dict or values.keys() != table.keys():
            raise ValueError(f"{where or 'the position'} has {sorted(values)}")
        for name, check in table.items():
            if not check(values[name]):
                raise ValueError(f"{where}{name} is {str(values[name])[:100]!r}")
    if position["verified"] > position["step"]:
        raise ValueError("it was verified after its last batch")
    return position


def _checked_names(members: Dict[str, zipfile.ZipInfo], expected: Expected,
                   step: int) -> List[str]:
    """Check the arrays' names: all those of the network must be there (before the first batch
    without momenta), and only a few of the data."""
    names = [name[:-len(".npy")] for name in members if name.endswith(".npy")]
    if len(names) < len(members):
        raise ValueError("there is more than arrays in it")
    own = {name for name in names if ":" in name}
    missing = {name for name in set(expected) - own
               if step or not name.startswith("momentum:")}
    if missing:
        raise ValueError(f"{min(missing)} is missing")
    if own - set(expected):
        raise ValueError(f"{min(own - set(expected))[:100]} is not of this network")
    if len(names) - len(own) > 16:
        raise ValueError("too many arrays")
    return names


def lock(prefix: str) -> files.Lock:
    """Keep other runs off a prefix.

    Raises
    ------
    ArgumentError
        When another run has it.
    """
    try:
        return files.Lock(prefix + ".lock")
    except files.Taken as other:
        raise ArgumentError(f"prefix {prefix}: another run has it ({other}); wait for its end, or "
                            "give another one.", "prefix") from None


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
    held : unequal.system.files.Lock, optional
        Of the prefix, when the caller has it already; the store gives it back.
    """

    def __init__(self, prefix: str, facts: dict, symbol: Any, leading: bool = True,
                 held: Optional[files.Lock] = None) -> None:
        self.prefix, self.facts, self._symbol, self._leading = prefix, facts, symbol, leading
        self._lock = held

    def open(self) -> None:
        """Keep other runs off the prefix, and remove what a killed one was writing.

        Raises
        ------
        ArgumentError
            When another run has the prefix.
        """
        if not self._leading:
            return
        self._lock = self._lock or lock(self.prefix)
        checkpoints.clean(self.prefix)

    def close(self) -> None:
        """Let other runs have the prefix."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def path(self) -> str:
        """Of the state."""
        return path(self.prefix)

    def find(self, resume: str, expected: Expected,
             restore: Callable[[Dict[str, np.ndarray]], None]) -> Optional[State]:
        """:func:`find`."""
        return find(self.prefix, resume, self.facts, expected, restore)

    def save_model(self, epoch: int, params: Any) -> None:
        """PREFIX-NNNN.params and PREFIX-symbol.json."""
        if self._leading:
            checkpoints.save(self.prefix, epoch, self._symbol, *params)

    def save_state(self, state: State) -> None:
        """:func:`save`."""
        if self._leading:
            save(self.prefix, self.facts, state)
