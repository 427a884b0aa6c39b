"""A study of the recipe on the built-in data: what each step gains, and at which noise rate.

For every noise rate and seed a data set is drawn and ArcFace trained on it; every other arm starts
from there and makes the same number of updates. Settings, and the checkpoint of an arm that counts,
are chosen on the validation people; the accuracies shown are those of the test pairs. Everything
runs by the entry scripts, one thread each, --jobs at a time. About two hours on two cores;
what is done already is not done again.

    python studies/mini_mf2.py [--out mini_mf2] [--seeds 3] [--jobs 2] [--only-table]

Writes OUT/results.json; with --docs the tables of docs/mini_mf2.md and docs/mini_mf2.png.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

import unequal  # noqa: F401  first: it sets the number of threads
from unequal.data import noise_lists
from unequal.data.records import RecordSet, RecordWriter, relabel
from unequal.eval import bins, verification
from unequal.models import checkpoints, noise_scan
from unequal.models.embedder import Embedder, PictureList
from unequal.symbols.margins import Margin

MXNET = threading.Lock()  # its Python side is not made for several threads
ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("lfw", "cfp_fp", "agedb_30")
RATES = (0.0, 0.2, 0.4, 0.6)
TAIL_RATE = 0.3  # the built-in data's own rate, for the arms of step 4
SCALE = 16.0
CLASSES = "tail as classes"

NETWORK = ("--network", "n8", "--emb-size", "128", "--loss-type", "4", "--margin-m", "0.3",
           "--patience", "0")
ARCFACE = ("train_softmax.py", "--per-batch-size", "128", "--lr", "0.1", "--max-steps", "500",
           "--lr-steps", "396,460", "--verbose", "125")
UPDATES = ("--per-batch-size", "128", "--lr", "0.01", "--max-steps", "220", "--lr-steps", "150",
           "--verbose", "110")
NRA = ("train_relusoft.py",) + UPDATES
TAIL = ("train_unequal.py", "--noise-beta", "0.3", "--lr", "0.001", "--batch-size1", "96",
        "--batchsize_id", "48", "--bag-size", "360", "--bags", "50", "--verbose", "50")
# A list of weights trains 100 updates at each; a single one as many as the longest list.
STEPS = {1: "300", 2: "150", 3: "100"}


def tail_arm(weights: str, *flags: str) -> Tuple[str, Tuple[str, ...]]:
    count = len(weights.split(","))
    return ("NRA, beta 0.3", TAIL + ("--interweight", weights, "--max-steps", STEPS[count]) + flags)


# name -> (arm it starts from, command and flags)
HEAD_ARMS = {
    "ArcFace": (None, ARCFACE),
    "ArcFace, continued": ("ArcFace", ("train_softmax.py",) + UPDATES),
    "NRA, beta 0.9": ("ArcFace", NRA + ("--noise-beta", "0.9")),
    "NRA, beta 0.8": ("ArcFace", NRA + ("--noise-beta", "0.8")),
    "NRA, beta 0.7": ("ArcFace", NRA + ("--noise-beta", "0.7")),
    "NRA, beta 0.3": ("ArcFace", NRA + ("--noise-beta", "0.3")),
    "NRA, beta 0.9, threshold": ("ArcFace", NRA + ("--noise-beta", "0.9", "--noise-threshold",
                                                   "0.135")),
}
TAIL_ARMS = {
    "no tail loss (weight 0)": tail_arm("0"),
    "tail, weight 1": tail_arm("1"),
    "tail, weights 1, 5": tail_arm("1,5"),
    "tail, weights 1, 5, 10": tail_arm("1,5,10"),
    "tail, weight 1, random": tail_arm("1", "--mining", "0"),
    CLASSES: ("NRA, beta 0.3", NRA + ("--noise-beta", "0.3")),
    "ArcFace at half the scale": (None, ARCFACE + ("--margin-s", "8")),
}


# Why does the tail stage lower accuracy? One suspect each, at weight 5.
SUSPECTS = {
    "weight 5": tail_arm("5"),
    "weight 5, a fifth of the tail people under two labels": tail_arm("5"),
    "weight 5, three times the head images": tail_arm("5", "--batch-size1", "288"),
    "weight 5, six images per identity": tail_arm("5", "--images-per-identity", "6",
                                                  "--batchsize_id", "96", "--bag-size", "720"),
    "weight 0, three times the updates": tail_arm("0", "--max-steps", "900"),
    "weight 5, three times the updates": tail_arm("5", "--max-steps", "900"),
    "weight 0, ten times the rate": tail_arm("0", "--lr", "0.01"),
    "weight 5, ten times the rate": tail_arm("5", "--lr", "0.01"),
}
SPLIT, = (arm for arm in SUSPECTS if "two labels" in arm)


def write_set(out: Path, image_size: Tuple[int, int],
              labelled: Iterable[Tuple[RecordSet, int, int]]) -> None:
    """Write a record set of ``(record set, key, label)``."""
    with RecordWriter(str(out), image_size) as writer:
        for records, key, label in labelled:
            payload = records.image_payload(key)[1]
            writer.add_payload(label, relabel(payload, label))


def merge(head: Path, tail: Path, out: Path) -> None:
    """The tail as further classes of the head: what people would do otherwise."""
    with RecordSet(str(head)) as first, RecordSet(str(tail)) as second:
        write_set(out, first.image_size, (
            (records, key, records.image(key)[0] + offset)
            for records, offset in ((first, 0), (second, first.num_classes))
            for key in records.image_keys))


def split_identities(tail: Path, out: Path) -> None:
    """Every fifth tail person with at least 4 images gets half of them under a label of its own."""
    with RecordSet(str(tail)) as records:
        labelled, label = [], 0
        for number, (low, high) in enumerate(records.identity_ranges):
            keys = np.arange(low, high)
            parts = np.array_split(keys, 2) if number % 5 == 0 and len(keys) >= 4 else [keys]
            for part in parts:
                labelled += [(records, key, label) for key in part]
                label += 1
        write_set(out, records.image_size, labelled)


def accuracies(checkpoint: str, directory: Path) -> Dict[str, float]:
    """Flip accuracy (per cent) on each set of a directory."""
    embedder = Embedder.from_checkpoint(checkpoint, batch_size=128)
    found = {}
    for name, path in bins.find_sets(str(directory), str(directory), TARGETS).items():
        pictures, issame = bins.load_bin(path)
        plain, flipped = embedder.embed(PictureList(pictures, path), flip=True, label=name)
        found[name] = 100 * verification.evaluate(plain, flipped, issame).accuracy_flip
    return found


def best_checkpoint(folder: Path) -> Optional[Tuple[str, float]]:
    """``(prefix,epoch, mean accuracy)`` of the best verification in the logs of an arm."""
    best = None
    for log in sorted(folder.glob("*-trainlog.jsonl")):
        events = [json.loads(line) for line in log.read_text().splitlines()]
        results: Dict[str, Any] = {}
        for event in events:
            if event["event"] == "verify":
                results = event["results"]
            # Epoch 0 is saved before each verification, and again and again.
            if event["event"] == "save" and event["epoch"]:
                mean = statistics.mean(result["accuracy_flip"] for result in results.values())
                if best is None or mean > best[1]:
                    prefix = str(log)[:-len("-trainlog.jsonl")]
                    best = f"{prefix},{event['epoch']}", mean
    return best


def memorised(checkpoint: str, data: Path, folder: Path,
              scale: float) -> Optional[Dict[str, float]]:
    """Of the flipped images: how many the model gives to the wrong label, and to the right one."""
    with RecordSet(str(data / "MF2_pic9_head")) as records:
        columns = noise_scan.score_records(records, checkpoint, Margin(4, scale, 0.0),
                                           str(folder / "scores.csv"))
    truth = noise_lists.read_truth(str(data / "truth.csv"))
    rows = [(label, prediction, truth[key][0])
            for label, key, prediction in zip(columns["label"], columns["key"],
                                              columns["prediction"]) if truth[key][1] == "flip"]
    if not rows:
        return None
    label, prediction, true = np.array(rows).T
    return {"wrong": 100 * float(np.mean(prediction == label)),
            "right": 100 * float(np.mean(prediction == true))}


class Study:
    """One data set: a noise rate and a seed."""

    def __init__(self, out: Path, rate: float, seed: int) -> None:
        self.rate, self.seed = rate, seed
        self.folder = out / f"noise-{100 * rate:.0f}" / f"seed-{seed}"
        self.data = self.folder / "data"

    def call(self, *command: str, log: Path) -> None:
        with open(str(log), "w") as file:
            done = subprocess.run((sys.executable, "-u") + command, cwd=str(ROOT), stdout=file,
                                  stderr=subprocess.STDOUT, env={**os.environ,
                                                                 "OMP_NUM_THREADS": "1"})
        if done.returncode:
            sys.exit(f"mini_mf2: {' '.join(command[:2])} failed, see {log}")

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.data.exists():
            self.call("-m", "unequal", "synth", str(self.data), "--seed", str(self.seed),
                      "--noise", str(self.rate), log=self.folder / "synth.log")

    def run(self, name: str) -> Dict[str, Any]:
        """Result of an arm, trained unless it was before."""
        parent, (script, *flags) = {**HEAD_ARMS, **TAIL_ARMS, **SUSPECTS}[name]
        folder = self.folder / name.replace(",", "").replace(" ", "_")
        result = folder / "result.json"
        if result.exists():
            return json.loads(result.read_text())
        shutil.rmtree(str(folder), ignore_errors=True)
        folder.mkdir()
        scale = 8.0 if "--margin-s" in flags else SCALE
        head = self.data / "MF2_pic9_head"
        start = self.run(parent)["checkpoint"] if parent else None
        tail = self.data / "MF2_pic9_tail"
        if name == CLASSES:
            merge(head, tail, folder / "merged")
            head = folder / "merged"
        if name == SPLIT:
            split_identities(tail, folder / "split")
            tail = folder / "split"
        if script == "train_unequal.py":
            flags += ["--data-dir-interclass", str(tail)]
        self.call(script, *NETWORK, "--margin-s", str(scale), *flags,
                  *(("--pretrained", start) if parent else ()), "--data-dir", str(head),
                  "--eval-dir", str(self.data / "validation_dataset"), "--seed", str(self.seed),
                  "--prefix", str(folder / "model"), log=folder / "log.txt")
        best = best_checkpoint(folder)
        assert best is not None  # it has verified
        checkpoint, validation = best
        with MXNET:
            test = accuracies(checkpoint, self.data / "eval_dataset")
            flipped = (memorised(checkpoint, self.data, folder, scale) if name != CLASSES
                       else None)
        numbers = {"arm": name, "rate": self.rate, "seed": self.seed, "checkpoint": checkpoint,
                   "validation": 100 * validation, "test": test,
                   "mean": statistics.mean(test.values()),
                   "flipped": flipped}
        keep = f"-{checkpoints.parse(checkpoint)[1]:04d}.params"
        for path in folder.glob("*.params"):
            if not path.name.endswith(keep):
                path.unlink()
        result.write_text(json.dumps(numbers))
        print(f"{100 * self.rate:3.0f}% seed {self.seed} {name:28s} test {numbers['mean']:.2f} "
              f"validation {numbers['validation']:.2f}", flush=True)
        return numbers


def spread(values: Sequence[float]) -> str:
    """``mean ± standard deviation`` as text."""
    return f"{statistics.mean(values):.1f} ± {statistics.pstdev(values):.1f}"


def table(results: List[Dict[str, Any]], rates: Sequence[float], arms: Iterable[str],
          key: Callable[[Dict[str, Any]], Optional[float]]) -> str:
    """A Markdown table of ``key(result)``: a row an arm, a column a noise rate."""
    lines = ["| arm | " + " | ".join(f"{100 * rate:.0f}%" for rate in rates) + " |",
             "|---" * (len(rates) + 1) + "|"]
    for arm in arms:
        cells = []
        for rate in rates:
            found = (key(result) for result in results
                     if result["arm"] == arm and result["rate"] == rate)
            values = [value for value in found if value is not None]
            cells.append(spread(values) if values else "")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(results: List[Dict[str, Any]], path: Path) -> None:
    """Test accuracy over the noise rate, a line an arm, bars of one standard deviation."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), constrained_layout=True)
    arms = [arm for arm in HEAD_ARMS if arm != "NRA, beta 0.8"]
    for number, arm in enumerate(arms):
        points = []
        for rate in RATES:
            values = [result["mean"] for result in results
                      if result["arm"] == arm and result["rate"] == rate]
            if values:
                points.append((100 * rate + 0.4 * (number - len(arms) / 2),
                               statistics.mean(values), statistics.pstdev(values)))
        if points:
            axes.errorbar(*np.array(points).T[:2], yerr=np.array(points).T[2], capsize=2, label=arm,
                          marker="o", markersize=3, linestyle="-" if arm[0] == "N" else "--")
    axes.set_xticks([100 * rate for rate in RATES])
    axes.set_xlabel("labels flipped, %")
    axes.set_ylabel("verification accuracy, mean of 3 sets, %")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(str(path), dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="mini_mf2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only-table", action="store_true", help="train nothing")
    parser.add_argument("--docs", action="store_true", help="write the tables and the picture")
    options = parser.parse_args()
    out = Path(options.out).resolve()

    def work(study_arms: Tuple[Study, Iterable[str]]) -> None:
        study, arms = study_arms
        study.prepare()
        for arm in arms:
            study.run(arm)

    if not options.only_table:
        seeds = range(options.seeds)
        jobs = [(Study(out, rate, seed), list(HEAD_ARMS)) for seed in seeds for rate in RATES]
        jobs += [(Study(out, TAIL_RATE, seed), list(arms))
                 for arms in (TAIL_ARMS, SUSPECTS) for seed in seeds]
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(work, jobs))
    results = [json.loads(path.read_text()) for path in sorted(out.glob("*/*/*/result.json"))]
    (out / "results.json").write_text(json.dumps(results, indent=1))
    parts = [("## Verification, mean of the three test sets, %",
              table(results, RATES, HEAD_ARMS, lambda result: result["mean"])),
             ("## Flipped images that the model gives to their wrong label, %",
              table(results, RATES[1:], HEAD_ARMS,
                    lambda result: result["flipped"] and result["flipped"]["wrong"])),
             ("## Flipped images that it gives to the person they show, %",
              table(results, RATES[1:], HEAD_ARMS,
                    lambda result: result["flipped"] and result["flipped"]["right"])),
             ("## The tail, 30% flipped: verification, %", "\n".join(
                 ["| arm | seeds | " + " | ".join(TARGETS) + " | mean |", "|---" * 6 + "|"] + [
                     " | ".join(("| " + arm, str(len(rows)), *map(spread, zip(*rows)))) + " |"
                     for arm in ("ArcFace", "NRA, beta 0.3", *TAIL_ARMS, *SUSPECTS) for rows in [[
                         (*(result["test"][name] for name in TARGETS), result["mean"])
                         for result in results
                         if result["arm"] == arm and result["rate"] == TAIL_RATE]] if rows]))]
    text = "\n\n".join(f"{title}\n\n{rows}" for title, rows in parts) + "\n"
    print("\n" + text)
    if options.docs:
        page = ROOT / "docs" / "mini_mf2.md"
        before, mark, _ = page.read_text().partition("<!-- written by studies/mini_mf2.py -->\n")
        page.write_text(before + mark + "\n" + text)
        picture(results, ROOT / "docs" / "mini_mf2.png")


if __name__ == "__main__":
    main()
