"""What each step of the recipe gains on photographs of real people with known wrong labels.

LFW (without the people who are also in CFP) and CFP 1-150 train, CFP 151-200 choose settings and
checkpoints, CFP 201-350 report: 2,100 frontal-frontal and 2,100 frontal-profile pairs. People with
5 pictures and more are head, those with 2 to 4 tail, those with one are the strangers of the noise.

    python studies/real_faces.py --lfw lfw_112.tar --cfp cfp_112_001-350.tar --protocol protocol
    python studies/real_faces.py --page       # docs/study.md and its pictures from the results
    python studies/real_faces.py --plan       # what is missing, and how long it would take

Every finished arm is a line of studies/results/real_faces.jsonl. What is there is not done again,
and an arm that was killed goes on where it was, so a run can be spread over any number of sittings
(--until 07:30 starts no arm after that time) and, with --jobs, processes: each works on a noisy set
that no other has locked. Work data and checkpoints lie in --work.
"""
import argparse
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import _real_faces_page as page
import numpy as np
from _real_faces_arms import (
    ARMS,
    EARLY,
    LISTS,
    MARGIN,
    NETWORK,
    SCALE,
    TARGETS,
    Arm,
    Key,
    packed,
    read_results,
    wanted,
)

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "studies" / "results" / "real_faces.jsonl"
CHECKPOINTS = ROOT / "studies" / "checkpoints.json"
SIZE, OUTLIERS, HEAD_MIN = 48, 0.1, 5


