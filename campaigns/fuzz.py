"""Damaged and hostile files for every command that reads files from elsewhere.

    python campaigns/fuzz.py [--inputs 1000] [--formats rec,bin] [--workers 2] [--seed 0]
    python campaigns/fuzz.py --asan --inputs 20 --formats rec,picture,params,state
    python campaigns/fuzz.py --valgrind --inputs 20 --formats rec,picture,params

Each input is damaged by a generator seeded with its number and read, as users do it, by the
commands that read its format. A worker process handles many; the parent kills it when an input
takes too long, starts another when it dies, and blames the input. An input passes when every
command ends with exit code 0 or 1, what it says on failure is one line that begins with
``error: ``, and nothing else happened: no signal, no traceback, no warning, no time or memory
beyond the limit, no program started, no file touched outside of the output folder, no temporary
file left, nothing on the terminal that it would obey. In every format one input in thirty has a
pipe, a folder, an endless device or gigabytes of nothing in place of one of its files. Time and
memory are measured for each command: processor time, and the peaks of all its processes (the
decoder of unusual pictures, those of ``pack --processes``) added up. Exit code 1 when any input
fails; its number repeats it alone: ``--first N --inputs 1``.

``--asan`` runs the workers with AddressSanitizer's allocator under all libraries, and with our own
C (symbols/rows.c, src/unequal/data/planes.c) compiled for it; a further format, ``planes``, fills
batches of odd sizes by planes.c. What is freed twice, or written or copied outside of an
allocation or after it was freed, by our C or by a function of the C library, ends the worker and is
a finding. Some twice slower; needs gcc. It begins with such a defect, too.

``--valgrind`` runs the workers under valgrind's memcheck, some thirty times slower: what the C
libraries (decoders, MXNet) read and write outside of their allocations is a finding then.

The format ``defects`` holds inputs that misbehave in each of these ways, and the run begins with
them: a fuzzer that finds nothing must be known to look.
"""
import argparse
import ctypes
import glob
import json
import os
import queue
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from typing import (
    Any,
    Callable,
    Container,
    Dict,
    Iterable,
    Iterator,
    List,
    NoReturn,
    Optional,
    Sequence,
    Tuple,
    Union,
)

MEMORY = 2 << 30  # bytes that a command may hold, all its processes together
SECONDS = 40.0  # of processor time that a command may take, all its processes together
INPUTS_A_WORKER = 500

Command = Union[List[str], Callable[[], Any]]  # words of `unequal`, or a function
Report = Callable[[str, int, List[Any], List[str]], None]
DECODER = os.path.join("data", "_decoder.py")

# ---------------------------------------------------------------------------- the worker


def _of_a_pool(event: str, arguments: str) -> bool:
    """Whether this is what the fork server of `pack --processes` does: its socket, and results of
    our own processes."""
    return (event in ("socket.connect", "os.chmod") and "pymp-" in arguments
            or event == "pickle.find_class" and arguments.startswith(
                ("('concurrent.futures.process', ", "('unequal.data.convert', ")))


