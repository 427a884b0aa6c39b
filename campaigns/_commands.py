"""The commands of `unequal` under kills and beside themselves: the second part of faults.py."""
import argparse
import csv
import http.client
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from unequal.commands import cli
from unequal.synthetic.dataset import make_dataset

NETWORK = ("--network", "n8", "--emb-size", "16", "--margin-s", "16", "--target", "lfw,agedb_30")


def start(work: Callable[..., None], command: Sequence[str], directory: Path) -> BaseProcess:
    # A fork has MXNet imported already, which takes longer than most of these do: the kills then
    # fall where something happens.
    process = multiprocessing.get_context("fork").Process(target=work, args=(command, directory))
    process.start()
    return process


def contents(path: Path) -> Any:
    """What must be the same of a file."""
    if path.suffix == ".npz":  # its header holds the log's path
        with np.load(str(path)) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files if name != "header"}
    if path.suffix == ".jsonl":
        # A run that was killed before it saved anything starts anew.
        events = [json.loads(line) for line in path.read_text().split('{"event": "start"')[-1]
                  .splitlines()[1:]]
        return [{**event, "time": 0} for event in events
                if event["event"] in ("lr", "verify", "save", "end")]
    return path.read_bytes()


def commands(directory: Path, photos: Optional[str]) -> Dict[str, List[str]]:
    """``{name: words of unequal}``; ``OUT`` stands for the folder that gets all it makes."""
    data = directory / "commands"
    clean, people, model = (str(data / name) for name in ("clean", "people", "model,0"))
    features = str(data / "features.npz")
    table = {
        "pack": ["pack", people, "OUT/set", "--processes", "2", "--verify", "20%",
                 "--check-faces", "20"],
        "import": ["import", "lfw", str(data / "lfw.tar"), "OUT/set", "--processes", "2"],
        "import 2": ["import", "insightface", clean, "OUT", "--head-min-images", "15"],
        "corrupt": ["corrupt", clean, "OUT/set", "--flip", "0.2", "--structured", "--model", model],
        "embed": ["embed", clean, "--model", model, "--out", "OUT/features.npy"],
        "embed 2": ["embed", clean, "--model", model, "--out", "OUT/features/"],
        "identify": ["identify", "--probes", features, "--distractors",
                     str(data / "strangers.npz"), "--json", "OUT/a.json", "--plot", "OUT/a.png"],
        "noise": ["noise", clean, "--features", features, "--out", "OUT/list",
                  "--probabilities", "OUT/p.npz"],
        "noise 2": ["noise", clean, "--pretrained", model, "--threshold", "0.05", "--out",
                    "OUT/list", "--scores", "OUT/scores"],
        "drop-centers": ["drop-centers", model, "OUT/model", "--data-dir", clean],
        "denoise": ["denoise", clean, str(data / "decisions.csv"), "OUT/set", "--renumber"],
        "train auto": ["train", "auto", str(data / "small"), "--prefix", "OUT/model"],
    }
    if photos:
        table["align"] = ["align", photos, "OUT", "--processes", "2"]
    return table


def _run(words: Sequence[str]) -> None:
    code = cli.main(list(words))
    if code:
        sys.exit(f"{' '.join(words)} ended with {code}")


