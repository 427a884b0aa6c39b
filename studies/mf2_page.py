"""Every command of docs/reproduce-mf2.md, as a user copies it, on a small drawn set.

    python studies/mf2_page.py [--network r50] [--keep DIR]

The page's blocks are read, and each of their lines is run by a shell in a folder that has the entry
scripts, as a checkout has. Only what a small set on two CPU contexts needs is changed: `xx` is
`best`, and the training scripts get a few more flags at the end, which win over those before
(:data:`SMALL`). About five minutes for r50 at 112x112 on two quiet cores.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from typing import Dict, List

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(ROOT, "docs", "reproduce-mf2.md")

_DEVICES = "--devices cpu:2 --target lfw"
SMALL = {  # appended to a line that runs the script
    "train_softmax.py": f"{_DEVICES} --per-batch-size 2 --max-steps 2",
    "train_relusoft_savemodel.py": f"{_DEVICES} --per-batch-size 2",
    "NRA.sh": f"{_DEVICES} --per-batch-size 2 --max-steps 2",
    "train_unequal.py": f"{_DEVICES} --max-steps 2 --batch-size1 4 --batchsize_id 12 --bag-size 24 "
                        "--bags 2 --batch-size2 8",
}


def commands(page: str = PAGE) -> List[str]:
    """The lines of the page's blocks, without comments."""
    with open(page, encoding="utf-8") as file:
        blocks = re.findall(r"^```\n(.*?)^```$", file.read(), re.DOTALL | re.MULTILINE)
    lines = (line.split("   #")[0].strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line]


def adapted(line: str, small: Dict[str, str], network: str = "r50") -> str:
    """A line of the page with the flags in ``small``, and ``xx`` filled in."""
    for script, more in small.items():
        if script in line:
            command, pipe, rest = line.partition(" 2>&1|tee ")
            line = f"{command} --network {network} {more}{pipe}{rest}"
    return line.replace(",xx", ",best")


def draw(folder: str) -> None:
    """`MF2.lst` with pictures of two kinds of people, the verification sets, and the scripts."""
    run = ["unequal", "synth", "drawn", "--image-size", "112", "--head-identities", "4",
           "--head-images", "11", "--tail-identities", "8", "--eval-pairs", "20",
           "--eval-identities", "20"]
    subprocess.run(run, cwd=folder, check=True)
    lines, labels = [], 0
    for part in ("head", "tail"):
        subprocess.run(["unequal", "unpack", f"drawn/MF2_pic9_{part}", part], cwd=folder,
                       check=True)
        people = sorted(entry.name for entry in os.scandir(os.path.join(folder, part))
                        if entry.is_dir())
        for label, person in enumerate(people, labels):
            lines += [f"1\t{part}/{person}/{name}\t{label}\n"
                      for name in sorted(os.listdir(os.path.join(folder, part, person)))]
        labels += len(people)
    with open(os.path.join(folder, "MF2.lst"), "w", encoding="utf-8") as file:
        file.writelines(lines)
    os.rename(os.path.join(folder, "drawn", "eval_dataset"), os.path.join(folder, "eval_dataset"))
    for script in (*SMALL, "train_relusoft.py"):  # the last is NRA.sh's
        os.symlink(os.path.join(ROOT, script), os.path.join(folder, script))


def main() -> int:
    """Run them; the number of the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="r50")
    parser.add_argument("--more", default="", help="flags for every training script")
    parser.add_argument("--keep", help="a new folder to work in; default: a temporary one")
    options = parser.parse_args()
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = os.path.join(options.keep or temporary, "unequal")  # ../models lies beside it
        os.makedirs(folder)
        draw(folder)
        small = {script: f"{flags} {options.more}" for script, flags in SMALL.items()}
        for number, line in enumerate(commands(), 1):
            line, begin = adapted(line, small, options.network), time.monotonic()
            print(f"\n$ {line}", flush=True)
            code = subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=folder).returncode
            print(f"-- {'ok' if not code else f'FAILED with {code}'}, "
                  f"{time.monotonic() - begin:.0f} s", flush=True)
            if code:
                return number
    return 0


if __name__ == "__main__":
    sys.exit(main())
