"""Unequal-training for deep face recognition with long-tailed noisy data, in MXNet.

Importing this package prepares MXNet (threads, ``np.bool``, pip's CUDA libraries) and imports it;
see :mod:`unequal.runtime`. Import it before ``mxnet``.
"""
import sys

from unequal import runtime
from unequal.errors import InputError

__version__ = "0.1.0"
__all__ = ["InputError", "__version__"]

runtime.prepare()
# `unequal doctor` is for machines where MXNet does not import: it must get past this line.
if "doctor" not in sys.argv[1:2]:
    runtime.import_mxnet()
