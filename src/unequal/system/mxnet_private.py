"""All uses of MXNet 1.9.1 beyond its public interface."""
import contextlib
import ctypes
import os
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call

Arrays = Dict[str, mx.nd.NDArray]  # by name


class _Memory:
    """An NDArray's memory, offered to numpy by the array interface protocol."""

    def __init__(self, array: mx.nd.NDArray) -> None:
        pointer = ctypes.c_void_p()
        check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer)))
        self._array = array  # keeps the memory, which MXNet frees with this object
        self.__array_interface__ = {
            "version": 3, "shape": tuple(array.shape), "typestr": np.dtype(array.dtype).str,
            "data": (pointer.value or 0, False)}


def numpy_view(array: mx.nd.NDArray) -> np.ndarray:
    """The memory of an NDArray on the CPU as a numpy array of its shape and dtype.

    The view, and every view of it, references the NDArray, so the memory lives as long as they do.
    Does not wait for the engine: the caller must be run by the engine, or have called
    :func:`wait_to_write`.

    Raises
    ------
    mxnet.base.MXNetError
        For a sparse array.
    """
    return np.asarray(_Memory(array))


def wait_to_write(array: mx.nd.NDArray) -> None:
    """Wait until the engine neither reads nor writes an NDArray any more."""
    check_call(_LIB.MXNDArrayWaitToWrite(array.handle))


def set_argument(module: mx.mod.Module, name: str, value: Any) -> None:
    """Fill an argument of a bound Module on all its devices."""
    for executor in module._exec_group.execs:
        executor.arg_dict[name][:] = value


def parameters(module: mx.mod.Module) -> Tuple[Dict[str, Tuple[tuple, Any]], List[str]]:
    """``({"arg:NAME" or "aux:NAME": (shape, dtype)}, [names of those with a gradient])``."""
    executor = module._exec_group.execs[0]
    arrays = {"arg:" + name: (executor.arg_dict[name].shape, executor.arg_dict[name].dtype)
              for name in module._exec_group.param_names}
    arrays.update({"aux:" + name: (value.shape, value.dtype)
                   for name, value in executor.aux_dict.items()})
    return arrays, [name for name, values in gradients(module) if values[0] is not None]


def host_params(module: mx.mod.Module) -> Tuple[Arrays, Arrays]:
    """As ``Module.get_params``, with the weights of the first device instead of all devices' mean.

    All devices update with the same sum of gradients, so their weights are equal. BatchNorm's
    averages are not, and their mean is taken. Host memory: one copy of the weights.
    """
    group = module._exec_group
    for name, copies in zip(group.param_names, group.param_arrays):
        copies[0].copyto(module._arg_params[name])
    for name, copies in zip(group.aux_names, group.aux_arrays):
        mean = sum(copy.copyto(mx.cpu()) for copy in copies) / len(copies)
        mean.astype(module._aux_params[name].dtype).copyto(module._aux_params[name])
    module._params_dirty = False
    return module._arg_params, module._aux_params


def forward_mirrored(module: mx.mod.Module, name: str) -> None:
    """Run a bound Module for inference on the mirror images of its last batch.

    The input ``name`` (N, C, H, W) is mirrored in place, on its devices, and stays mirrored.
    """
    for executor in module._exec_group.execs:
        data = executor.arg_dict[name]
        mx.nd.flip(data, axis=3).copyto(data)
        executor.forward(is_train=False)


def backward(module: mx.mod.Module,
             head_gradients: Sequence[Sequence[mx.nd.NDArray]]) -> None:
    """Backward of a bound Module from ``[[gradient of each output] of each device]``.

    Module.backward would split them along the batch, which an output of shape (1,) does not have.
    """
    for executor, gradients_ in zip(module._exec_group.execs, head_gradients):
        executor.backward(gradients_)


def clear_gradients(module: mx.mod.Module) -> None:
    """Set the gradients to 0 in a Module that is bound to add them up (``grad_req="add"``)."""
    for _, values in gradients(module):
        for value in values:
            if value is not None:
                value[:] = 0


def gradients(module: mx.mod.Module) -> List[Tuple[str, List[Optional[mx.nd.NDArray]]]]:
    """``[(parameter, [gradient of each device])]`` of a bound Module; None where there is none."""
    group = module._exec_group
    return list(zip(group.param_names, group.grad_arrays))


def _updater(module: mx.mod.Module) -> mx.optimizer.Updater:
    """MXNet keeps the optimizer beside the module, or with several devices in its KVStore."""
    return module._updater or module._kvstore._updater


def momenta(module: mx.mod.Module) -> Arrays:
    """``{parameter: momentum}`` of SGD; with several devices, all have the same."""
    states = _updater(module).states
    names = module._exec_group.param_names
    if module._update_on_kvstore:
        return {name: states[name] for name in names if states.get(name) is not None}
    devices = len(module._context)
    return {name: states[index * devices] for index, name in enumerate(names)
            if states.get(index * devices) is not None}


def set_momenta(module: mx.mod.Module, values: Mapping[str, mx.nd.NDArray]) -> None:
    """The reverse of :func:`momenta`, for a module whose optimizer is there."""
    updater = _updater(module)
    names = module._exec_group.param_names
    if module._update_on_kvstore:
        updater.states = {name: values[name].copy() for name in names if name in values}
    else:
        devices = len(module._context)
        updater.states = {index * devices + device: values[name].copy()
                          for index, name in enumerate(names) if name in values
                          for device in range(devices)}
    # MXNet then moves each to its weight's device at the next update.
    updater.states_synced = dict.fromkeys(updater.states, False)


def set_barrier_before_exit(store: Any, together: bool) -> None:
    """Set whether a process with a ``dist_*`` store waits at its end for all other workers."""
    check_call(_LIB.MXKVStoreSetBarrierBeforeExit(store.handle, int(together)))


@contextlib.contextmanager
def mirroring(wanted: bool) -> Iterator[None]:
    """In this block, bind networks that keep only the outputs of convolutions.

    The backward pass computes all others (BatchNorm, activations, sums) again.

    MXNet 1.9.1 reads the variable at each bind (src/executor/graph_executor.cc:361).
    """
    name = "MXNET_BACKWARD_DO_MIRROR"
    before = os.environ.get(name)
    if wanted:
        os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
