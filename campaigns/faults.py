"""Kill stages and commands at random times, go on, and compare with what was left alone.

    python campaigns/faults.py [--kills 100] [--each 15] [--twice 5] [--photos DIR] [--seed 0]

Each of the four stages of the recipe runs once without disturbance on a small built-in set. Then it
runs with `--resume auto` and is killed (SIGKILL) after a random time, again and again until a run
ends by itself; then all it has left must be what the undisturbed run left: the same names (no
temporary file), the same bytes of every checkpoint, noise list, weight and momentum, a log of whole
lines with the same verifications. A new chain begins until the stage has had its share of the
kills.

Then the commands of `unequal`: each is killed ``--each`` times (SIGKILL, SIGTERM, SIGINT in turn)
and given again, and ``--twice`` times two of it begin at once on one output. What a signal leaves
is whole files and no temporary ones, one sentence and the documented exit code; what the command
leaves when it is given again, or has run beside itself, is what one undisturbed run leaves. Of two
at once one may be refused with a sentence. `unequal review` gets decisions from two pages while it
is killed: every one that it confirmed must be in the file. `unequal align` needs photographs of
faces (``--photos``) and is left out without.

Exit code 1 when anything differs.
"""
import argparse
import os
import random
import runpy
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")

from multiprocessing.process import BaseProcess  # noqa: E402

from _commands import NETWORK, contents, kill_commands, start  # noqa: E402

from unequal.synthetic.dataset import make_dataset

ROOT = Path(__file__).resolve().parent.parent


def stages(directory: Path) -> Dict[str, Sequence[str]]:
    """``{name: command}``; each starts from what an undisturbed one before it has left."""
    head, tail = (str(directory / "data" / name) for name in ("MF2_pic9_head", "MF2_pic9_tail"))
    step_2, step_31 = (str(directory / name / "whole" / "model") + ",0"
                       for name in ("step 2", "step 3.1"))
    step_3 = ("--data-dir", head, "--per-batch-size", "16", "--noise-beta", "0.9", "--lr", "0.01")
    return {
        "step 2": ("train_softmax.py", *NETWORK, "--data-dir", head, "--per-batch-size", "16",
                   "--lr-steps", "30,50", "--verbose", "4", "--max-steps", "70"),
        "step 3.1": ("train_relusoft_savemodel.py", *NETWORK, *step_3, "--pretrained", step_2),
        "step 3.2": ("train_relusoft.py", *NETWORK, *step_3, "--pretrained", step_31,
                     "--noise-threshold", "0.3", "--verbose", "4", "--max-steps", "50"),
        "step 4": ("train_unequal.py", *NETWORK, "--data-dir", head, "--data-dir-interclass", tail,
                   "--batch-size1", "12", "--batchsize_id", "12", "--bag-size", "30", "--bags",
                   "10", "--batch-size2", "8", "--lr", "0.01", "--interweight", "1,5",
                   "--pretrained", step_31, "--verbose", "4", "--max-steps", "25"),
    }


def _work(command: Sequence[str], directory: Path) -> None:
    """What a process of its own does: one entry script."""
    output = os.open(str(directory) + ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [str(ROOT / command[0]), *command[1:], "--prefix", str(directory / "model")]
    runpy.run_path(sys.argv[0], run_name="__main__")


def finish(process: BaseProcess, directory: Path) -> None:
    process.join()
    if process.exitcode:
        sys.exit("exit code "
                 f"{process.exitcode}:\n{Path(str(directory) + '.log').read_text()[-2000:]}")


def differences(whole: Path, killed: Path) -> List[str]:
    """Names of files that differ, or are in one of the directories only."""
    # The state before the last one is of when the run was stopped.
    names = {path.name for path in (*whole.iterdir(), *killed.iterdir())
             if not path.name.endswith("-resume.1.npz")}
    return [name for name in sorted(names)
            if not ((whole / name).exists() and (killed / name).exists()
                    and contents(whole / name) == contents(killed / name))]


def disturb(name: str, command: Sequence[str], whole: Path, kills: int,
            randomness: random.Random) -> Tuple[int, int, int, int]:
    """Kill and resume a stage; prints its counts and returns how many runs differ."""
    done = chains = in_save = continued = wrong = 0
    begin = time.time()
    killed = whole.parent / "killed"
    whole.parent.mkdir()
    before = time.time()
    finish(start(_work, command, whole), whole)
    seconds = time.time() - before
    while done < kills:
        shutil.rmtree(str(killed), ignore_errors=True)
        while True:
            continued += any(killed.glob("*-resume.npz"))
            process = start(_work, (*command, "--resume", "auto"), killed)
            process.join(randomness.uniform(0, 1.1) * seconds)
            if not process.is_alive():
                finish(process, killed)
                break
            process.kill()
            process.join()
            done += 1
            in_save += any(killed.glob(".*"))
        chains += 1
        different = differences(whole, killed)
        if different:
            wrong += 1
            print(f"{name}: differ: {', '.join(different)}", flush=True)
    print(f"{name:9s} {done:4d} kills, of which {in_save} while a file was written; {continued} "
          f"starts continued a state; {chains} runs ended, {wrong} of them differ "
          f"({time.time() - begin:.0f} s)", flush=True)
    return done, in_save, chains, wrong


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="at least, over the four stages")
    parser.add_argument("--each", type=int, default=15, help="kills of each command")
    parser.add_argument("--twice", type=int, default=5, help="times two of each at once")
    parser.add_argument("--photos", help="folder of photographs of faces, for `unequal align`")
    parser.add_argument("--only", help="regular expression for the commands' names")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    randomness = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        make_dataset(str(directory / "data"), seed=1, image_size=16, head_identities=6,
                     tail_identities=24, eval_pairs=20, eval_identities=20)
        counts = [disturb(stage, command, directory / stage / "whole", -(-options.kills // 4),
                          randomness)
                  for stage, command in stages(directory).items()] if options.kills else []
        failed = kill_commands(directory, options, randomness) if options.each else False
    kills, in_save, chains, wrong = (sum(column) for column in zip(*counts, (0, 0, 0, 0)))
    print(f"{kills} kills, {in_save} while a file was written; {chains - wrong} of {chains} runs "
          "ended as if undisturbed")
    return bool(wrong) or failed


if __name__ == "__main__":
    sys.exit(main())
