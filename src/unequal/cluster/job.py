"""One command as the workers of a job, here or on several hosts: the engine of `unequal launch`.

MXNet's ps-lite runs a scheduler, servers and workers, which find each other by DMLC_* variables. If
one of them dies, the others do not notice and wait for ever. So every process has a keeper
(:mod:`unequal.cluster.keeper`), here or, by ssh or mpirun, on another host, and the launcher ends
all processes as soon as one is lost. MXNet's own tools/launch.py and dmlc_tracker leave the others
running (and fail with an AttributeError on Python 3.9 and later).
"""
import logging
import math
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Dict, List, NamedTuple, Optional, Sequence

from unequal.cluster import keeper
from unequal.errors import ArgumentError, InputError
from unequal.system import files, interrupts, runtime

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

# ssh ends 20 seconds after the other host was cut off, and never asks for a password.
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=5",
       "-o", "ServerAliveCountMax=4")

# Each mpirun starts one process on one host. Without `--bind-to none` Open MPI would give it a
# single core.
MPIRUN = ("mpirun", "-n", "1", "--bind-to", "none", "--host")

# Without a batch system, Open MPI (4 and 5) starts its daemons by ssh. If a host is cut off it
# waits for ever, unless that ssh stays connected and notices it, as our own ssh does.
_ATTACHED = {"OMPI_MCA_orte_leave_session_attached": "1",
             "OMPI_MCA_plm_rsh_args": " ".join(SSH[1:]),
             "PRTE_MCA_plm_ssh_args": " ".join(SSH[1:])}

# Variables that processes on other hosts get too, by the start of their names.
PASSED = ("CUDA_", "DMLC_", "GOMP_", "KMP_", "LD_LIBRARY_PATH", "MXNET_", "NVIDIA_", "OMP_", "PATH",
          "PS_", "PYTHONPATH", "PYTHONUNBUFFERED", "UNEQUAL_", "VIRTUAL_ENV")

# Exit codes of a process that ended as it should: done, or stopped by a signal after saving.
ENDED = (0, interrupts.EXIT_CODE)

_LEFT_BEHIND = 60  # seconds that the other workers may run on after one has ended
SHUTDOWN = 20  # seconds that servers and scheduler have to end after the workers
_KILL = 10  # seconds that keepers have to end their process before they are killed themselves


class Lost(ArgumentError):
    """A process of the job was lost; the text says which and how.

    Parameters
    ----------
    happened : str
        A sentence.
    advice : str
        What to do, another sentence.
    """

    def __init__(self, happened: str, advice: str = "") -> None:
        super().__init__(f"{happened} {advice}".rstrip(), "resume")
        self.happened = happened


_GO_ON = "Start it again with resume auto to continue after the last saved state."


class Host(NamedTuple):
    """A line of the file of hosts."""

    name: str
    port: Optional[str]  # of its sshd
    address: str  # what its processes bind to


class Process:
    """A process of the job, seen through its keeper.

    Parameters
    ----------
    name : str
        For messages, such as ``worker 0``.
    command : list of str
    environment : dict
        Beside what it inherits.
    host : Host, optional
        Default: this one.
    launcher : {"ssh", "mpi"}
        How the host is reached.
    """

    def __init__(self, name: str, command: List[str], environment: Dict[str, str],
                 host: Optional[Host] = None, launcher: str = "ssh") -> None:
        self.name = name if host is None else f"{name} on {host.name}"
        self.remote = host is not None
        self.by_ssh = host is not None and launcher == "ssh"
        command = [sys.executable, keeper.__file__] + command
        environment = dict(os.environ, **environment)
        if host is not None:
            variables = [f"{variable}={value}" for variable, value in sorted(environment.items())
                         if variable.startswith(PASSED)]
            words = " ".join(map(shlex.quote, ["env"] + variables + command))
            line = f"cd {shlex.quote(os.getcwd())} && exec {words}"
            if self.by_ssh:
                command = [*SSH, *(("-p", host.port) if host.port else ()), host.name, line]
            else:
                command = [*MPIRUN, host.name, "sh", "-c", line]
                environment = dict(_ATTACHED, **environment)
        # In a session of its own, so that Ctrl-C reaches only the launcher, which passes it on.
        self._keeper = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment,
                                        start_new_session=True)
        assert self._keeper.stdin is not None
        self._connection = self._keeper.stdin

    @property
    def code(self) -> Optional[int]:
        """Exit code, 128 + N after signal N; None while it runs."""
        code = self._keeper.poll()
        return 128 - code if code is not None and code < 0 else code

    def send(self, byte: bytes) -> None:
        """Tell the keeper something (:mod:`unequal.cluster.keeper`)."""
        try:
            self._connection.write(byte)
            self._connection.flush()
        except (BrokenPipeError, ValueError):
            pass  # it has ended

    def close(self) -> None:
        """Begin to end it."""
        self.send(keeper.END)  # not every mpirun tells its process that its input has ended
        try:
            self._connection.close()
        except BrokenPipeError:
            pass

    def wait(self, seconds: float) -> None:
        """Wait for the end; a keeper (or an ssh) that does not end is killed."""
        try:
            self._keeper.wait(seconds)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()

    def fate(self) -> str:
        """How it ended, to follow its name."""
        code = self.code
        if code == keeper.HUNG:
            return "made no progress (its line above says how long)"
        if self.by_ssh and code == 255:
            return "could not be reached or was cut off (ssh ended with 255)"
        if code is not None and code > 128:
            try:
                return f"was killed by {signal.Signals(code - 128).name}"
            except ValueError:
                pass
        return f"ended with exit code {code}"


