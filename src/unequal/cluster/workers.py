"""Workers of one job on MXNet's KVStore: this worker's number, and its collective calls.

`dist_*` stores talk to ps-lite's servers; MXNet reads its place in the job from DMLC_* variables
(docs/cluster.md). The servers only add: every worker makes the same update of the same weights. So
the workers have the momentum and can save it, which MXNet cannot do for servers.
"""
import json
import logging
import os
import zlib
from typing import Any, Dict, Mapping, Optional, Sequence, Set, Tuple

import mxnet as mx
import numpy as np

from unequal.errors import ArgumentError
from unequal.system import mxnet_private, progress

logger = logging.getLogger(__name__)

STORES = ("local", "device", "nccl", "dist_sync", "dist_device_sync")
_BLOCK = 256  # bytes; messages are padded to it, so that servers keep few arrays of other sizes


class Workers:
    """The workers of a job; with a store of one process (`local`, `device`, `nccl`) there is one.

    Every method is a collective call: all workers must make the same calls in the same order.

    Parameters
    ----------
    store : str
        One of :data:`STORES`.
    compress_gradients : float
        Gradients are sent as 0 or plus or minus this number, 2 bits each, and the remainder is
        added to the next gradients. 0: no compression.

    Raises
    ------
    ArgumentError
        When the store does not fit the process's place in a job.

    Attributes
    ----------
    rank, count : int
        This worker's number and how many there are.
    local_store : str or None
        The store for a Module; None when :meth:`sum_gradients` takes its place.
    """

    def __init__(self, store: str = "device", compress_gradients: float = 0.0) -> None:
        threshold = compress_gradients
        if store not in STORES:
            raise ArgumentError(f"store {store}: unknown; known are {', '.join(STORES)}.", "store")
        if not 0 <= threshold < np.inf:
            raise ArgumentError(f"compress_gradients {threshold} must not be negative.",
                                "compress_gradients")
        self.rank, self.count = 0, 1
        self.local_store: Optional[str] = store
        self._kvstore: Any = None  # of several workers
        if not store.startswith("dist"):
            if "DMLC_ROLE" in os.environ:
                count = os.environ.get("DMLC_NUM_WORKER", "several")
                raise ArgumentError(
                    f"store {store}: this process is one of {count} workers (DMLC_ROLE is set), "
                    "which would each train alone; add store dist_sync (GPUs: dist_device_sync).",
                    "store", "store")
            if threshold:
                raise ArgumentError("compress_gradients is for store dist_sync and "
                                    "dist_device_sync.", "compress_gradients", "store")
            return
        missing = [name for name in ("DMLC_ROLE", "DMLC_PS_ROOT_URI", "DMLC_PS_ROOT_PORT",
                                     "DMLC_NUM_WORKER", "DMLC_NUM_SERVER")
                   if not os.environ.get(name)]
        if missing:
            raise ArgumentError(f"store {store}: {' and '.join(missing)} not set; start the "
                                "command with `unequal launch`, or see docs/cluster.md.", "store")
        self.local_store = None
        self._kvstore = mx.kv.create(store)
        self.rank, self.count = self._kvstore.rank, self._kvstore.num_workers
        self.leave_together(False)
        self._compressed = threshold > 0
        if self._compressed:
            self._kvstore.set_gradient_compression({"type": "2bit", "threshold": threshold})
        # Bits are sent as 0 or `threshold`, the values that 2-bit compression keeps exactly.
        self._one = threshold or 1.0
        self._keys: Set[str] = set()
        logger.info("worker %d of %d: process %d on %s", self.rank, self.count, os.getpid(),
                    os.uname().nodename)

    def leave_together(self, together: bool) -> None:
        """Whether the process waits at its end for all other workers (and then stops the servers).

        True when all workers end. A worker that fails must not wait, since the others go on.
        """
        if self._kvstore is not None:
            mxnet_private.set_barrier_before_exit(self._kvstore, together)

    def _sum(self, name: str, arrays: Sequence[mx.nd.NDArray], priority: int = 0) -> None:
        """Add an array over all workers and the given copies (of devices), in place."""
        key = f"{name}:{'x'.join(map(str, arrays[0].shape))}"
        if key not in self._keys:  # creating a key is a collective call too
            with progress.waiting():
                self._kvstore.init(key, mx.nd.zeros(arrays[0].shape))
            self._keys.add(key)
        if self._compressed:  # MXNet has no pushpull with compression
            self._kvstore.push(key, arrays, priority=priority)
            self._kvstore.pull(key, out=arrays, priority=priority)
        else:
            self._kvstore.pushpull(key, arrays, priority=priority)

    def sum_gradients(self, module: mx.mod.Module) -> None:
        """Replace the gradients of a module's devices by their sum over all devices of all workers.

        Like MXNet's Module.update with servers that only add, but under names that a second module
        of this process can use too. Does not wait.
        """
        if self._kvstore is None:
            return
        for index, (name, gradients) in enumerate(mxnet_private.gradients(module)):
            if gradients[0] is not None:
                self._sum(name, gradients, priority=-index)  # the first layers first

    def gather(self, array: Any) -> np.ndarray:
        """The workers' arrays, one after the other: (count, ...).

        Of any dtype, the same shape everywhere, and exact; for small arrays, since it sends 32
        bytes a byte and worker (2 with compression).
        """
        array = np.asarray(array)
        if self.count == 1:
            return array[None]
        bits = np.unpackbits(np.frombuffer(array.tobytes(), np.uint8))
        rows = np.zeros((self.count, len(bits)), np.float32)
        rows[self.rank] = bits * np.float32(self._one)
        shared = mx.nd.array(rows)
        self._sum("unequal", [shared])
        with progress.waiting():
            summed = shared.asnumpy()
        every = np.packbits(summed > 0, axis=1)
        return every.view(array.dtype).reshape((self.count,) + array.shape)

    def broadcast(self, value: Any) -> Any:
        """Worker 0's ``value``, which must fit JSON; that of the other workers is ignored."""
        if self.count == 1:
            return value
        text = json.dumps(value).encode() if self.rank == 0 else b""
        size = int(self.gather(np.int64(len(text)))[0])
        padded = np.zeros(-(-size // _BLOCK) * _BLOCK, np.uint8)
        padded[:len(text)] = np.frombuffer(text, np.uint8)
        return json.loads(self.gather(padded)[0, :size].tobytes())

    def any(self, flag: Any) -> bool:
        """Whether ``flag`` is true at any worker."""
        return bool(self.gather(np.array([bool(flag)])).any())

    def wait(self) -> None:
        """Wait for all workers, however long worker 0's own work takes."""
        if self.count > 1:
            with progress.waiting(bounded=self.rank == 0):
                self._kvstore._barrier()

    def mean(self, arrays: Dict[str, mx.nd.NDArray]) -> Dict[str, mx.nd.NDArray]:
        """Means over the workers of ``{name: NDArray}``, float32."""
        if self.count == 1 or not arrays:
            return arrays
        joined = np.concatenate([array.asnumpy().ravel() for array in arrays.values()])
        joined = self.gather(joined).mean(axis=0)
        means, start = {}, 0
        for name, array in arrays.items():
            means[name] = mx.nd.array(joined[start:start + array.size].reshape(array.shape))
            start += array.size
        return means

    def share(self, total: int) -> Tuple[int, int]:
        """``(first, last)``: this worker's share of ``total`` pieces of work."""
        size = -(-total // self.count)
        return min(self.rank * size, total), min((self.rank + 1) * size, total)

    def join(self, rows: np.ndarray, total: int) -> np.ndarray:
        """The results of all shares (:meth:`share`): (total, ...) of each (last - first, ...)."""
        padded = np.zeros((-(-total // self.count),) + rows.shape[1:], rows.dtype)
        padded[:len(rows)] = rows
        return self.gather(padded).reshape((-1,) + rows.shape[1:])[:total]

    def check_equal(self, facts: Mapping[str, Any]) -> None:
        """Raise ArgumentError unless ``facts``, ``{name: value}``, are the same for all workers.

        A name is an argument's, or some words.
        """
        names = sorted(facts)
        sums = self.gather(np.array([zlib.crc32(json.dumps(facts[name]).encode())
                                     for name in names], np.uint32))
        for name, column in zip(names, sums.T):
            others = np.flatnonzero(column != column[0])
            if len(others):
                raise ArgumentError(
                    f"{name} is not the same for worker 0 and worker {others[0]}: give all workers "
                    "the same command, data and directory of prefix.", name, "prefix")
