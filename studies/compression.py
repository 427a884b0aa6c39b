"""What 2-bit gradient compression does to the accuracy, on the built-in data.

    python studies/compression.py

Step 2 by two workers of one thread, 300 batches of 2 x 64 pictures, after which none is finished,
with each of three thresholds (0: no compression); one seed.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from unequal.synthetic.dataset import make_dataset

ROOT = Path(__file__).resolve().parent.parent
THRESHOLDS = (0, 0.001, 0.01)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        make_dataset(directory + "/data", seed=0)
        for threshold in THRESHOLDS:
            prefix = f"{directory}/{threshold}/model"
            subprocess.run(
                [sys.executable, "-m", "unequal", "launch", "-n", "2", "--", sys.executable,
                 str(ROOT / "train_softmax.py"), "--network", "n8", "--emb-size", "128",
                 "--margin-s", "16", "--per-batch-size", "64", "--lr", "0.1", "--lr-steps",
                 "240,280", "--max-steps", "300", "--verbose", "150", "--patience", "0",
                 "--data-dir", directory + "/data/MF2_pic9_head", "--kv-store", "dist_sync",
                 "--compress-gradients", str(threshold), "--prefix", prefix],
                check=True, stdout=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="1"))
            lines = map(json.loads, Path(prefix + "-trainlog.jsonl").read_text().splitlines())
            events = {line["event"]: line for line in lines}
            loss = events["train"]["metrics"]["softmaxloss"]
            accuracies = "  ".join(f"{name} {result['accuracy_flip']:.4f}"
                                   for name, result in events["verify"]["results"].items())
            print(f"threshold {threshold:<6g} loss {loss:.3f}  {accuracies}", flush=True)


if __name__ == "__main__":
    main()
