"""Two workers on this machine: every stage, the same updates as one; what listens; who is lost."""
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from helpers import ROOT, jobs
from unequal.cluster.workers import Workers
from unequal.commands import cli
from unequal.errors import ArgumentError, InputError
from unequal.synthetic.dataset import make_dataset
from unequal.system import interrupts

SLEEP = (sys.executable, "-c", "import time; time.sleep(1000)")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("distributed")
    make_dataset(str(directory), seed=1, image_size=16, head_identities=8, tail_identities=24,
                 eval_pairs=20, eval_identities=20)
    return directory


@pytest.fixture(scope="module")
def both(data, tmp_path_factory):
    """The four steps by two workers, and by one with two devices: directories and output."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    script = str(ROOT / "tests" / "helpers" / "distributed_worker.py")
    job = jobs.launch("-n", "2", "-s", "2", "--", sys.executable, script, str(data), str(two),
                      "--kv-store", "dist_sync")
    alone = subprocess.run([sys.executable, script, str(data), str(one), "--devices", "cpu:2"],
                           env=jobs.ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           universal_newlines=True, timeout=300)
    assert alone.returncode == 0, alone.stdout
    output, errors = job.communicate(timeout=300)
    assert job.returncode == 0, output + errors
    return one, two, output, errors


def test_two_workers_make_the_updates_of_one_with_two_devices(both):
    """ArcFace, NRA (with the noise list of one pass) and the tail stage, mining included."""
    one, two = both[:2]
    files = sorted(path.relative_to(one) for path in one.rglob("*.params"))
    assert {path.parts[0] for path in files} == {"step2", "step31", "step32", "step4"}
    assert files == sorted(path.relative_to(two) for path in two.rglob("*.params"))
    for path in files:
        expected, found = (mx.nd.load(str(directory / path)) for directory in (one, two))
        assert expected.keys() == found.keys()
        for name in expected:
            # BatchNorm takes a fixed gamma as 1, whatever weight decay has made of its array.
            if name != "arg:fc1_gamma":
                np.testing.assert_allclose(found[name].asnumpy(), expected[name].asnumpy(), 1e-4,
                                           1e-6, err_msg=f"{path} {name}")


def test_worker_0_writes_and_the_others_have_a_log_of_their_own(both):
    one, two = both[:2]
    extra = ({path.relative_to(two) for path in two.rglob("*") if path.is_file()}
             - {path.relative_to(one) for path in one.rglob("*") if path.is_file()})
    assert extra == {Path("step2/model-trainlog-worker1.jsonl"),
                     Path("step31/model-trainlog-worker1.jsonl"),
                     Path("step32/model-trainlog-worker1.jsonl"),
                     Path("step4/model_w1-trainlog-worker1.jsonl"),
                     Path("step4/model_w5-trainlog-worker1.jsonl")}
    for name, events in (("model-trainlog.jsonl", ["start", "verify", "save", "end"]),
                         ("model-trainlog-worker1.jsonl", ["start", "end"])):
        lines = [json.loads(line) for line in (two / "step2" / name).read_text().splitlines()]
        assert {line["event"] for line in lines} == set(events)
        assert lines[-1]["step"] == 6
    assert both[2].count("saving 1") == 4  # steps 2 and 3.2, two weights of step 4


def test_servers_refuse_what_would_have_to_be_unpickled(both):
    _, two, output, errors = both
    assert not (two / "touched").exists()
    assert "refused: this server takes no optimizer" in errors
    assert "sum [3.0, 3.0, 3.0] gathered [0, 101] told 0.1" in output  # and go on


def training(data, prefix, *flags):
    return (sys.executable, str(ROOT / "train_softmax.py"), *jobs.SMALL, "--per-batch-size", "8",
            "--data-dir", str(data / "MF2_pic9_head"), "--verbose", "2", "--patience", "0",
            "--kv-store", "dist_sync", "--prefix", str(prefix), *flags)


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def test_a_killed_worker_ends_the_job_and_the_next_one_goes_on(data, tmp_path, launch):
    """With compressed gradients, which must not change what workers tell each other."""
    prefix = tmp_path / "model"
    command = training(data, prefix, "--compress-gradients", "0.01", "--resume", "auto")
    job = launch("-n", "2", "--", *command)
    log = tmp_path / "model-trainlog.jsonl"
    jobs.wait_for(lambda: sum('"verify"' in line for line in lines(log)) > 1, "two verifications")
    everything = jobs.descendants(job.pid)
    assert jobs.listening(everything) == {"127.0.0.1"}
    victim, = (member.pid for member in jobs.members(job)
               if (member.role, member.number) == ("worker", 1))
    os.kill(victim, signal.SIGKILL)
    errors = job.communicate(timeout=60)[1]
    assert job.returncode == 1
    assert errors.splitlines()[-1] == (
        "error: worker 1 of 2 was killed by SIGKILL; the rest of the job was ended. Start it again "
        "with --resume auto to continue after the last saved state.")
    assert jobs.running(everything) == []

    last = max(json.loads(line)["step"] for line in lines(log) if '"verify"' in line)
    job = launch("-n", "2", "--", *command)
    jobs.wait_for(lambda: any('"event": "resume"' in line for line in lines(log)), "the resume")
    resumed, = (json.loads(line)["step"] for line in lines(log)
                if '"event": "resume"' in line)
    assert last - 2 <= resumed <= last  # killed between a verification and its save
    everything = jobs.descendants(job.pid)
    job.send_signal(signal.SIGTERM)
    output, errors = job.communicate(timeout=120)
    assert job.returncode == interrupts.EXIT_CODE, output + errors
    assert re.search(r"stopped by SIGTERM after batch \d+; --resume continues from", errors)
    assert jobs.running(everything) == []


@pytest.mark.parametrize("role, name", [("server", "server 0 of 1"),
                                        ("scheduler", "the scheduler")])
def test_a_killed_server_or_scheduler_ends_the_job(role, name, launch):
    job = launch("-n", "1", "--", *SLEEP)
    jobs.wait_for(lambda: len(jobs.members(job)) == 3, "three processes")
    everything = jobs.descendants(job.pid)
    os.kill(next(member.pid for member in jobs.members(job) if member.role == role),
            signal.SIGKILL)
    errors = job.communicate(timeout=60)[1]
    assert job.returncode == 1
    assert errors.splitlines()[-1].startswith(f"error: {name} was killed by SIGKILL; ")
    assert jobs.running(everything) == []


def test_stores_and_places_in_a_job_must_fit(monkeypatch):
    for name in ("DMLC_ROLE", "DMLC_NUM_WORKER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ArgumentError, match="^store async: unknown; known are local, "
                                            "device, nccl, dist"):
        Workers("async")
    with pytest.raises(InputError, match="DMLC_ROLE and DMLC_PS_ROOT_URI and .*`unequal launch`"):
        Workers("dist_sync")
    with pytest.raises(ArgumentError, match="^compress_gradients is for store dist_sync"):
        Workers("device", 0.5)
    with pytest.raises(ArgumentError, match="^compress_gradients -1 must not be negative"):
        Workers("dist_sync", -1)
    monkeypatch.setenv("DMLC_ROLE", "worker")
    monkeypatch.setenv("DMLC_NUM_WORKER", "3")
    with pytest.raises(ArgumentError, match="one of 3 workers.*add store dist_sync") as error:
        Workers("device")
    assert cli.in_flags(error.value) == (
        "--kv-store device: this process is one of 3 workers (DMLC_ROLE is set), which would each "
        "train alone; add --kv-store dist_sync (GPUs: dist_device_sync).")


class Pretend(Workers):
    """One of several workers that all say the same, without a store."""

    def __init__(self, rank, count):
        self.rank, self.count = rank, count

    def gather(self, array):
        return np.stack([np.asarray(array)] * self.count)


def test_shares_cover_everything_once():
    for count in (1, 2, 3, 5):
        for total in (0, 1, 4, 5, 11):
            shares = [range(*Pretend(rank, count).share(total)) for rank in range(count)]
            assert [one for share in shares for one in share] == list(range(total))


def test_a_single_worker_meets_nobody():
    alone = Workers()
    assert alone.gather(np.arange(3)).tolist() == [[0, 1, 2]]
    assert alone.broadcast({"a": 1}) == {"a": 1}
    assert alone.any("SIGTERM") is True and alone.any(None) is False
    assert alone.join(np.ones((4, 2)), 4).shape == (4, 2)
    alone.wait()
    alone.check_equal({"a": 1})


def test_workers_that_differ_are_named():
    class Differ(Pretend):
        def gather(self, array):
            rows = super().gather(array)
            rows[2, 1] += 1
            return rows

    with pytest.raises(InputError, match="^lr is not the same for worker 0 and worker 2: give"):
        Differ(0, 3).check_equal({"emb_size": 1, "lr": 2, "mom": 3})
