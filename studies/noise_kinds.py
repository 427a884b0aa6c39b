"""How well kinds of label noise are found: ours, today's rules and cleanlab, on one model.

    python studies/noise_kinds.py [--seed 0] [--data DIR --pretrained P,E]

Draws the built-in set (30% wrong labels, 10% strangers, 5% of the people under two labels), trains
on it as `unequal train auto` does, and prints the average precision of each rule for each kind
against the clean images, and precision and recall of the lists. cleanlab (`pip install
'.[cleanlab]'`) gets the same out-of-sample probabilities. Four to six minutes on two cores.
"""
import argparse
import os
import sys
import tempfile
from typing import Dict, Tuple

import numpy as np

from unequal.commands import cli
from unequal.data import noise_lists
from unequal.data.records import RecordSet
from unequal.eval import noise_scores
from unequal.models import noise_scan
from unequal.symbols.margins import Margin

Rule = Tuple[np.ndarray, np.ndarray]  # scores (low: suspicious), listed


def todays(records: RecordSet, checkpoint: str, directory: str) -> Dict[str, Rule]:
    """The checkpoint's own classifier, which has seen every image with its label."""
    rules = {}
    for method, threshold in (("max-probability", 0.007), ("label-margin", 0.0)):
        columns, listed = noise_scan.make_list(
            records, checkpoint, Margin(margin_m=0.3, margin_s=16.0), threshold,
            os.path.join(directory, method), method=method)
        assert listed is not None  # there is a threshold
        rules[f"{method}, {threshold:g}"] = columns["score"], listed
    return rules


def cleanlabs(labels: np.ndarray, probabilities: np.ndarray) -> Dict[str, Rule]:
    """cleanlab's ranking and list; nothing where it is not installed."""
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        print("cleanlab is not installed: pip install '.[cleanlab]'", file=sys.stderr)
        return {}
    return {"cleanlab": (get_label_quality_scores(labels, probabilities),
                         find_label_issues(labels, probabilities, n_jobs=1))}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", default="0")
    parser.add_argument("--data", help="made by `unequal synth`; default: draws one")
    parser.add_argument("--pretrained", help="a model of it; default: trains one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        data = options.data or os.path.join(directory, "data")
        if not options.data and cli.main(["synth", data, "--seed", options.seed]):
            return 1
        head = os.path.join(data, "MF2_pic9_head")
        prefix = os.path.join(directory, "model")
        if not options.pretrained and cli.main(["train", "auto", head, "--prefix", prefix]):
            return 1
        checkpoint = options.pretrained or prefix + ",best"
        truth = noise_lists.read_truth(os.path.join(data, "truth.csv"))
        with RecordSet(head) as records:
            labels, features, found = noise_scan.find(records, checkpoint)
            large = noise_scores.find(features, labels, small=0)
            assert found.every is not None
            texture = noise_scores.find(noise_scan.texture_features(records), labels, unseen=True)
            rules = todays(records, checkpoint, directory)
            rules.update(cleanlabs(labels, found.every))
            kinds = np.array([truth[int(key)][1] for key in records.image_keys])
        print(f"{'average precision':24s}" + "".join(
            f"{kind:>10s}" for kind in noise_lists.KINDS) + f"{'list':>8s}{'precision':>11s}"
            f"{'recall':>8s}")
        every = [(name, dict.fromkeys(noise_lists.KINDS, scores), listed)
                 for name, (scores, listed) in rules.items()]
        every += [("texture (small sets)", texture.scores, texture.kinds != ""),
                  ("centres only (large sets)", large.scores, large.kinds != ""),
                  ("unequal noise", found.scores, found.kinds != "")]
        for name, scores, listed in every:
            row = ""
            for kind in noise_lists.KINDS:
                among = np.isin(kinds, ("clean", kind))
                quality = noise_scores.detection_quality(
                    scores[kind][among], kinds[among] == kind, listed[among])
                row += f"{quality['average_precision']:10.3f}"
            whole = noise_scores.detection_quality(scores["flip"], kinds != "clean", listed)
            print(f"{name:24s}{row}{int(listed.sum()):8d}{whole['precision']:11.3f}"
                  f"{whole['recall']:8.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