class Watch:
    """Notes what Python's audit events say about programs, connections and files."""

    _PROGRAMS = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn",
                 "subprocess.Popen", "pty.spawn", "socket.connect", "pickle.find_class",
                 "ctypes.dlopen", "os.kill", "os.chmod", "os.chown")
    _CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink",
                "os.truncate", "shutil.rmtree", "shutil.copyfile", "shutil.move")

    _BELOW = ("os.mkdir", "os.remove", "os.rename", "os.rmdir")

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = tuple(os.path.join(os.path.realpath(path), "") for path in allowed)
        self.active = False
        self.seen: List[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if not self.active:
            return
        if event in self._PROGRAMS:
            if event == "subprocess.Popen" and any(
                    str(word).endswith(DECODER) for word in arguments[1]):
                return  # the decoder of unusual pictures is meant to be a process of its own
            if _of_a_pool(event, repr(arguments)):
                return
            self.seen.append(f"{event} {repr(arguments)[:100]}")
        elif event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._check(event, arguments[:1])
        elif event in self._CHANGES:
            inside = arguments[-1]  # the descriptor of a folder, -1: none
            base = f"/proc/self/fd/{inside}" if event in self._BELOW and inside >= 0 else ""
            self._check(event, arguments[:2], base)

    def _check(self, event: str, paths: Iterable[Any], base: str = os.curdir) -> None:
        for path in paths:
            if isinstance(path, (str, bytes, os.PathLike)):
                # Of the folder: the name itself may be a link that is only replaced.
                path = os.path.join(base, os.fsdecode(path))
                real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
                if not os.path.join(real, "").startswith(self._allowed) and real != os.devnull:
                    self.seen.append(f"{event} {path[:200]}")


def listing(folder: str, without: Container[str]) -> List[Tuple[str, int, int]]:
    """Path, size and time of everything below ``folder`` but the folder ``without``."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if os.path.join(place, name) not in without]
        for name in folders + names:
            facts = os.lstat(os.path.join(place, name))
            found.append((os.path.join(place, name), facts.st_size if name in names else 0,
                          facts.st_mtime_ns if name in names else 0))
    return sorted(found)


def complaints(code: Any, said: str) -> Iterator[str]:
    """What is wrong with how a command ended."""
    lines = [line for line in said.splitlines() if line.strip()]
    if "Traceback" in said:
        yield "traceback"
    if re.search(r"[a-z]Warning:", said):
        yield "warning: " + said[-300:]
    if "unexpected " in said:
        yield "no answer: " + lines[-1][:300]
    if code not in (0, 1):
        yield f"exit code {code}: {said[-300:]}"
    obeyed = [letter for letter in said if not letter.isprintable() and letter not in "\n\t"]
    if obeyed:
        yield f"terminal text: {ascii(''.join(obeyed))[:100]}"
    failures = [line for line in lines if line.startswith("error: ")]
    if len(failures) > 1 or code == 0 and failures:
        yield f"{len(failures)} errors"


class Family:
    """Memory and processor time of this process and all it has started, while a command runs.

    Peaks are those that the system keeps for each process, so that none is missed between two
    looks; a process that has come and gone since is looked at every 20 milliseconds.
    """

    def __init__(self) -> None:
        self._before: Dict[str, float] = {}
        self._peaks: Dict[str, int] = {}
        self._seconds: Dict[str, float] = {}
        self._begin = time.process_time()
        self._forget("self")
        for process in self._descendants():
            self._forget(process)
            self._before[process] = self._used(process)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @staticmethod
    def _forget(process: str) -> None:
        """Have a process's peak begin anew."""
        # Not ru_maxrss, which begins with the memory of the process that started this one.
        with suppress(OSError), open(f"/proc/{process}/clear_refs", "w") as file:
            file.write("5")

    @staticmethod
    def _field(process: str, name: str) -> int:
        with open(f"/proc/{process}/status", encoding="utf-8", errors="replace") as status:
            return sum(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

    @staticmethod
    def _used(process: str) -> float:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _descendants() -> List[str]:
        waiting, found = ["self"], []
        while waiting:
            process = waiting.pop()
            with suppress(OSError):
                for thread in os.listdir(f"/proc/{process}/task"):
                    with open(f"/proc/{process}/task/{thread}/children") as children:
                        new = children.read().split()
                    waiting += new
                    found += new
        return found

    def _look(self) -> None:
        for process in self._descendants():
            with suppress(OSError):
                self._peaks[process] = self._field(process, "VmHWM:")
                self._seconds[process] = self._used(process) - self._before.get(process, 0)

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self._look()

    def end(self) -> Tuple[float, int]:
        """``(processor seconds, bytes)`` since it was made, of all processes together."""
        self._done.set()
        self._thread.join()
        self._look()
        return (time.process_time() - self._begin + sum(self._seconds.values()),
                self._field("self", "VmHWM:") + sum(self._peaks.values()))


def held_memory() -> int:
    """Bytes this process has held at most."""
    return Family._field("self", "VmHWM:")


def replace_one(random: random.Random, folder: str) -> None:
    """Put something in place of one of the files below ``folder`` that is no plain, short file."""
    files = sorted(os.path.join(place, name) for place, _, names in os.walk(folder)
                   for name in names)
    path = random.choice(files)
    what = random.choice(("pipe", "folder", "device", "nothing", "hole", "hole", "loop"))
    if what == "hole":
        os.truncate(path, random.choice((1 << 31, 6 << 30)))
        return
    os.remove(path)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        os.mkdir(path)
    elif what != "nothing":
        os.symlink("/dev/zero" if what == "device" else os.path.basename(path), path)


class Worker:
    """Builds inputs by number and runs their commands."""

    def __init__(self, root: str, seed: int) -> None:
        self.root, self.seed = root, seed
        temporary = os.path.join(root, "temporary")
        os.makedirs(temporary)
        tempfile.tempdir = temporary
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from unequal.commands import cli
        import _fuzz_formats  # isort: skip
        from _mutations import seeded  # isort: skip

        assert tuple(_fuzz_formats.FORMATS) == FORMATS, "name it in FORMATS of both files"
        cli.setup_logging()  # to stderr, whichever command comes first
        self.formats, self.seeded, self.main = _fuzz_formats.FORMATS, seeded, cli.main
        self._case = _fuzz_formats.Case
        self._sound = _fuzz_formats.Sound(os.path.join(root, "sound"))
        # What a command wrote to its streams, the libraries' in C included.
        self._said = os.open(os.path.join(temporary, "said"), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self.watch = Watch([os.path.join(root, "out"), temporary])
        # Under a tool that looks at every access, time and memory are others.
        self._slow = "FUZZ_ASAN" in os.environ or "FUZZ_VALGRIND_LOG" in os.environ
        self._log, self._log_place = os.environ.get("FUZZ_VALGRIND_LOG"), 0
        self._memcheck()  # of the imports
        if "FUZZ_ASAN" in os.environ:
            _use_sanitized(os.environ["FUZZ_ASAN"])
        self._defects_memory = held_memory() + (100 << 20)

    def _run(self, command: Command) -> Tuple[Any, str]:
        os.ftruncate(self._said, 0)
        os.lseek(self._said, 0, os.SEEK_SET)
        sys.stderr.flush()
        real = os.dup(2)
        os.dup2(self._said, 2)
        # As a terminal's: what UTF-8 cannot hold is an error.
        sys.stdout = open(os.dup(2), "w", encoding="utf-8")
        self.watch.active = True
        try:
            code = command() if callable(command) else self.main(command)
        except SystemExit as error:
            code = error.code
        except BaseException as error:
            sys.stderr.write(f"Traceback: {error!r}"[:500])
            code = -1
        finally:
            self.watch.active = False
            sys.stdout.close()
            sys.stdout = sys.__stdout__
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
        size = os.fstat(self._said).st_size
        text = os.pread(self._said, min(size, 1 << 20), max(0, size - (1 << 20)))
        return code, text.decode("utf-8", "replace")

    def handle(self, name: str, number: int) -> Tuple[List[Any], List[str]]:
        """``(command, exit code)`` of each command of an input, and what is wrong."""
        inside, out, outside = (os.path.join(self.root, part) for part in ("in", "out", "outside"))
        for folder in (inside, out, outside):
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
        if name == "defects":
            commands: Sequence[Command] = [DEFECTS[number](self)]
        elif name == "overflow":
            commands = [_overflow]
        elif name == "planes":
            commands = [lambda: _fill_planes(self.seeded(self.seed, name, number))]
        else:
            random = self.seeded(self.seed, name, number)
            commands = self.formats[name](self._case(random, self._sound, inside, out, outside))
            if not random.randrange(30):
                replace_one(random, inside)
        hidden = (out, os.path.join(self.root, "temporary"))
        before = listing(self.root, hidden)
        codes, wrong = [], []
        for command in commands:
            self.watch.seen = []
            family = Family()
            code, said = self._run(command)
            label = command[0] if isinstance(command, list) else getattr(
                command, "label", "defect")
            seconds, memory = family.end()
            codes.append((label, code, seconds, memory))
            problems = list(complaints(code, said)) + self.watch.seen
            if seconds > SECONDS and not self._slow:
                problems.append(f"took {seconds:.0f} processor seconds")
            problems += ["left " + place for place, _, names in os.walk(out) for entry in names
                         if re.fullmatch(r"\..*\.\d+", entry)]
            wrong += [f"{label}: {problem}" for problem in problems]
        after = listing(self.root, hidden)
        if after != before:
            wrong.append(f"changed outside: {sorted(set(after) ^ set(before))[:3]}")
        wrong += self._memcheck()
        held = max(memory for *_, memory in codes)
        if not self._slow and held > (
                self._defects_memory if name == "defects" else MEMORY):
            wrong.append(f"held {held / 2 ** 30:.1f} GB")
        return codes, wrong

    def _memcheck(self) -> List[str]:
        """What valgrind has said since it was asked last."""
        if not self._log:
            return []
        with open(self._log, errors="replace") as log:
            log.seek(self._log_place)
            new = log.read()
            self._log_place = log.tell()
        return ["memcheck: " + " ".join(found.split()) for found in re.findall(
            r"Invalid (?:read|write|free|jump)[^\n]*(?:\n[^\n]*(?:at|by) 0x[^\n]*){0,4}", new)]


def _write(path: str) -> Callable[[], int]:
    def command() -> int:
        with open(path, "w"):
            return 0
    return command


def _raise() -> NoReturn:
    raise ValueError("defect")


def _overflow() -> int:
    """Write behind an allocation of C, which nothing but a sanitizer sees."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    ctypes.memset(libc.malloc(100), 0, 101)
    return 0


def _use_sanitized(folder: str) -> None:
    """Put the libraries of :func:`_sanitized` in place of our own C."""
    from unequal.data import planes
    from unequal.symbols import operators

    kernels: List[Tuple[Any, str, Tuple[str, ...]]] = [
        (operators, "rows", ("unit_forward", "unit_backward")),
        (planes, "planes", ("write_planes",))]
    for module, name, functions in kernels:
        library = ctypes.CDLL(os.path.join(folder, name + ".so"))
        for function in functions:
            getattr(library, function).argtypes = getattr(module.COMPILED, function).argtypes
        module.COMPILED = library


def _fill_planes(random: random.Random) -> int:
    """Batches of pictures of odd sizes by planes.c: the values of the form without it."""
    import numpy as np

    from unequal.data import augmentation as aug
    from unequal.data import planes

    numbers = np.random.RandomState(random.randrange(2 ** 32))
    for _ in range(20):
        count, height, width = (random.randrange(1, most) for most in (6, 50, 70))
        pixels = numbers.randint(0, 256, (count, height, width, 3)).astype(np.uint8)
        draws = aug.draw(aug.Augmentation(0.5, 0, *random.choice([(0, 0), (0.5, 0.5), (1, 1)])),
                         numbers, count, height, width)
        first = random.randrange(count)
        filled = np.zeros((2, count, 3, height, width), np.float32)
        for out, compiled in zip(filled, (True, False)):
            batch = planes.Planes(out, draws)
            write = batch.write if compiled else batch._write_plain
            write(pixels[first:].copy(), first, count)
        np.testing.assert_allclose(filled[0], filled[1], rtol=1e-5, atol=1e-4)
        for wrong in (pixels[:, 1:], pixels[..., :2], pixels[:0], pixels.astype(np.int8)):
            with suppress(ValueError):
                batch.write(wrong, 0, count)
                raise AssertionError(f"pixels {wrong.shape} {wrong.dtype} are accepted")
    return 0


# What the parent or the worker must notice, each in one word of the finding.
DEFECTS = (
    lambda worker: lambda: os.abort(),
    lambda worker: lambda: time.sleep(1e6),
    lambda worker: _raise,
    lambda worker: _write(os.path.join(worker.root, "outside", "escaped")),
    lambda worker: _write(os.path.join(worker.root, "in", "escaped")),
    lambda worker: lambda: os.system("true"),
    lambda worker: lambda: sys.stderr.write("RuntimeWarning: overflow\n") and 0,
    lambda worker: lambda: sys.stderr.write("error: unexpected ValueError: x\n") and 1,
    lambda worker: lambda: bytearray(b"x") * (300 << 20) and 0,
    lambda worker: lambda: 139,
    lambda worker: lambda: print("fault: \x1b[2J") or 0,
)
SIGNS = ("signal 6", "time", "traceback", "open", "changed outside", "os.system", "warning",
         "no answer", "held", "exit code 139", "terminal text")


def work(root: str, seed: int) -> None:
    """Answer ``format number`` lines on stdin with lines of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else speaks there
    worker = Worker(root, seed)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        name, number = line.split()
        answers.write(json.dumps(worker.handle(name, int(number))) + "\n")
        answers.flush()
    shutil.rmtree(root, ignore_errors=True)


# ---------------------------------------------------------------------------- the parent


def _sanitized(root: str) -> Dict[str, str]:
    """What a process needs in its environment to run under AddressSanitizer."""
    top = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir)
    for source in ("symbols/rows.c", "src/unequal/data/planes.c"):
        name = os.path.splitext(os.path.basename(source))[0]
        subprocess.run(["gcc", "-shared", "-fPIC", "-g", "-O1", "-fopenmp", "-ffp-contract=off",
                        "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined",
                        "-o", os.path.join(root, name + ".so"),
                        os.path.join(top, source), "-lm"], check=True)
    # The C++ library too, whose exceptions the sanitizer looks for when it starts.
    libraries = [subprocess.run(["gcc", "-print-file-name=" + name], check=True, text=True,
                                stdout=subprocess.PIPE).stdout.strip()
                 for name in ("libasan.so", "libstdc++.so.6")]
    return {"LD_PRELOAD": " ".join(libraries), "PYTHONMALLOC": "malloc", "FUZZ_ASAN": root,
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:log_path="
                            + os.path.join(root, "asan")}


class Process:
    """A worker process, and when to give it up."""

    def __init__(self, seed: int, limit: float, tool: Optional[str] = None) -> None:
        self.root = tempfile.mkdtemp(prefix="fuzz-")
        environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1",
                           HOME=os.path.join(self.root, "home"))
        self._log = tempfile.TemporaryFile("w+")
        before = []
        if tool == "asan":
            environment.update(_sanitized(self.root))
        if tool == "valgrind":
            log = os.path.join(self.root, "valgrind")
            # Python's own allocator hides what is beside an object; AVX-512 is not known there.
            environment.update(PYTHONMALLOC="malloc", FUZZ_VALGRIND_LOG=log,
                               OPENBLAS_CORETYPE="Haswell")
            before = ["valgrind", "--undef-value-errors=no", "--leak-check=no", "--num-callers=8",
                      "--error-limit=no", "--trace-children=no", "--log-file=" + log]
        self._process = subprocess.Popen(
            before + [sys.executable, os.path.abspath(__file__), "--work", self.root, "--seed",
                      str(seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env=environment, cwd=self.root)
        assert self._process.stdin is not None
        self._input, self._limit, self.handled = self._process.stdin, limit, 0
        self._lines: "queue.Queue[Optional[str]]" = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        if self._take(3000 if tool else 300) != "ready\n":
            self._log.seek(0)
            raise RuntimeError("the worker does not start:\n" + self._log.read()[-3000:])

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _take(self, seconds: float) -> Optional[str]:
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            return "late"

    def handle(self, name: str, number: int) -> Tuple[List[Any], List[str], bool]:
        """``(commands' exit codes, findings, whether the worker lives)``."""
        self._input.write(f"{name} {number}\n")
        self._input.flush()
        answer = self._take(self._limit)
        self.handled += 1
        if answer == "late":
            return [], [f"time: more than {self._limit} s"], False
        if answer is None:
            code = self._process.wait()
            self._log.seek(0)
            said = self._log.read()[-300:]
            for report in glob.glob(os.path.join(self.root, "asan.*")):
                with open(report, errors="replace") as file:
                    said = " ".join(file.read(2000).split())
            return [], [f"signal {-code}: {said}"], False
        codes, wrong = json.loads(answer)
        return codes, wrong, not any("held" in what for what in wrong)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._input.close()
        shutil.rmtree(self.root, ignore_errors=True)


def fuzz(jobs: Iterable[Tuple[str, int]], seed: int, limit: float, workers: int, report: Report,
         tool: Optional[str] = None) -> None:
    """Handle ``jobs`` (format, number); ``report(name, number, codes, wrong)`` for each."""
    waiting, lock, failures = iter(jobs), threading.Lock(), []

    def serve() -> None:
        process = None
        try:
            while True:
                with lock:
                    job = next(waiting, None)
                if job is None:
                    return
                if process is None:
                    process = Process(seed, limit, tool)
                codes, wrong, alive = process.handle(*job)
                with lock:
                    report(*job, codes, wrong)
                if not alive or process.handled >= INPUTS_A_WORKER:
                    process.close()
                    process = None
        except RuntimeError as error:
            failures.append(error)
        finally:
            if process is not None:
                process.close()

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit(str(failures[0]))


# Those of _fuzz_formats.py, which is not imported here: it needs MXNet.
FORMATS = ("rec", "idx", "property", "lst", "bin", "params", "symbol", "noise-list", "truth",
           "identities", "features", "picture", "pairs", "state", "run", "names", "decisions",
           "suspects", "published", "align", "centers")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1000, help="a format (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--formats", default=",".join(FORMATS), help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--limit", type=float, default=240,
                        help="seconds after which an input hangs (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--asan", dest="tool", action="store_const", const="asan",
                        help="look for memory errors in C by AddressSanitizer")
    parser.add_argument("--valgrind", dest="tool", action="store_const", const="valgrind",
                        help="the same by valgrind, which sees more and takes far longer")
    parser.add_argument("--no-defects", action="store_true", help="do not try the fuzzer itself")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.seed)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.tool:
        options.limit *= 60
        options.no_defects = True  # their times and memory are others there
    if not options.no_defects:
        noticed: Dict[int, List[str]] = {}
        fuzz([("defects", number) for number in range(len(DEFECTS))], options.seed, 8,
             options.workers, lambda name, number, codes, wrong: noticed.update({number: wrong}))
        missed = [sign for number, sign in enumerate(SIGNS)
                  if not any(sign in what for what in noticed.get(number, ()))]
        print(f"defects noticed: {len(SIGNS) - len(missed)} of {len(SIGNS)}", flush=True)
        if missed:
            print(f"missed: {missed} ({noticed})")
            return 1
    if options.tool == "asan":
        found: List[str] = []
        fuzz([("overflow", 0)], options.seed, options.limit, 1,
             lambda name, number, codes, wrong: found.extend(wrong), options.tool)
        if not any("heap-buffer-overflow" in what for what in found):
            print(f"missed: a write behind an allocation ({found})")
            return 1
        print("the write behind an allocation is noticed", flush=True)
    names = options.formats.split(",") + ["planes"] * (options.tool == "asan")
    # Inputs, commands that succeed, refuse, wrong inputs; most seconds and bytes of one command.
    counts = {name: [0, 0, 0, 0, 0, 0] for name in names}
    accepted: Dict[Tuple[str, str], int] = {}  # (format, command) -> how often

    def report(name: str, number: int, codes: List[Any], wrong: List[str]) -> None:
        row = counts[name]
        row[0] += 1
        for command, code, seconds, memory in codes:
            row[4:] = max(row[4], seconds), max(row[5], memory)
            row[1] += code == 0
            row[2] += code == 1
            accepted[name, command] = accepted.get((name, command), 0) + (code == 0)
        row[3] += bool(wrong)
        if row[0] % 250 == 0:
            print(f"{name}: {row[0]} inputs, {time.time() - begin:.0f} s", flush=True)
        for what in wrong:
            print(f"{name} {number}: {what}", flush=True)

    begin = time.time()
    fuzz([(name, number) for name in names
          for number in range(options.first, options.first + options.inputs)],
         options.seed, options.limit, options.workers, report, options.tool)
    print(f"{'format':12} {'inputs':>7} {'accepted':>9} {'refused':>9} {'wrong':>6} {'most s':>7} "
          f"{'most MB':>7}")
    for name in names:
        row = counts[name]
        print(f"{name:12} {row[0]:7} {row[1]:9} {row[2]:9} {row[3]:6} {row[4]:7.1f} "
              f"{row[5] / 1e6:7.0f}")
    print(f"{sum(row[0] for row in counts.values())} inputs in {time.time() - begin:.0f} s "
          "(accepted and refused count commands)")
    for (name, command), count in accepted.items():
        if not count and options.inputs >= 100:  # then the damage is not what was looked at
            print(f"{name}: {command} accepted nothing at all")
            return 1
    return int(any(row[3] or row[0] < options.inputs for row in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
