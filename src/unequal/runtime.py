"""What must happen before ``import mxnet``, and which devices there are.

MXNet reads its thread count from the environment when it is loaded, uses ``np.bool``, which numpy
1.24 removed, and (in the CUDA build) links against CUDA 11 libraries by name.
"""
import os


def available_cpus():
    """Number of processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare():
    """Set the thread count, put ``np.bool`` back and load pip's CUDA libraries.

    Variables the user has set are left alone. Harmless when called twice.
    """
    # MXNet takes half of the processors unless told; two cores then train at half speed.
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cpus()))
    import numpy

    # A plain assignment: reading np.bool warns in numpy 1.20-1.23 and fails from 1.24 on.
    numpy.bool = bool


def import_mxnet():
    """Import and return mxnet, or explain in one sentence what is missing.

    Raises
    ------
    ImportError
        When mxnet cannot be imported; the text names the extra to install.
    """
    try:
        import mxnet
    except Exception as error:  # a broken library raises OSError, a missing one ImportError
        raise ImportError(
            "MXNet cannot be imported ({}): install it with `pip install 'unequal-training[cpu]'`, "
            "or `[cu112]` on a machine with an NVIDIA GPU; `unequal doctor` says what is missing."
            .format(error)) from error
    return mxnet
