"""The whole recipe on the built-in data set, by its own commands: ``make demo``.

Makes a noisy long-tailed set of drawn faces in demo/, runs steps 2, 3.1, 3.2 and 4 of the recipe
on it and prints the verification accuracy that each reaches on people it has never seen;
demo/report.html shows the run. Less than ten minutes on two cores.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

ROOT = Path(__file__).resolve().parent
TARGETS = ("lfw", "cfp_fp", "agedb_30")

# The paper's recipe with what a small and very noisy set asks for (docs/study.md): a small network,
# hundreds of batches instead of hundreds of thousands, a smaller scale, no margin until the people
# are half known (with 40% of the labels wrong a margin from the first batch learns nobody), and an
# end before the wrong labels are learnt by heart. From there the control goes on trusting every
# label, NRA does not. All chosen on the validation people; the table's pairs are used for nothing
# else, and each row is its step's last checkpoint.
NETWORK = ("--network", "n8", "--emb-size", "128", "--loss-type", "4", "--margin-s", "32",
           "--patience", "0", "--end-epoch", "100000")
WARM = ("--margin-m", "0", "--lr", "0.1", "--lr-steps", "100000", "--max-steps", "500",
        "--verbose", "250")
MARGIN = ("--margin-m", "0.3")
STEP_2 = MARGIN + ("--lr", "0.1", "--lr-steps", "100000", "--max-steps", "350", "--verbose", "175")
BETA = "0.3"
# The control makes the same updates as step 3.2.
FINE_TUNE = ("--max-steps", "250", "--verbose", "125")
LR = ("--lr", "0.02", "--lr-steps", "200")
STEP_4 = MARGIN + ("--lr", "0.002", "--noise-beta", BETA, "--batch-size1", "96", "--batchsize_id",
                   "48", "--bag-size", "360", "--bags", "50", "--max-steps", "100", "--verbose",
                   "50")
WEIGHTS = ("1", "5", "10")


class Demo:
    """The directory of a run, and the commands that made it."""

    def __init__(self, out: str, seed: str) -> None:
        self.out, self.seed = out, seed
        self.commands: List[str] = []
        self.rows: List[Dict[str, Any]] = []

    def path(self, *names: str) -> str:
        return "/".join((self.out,) + names)

    def call(self, *command: str, **environment: str) -> None:
        """Show a command and run it; the demo ends where it fails."""
        shown = " ".join([f"{name}={value}" for name, value in environment.items()] + [
            "python" if word == sys.executable else word for word in command])
        print("\n$ " + shown, flush=True)
        self.commands.append(shown)
        # One thread: the network is too small to share, and decoding has the other processor.
        # Threads that wait for each other are many times slower as soon as anything else runs.
        done = subprocess.run(command, cwd=str(ROOT), env={
            "OMP_NUM_THREADS": "1", **os.environ, "PYTHON": sys.executable, **environment})
        if done.returncode:
            sys.exit(f"demo: the command above failed with exit code {done.returncode}")

    def unequal(self, *arguments: str) -> None:
        self.call(sys.executable, "-m", "unequal", *arguments)

    def train(self, script: str, data: str, prefix: str, *flags: str) -> None:
        self.call(sys.executable, "-u", script, *self.common(data, prefix), *flags)

    def common(self, data: str, prefix: str) -> Tuple[str, ...]:
        return (*NETWORK, "--data-dir", data, "--prefix", prefix, "--seed", self.seed,
                "--eval-dir", self.path("data", "validation_dataset"))

    def measure(self, name: str, prefix: str) -> str:
        """Add a step's row, its last checkpoint on the test pairs; returns the checkpoint."""
        log, model = prefix + "-trainlog.jsonl", prefix + ",0"
        numbers = prefix + "-verify.json"
        self.unequal("verify", "--model", model, "--eval-dir", self.path("data", "eval_dataset"),
                     "--bootstrap", "none", "--json", numbers)
        with open(str(ROOT / numbers), encoding="utf-8") as file:
            sets = json.load(file)["sets"]
        inside = len(self.out) + 1
        self.rows.append({
            "name": name, "model": model[inside:], "log": log[inside:],
            "accuracies": {target: sets[target]["accuracy_flip"] for target in TARGETS}})
        return model