def best_epoch(prefix: str) -> int:
    """The checkpoint that the validation people chose, from a training log's last line."""
    with open(prefix + "-trainlog.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines][-1]["best_epoch"]


def commit() -> str:
    """The commit that is checked out, with ``+`` when files differ from it."""
    def git(*words: str) -> str:
        return subprocess.run(("git",) + words, cwd=str(ROOT), stdout=subprocess.PIPE,
                              check=True, universal_newlines=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".",
                  ":!studies/results", ":!studies/checkpoints.json", ":!docs")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def measure_training(checkpoint: str, directory: str) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """What a model makes of its own training images, by kind.

    Returns
    -------
    numbers : dict
        Per cent: ``recognised`` clean images given to their label without margin and with it;
        flips given to their ``wrong`` label and to the ``right`` person, outliers ``believed``;
        ``differ``: images whose margin prediction is not the label (what NRA's second term acts
        on), ``differ_right``: how many of those predictions name the person shown.
    arrays : dict
        ``keys``, ``labels``, ``score`` (label margin; below 0: another label is likelier),
        ``largest`` (largest probability, with margin) and ``prediction``.
    """
    import mxnet as mx

    from unequal.data import noise_lists
    from unequal.data.records import RecordSet
    from unequal.models import checkpoints
    from unequal.models.embedder import Embedder
    from unequal.models.noise_scan import Classifier
    from unequal.symbols.margins import Margin

    symbol, arg_params, aux_params = checkpoints.load(*checkpoints.parse(checkpoint))
    with RecordSet(directory) as records:
        embeddings, _ = Embedder(symbol, arg_params, aux_params, records.image_size).embed(records)
        labels, keys = records.labels(), records.image_keys
        centers = len(arg_params["fc7_weight"]) // records.num_classes
    plain, harder = (Classifier(arg_params, Margin(4, SCALE, margin, sub_centers=centers),
                                mx.cpu(), "label-margin")(embeddings, labels)
                     for margin in (0.0, MARGIN))
    truth = noise_lists.read_truth(os.path.join(directory, "truth.csv"))
    true = np.array([truth[int(key)][0] for key in keys])
    kinds = np.array([truth[int(key)][1] for key in keys])
    prediction, with_margin = plain["prediction"], harder["prediction"]

    def share(condition: np.ndarray, among: np.ndarray) -> Optional[float]:
        return round(100 * float(condition[among].mean()), 2) if among.any() else None

    clean, flip, outlier = (kinds == kind for kind in ("clean", "flip", "outlier"))
    differ = with_margin != labels
    numbers = {
        "recognised": share(prediction == labels, clean),
        "recognised_margin": share(with_margin == labels, clean),
        "training_accuracy": share(with_margin == labels, np.ones(len(labels), bool)),
        "wrong": share(prediction == labels, flip), "right": share(prediction == true, flip),
        "believed": share(prediction == labels, outlier),
        "differ": share(differ, np.ones(len(labels), bool)),
        "differ_right": share(with_margin == true, differ)}
    return numbers, {
        "keys": keys, "labels": labels, "prediction": prediction, "noisy": kinds != "clean",
        "score": plain["score"], "largest": harder["max_probability"],
        "label_probability": plain["label_probability"]}


def measure_pairs(checkpoint: str, directory: str) -> Tuple[Dict[str, float], Dict[str, str]]:
    """Accuracy (per cent, with the mirror images) on each target, and which pairs were right."""
    from unequal.eval import bins, verification
    from unequal.models.embedder import Embedder, PictureList

    embedder = Embedder.from_checkpoint(checkpoint, (SIZE, SIZE))
    accuracy, right = {}, {}
    for name, path in bins.find_sets(directory, directory, TARGETS).items():
        pictures, issame = bins.load_bin(path)
        once = {picture: row for row, picture in enumerate(dict.fromkeys(pictures))}
        plain, flipped = embedder.embed(PictureList(list(once), path), flip=True, label=name)
        rows = [once[picture] for picture in pictures]
        correct = verification.decide((plain + flipped)[rows], issame).correct
        accuracy[name], right[name] = round(100 * float(correct.mean()), 3), packed(correct)
    return accuracy, right


def tail_tightness(checkpoint: str, directory: str) -> float:
    """Mean cosine of two images of one tail person."""
    from unequal.data.records import RecordSet
    from unequal.models.embedder import Embedder

    with RecordSet(directory) as records:
        features = Embedder.from_checkpoint(checkpoint, records.image_size,
                                            flip=False).transform(records)
        labels = records.labels()
    cosines = []
    for rows in np.split(features, np.flatnonzero(np.diff(labels)) + 1):
        similar = rows @ rows.T
        cosines.extend(similar[np.triu_indices(len(rows), 1)])
    return round(float(np.mean(cosines)), 4)


class Cell:
    """One noisy set, and the arms trained on it."""

    def __init__(self, study: "Study", kind: str, rate: float, seed: int) -> None:
        self.study, self.kind, self.rate, self.seed = study, kind, rate, seed
        self.folder = study.work / f"{kind}-{100 * rate:.0f}" / f"seed-{seed}"
        self.commands: List[str] = []

    def path(self, *names: str) -> str:
        return str(self.folder.joinpath(*names))

    def noisy(self) -> str:
        """The head set with this cell's noise."""
        out = self.path("noisy")
        if not os.path.exists(out + "/truth.csv"):
            flags = ["--flip", str(self.rate), "--seed", str(self.seed)]
            if self.rate:
                flags += ["--outliers", str(OUTLIERS), "--strangers", self.study.path("single")]
            if self.kind == "structured":
                flags += ["--structured", "--model", self.study.clean_model(self.seed)]
            self.study.unequal("corrupt", self.study.path("head"), out, *flags)
        return out

    def _list(self, name: str, model: str) -> str:
        """The images to leave out by a model's own scores, in the reference's format."""
        from unequal.data import noise_lists

        path = self.path(name + ".txt")
        if not os.path.exists(path):
            _, arrays = measure_training(model, self.noisy())
            listed = arrays["score"] < 0
            if name == "reference":
                # The largest probability, as many images as the other list: no threshold of the
                # reference's lists any at 492 classes and this scale.
                listed = np.zeros(len(listed), bool)
                listed[np.argsort(arrays["largest"], kind="stable")[
                    :int((arrays["score"] < 0).sum())]] = True
            columns = {"label": arrays["labels"], "key": arrays["keys"],
                       "max_probability": arrays["largest"],
                       "label_probability": arrays["label_probability"]}
            noise_lists.write_list(path, columns, listed)
            noisy = arrays["noisy"]
            facts = {"listed": int(listed.sum()),
                     "precision": round(float(noisy[listed].mean()), 4) if listed.any() else None,
                     "recall": round(float(listed[noisy].mean()), 4) if noisy.any() else None,
                     "prediction": {int(key): int(label) for key, label in zip(
                         arrays["keys"][listed], arrays["prediction"][listed])}}
            Path(path + ".json").write_text(json.dumps(facts), encoding="utf-8")
        return path

    def margin_list(self) -> str:
        """Images whose label is not the likeliest one."""
        return self._list("margin", self.study.last(self, "ArcFace"))

    def reference_list(self) -> str:
        """The reference's rule half-way, with a threshold that lists as many."""
        return self._list("reference", self.early(self.study.last(self, "ArcFace")))

    def dominant_centers(self, model: str) -> str:
        """A model of several centres a class, half-way, with the dominant ones only."""
        out = self.path("dominant", "model")
        if not os.path.exists(out + "-0000.params"):
            self.study.unequal("drop-centers", self.early(model), out, "--data-dir", self.noisy())
        return out + ",0"

    def without_sub_center_list(self) -> str:
        model = self.dominant_centers(self.study.last(self, "3 sub-centers"))
        return self._denoised(self._list("sub-centers", model), "without-sub-center-list")

    def list_facts(self) -> Dict[str, Dict[str, float]]:
        """Precision and recall of the lists that were made."""
        found = {}
        for name in LISTS:
            path = Path(self.path(name + ".txt.json"))
            if path.exists():
                facts = json.loads(path.read_text(encoding="utf-8"))
                del facts["prediction"]
                found[name] = facts
        return found

    def _denoised(self, noise_list: str, name: str) -> str:
        out = self.path(name)
        if not os.path.exists(out + "/property"):
            self.study.unequal("denoise", self.noisy(), noise_list, out)
        return out

    def early(self, model: str) -> str:
        """ArcFace's checkpoint half-way: of ``model``'s prefix."""
        return f"{model.rsplit(',', 1)[0]},{EARLY}"

    def early_list(self) -> str:
        """Images whose label is not the likeliest one half-way."""
        return self._list("early", self.early(self.study.last(self, "ArcFace")))

    def without_early_list(self) -> str:
        return self._denoised(self.early_list(), "without-early-list")

    def without_list(self) -> str:
        return self._denoised(self.margin_list(), "without-list")

    def without_reference_list(self) -> str:
        return self._denoised(self.reference_list(), "without-reference-list")

    def relabelled(self) -> str:
        """The listed images under the label that ArcFace gives them half-way."""
        out = self.path("relabelled")
        if not os.path.exists(out + "/property"):
            facts = json.loads(Path(self.early_list() + ".json").read_text(encoding="utf-8"))
            given = {int(key): label for key, label in facts["prediction"].items()}
            write_set(out, [(self.noisy(), given, 0)])
        return out

    def with_tail_classes(self) -> str:
        """The denoised head and the tail as further classes."""
        out = self.path("with-tail-classes")
        if not os.path.exists(out + "/property"):
            write_set(out, [(self.without_early_list(), {}, 0),
                            (self.study.path("tail"), {}, None)])
        return out

    def run(self, name: str) -> Dict[str, Any]:
        """Train an arm and measure it: a line of the results."""
        arm, begin = ARMS[name], time.time()
        folder = self.folder / folder_name(name)
        folder.mkdir(parents=True, exist_ok=True)
        prefix = str(folder / "model")
        flags = [*NETWORK, *arm.flags, "--data-dir", getattr(self, arm.data)(), "--eval-dir",
                 self.study.path("validation"), "--target", ",".join(TARGETS), "--seed",
                 str(self.seed), "--prefix", prefix]
        if arm.parent:
            start = self.study.last(self, arm.parent)
            flags += ["--pretrained", getattr(self, arm.start)(start) if arm.start else start]
        if arm.script == "train_relusoft.py":
            flags += ["--bin-dir", str(folder), "--truth", self.noisy() + "/truth.csv"]
            if arm.data == "with_tail_classes":
                del flags[-2:]  # its keys are not those of the noisy set
        if arm.noise_list:
            flags += ["--noise-list", getattr(self, arm.noise_list)()]
        if arm.tail:
            flags += ["--data-dir-interclass", self.study.path("tail")]
        memory = self.study.call([sys.executable, "-u", arm.script, *flags, "--resume", "auto"],
                                 folder / "log.txt")
        prefix = last_prefix(prefix, arm)
        chosen = f"{prefix},{best_epoch(prefix)}"
        line: Dict[str, Any] = {
            "study": "real_faces", "kind": self.kind, "rate": self.rate,
            "outliers": OUTLIERS if self.rate else 0.0, "seed": self.seed, "arm": name,
            "parent": arm.parent, "checkpoint": os.path.relpath(chosen, str(self.study.work))}
        line.update(self.measured(chosen, arm))
        # The last one is saved under both numbers when it is the best, too.
        last = prefix + ",0"
        digests = [_sha256(checkpoint) for checkpoint in (chosen, last)]
        if digests[0] != digests[1]:
            line["last"] = dict(self.measured(last, arm), sha256=digests[1])
        line.update(lists=self.list_facts(), memory_mib=memory, sha256=digests[0],
                    seconds=round(time.time() - begin), commit=commit(),
                    command=self.study.shown([arm.script, *flags]))
        if name == "ArcFace":
            line["curve"] = self.curve(prefix)
        return line

    def measured(self, checkpoint: str, arm: Arm) -> Dict[str, Any]:
        """Everything that is measured of one checkpoint."""
        study = self.study
        report, right = measure_pairs(checkpoint, study.path("report"))
        numbers: Dict[str, Any] = {
            "validation": measure_pairs(checkpoint, study.path("validation"))[0],
            "report": report, "right": right,
            "tail_cosine": tail_tightness(checkpoint, study.path("tail"))}
        if arm.data != "with_tail_classes":
            numbers["training"], _ = measure_training(checkpoint, self.noisy())
        return numbers

    def curve(self, prefix: str) -> List[Dict[str, Any]]:
        """The training images at each verification whose checkpoint was kept."""
        points = []
        with open(prefix + "-trainlog.jsonl", encoding="utf-8") as lines:
            for event in map(json.loads, lines):
                if event["event"] == "save" and event["epoch"]:
                    numbers, _ = measure_training(f"{prefix},{event['epoch']}", self.noisy())
                    points.append(dict(numbers, step=event["step"]))
        return points


def folder_name(arm: str) -> str:
    """Where an arm's checkpoints are, in its cell's folder."""
    return arm.replace(",", "").replace("'", "").replace(" ", "_")


def last_prefix(prefix: str, arm: Arm) -> str:
    """The prefix of an arm's checkpoints; with a list of weights, those of the last weight."""
    weights = arm.flags[arm.flags.index("--interweight") + 1].split(",") if arm.tail else [""]
    return prefix + ("_w" + weights[-1] if len(weights) > 1 else "")


def _sha256(checkpoint: str) -> str:
    prefix, epoch = checkpoint.rsplit(",", 1)
    path = Path(f"{prefix}-{int(epoch):04d}.params")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_set(out: str, parts: Sequence[Tuple[str, Dict[int, int], Optional[int]]]) -> None:
    """Write sets as one.

    Parameters
    ----------
    out : str
    parts : sequence of tuple
        Directory; new labels of some keys; what is added to its labels (None: numbered on after
        the classes of the parts before).
    """
    from unequal.data.records import RecordSet, RecordWriter, relabel

    opened = [RecordSet(directory) for directory, _, _ in parts]
    images: List[Tuple[int, int, RecordSet, int]] = []
    classes = 0
    for records, (_, given, offset) in zip(opened, parts):
        shift = classes if offset is None else offset
        images += [(given.get(int(key), records.image(key)[0]) + shift, place, records, key)
                   for place, key in enumerate(records.image_keys, len(images))]
        classes = max(classes, records.num_classes + shift)
    with RecordWriter(out, opened[0].image_size, classes) as writer:
        for label, _, records, key in sorted(images, key=lambda image: image[:2]):
            writer.add_payload(label, relabel(records.image_payload(key)[1], label))
    for records in opened:
        records.close()


class Study:
    """The sets that all cells share, and the results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work = Path(options.work).resolve()
        self.results = Path(options.results)
        self.lines = read_results(self.results)
        self._locks: Dict[str, Any] = {}

    @contextlib.contextmanager
    def locked(self, key: Key, wait: bool = True) -> Iterator[bool]:
        """Hold a noisy set against other processes; yields whether it was free (or waited for)."""
        path = self.work / "locks" / f"{key.kind}-{key.rate:g}-{key.seed}"
        if str(path) in self._locks:  # ours already
            yield True
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(str(path), "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            self._locks[str(path)] = file
            try:
                self.lines = read_results(self.results)
                yield True
            finally:
                del self._locks[str(path)]

    def path(self, name: str) -> str:
        return str(self.work / name)

    def shown(self, command: Sequence[str]) -> str:
        """A command as text, with WORK for the work folder."""
        return " ".join(map(shlex.quote, command)).replace(str(self.work), "WORK")

    def call(self, command: Sequence[str], log: Optional[Path] = None) -> int:
        """Run a command on one thread; returns its largest memory in MiB."""
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        with open(str(log or self.work / "log.txt"), "a", encoding="utf-8") as file:
            process = subprocess.Popen(command, cwd=str(ROOT), stdout=file,
                                       stderr=subprocess.STDOUT, env=environment)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1
        if process.returncode:
            raise SystemExit(f"real_faces: {self.shown(command[:3])} failed "
                             f"({process.returncode}), see {file.name}")
        return usage.ru_maxrss // 1024

    def unequal(self, *arguments: str) -> None:
        self.call([sys.executable, "-m", "unequal", *arguments])

    def prepare(self) -> None:
        """Import the sets and split them; nothing that is there is made again."""
        self.work.mkdir(parents=True, exist_ok=True)
        options = self.options
        protocol = ["--protocol", options.protocol] if options.protocol else []
        size = ["--size", str(SIZE), "--processes", "1"]
        if not os.path.exists(self.path("lfw/lfw.bin")):
            self.unequal("import", "lfw", options.lfw, self.path("lfw"), *size, *protocol,
                         "--without", os.path.join(options.protocol or os.path.dirname(
                             options.lfw), "cfp_lfw_overlap.txt"))
        for name, people, splits in (("cfp", "1-150", "1-3"), ("validation", "151-200", "4"),
                                     ("report", "201-350", "5-7")):
            if not os.path.exists(self.path(name + "/cfp_fp.bin")):
                self.unequal("import", "cfp", options.cfp, self.path(name), *size, *protocol,
                             "--people", people, "--splits", splits)
        if not os.path.exists(self.path("all/property")):
            write_set(self.path("all"), [(self.path("lfw"), {}, 0), (self.path("cfp"), {}, None)])
        for source, more, fewer, minimum in (("all", "head", "rest", HEAD_MIN),
                                             ("rest", "tail", "single", 2)):
            if not os.path.exists(self.path(fewer + "/property")):
                self.unequal("split", self.path(source), self.path(more), self.path(fewer),
                             "--head-min-images", str(minimum))

    def last(self, cell: Cell, name: str) -> str:
        """An arm's last checkpoint, trained when it is not there (any more)."""
        folder = cell.folder / folder_name(name)
        prefix = last_prefix(str(folder / "model"), ARMS[name])
        key = Key(cell.kind, cell.rate, cell.seed, name)
        there = os.path.exists(prefix + "-0000.params")
        if key not in self.lines or not there:
            self.do(key, again=not there)
        return prefix + ",0"

    def clean_model(self, seed: int) -> str:
        """ArcFace on the clean labels: whom it confuses is whom structured noise confuses."""
        return self.last(Cell(self, "uniform", 0.0, seed), "ArcFace")

    def do(self, key: Key, again: bool = False) -> None:
        """Train and measure one arm unless its line is there."""
        with self.locked(key):
            if key not in self.lines or again:
                parent = ARMS[key.arm].parent
                if parent:
                    self.do(key._replace(arm=parent))
                self._do(key)

    def _do(self, key: Key) -> None:
        known = key in self.lines
        line = self.lines[key] = Cell(self, key.kind, key.rate, key.seed).run(key.arm)
        if not known:
            self.results.parent.mkdir(parents=True, exist_ok=True)
            with open(str(self.results), "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        print(f"{key.kind} {100 * key.rate:.0f}% seed {key.seed} {key.arm:30s} report "
              f"{line['report']} validation {line['validation']} {line['seconds']} s", flush=True)

    def do_all(self, keys: Sequence[Key], until: Optional[float]) -> None:
        """Do what is missing, in order, leaving aside what another process is at."""
        while True:
            self.lines = read_results(self.results)
            left = [key for key in keys if key not in self.lines]
            if not left:
                return
            for key in left:
                if until and time.time() > until:
                    print("real_faces: it is time; the rest is for another sitting")
                    return
                with self.locked(key, wait=False) as free:
                    if free:
                        self.do(key)
                        break
            else:
                time.sleep(30)


def write_checkpoints(lines: Dict[Key, Dict[str, Any]], path: Path) -> None:
    """How each checkpoint is made again, with its parents' commands first."""
    table = {}
    for key, line in lines.items():
        only = f"{key.kind},{key.rate:g},{key.seed},{key.arm}"
        chain: List[str] = []
        name: Optional[str] = key.arm
        while name:
            parent = lines.get(key._replace(arm=name))
            if parent is None:
                break
            chain.insert(0, parent["command"])
            name = parent["parent"]
        table[line["checkpoint"]] = {
            "commit": line["commit"], "sha256": line["sha256"], "commands": chain,
            "or": "python studies/real_faces.py --lfw LFW --cfp CFP --protocol DIR --work WORK "
                  f"--only {shlex.quote(only)}"}
    path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def _only(text: str) -> Key:
    kind, rate, seed, arm = text.split(",", 3)
    return Key(kind, float(rate), int(seed), arm)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lfw", help="LFW as `unequal import lfw` takes it")
    parser.add_argument("--cfp", help="CFP as `unequal import cfp` takes it")
    parser.add_argument("--protocol", help="folder of their lists, and cfp_lfw_overlap.txt")
    parser.add_argument("--work", default="real_faces", help="data and checkpoints (default "
                                                             "%(default)s)")
    parser.add_argument("--results", default=str(RESULTS))
    parser.add_argument("--until", help="HH:MM: start no arm after this time")
    parser.add_argument("--only", type=_only, metavar="KIND,RATE,SEED,ARM", help="one line")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default %(default)s)")
    parser.add_argument("--plan", action="store_true", help="what is missing")
    parser.add_argument("--page", action="store_true", help="docs/study.md and checkpoints.json")
    options = parser.parse_args()
    lines = read_results(Path(options.results))
    missing = [key for key in wanted() if key not in lines]
    if options.page or options.plan:
        if options.plan:
            print(page.missing(lines, wanted()))
        else:
            page.write(lines, wanted(), ROOT / "docs")
            write_checkpoints(lines, CHECKPOINTS)
        return
    if not options.lfw or not options.cfp:
        print("real_faces: needs LFW and CFP (--lfw, --cfp, --protocol; docs/published-sets.md "
              f"says where from); left out. {len(missing)} of {len(wanted())} lines are missing.")
        return
    import unequal  # noqa: F401  prepares MXNet
    logging.basicConfig(level=logging.WARNING)
    until = None
    if options.until:
        hour, minute = map(int, options.until.split(":"))
        now = time.localtime()
        until = time.time() + ((hour - now.tm_hour) * 3600 + (minute - now.tm_min) * 60) % 86400
    study = Study(options)
    study.prepare()
    others = [subprocess.Popen([sys.executable, *sys.argv, "--jobs", "1"])
              for _ in range(options.jobs - 1)]
    study.do_all([options.only] if options.only else wanted(), until)
    if any([process.wait() for process in others]):
        raise SystemExit("real_faces: another process failed, see above")


if __name__ == "__main__":
    main()
