"""Unequal-training for deep face recognition with long-tailed noisy data, in MXNet.

Importing this package prepares MXNet (threads, ``np.bool``, pip's CUDA libraries) and imports it;
see :mod:`unequal.system.runtime`. Import it before ``mxnet``.
"""
import os
import sys
from typing import Any

from unequal.errors import InputError
from unequal.system import runtime

__version__ = "0.1.0"
__all__ = ["Embedder", "InputError", "__version__"]

runtime.prepare()
# The command (`unequal`, or `python -m unequal`, where argv[0] is "-m") imports MXNet later, in
# cli.py, which reports a failure as one line; `unequal doctor` must run even if MXNet does not.
if os.path.basename(sys.argv[0]) not in ("unequal", "-m"):
    runtime.import_mxnet()


def __getattr__(name: str) -> Any:
    # At first use: it imports OpenCV and scikit-learn, which would make `import unequal` slow.
    if name == "Embedder":
        from unequal.models.embedder import Embedder

        return Embedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
