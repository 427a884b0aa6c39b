"""Kill a worker, the server or the scheduler of a job at random times, start it again, count.

    python campaigns/cluster_kills.py [--kills 24] [--seed 0]

`unequal launch -n 2` trains step 2 on a small built-in set with `--resume auto`. One of the four
processes, in turn, gets SIGKILL: four times within three seconds of the launch, then four times
within eight seconds of the beginning of training, and so on. Then: the launcher ends within 60
seconds with exit code 1 and one sentence that names the one that was killed, no process of the job
is left, and the next launch goes on from the last state that was saved. In the end weights and
momentum must be those of a run that nobody disturbed, bit for bit, and BatchNorm's averages to the
last digits (a state has the mean of the workers', with which all go on).

Then, with `--hang-timeout 40`, a worker, the server and the scheduler in turn are stopped
(SIGSTOP) in the middle of training: the job must end by itself with the name of the one, and leave
nobody. And with `--restarts 1` a worker is killed: one launch must end with 0 and the weights of
the undisturbed run. Exit code 1 when anything differs. About ten minutes on two cores; `--kills 0`
leaves the first part out.
"""
import argparse
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from unequal.synthetic.dataset import make_dataset

ROOT = Path(__file__).resolve().parent.parent
_SPEC = importlib.util.spec_from_file_location("jobs", str(ROOT / "tests" / "helpers" / "jobs.py"))
assert _SPEC is not None and _SPEC.loader is not None
jobs = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(jobs)

VICTIMS = (("worker", 0, "worker 0 of 2"), ("worker", 1, "worker 1 of 2"),
           ("server", 0, "server 0 of 1"), ("scheduler", 0, "the scheduler"))


def command(directory: Path, prefix: Path, steps: int) -> Tuple[str, ...]:
    return ("-n", "2", "--", sys.executable, str(ROOT / "train_softmax.py"), *jobs.SMALL,
            "--per-batch-size", "8", "--verbose", "5", "--patience", "0", "--lr", "0.01",
            "--data-dir", str(directory / "data" / "MF2_pic9_head"), "--max-steps", str(steps),
            "--resume", "auto", "--kv-store", "dist_sync", "--prefix", str(prefix))


def events(prefix: Path) -> List[Dict[str, Any]]:
    """What the log says, line by line; a kill may leave half a line."""
    path = Path(str(prefix) + "-trainlog.jsonl")
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def same_weights(killed: Path, whole: Path) -> bool:
    with np.load(str(killed) + "-resume.npz") as one, np.load(str(whole) + "-resume.npz") as other:
        if set(one.files) != set(other.files):
            return False
        for name in set(one.files) - {"header"}:
            exact = not name.startswith("aux:")
            if not np.allclose(one[name], other[name], *((0, 0) if exact else (1e-4, 1e-5))):
                print(name, "differs by", np.abs(one[name] - other[name]).max())
                return False
    return True


def saved_step(prefix: Path) -> int:
    """Batches done at the last saved state; 0 without one."""
    try:
        with np.load(str(prefix) + "-resume.npz") as arrays:
            return json.loads(arrays["header"].tobytes())["position"]["step"]
    except FileNotFoundError:
        return 0


def kill_one(directory: Path, prefix: Path, steps: int, victim: Tuple[str, int, str],
             chance: random.Random, report: List[Dict[str, bool]]) -> bool:
    """One launch and one kill; whether the job ended before it could be killed."""
    role, number, name = victim
    before = saved_step(prefix)
    job = jobs.launch(*command(directory, prefix, steps))
    jobs.wait_for(lambda: len(jobs.members(job)) == 4, "four processes")
    training = len(report) // len(VICTIMS) % 2
    if training:
        began = len(events(prefix))
        jobs.wait_for(lambda: len(events(prefix)) > began or job.poll() is not None,
                      "the training")
    seconds = chance.uniform(0, 8 if training else 3)
    time.sleep(seconds)
    target = [one.pid for one in jobs.members(job) if (one.role, one.number) == (role, number)]
    everything = jobs.descendants(job.pid)
    if not target or job.poll() is not None:
        job.communicate()
        return False
    saved = saved_step(prefix)
    os.kill(target[0], signal.SIGKILL)
    start = time.monotonic()
    errors = job.communicate()[1].splitlines()
    took = time.monotonic() - start
    named = bool(errors) and errors[-1].startswith(
        f"error: {name} was killed by SIGKILL; ")
    left = jobs.running(everything)
    resumed = [event["step"] for event in events(prefix) if event["event"] == "resume"]
    report.append({"named": named, "code": job.returncode == 1, "in time": took < 60,
                   "nobody left": not left, "nothing lost": saved_step(prefix) >= saved >= before,
                   "resumed": not resumed or max(resumed) <= saved_step(prefix)})
    print(f"{name:14s} {seconds:.1f} s after {'training began' if training else 'the launch'}, "
          f"{saved} batches saved: ended in {took:.1f} s: "
          f"{errors[-1] if errors else 'no message'}", flush=True)
    return True


