"""Checkpoints in InsightFace's form: ``prefix-symbol.json`` and ``prefix-NNNN.params``.

Plain ``mx.model.load_checkpoint`` reads them. A file appears under its final name only when it is
whole and on disk, so a checkpoint that was there before survives a crash while saving.
"""
import os

import mxnet as mx

from unequal.errors import InputError
from unequal.files import replacing_path


def params_path(prefix, epoch):
    """``prefix-NNNN.params``."""
    return "{}-{:04d}.params".format(prefix, epoch)


def parse(text, flag="--pretrained"):
    """``'prefix,epoch'`` as ``(prefix, epoch)``; InputError names ``flag`` otherwise."""
    prefix, _, epoch = text.rpartition(",")
    if not prefix or not epoch.strip().isdigit():
        raise InputError("{} {!r}: expected PREFIX,EPOCH with a number, such as "
                         "../models/model,12.".format(flag, text))
    return prefix, int(epoch)


def _publish(path, write):
    try:
        with replacing_path(path) as temporary:
            write(temporary)
    except mx.base.MXNetError as error:
        raise InputError("{}: cannot be written ({}); is the disk full or the directory "
                         "read-only?".format(path, str(error).splitlines()[-1].strip())) from error


def save(prefix, epoch, symbol, arg_params, aux_params):
    """Write a checkpoint; its directory is made when missing.

    Raises
    ------
    InputError, OSError
        When it cannot be written. What stood there before is untouched.
    """
    arrays = {"arg:" + name: value for name, value in arg_params.items()}
    arrays.update(("aux:" + name, value) for name, value in aux_params.items())
    _publish(prefix + "-symbol.json", symbol.save)
    _publish(params_path(prefix, epoch), lambda path: mx.nd.save(path, arrays))


def load(prefix, epoch):
    """Return ``(symbol, arg_params, aux_params)``.

    Raises
    ------
    InputError
        When a file is missing or is not what its name says.
    """
    for path in (prefix + "-symbol.json", params_path(prefix, epoch)):
        if not os.path.isfile(path):
            raise InputError("{}: no such file; a checkpoint PREFIX,EPOCH is PREFIX-symbol.json "
                             "and PREFIX-EPOCH.params.".format(path))
    try:
        return mx.model.load_checkpoint(prefix, epoch)
    except (mx.base.MXNetError, ValueError, UnicodeDecodeError) as error:
        raise InputError("{}: not a checkpoint MXNet can read ({}).".format(
            params_path(prefix, epoch), str(error).splitlines()[-1].strip())) from error