def print_table(rows: List[Dict[str, Any]]) -> None:
    """Accuracies in percent, a row a stage."""
    names = "".join(f"{name:>10s}" for name in TARGETS)
    print(f"\n{'verification, %':34s}{names}{'mean':>10s}")
    for row in rows:
        values = [100 * row["accuracies"][target] for target in TARGETS]
        shown = "".join(f"{value:10.2f}" for value in (*values, sum(values) / len(values)))
        print(f"{row['name']:34s}{shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="demo", help="directory to make (default %(default)s)")
    parser.add_argument("--seed", default="0")
    options = parser.parse_args()
    start = time.time()
    out = options.out.rstrip("/")
    # Only what an earlier demo made: never a directory of somebody's own.
    if (ROOT / out).exists() and not (ROOT / out / "data" / "truth.csv").exists():
        sys.exit(f"demo: {out} is there and no earlier demo's; name another --out")
    shutil.rmtree(str(ROOT / out), ignore_errors=True)
    demo = Demo(out, options.seed)
    head, tail = demo.path("data", "MF2_pic9_head"), demo.path("data", "MF2_pic9_tail")
    truth = demo.path("data", "truth.csv")

    batch = ("--per-batch-size", "128")
    demo.unequal("synth", demo.path("data"), "--preset", "study", "--seed", demo.seed)
    warm, prefix = (demo.path("models", name, "model") for name in ("warm", "arcface"))
    demo.train("train_softmax.py", head, warm, *WARM, *batch)
    demo.train("train_softmax.py", head, prefix, *STEP_2, *batch, "--pretrained", warm + ",0")
    arcface = demo.measure("step 2: ArcFace", prefix)
    control = demo.path("models", "control", "model")
    demo.train("train_softmax.py", head, control, *MARGIN, *FINE_TUNE, *LR, *batch,
               "--pretrained", arcface)
    demo.measure("control: ArcFace, continued", control)

    # The label's probability against the largest other, without margin: it finds wrong labels,
    # where the reference's rule is made for pictures of nobody.
    nra = demo.path("models", "nra")
    noisy, scores = nra + "/0_noiselist.txt", nra + "/scores.csv"
    demo.unequal("noise", head, "--pretrained", arcface, "--method", "label-margin",
                 "--threshold", "0", "--margin-s", "32", "--out", noisy, "--scores", scores,
                 "--truth", truth)
    demo.train("train_relusoft_savemodel.py", head, nra + "/model_t", *MARGIN, *LR, *batch,
               "--end-epoch", "1", "--noise-beta", BETA, "--mean-loss", "1", "--bin-dir", nra,
               "--pretrained", arcface)
    demo.call("sh", "NRA.sh", *demo.common(head, nra + "/model"), *FINE_TUNE, "--mean-loss", "1",
              "--noise-list", noisy, "--truth", truth, DATA_DIR=head, PREFIX=nra + "/model",
              BIN_DIR=nra, NETWORK="n8", PRETRAINED=nra + "/model_t,0", MARGIN_M=MARGIN[1],
              LR=LR[1], LR_STEPS=LR[3], PER_BATCH_SIZE=batch[1], NOISE_BETA=BETA)
    denoised = demo.measure("step 3: NRA", nra + "/model")

    clean = demo.path("data", "MF2_pic9_head_denoise")
    every = demo.path("models", "all", "model")
    demo.unequal("denoise", head, noisy, clean)
    demo.train("train_unequal.py", clean, every, *STEP_4, "--data-dir-interclass", tail,
               "--interweight", ",".join(WEIGHTS), "--pretrained", denoised)
    for weight in WEIGHTS:
        demo.measure("step 4: + tail, interweight " + weight, f"{every}_w{weight}")

    facts = {"title": "Unequal training on the built-in data", "data": "data",
             "seed": int(demo.seed), "commands": demo.commands, "rows": demo.rows,
             "noise": {"list": noisy[len(out) + 1:], "scores": scores[len(out) + 1:],
                       "truth": "data/truth.csv"},
             "tail": {"directory": "data/MF2_pic9_tail"}, "seconds": time.time() - start}
    (ROOT / out / "run.json").write_text(json.dumps(facts, indent=1))
    demo.unequal("report", out)
    print_table(demo.rows)
    print("\nThe set is drawn (40% of the labels wrong, 10% pictures of nobody): these numbers say "
          f"how the\nmethod behaves here, nothing about people. {out}/report.html shows more. "
          f"{time.time() - start:.0f} s in all.")


if __name__ == "__main__":
    main()
