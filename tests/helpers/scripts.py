"""The entry scripts as tests run them, and what they log."""
import json
import os
import subprocess
import sys

from helpers import ROOT


def call(*command, code=0, **environment):
    """A finished command, which must end with ``code``."""
    done = subprocess.run(command, env=dict(os.environ, OMP_NUM_THREADS="1", **environment),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                          timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def script(name, *arguments, code=0):
    """:func:`call` of an entry script."""
    return call(sys.executable, "-u", str(ROOT / name), *arguments, code=code)


def events(prefix):
    """The machine-readable log of a run."""
    with open(str(prefix) + "-trainlog.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
