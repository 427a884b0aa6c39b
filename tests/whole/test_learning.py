"""What the built-in data must be like to try noise-robust training on: with a small network, clean
labels verify far better than the noisy ones, and neither is near chance or perfect. (That pixels
alone verify near chance is in synthetic/test_dataset.py.)"""
import csv
import os
import subprocess
import sys

import numpy as np

from helpers import ROOT
from helpers.scripts import events
from unequal.data.records import RecordSet, RecordWriter
from unequal.synthetic.dataset import make_dataset

FLAGS = ("--network", "n8", "--emb-size", "128", "--margin-s", "32", "--per-batch-size", "128",
         "--max-steps", "330", "--lr-steps", "220,290", "--verbose", "330")


def write_clean(dataset, directory):
    """The head set as it should have been: true identities, no outliers."""
    with open(str(dataset / "truth.csv"), encoding="utf-8") as rows:
        truth = [(int(row["true_identity"]), int(row["key"])) for row in csv.DictReader(rows)]
    people = sorted({person for person, _ in truth if person >= 0})
    with RecordSet(str(dataset / "MF2_pic9_head")) as noisy, RecordWriter(
            str(directory), noisy.image_size) as writer:
        for person, key in sorted(truth):
            if person >= 0:
                writer.add(people.index(person), noisy.image(key)[1])


def mean_accuracy(data, dataset, prefix):
    subprocess.run(
        [sys.executable, str(ROOT / "train_softmax.py"), *FLAGS, "--data-dir", str(data),
         "--eval-dir", str(dataset / "eval_dataset"), "--prefix", str(prefix)],
        check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    results = [event for event in events(prefix) if event["event"] == "verify"][-1]["results"]
    return np.mean([result["accuracy_flip"] for result in results.values()])


def test_clean_labels_verify_far_better_than_noisy_ones(tmp_path):
    dataset = tmp_path / "data"
    make_dataset(str(dataset), processes=2)
    write_clean(dataset, tmp_path / "clean")
    noisy = mean_accuracy(dataset / "MF2_pic9_head", dataset, tmp_path / "noisy_model")
    clean = mean_accuracy(tmp_path / "clean", dataset, tmp_path / "clean_model")
    print(f"clean {clean:.4f} noisy {noisy:.4f}")
    assert 0.80 < clean < 0.97
    assert 0.55 < noisy < clean - 0.06  # 0.563 to 0.628 by the seeds of order and dropout
