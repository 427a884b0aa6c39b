"""What tests and benchmarks see of the processes of an `unequal launch` (Linux)."""
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Set

ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
# Open MPI does not run as root without.
MPI_AS_ROOT = {f"{family}_ALLOW_RUN_AS_ROOT{tail}": "1"
               for family in ("OMPI", "PRTE") for tail in ("", "_CONFIRM")}
SMALL = ("--network", "n8", "--emb-size", "16", "--margin-s", "16", "--target", "lfw",
         "--version-output", "I")


class Member(NamedTuple):
    pid: int
    role: str
    number: int


def launch(*arguments, **environment):
    """A started `unequal launch`."""
    return subprocess.Popen([sys.executable, "-m", "unequal", "launch", *arguments],
                            env=dict(ENVIRONMENT, **environment), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, universal_newlines=True)


def _read(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""


def descendants(pid):
    """Process numbers of all that ``pid`` has started, directly or not."""
    parents: Dict[int, List[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = _read(entry, "stat").rpartition(b")")[2].split()
            if stat and stat[0] != b"Z":
                parents.setdefault(int(stat[1]), []).append(int(entry))
    found, new = [], [pid]
    while new:
        new = [child for one in new for child in parents.get(one, [])]
        found += new
    return found


def _variables(pid):
    return dict(item.partition(b"=")[::2] for item in _read(pid, "environ").split(b"\0"))


def is_member(pid):
    """Whether it is a scheduler, server or worker: what a keeper has started.

    Until it runs its own program it is a copy of the keeper, which waits for that: who stops it
    then stops both.
    """
    stat = _read(pid, "stat").rpartition(b")")[2].split()
    parent, own = (_read(one, "cmdline").split(b"\0")[1:2] if stat else []
                   for one in (stat[1].decode() if stat else "", pid))
    return any(word.endswith(b"keeper.py") for word in parent) and not any(
        word.endswith(b"keeper.py") for word in own)


def members(launcher):
    """The scheduler, servers and workers of a started launch."""
    result = []
    for pid in filter(is_member, descendants(launcher.pid)):
        variables = _variables(pid)
        if variables:  # it may just have ended
            result.append(Member(pid, variables[b"DMLC_ROLE"].decode(),
                                 int(variables[b"DMLC_TASK_ID"])))
    return result


def wait_for(condition, what, seconds=120):
    """What ``condition`` returns as soon as that is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for {what}")


def running(pids):
    """Those of ``pids`` that still run."""
    return [pid for pid in pids if _read(pid, "cmdline")]


def listening(pids):
    """Addresses that processes listen on, such as ``{"127.0.0.1"}``; TCP over IPv4 and IPv6."""
    sockets: Set[str] = set()
    for pid in pids:
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                match = re.match(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{name}"))
                sockets.update(match.groups() if match else ())
        except OSError:
            continue
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in sockets:
                address = bytes.fromhex(words[1].partition(":")[0])[::-1]
                found.add(".".join(map(str, address)) if len(address) == 4 else address.hex())
    return found