def read_hosts(path: str) -> List[Host]:
    """The hosts of a file: a line each, ``HOST[:PORT]``; MPI's ``slots=N`` and # are ignored.

    Raises
    ------
    InputError
        When there are none, or one is unknown or cannot be reached by the others.
    """
    hosts = []
    with files.open_input(path, files.MAX_TABLE, encoding="utf-8",
                         errors="backslashreplace") as lines:
        for line in files.bounded_lines(lines, path):
            words = line.partition("#")[0].split()
            if not words:
                continue
            name, _, port = words[0].partition(":")
            if name.startswith("-") or (port and not port.isdigit()):
                raise InputError(f"{path}: {words[0]!r}: expected HOST or HOST:PORT.")
            try:
                # The part behind user@, as ssh understands it.
                address = socket.gethostbyname(name.rpartition("@")[2])
            except (OSError, UnicodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not a name"
                raise InputError(f"{path}: host {name} is unknown: {reason}.") from None
            hosts.append(Host(name, port or None, address))
    if not hosts:
        raise InputError(f"{path}: no hosts; write one a line.")
    loopback = [host for host in hosts if host.address.startswith("127.")]
    if loopback and len(loopback) < len(hosts):  # Debian's /etc/hosts does that to its own name
        raise InputError(f"{path}: {loopback[0].name} stands for {loopback[0].address} on this "
                         "machine, which other hosts cannot reach; write its address instead.")
    return hosts


def check_mpi(hosts: Sequence[Host], path: Optional[str]) -> None:
    """Raise InputError where mpirun could not start processes on the hosts of ``path``."""
    if not hosts:
        raise ArgumentError("launcher mpi needs hosts: the hosts of the allocation, one a line.",
                            "launcher", "hosts")
    ported = [host.name for host in hosts if host.port]
    if ported:
        raise InputError(f"{path}: {ported[0]} has a port, which mpirun does not take; write HOST "
                         "only.")
    if not shutil.which(MPIRUN[0]):
        raise ArgumentError("launcher mpi: there is no mpirun on the PATH; install MPI or load its "
                            "module.", "launcher")


def own_address(towards: str) -> str:
    """The address of this machine that packets to ``towards`` come from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((towards, 9))  # sends nothing
        return probe.getsockname()[0]


def free_ports(address: str, count: int) -> List[int]:
    """``count`` free TCP ports of ``address``, rising."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        try:
            for one in sockets:
                one.bind((address, 0))
        except OSError as error:
            raise ArgumentError(f"address {address}: {error.strerror}; give an address of this "
                                "machine.", "address") from None
        return sorted(one.getsockname()[1] for one in sockets)


def start(command: List[str], workers: int, servers: int, hosts: Sequence[Host] = (),
          launcher: str = "ssh", address: Optional[str] = None,
          hang_timeout: float = 0.0) -> List[Process]:
    """Start a job: the scheduler here, the others on ``hosts`` in turn (default: here).

    Ports are chosen here, at the last moment: another process could take one in between, and the
    job then ends with that message.

    Parameters
    ----------
    hang_timeout : float
        Seconds without progress after which a process's keeper ends it; 0: never.

    Returns
    -------
    list of Process
        The workers first.
    """
    address = address or (own_address(hosts[0].address) if hosts else LOOPBACK)
    ports = free_ports(address, 1 if hosts else 1 + workers)
    common = {"DMLC_PS_ROOT_URI": address, "DMLC_PS_ROOT_PORT": str(ports[0]),
              "DMLC_NUM_WORKER": str(workers), "DMLC_NUM_SERVER": str(servers),
              keeper.TIMEOUT: str(hang_timeout)}
    if not hosts and "OMP_NUM_THREADS" not in os.environ:
        common["OMP_NUM_THREADS"] = str(max(1, runtime.available_cpus() // workers))

    serve = [sys.executable, "-c", "import unequal"]  # `import mxnet` serves and does not return
    processes: List[Process] = []

    def begin(role: str, number: int, count: int, command: List[str],
              **environment: str) -> None:
        host = hosts[number % len(hosts)] if hosts and role != "scheduler" else None
        environment.update(common, DMLC_ROLE=role, DMLC_TASK_ID=str(number),
                           DMLC_NODE_HOST=host.address if host else address)
        name = "the scheduler" if role == "scheduler" else f"{role} {number} of {count}"
        processes.append(Process(name, command, environment, host, launcher))

    try:
        for number in range(workers):
            # ps-lite numbers the workers of one host by port: rising ports keep our numbers.
            port = {} if hosts else {"PORT": str(ports[1 + number])}
            begin("worker", number, workers, command, **port)
        begin("scheduler", 0, 1, serve)
        for number in range(servers):
            begin("server", number, servers, serve)
    except BaseException:
        end(processes)
        raise
    return processes


def supervise(processes: List[Process], workers: int, deadline: float = math.inf) -> int:
    """Wait for the job's end; returns the exit code, 0 or that of workers that saved and stopped.

    Parameters
    ----------
    processes : list of Process
        The workers first.
    workers : int
        How many there are.
    deadline : float
        Seconds that the workers have to save and stop once a signal has been passed on to them.

    Raises
    ------
    Lost
        When a process is lost; the text says which and how. The others may still run: :func:`end`.
    """
    beat = passed_on = 0.0
    first_end: Optional[float] = None
    while True:
        now = time.monotonic()
        codes = [process.code for process in processes]
        lost = [(code, process) for process, code in zip(processes, codes)
                if code is not None and code not in ENDED]
        if lost:
            # Of several at once, one that was killed is the cause.
            code, one = max(lost, key=lambda pair: pair[0])
            raise Lost(f"{one.name} {one.fate()}; the rest of the job was ended.",
                       "Its message above says why." if code < 128 and code != keeper.HUNG
                       else _GO_ON)
        ended = [code for code in codes[:workers] if code is not None]
        if len(ended) == workers:
            return max(ended)
        if any(code is not None for code in codes):
            first_end = first_end or now
            if now - first_end > _LEFT_BEHIND and passed_on:
                return interrupts.EXIT_CODE  # one has saved and ended; the others wait for it
            if now - first_end > _LEFT_BEHIND:
                running = processes[codes.index(None)].name
                first = next(one.name for one, code in zip(processes, codes) if code is not None)
                raise Lost(f"{first} has ended but {running} did not within {_LEFT_BEHIND} s; the "
                           "rest of the job was ended.")
        if passed_on and now - passed_on > deadline:
            running = next(one.name for one, code in zip(processes, codes) if code is None)
            raise Lost(f"{interrupts.pending()}: {running} had not saved and stopped after "
                       f"{deadline:g} s; the job was ended as it was.", _GO_ON)
        if interrupts.pending() and not passed_on:
            passed_on = now
            for process in processes[:workers]:
                process.send(keeper.TERMINATE)
        if now - beat >= keeper.BEAT:
            beat = now
            for process in processes:
                process.send(b".")
        time.sleep(0.1)


def end(processes: List[Process], patience: float = 0) -> None:
    """End what still runs, after ``patience`` seconds to end by itself.

    A keeper that does not end its process is killed after 10 s, one for another host (behind an
    ssh) after 30 s.
    """
    until = time.monotonic() + patience
    while time.monotonic() < until and any(process.code is None for process in processes):
        time.sleep(0.1)
    for process in processes:
        process.close()
    until = time.monotonic() + max(keeper.SILENCE if process.remote else _KILL
                                   for process in processes)
    for process in processes:
        process.wait(max(0.1, until - time.monotonic()))


def run(command: Sequence[str], workers: int, servers: int, hosts: Sequence[Host] = (),
        launcher: str = "ssh", address: Optional[str] = None, *, hang_timeout: float = 0.0,
        deadline: float = math.inf, restarts: int = 0) -> int:
    """Run a job to its end; start it again with ``--resume auto`` when a process is lost.

    Parameters
    ----------
    command, workers, servers, hosts, launcher, address, hang_timeout
        As for :func:`start`.
    deadline
        As for :func:`supervise`.
    restarts : int
        How often at most. A job that a signal stops is not started again, nor one whose command
        line is refused (exit code 2).

    Returns
    -------
    int
        0, or 75 when a signal made it save and stop.

    Raises
    ------
    Lost
        As of :func:`supervise`, when no restart is left.
    """
    command, left = list(command), restarts
    while True:
        processes, patience = start(command, workers, servers, hosts, launcher, address,
                                    hang_timeout), 0
        try:
            code = supervise(processes, workers, deadline)
            patience = SHUTDOWN
            return code
        except Lost as error:
            refused = any(process.code == 2 for process in processes)
            if not left or refused or interrupts.pending():
                raise
            left -= 1
            logger.warning("%s Starting it again (restart %d of %d).", error.happened,
                           restarts - left, restarts)
        finally:
            end(processes, patience)
        if "--resume" not in command:
            command += ["--resume", "auto"]