def hang_one(directory: Path, victim: Tuple[str, int, str], timeout: int = 40) -> bool:
    """Stop one process of a job that trains; whether the job ended as it should."""
    role, number, name = victim
    prefix = directory / ("hang-" + role) / "model"
    job = jobs.launch("--hang-timeout", str(timeout), *command(directory, prefix, 100000))
    jobs.wait_for(lambda: saved_step(prefix), "the first state", 600)
    everything = jobs.descendants(job.pid)
    target, = [one.pid for one in jobs.members(job) if (one.role, one.number) == (role, number)]
    os.kill(target, signal.SIGSTOP)
    start = time.monotonic()
    try:
        errors = job.communicate(timeout=20 * timeout)[1].splitlines()
    except subprocess.TimeoutExpired:
        job.kill()
        job.communicate()
        errors = [f"not within {20 * timeout} s"]
    took = time.monotonic() - start
    ended = bool(errors) and errors[-1].startswith(f"error: {name} made no progress")
    right = ended and job.returncode == 1 and not jobs.running(everything)
    print(f"{name} stopped: ended in {took:.0f} s, {'as it should' if right else 'WRONG'}: "
          f"{errors[-1] if errors else 'no message'}", flush=True)
    return right


def restart_one(directory: Path, steps: int) -> bool:
    """Kill a worker under `--restarts 1`; whether the job ends with the undisturbed weights."""
    killed, whole = (directory / name / "model" for name in ("restarted", "quiet"))
    job = jobs.launch("--restarts", "1", *command(directory, killed, steps))
    jobs.wait_for(lambda: saved_step(killed), "the first state", 600)
    target = [one.pid for one in jobs.members(job) if (one.role, one.number) == ("worker", 1)]
    os.kill(target[0], signal.SIGKILL)
    errors = job.communicate()[1]
    other = jobs.launch(*command(directory, whole, steps))
    other.communicate()
    restarted = "Starting it again (restart 1 of 1)" in errors
    resumed = [event["step"] for event in events(killed) if event["event"] == "resume"]
    right = (job.returncode == other.returncode == 0 and restarted and bool(resumed)
             and same_weights(killed, whole))
    found = "the same weights in the end" if right else "WRONG: " + errors[-500:]
    print(f"worker 1 killed under --restarts 1: {found}, went on after batch {resumed} of {steps}",
          flush=True)
    return right


def kill_and_compare(directory: Path, kills: int, chance: random.Random) -> bool:
    """Kill processes of a job one after the other; whether all was as it should be."""
    steps = 40 * kills
    report: List[Dict[str, bool]] = []
    killed = directory / "killed" / "model"
    while len(report) < kills:
        if not kill_one(directory, killed, steps, VICTIMS[len(report) % len(VICTIMS)],
                        chance, report):
            print("the run came to its end first; another one", flush=True)
            for path in killed.parent.iterdir():
                path.unlink()
    last = saved_step(killed)
    whole = directory / "whole" / "model"
    steps = last + 20
    for prefix in (killed, whole):
        job = jobs.launch(*command(directory, prefix, steps))
        output, errors = job.communicate()
        if job.returncode:
            sys.exit(output + errors)
    first = [event["step"] for event in events(killed) if event["event"] == "resume"][-1]
    same = same_weights(killed, whole)
    print(f"the last launch went on after batch {first} of the {last} saved; weights, momentum and "
          f"averages after batch {steps} {'are' if same else 'ARE NOT'} those of an undisturbed "
          "run")
    for what in report[0]:
        print(f"{what:13s} {sum(one[what] for one in report)} of {len(report)}")
    return bool(same and first == last and all(all(one.values()) for one in report))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=24,
                        help="how often to kill (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        make_dataset(str(directory / "data"), seed=1, image_size=16, head_identities=8,
                     tail_identities=24, eval_pairs=20, eval_identities=20)
        right = [kill_and_compare(directory, options.kills, chance)] if options.kills else []
        right += [hang_one(directory, victim) for victim in VICTIMS[1:]]
        right.append(restart_one(directory, 60))
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
