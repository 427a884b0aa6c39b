"""The recipe on the built-in data set, by its own commands: ``make demo``.

Makes a noisy long-tailed set of drawn faces in demo/, runs step 2 of the recipe on it and prints
the verification accuracy it reaches on people it has never seen. A few minutes on two cores.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TARGETS = ("lfw", "cfp_fp", "agedb_30")

# The paper's step 2 with what a small set asks for: a small network, 660 batches instead of
# hundreds of thousands, and the scale 32: at 64 training has not begun after so few batches.
# On the validation people clean labels reach 87 at 32 and 74 at 64 in 30 epochs; nothing was tuned
# on the pairs of the table.
STEP_2 = ("--network", "n8", "--emb-size", "128", "--loss-type", "4", "--margin-m", "0.5",
          "--margin-s", "32", "--per-batch-size", "128", "--max-steps", "660", "--lr-steps",
          "396,560", "--verbose", "110")


def call(*command):
    """Show a command and run it; the demo ends where it fails."""
    print("\n$ " + " ".join(command), flush=True)
    # One thread: the network is too small to share, and decoding has the other processor. Threads
    # that wait for each other are many times slower as soon as anything else runs here.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    done = subprocess.run((sys.executable, "-u") + command, cwd=str(ROOT), env=environment)
    if done.returncode:
        sys.exit("demo: the command above failed with exit code {}".format(done.returncode))


def last_verification(prefix):
    """``{target: accuracy}`` of the last verification of a run, from its machine-readable log."""
    with open(str(ROOT / prefix) + "-trainlog.jsonl", encoding="utf-8") as lines:
        verified = [event for event in map(json.loads, lines) if event["event"] == "verify"]
    return {name: result["accuracy_flip"] for name, result in verified[-1]["results"].items()}


def print_table(rows):
    """Accuracies in percent, a row a stage."""
    print("\n{:28s}{}{:>10s}".format("verification, %", "".join(
        "{:>10s}".format(name) for name in TARGETS), "mean"))
    for name, accuracies in rows:
        values = [100 * accuracies[target] for target in TARGETS]
        print("{:28s}{}{:10.2f}".format(
            name, "".join("{:10.2f}".format(value) for value in values), sum(values) / len(values)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="demo", help="directory to make (default %(default)s)")
    parser.add_argument("--seed", default="0")
    options = parser.parse_args()
    start = time.time()
    out = options.out
    # Only what an earlier demo made: never a directory of somebody's own.
    if (ROOT / out).exists() and not (ROOT / out / "data" / "truth.csv").exists():
        sys.exit("demo: {} is there and no earlier demo's; name another --out".format(out))
    shutil.rmtree(str(ROOT / out), ignore_errors=True)
    call("-m", "unequal", "synth", out + "/data", "--seed", options.seed)
    head, arcface = out + "/data/MF2_pic9_head", out + "/models/r50_arc_pic9/model"
    call("train_softmax.py", *STEP_2, "--data-dir", head, "--prefix", arcface, "--seed",
         options.seed)
    print_table([("step 2: ArcFace", last_verification(arcface))])
    print("\nThe set is drawn (30% of the labels wrong, 10% pictures of nobody): these numbers say "
          "how the\nmethod behaves here, nothing about people. {:.0f} s in all.".format(
              time.time() - start))


if __name__ == "__main__":
    main()
