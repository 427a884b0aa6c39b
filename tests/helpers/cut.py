"""Run a training script that is cut off at a chosen point: `python cut.py WHERE N HOW SCRIPT ...`.

At the Nth call of WHERE (``module:function``) the process kills itself (``kill``) or stands still
until it is killed (``hang``).
"""
import importlib
import os
import runpy
import signal
import sys
import time

import unequal  # noqa: F401  before mxnet


def cut(where, number, how):
    """Replace a function by one whose Nth call does not return."""
    module, _, path = where.partition(":")
    *owners, name = path.split(".")
    owner = importlib.import_module(module)
    for attribute in owners:
        owner = getattr(owner, attribute)
    original, calls = getattr(owner, name), []

    def replacement(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            print("HANGS", flush=True)
            while True:
                time.sleep(0.05)
        return original(*args, **kwargs)

    setattr(owner, name, replacement)


if __name__ == "__main__":
    cut(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    sys.argv = sys.argv[4:]
    runpy.run_path(sys.argv[0], run_name="__main__")