def prepare(directory: Path) -> None:
    """What the commands read: sets, pictures in folders and archives, a model, features."""
    data = directory / "commands"
    make_dataset(str(data / "drawn"), seed=2, image_size=32, head_identities=24, head_images=14,
                 tail_identities=60, eval_pairs=200, eval_identities=60)
    head, tail = (str(data / "drawn" / name) for name in ("MF2_pic9_head", "MF2_pic9_tail"))
    shutil.copytree(head, str(data / "clean"))
    shutil.copy(str(data / "drawn" / "eval_dataset" / "lfw.bin"), str(data / "clean"))
    shutil.copytree(str(directory / "data" / "MF2_pic9_head"), str(data / "small"))
    _run(["unpack", head, str(data / "people")])
    lfw = data / "lfw"
    for number, person in enumerate(sorted((data / "people").iterdir())):
        name = f"Person_{number:03d}"
        (lfw / name).mkdir(parents=True)
        for count, picture in enumerate(sorted(person.iterdir()), 1):
            shutil.copy(str(picture), str(lfw / name / f"{name}_{count:04d}.jpg"))
    shutil.make_archive(str(lfw), "tar", str(data), "lfw")
    (data / "pairs.txt").write_text("10 5\n" + "".join(
        f"Person_{number:03d} 1 2\nPerson_{number:03d} 1 Person_{number + 1:03d} 2\n"
        for number in range(20)))
    (data / "decisions.csv").write_text("key,decision,label\n" + "".join(
        f"{key},{'relabel' if key % 3 else 'drop'},{key % 7 if key % 3 else ''}\n"
        for key in range(5, 200, 4)))
    _run(["train", "softmax", *NETWORK, "--emb-size", "64", "--data-dir", head, "--target", "",
          "--sub-centers", "3", "--per-batch-size", "32", "--max-steps", "20", "--verbose", "20",
          "--ckpt", "2", "--prefix", str(data / "model")])
    for source, name in ((head, "features"), (tail, "strangers")):
        _run(["embed", source, "--model", str(data / "model") + ",0", "--out",
              str(data / name) + ".npz"])


