"""How many wrong pictures the default commands find among few photographs of few people.

    python studies/noise_trial.py --faces DIR [--seeds 0,1,2] [--people 30] [--pictures 10]

DIR has a folder of pictures for each person, all in the right one. Each seed draws people who
have so many pictures, moves 45 pictures into wrong folders, adds 10 drawn pictures of no face, and
runs `unequal pack`, `train auto` and `noise` with nothing but their defaults. Prints precision and
recall of the list against those 55, and their means. A draw takes one to five minutes on two cores.
"""
import argparse
import contextlib
import csv
import io
import os
import shutil
import sys
import tempfile
from typing import Dict, List, Tuple

import cv2
import numpy as np

from unequal.commands import cli


def no_face(rng: np.random.RandomState, size: int = 112) -> np.ndarray:
    """A drawn picture of nobody: smooth stains, stripes, tiles or grain; uint8 (size, size, 3)."""
    kind = rng.randint(4)
    if kind == 0:
        small = rng.randint(0, 256, (rng.randint(2, 9),) * 2 + (3,)).astype(np.uint8)
        return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)
    if kind == 1:
        x, y = np.meshgrid(np.arange(size), np.arange(size))
        wave = np.sin((x * rng.randn() + y * rng.randn()) / rng.uniform(1, 10) + rng.uniform(0, 6))
        return np.clip(128 + 100 * wave[..., None] * rng.uniform(-1, 1, 3), 0, 255).astype(np.uint8)
    if kind == 2:
        tiles = rng.randint(0, 256, (rng.randint(2, 9),) * 2 + (3,)).astype(np.uint8)
        return cv2.resize(tiles, (size, size), interpolation=cv2.INTER_NEAREST)
    grain = rng.randint(0, 256, (size, size, 1 if rng.randint(2) else 3)).astype(np.uint8)
    return np.broadcast_to(cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.3, 3)).reshape(
        size, size, -1), (size, size, 3))


def people_of(faces: str, pictures: int) -> Dict[str, List[str]]:
    """The people of a folder who have so many pictures, and their pictures' paths."""
    found = {}
    for person in sorted(os.listdir(faces)):
        folder = os.path.join(faces, person)
        if os.path.isdir(folder):
            names = sorted(os.listdir(folder))
            if len(names) >= pictures:
                found[person] = [os.path.join(folder, name) for name in names]
    return found


def draw(options: argparse.Namespace, directory: str, seed: int) -> Dict[str, str]:
    """Lay out a folder a person with wrong pictures in it; ``{path: kind}``, empty where right."""
    rng = np.random.RandomState(seed)
    everybody = people_of(options.faces, options.pictures)
    if len(everybody) < options.people:
        raise SystemExit(f"{options.faces}: {len(everybody)} people have {options.pictures} "
                         f"pictures; {options.people} are needed (--people, --pictures)")
    people = rng.permutation(sorted(everybody))[:options.people].tolist()
    # Where each picture comes from, whom it shows, and what is wrong with it.
    rows: List[Tuple[str, int, str]] = [
        (path, place, "") for place, person in enumerate(people)
        for path in rng.permutation(everybody[person])[:options.pictures]]
    for row in rng.permutation(len(rows))[:options.flips]:
        path, place, _ = rows[row]
        rows[row] = path, (place + rng.randint(1, len(people))) % len(people), "flip"
    rows += [("", rng.randint(len(people)), "outlier") for _ in range(options.no_faces)]
    truth = {}
    for number, row in enumerate(rng.permutation(len(rows))):  # names must not tell
        path, place, kind = rows[row]
        name = os.path.join(people[place],
                            f"{number:04d}{os.path.splitext(path)[1] if path else '.png'}")
        target = os.path.join(directory, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if path:
            shutil.copyfile(path, target)
        else:
            cv2.imwrite(target, no_face(rng))
        truth[name] = kind
    return truth


def run(*arguments: str) -> None:
    """A command of ours, quietly."""
    with contextlib.redirect_stdout(io.StringIO()):
        if cli.main(list(arguments)):
            raise SystemExit("unequal " + " ".join(arguments) + " failed")


def found(directory: str, seed: int, train: bool) -> Dict[str, str]:
    """``{path: kind}`` of what the default commands list, of the pictures in ``photos``."""
    people, prefix, suspects = (os.path.join(directory, name)
                                for name in ("people", "models/first", "suspects"))
    run("pack", os.path.join(directory, "photos"), people)
    model: List[str] = []
    if train:
        run("train", "auto", people, "--prefix", prefix, "--seed", str(seed))
        model = ["--pretrained", prefix + ",best"]
    run("noise", people, *model, "--out", suspects)
    with open(suspects + ".csv", encoding="utf-8", newline="") as file:
        return {row["path"]: row["kind"] for row in csv.DictReader(file)}


def main() -> int:
    """A line a draw, and the means."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faces", required=True, metavar="DIR")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--flips", type=int, default=45)
    parser.add_argument("--no-faces", type=int, default=10)
    parser.add_argument("--no-training", action="store_true",
                        help="noise without a model: up to 1,000 pictures the list is the same")
    options = parser.parse_args()
    rows = []
    print(f"{'seed':>6s}{'pictures':>10s}{'listed':>8s}{'precision':>11s}{'recall':>8s}"
          f"{'of flips':>10s}{'of no face':>12s}", flush=True)
    for seed in map(int, options.seeds.split(",")):
        with tempfile.TemporaryDirectory() as directory:
            truth = draw(options, os.path.join(directory, "photos"), seed)
            listed = found(directory, seed, not options.no_training)
        hits = {kind: np.mean([name in listed for name, is_ in truth.items() if is_ == kind])
                for kind in ("flip", "outlier") if kind in truth.values()}
        wrong = [name for name, kind in truth.items() if kind]
        right = sum(name in listed for name in wrong)
        rows.append((right / max(1, len(listed)), right / len(wrong)))
        print(f"{seed:6d}{len(truth):10d}{len(listed):8d}{rows[-1][0]:11.3f}{rows[-1][1]:8.3f}"
              f"{hits.get('flip', np.nan):10.3f}{hits.get('outlier', np.nan):12.3f}", flush=True)
    precision, recall = np.mean(rows, axis=0)
    print(f"mean{precision:31.3f}{recall:8.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
