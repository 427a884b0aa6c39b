"""What we use of MXNet 1.9.1 beyond its public interface, in one place."""
import ctypes

import numpy as np
from mxnet.base import _LIB, check_call


def numpy_view(array):
    """The memory of an NDArray on the CPU as a numpy array of its shape and dtype.

    For code that the engine runs, or that has waited for the array: nothing here waits.
    """
    pointer = ctypes.c_void_p()
    check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer)))
    size = array.size * np.dtype(array.dtype).itemsize
    buffer = (ctypes.c_char * size).from_address(pointer.value)
    return np.frombuffer(buffer, array.dtype).reshape(array.shape)