def _command(words: Sequence[str], directory: Path) -> None:
    """What a process of its own does: one command of `unequal`, in a group of its own."""
    os.setpgid(0, 0)
    output = os.open(str(directory) + f".log.{os.getpid()}", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["TMPDIR"] = str(directory) + ".tmp"
    tempfile.tempdir = None
    os.makedirs(os.environ["TMPDIR"], exist_ok=True)
    directory.mkdir(exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C as in a terminal
    (directory.parent / f"began.{os.getpid()}").touch()
    sys.exit(cli.main([word.replace("OUT", str(directory)) for word in words]))


class Disturbed:
    """One command, its undisturbed result, and what was found wrong."""

    SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

    def __init__(self, name: str, words: Sequence[str], directory: Path,
                 randomness: random.Random) -> None:
        self.name, self.words, self._randomness = name, words, randomness
        self.whole, self.killed = directory / "whole", directory / "killed"
        shutil.rmtree(str(directory), ignore_errors=True)
        directory.mkdir()
        self.wrong: List[str] = []
        self.sentence = ""
        self.kills = self.twice = self.refused = self.late = 0
        process, begin = self._start(self.whole)
        process.join()
        self.seconds = time.time() - begin
        if process.exitcode:
            sys.exit(f"{name}: exit code {process.exitcode}: {self._said(process, self.whole)}")
        self.expected = self._contents(self.whole)

    def _start(self, directory: Path) -> Tuple[BaseProcess, float]:
        process = start(_command, self.words, directory)
        began = self.whole.parent / f"began.{process.pid}"
        while not began.exists() and process.is_alive():
            time.sleep(0.001)
        return process, time.time()

    def _said(self, process: BaseProcess, directory: Path) -> str:
        return Path(f"{directory}.log.{process.pid}").read_text()

    @staticmethod
    def _contents(directory: Path) -> Dict[str, Any]:
        """Of every file that is no temporary one; of one that grows by lines see `contents`."""
        return {str(path.relative_to(directory)): contents(path)
                for path in sorted(directory.rglob("*")) if path.is_file()
                and not path.name.endswith("-resume.1.npz")
                and not any(part.startswith(".") for part in path.relative_to(directory).parts)}

    def _temporary(self) -> List[str]:
        """Names that are not for anybody, also where Python puts temporary files."""
        other = Path(str(self.killed) + ".tmp")
        return [str(path) for path in (*self.killed.rglob("*"), *self.killed.parent.glob(".*"),
                                       *(other.iterdir() if other.exists() else ()))
                if path.name.startswith((".", "unequal-")) or re.search(r"\.\d{2,}$|\.lock$",
                                                                      path.name)]

    def _complain(self, what: object) -> None:
        self.wrong.append(str(what))
        print(f"{self.name}: {what}", flush=True)

    def _compare(self, when: str) -> None:
        found = self._contents(self.killed)
        different = sorted(name for name in {*found, *self.expected}
                           if found.get(name) != self.expected.get(name))
        if different:
            self._complain(f"{when}: differ: {', '.join(different[:5])} ({len(different)})")
        if self._temporary():
            self._complain(f"{when}: left: {', '.join(self._temporary())}")

    def _orphans(self, group: int) -> bool:
        for _ in range(400):
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return False
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
        return True

    def _check_code(self, process: Any, number: int, when: str) -> None:
        said = self._said(process, self.killed)
        train = self.words[0] == "train"
        allowed = {signal.SIGKILL: (-signal.SIGKILL,), signal.SIGTERM: (75 if train else 143,),
                   signal.SIGINT: (75 if train else 130,)}[number]  # type: ignore[index]
        last = said.splitlines()[-1] if said else ""
        if process.exitcode not in allowed or "Traceback" in said or "unexpected" in said:
            self._complain(f"{when}: exit code {process.exitcode}: {said[-600:]}")
        elif number != signal.SIGKILL and not re.match("interrupted|terminated|stopped", last):
            self._complain(f"{when}: last line {last!r}")
        if self._orphans(process.pid):
            self._complain(f"{when}: processes are left")

    def kill(self) -> None:
        """Kill it once at a random time; then it runs to its end, most times."""
        number = self.SIGNALS[self.kills % 3]
        if self._randomness.random() < 0.5:
            shutil.rmtree(str(self.killed), ignore_errors=True)  # else over what is there
        before = self._temporary()  # of a SIGKILL; those it need not have removed yet
        process, begin = self._start(self.killed)
        share = self._randomness.uniform(0, 1)
        process.join(share * self.seconds)
        if not process.is_alive():
            self.late += 1
            return
        os.kill(process.pid, number)  # type: ignore[arg-type]
        process.join(120)
        if process.exitcode in (0, 1):  # it had ended, or was about to refuse
            self.late += 1
            return
        self.kills += 1
        when = f"{signal.Signals(number).name} at {share:.2f}"
        self._check_code(process, number, when)
        left = [path for path in self._temporary() if path not in before]
        if number != signal.SIGKILL and left:
            self._complain(f"{when}: left: {', '.join(left)}")
        # Some files grow line by line, for the next run to go on from.
        other = [name for name, value in self._contents(self.killed).items()
                 if not re.search(r"aligned\.csv|\.part|trainlog|-resume|\.lock", name)
                 and value != self.expected.get(name)]
        if other:
            self._complain(f"{when}: half or other: {', '.join(other[:5])} ({len(other)})")
        if self._randomness.random() < 0.25:
            return  # killed again at once
        self.again(when)

    def again(self, when: str) -> None:
        process, _ = self._start(self.killed)
        process.join()
        refused = "is not empty; name a new folder" in self._said(process, self.killed)
        if process.exitcode and not refused:  # a whole folder of features is not written over
            self._complain(f"again after {when}: exit code {process.exitcode}: "
                           f"{self._said(process, self.killed)[-600:]}")
        self._compare(f"again after {when}")

    def both(self) -> None:
        """Two at once on one output, the second some time after the first."""
        shutil.rmtree(str(self.killed), ignore_errors=True)
        first, _ = self._start(self.killed)
        time.sleep(self._randomness.choice((0, self._randomness.uniform(0, 0.9))) * self.seconds)
        second, _ = self._start(self.killed)
        self.twice += 1
        codes = []
        for process in (first, second):
            process.join()
            said = self._said(process, self.killed)
            codes.append(process.exitcode)
            if process.exitcode not in (0, 1) or "Traceback" in said or "unexpected" in said \
                    or process.exitcode and not said.splitlines()[-1].startswith("error: "):
                self._complain(f"two at once: exit code {process.exitcode}: {said[-600:]}")
            elif process.exitcode:
                self.refused += 1
                self.sentence = said.splitlines()[-1]
        if 0 not in codes:
            self._complain(f"two at once: neither ended well: {codes}")
        self._compare("two at once")

    def __str__(self) -> str:
        return (f"{self.name:12s} {self.seconds:5.1f} s: {self.kills} kills, {self.twice} times "
                f"two at once ({self.refused} refused), {len(self.wrong)} wrong {self.sentence}")


class Pages:
    """`unequal review` killed while two pages decide; then two servers on one file."""

    def __init__(self, directory: Path, randomness: random.Random) -> None:
        self.data, self.directory, self._randomness = directory / "commands", directory, randomness
        self.out = directory / "review" / "decisions.csv"
        self.out.parent.mkdir()
        (self.out.parent / "list").write_text("".join(
            f"0 {key} 0.5 0.1\n" for key in range(1, 301)))
        self.confirmed: "Counter[Tuple[int, str]]" = Counter()  # (key, decision)
        self.kills = self.wrong = 0

    def _serve(self, number: int) -> Tuple[BaseProcess, str]:
        directory = self.out.parent / f"server{number}"
        process = start(_command, ["review", str(self.data / "clean"),
                                   str(self.out.parent / "list"), "--out", str(self.out)],
                        directory)
        log = Path(f"{directory}.log.{process.pid}")
        while True:
            found = re.search(r"http://\S+", log.read_text()) if log.exists() else None
            if found:
                return process, found.group()
            assert process.is_alive()
            time.sleep(0.01)

    def _decide(self, address: str, keys: Sequence[int], ended: threading.Event) -> None:
        for key in keys:
            decision = self._choices[key % 3]
            request = urllib.request.Request(address + "decide", json.dumps(
                {"key": key, "decision": decision, "label": 3}).encode())
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    answer.read()
            except (OSError, http.client.HTTPException):  # killed before or within its answer
                return
            self.confirmed[key, decision] += 1
            if ended.is_set():
                return

    def round(self, number: int, servers: int) -> None:
        """Serve, decide from two pages, kill; every confirmed decision must be in the file."""
        self._choices = self._randomness.sample(["keep", "drop", "relabel"], 3)
        running = [self._serve(which) for which in range(servers)]
        keys = self._randomness.sample(range(1, 301), 200)
        ended = threading.Event()
        pages = [threading.Thread(target=self._decide, args=(
            running[page % servers][1], keys[page::2], ended)) for page in range(2)]
        for page in pages:
            page.start()
        time.sleep(self._randomness.uniform(0.02, 0.6))
        for process, _ in running:
            os.kill(process.pid, number)  # type: ignore[arg-type]
        for process, _ in running:
            process.join(60)
            if process.exitcode not in ((-9,) if number == signal.SIGKILL else (0,)):
                self.wrong += 1
                print(f"review: exit code {process.exitcode} after {number!r}", flush=True)
        ended.set()
        for page in pages:
            page.join()
        self.kills += servers
        with open(self.out, newline="") as file:
            text = file.read()
        # A last line without an end was being written; one may be there that was not confirmed.
        head, *rows = csv.reader(text[:text.rfind("\n") + 1].splitlines())
        lost = self.confirmed - Counter((int(key), decision) for key, decision, _ in rows)
        if lost or head != ["key", "decision", "label"]:
            self.wrong += 1
            print(f"review: lost decisions: {lost}", flush=True)


def kill_commands(directory: Path, options: argparse.Namespace, randomness: random.Random) -> bool:
    """The second half of the campaign; whether anything was wrong."""
    prepare(directory)
    wrong = 0
    for name, words in commands(directory, options.photos).items():
        if options.only and not re.fullmatch(options.only, name):
            continue
        one = Disturbed(name, words, directory / "killed", randomness)
        while one.kills < options.each and one.late < 10 * options.each:
            one.kill()
        for _ in range(options.twice):
            one.both()
        print(one, flush=True)
        wrong += len(one.wrong)
    if not options.only or re.fullmatch(options.only, "review"):
        pages = Pages(directory, randomness)
        for number in range(options.each):
            pages.round(Disturbed.SIGNALS[number % 3], 1)
        for _ in range(options.twice):
            pages.round(signal.SIGKILL, 2)
        print(f"review: {pages.kills} kills, {sum(pages.confirmed.values())} decisions, "
              f"{pages.wrong} wrong", flush=True)
        wrong += pages.wrong
    return bool(wrong)
