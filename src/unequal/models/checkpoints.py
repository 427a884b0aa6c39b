"""Checkpoints in InsightFace's form: ``prefix-symbol.json`` and ``prefix-NNNN.params``.

Plain ``mx.model.load_checkpoint`` reads them. A file appears under its final name only when it is
whole and on disk, so a checkpoint that was there before survives a crash while saving.
"""
import os
import re

import mxnet as mx

from unequal.errors import InputError
from unequal.models import untrusted
from unequal.system.files import remove_leftovers, replacing_path


def params_path(prefix, epoch):
    """``prefix-NNNN.params``."""
    return "{}-{:04d}.params".format(prefix, epoch)


def parse(text, flag="--pretrained"):
    """``'prefix,epoch'`` as ``(prefix, epoch)``; InputError names ``flag`` otherwise."""
    prefix, _, epoch = text.rpartition(",")
    if not prefix or not re.fullmatch(r"\s*[0-9]{1,9}\s*", epoch) or "\0" in prefix:
        raise InputError("{} {!r}: expected PREFIX,EPOCH with a number, such as "
                         "../models/model,12.".format(flag, text))
    return prefix, int(epoch)


def publish(path, write):
    """Call ``write`` with a temporary name; what it wrote appears at ``path`` when it is whole.

    Raises
    ------
    InputError
        When it cannot be written. What stood there before is untouched.
    """
    try:
        with replacing_path(path) as temporary:
            write(temporary)
    except (mx.base.MXNetError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[-1].strip()
        raise InputError("{}: cannot be written ({}); is the disk full or the directory "
                         "read-only? What was saved before is still there.".format(
                             path, reason)) from error


def _write_symbol(path, symbol):
    # Not symbol.save: on a full disk that leaves an empty file and says nothing.
    with open(path, "w", encoding="utf-8") as file:
        file.write(symbol.tojson())


def _write_arrays(path, arrays):
    mx.nd.save(path, arrays)
    # A disk that is full just before the end goes unnoticed by MXNet, so count: 32 bytes of the
    # file's own, for each array a head of 24, 8 a dimension, the values, 8 and the name.
    size = 32 + sum(32 + 8 * array.ndim + array.size * array.dtype().itemsize + len(name.encode())
                    for name, array in arrays.items())
    if os.path.getsize(path) != size:
        raise OSError("{} of {} bytes were written".format(os.path.getsize(path), size))


def save(prefix, epoch, symbol, arg_params, aux_params):
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


def clean(prefix):
    """Remove what a killed run of this prefix was writing, its state (.npz) included."""
    directory, name = os.path.split(prefix)
    remove_leftovers(directory, re.escape(name)
                     + r"-(?:\d{4,}\.params|symbol\.json|resume\.npz)")


def load(prefix, epoch):
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
            raise InputError("{}: no such file; a checkpoint PREFIX,EPOCH is PREFIX-symbol.json "
                             "and PREFIX-EPOCH.params.".format(path))
    return (untrusted.read_symbol(prefix + "-symbol.json"),
            *untrusted.read_arrays(params_path(prefix, epoch)))
