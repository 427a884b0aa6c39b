"""Runs that are killed, stopped or denied the disk, and what is left of them. The long version, a
hundred kills at random times, is campaigns/faults.py."""
import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace

import numpy as np
import pytest

from helpers import ROOT
from unequal.commands import cli, unpack
from unequal.synthetic.dataset import make_dataset
from unequal.system import files

ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
NETWORK = ("--network", "n8", "--emb-size", "16", "--margin-s", "16")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("faults")
    make_dataset(str(directory), seed=1, image_size=16, head_identities=6, tail_identities=24,
                 eval_pairs=20, eval_identities=20)
    head, tail = (str(directory / name) for name in ("MF2_pic9_head", "MF2_pic9_tail"))
    step_2 = ("train_softmax.py", *NETWORK, "--data-dir", head, "--per-batch-size", "16",
              "--verbose", "4", "--max-steps", "14")
    step_4 = ("train_unequal.py", *NETWORK, "--data-dir", head, "--data-dir-interclass", tail,
              "--batch-size1", "12", "--batchsize_id", "12", "--bag-size", "24", "--bags", "5",
              "--batch-size2", "8", "--lr", "0.01", "--interweight", "1,5", "--verbose", "3",
              "--state-minutes", "0",
              "--max-steps", "9", "--target", "lfw")
    return Namespace(step_2=step_2, step_4=step_4)


started = []


@pytest.fixture(autouse=True)
def nothing_goes_on():
    """A test that fails must not leave its training behind."""
    yield
    while started:
        started[-1].kill()
        started.pop().wait()


def heed_ctrl_c():
    """In the new process: these tests may run where SIGINT is ignored (a shell's ``&``)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(script, *flags, where=None, stderr=subprocess.PIPE):
    command = [str(ROOT / script), *flags]
    if where:
        command = [str(ROOT / "tests" / "helpers" / "cut.py"), *where, *command]
    started.append(subprocess.Popen(
        [sys.executable, "-u", *command], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=stderr,
        universal_newlines=True, preexec_fn=heed_ctrl_c))
    return started[-1]


def finish(process, code):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == code, output + errors
    assert "Traceback" not in errors, errors
    return output, errors


def until(process, text):
    """Read the process's output up to a line with ``text``."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


def contents(directory):
    """What a run leaves: names, bytes of the checkpoints, events without their times."""
    found = {}
    for path in directory.iterdir():
        if path.name.endswith("-resume.1.npz"):  # the state before the last: of when it was stopped
            continue
        if path.suffix == ".jsonl":
            events = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [
                (event["event"], event.get("step"), event.get("results"), event.get("epoch"))
                for event in events if event["event"] in ("lr", "verify", "save", "end")]
        elif path.suffix == ".npz":  # holds the flags, which name the directory
            with np.load(path) as arrays:
                found[path.name] = {name: arrays[name].tobytes() for name in arrays.files
                                    if name != "header"}
        else:
            found[path.name] = path.read_bytes()
    return found


def same(left, right):
    left, right = contents(left), contents(right)
    assert sorted(left) == sorted(right)
    assert [name for name in left if left[name] != right[name]] == []


def test_killed_again_and_again_at_the_worst_moments(data, tmp_path):
    finish(start(*data.step_4, "--prefix", str(tmp_path / "whole" / "model")), 0)
    cuts = [
        ("unequal.training.tail:confusable_identities", "3"),  # mining, nothing saved yet
        ("unequal.training.state:save", "2"),  # verified and the checkpoint saved, the state not
        ("numpy.lib.format:write_array", "20"),  # half a state
        ("os:replace", "3"),  # a whole state under its temporary name
        ("mxnet.module:Module.update", "2"),  # mid-epoch
        ("unequal.training.tail:confusable_identities", "4"),  # mining, second epoch
        ("mxnet:nd.save", "2"),  # PREFIX-0000 saved, PREFIX-NNNN not
        ("unequal.eval.verification:evaluate", "1"),
        # the first weight has ended, the second not begun
        ("unequal.training.observers:EventLog.close", "1"),
        ("mxnet.module:Module.update", "5"),  # second weight
    ]
    prefix = str(tmp_path / "killed" / "model")
    leftovers = 0
    for where in cuts:
        finish(start(*data.step_4, "--prefix", prefix, "--resume", "auto", where=(*where, "kill")),
               -signal.SIGKILL)
        leftovers += any(name.startswith(".") for name in os.listdir(tmp_path / "killed"))
    assert leftovers >= 2  # or the cuts were not where they should be
    output, _ = finish(start(*data.step_4, "--prefix", prefix, "--resume"), 0)
    assert "continuing after batch" in output
    same(tmp_path / "whole", tmp_path / "killed")
    output, _ = finish(start(*data.step_4, "--prefix", prefix, "--resume"), 0)
    assert output.count("ended after 9 batches: max_steps 9") == 2
    same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_next_batch(data, tmp_path, number):
    flags = (*data.step_2, "--verbose", "1000000", "--prefix")
    process = start(*flags, str(tmp_path / "stopped" / "model"), "--max-steps", "1000000")
    until(process, "Epoch[")
    process.send_signal(number)
    _, errors = finish(process, 75)
    name = signal.Signals(number).name
    assert errors.startswith(f"stopped by {name} after batch ") and errors.count("\n") == 1
    done = int(errors.split("after batch ")[1].split(";")[0])
    assert sorted(os.listdir(tmp_path / "stopped")) == ["model-resume.npz", "model-trainlog.jsonl"]
    limit = ("--max-steps", str(done + 3))
    finish(start(*flags, str(tmp_path / "stopped" / "model"), "--resume", *limit), 0)
    finish(start(*flags, str(tmp_path / "whole" / "model"), *limit), 0)
    same(tmp_path / "stopped", tmp_path / "whole")


def test_ctrl_c_that_also_ends_tee(data, tmp_path):
    """`2>&1 | tee log`: the signal goes to all of them, and then nobody reads our output."""
    process = start(*data.step_2, "--max-steps", "1000000", "--patience", "0", "--prefix",
                    str(tmp_path / "model"), stderr=subprocess.STDOUT)
    until(process, "Epoch[")
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 75
    assert "model-resume.npz" in os.listdir(tmp_path)


def test_a_second_signal_ends_at_once(data, tmp_path):
    process = start(*data.step_2, "--prefix", str(tmp_path / "model"),
                    where=("unequal.training.state:save", "1", "hang"))
    until(process, "HANGS")
    process.send_signal(signal.SIGTERM)
    until(process, "once more to stop at once")
    process.send_signal(signal.SIGTERM)
    finish(process, 128 + signal.SIGTERM)


def test_a_signal_during_mining(data, tmp_path):
    flags = data.step_4 + ("--prefix", str(tmp_path / "model"))
    process = start(*flags, "--bag-size", "24", "--bags", "10000")
    until(process, "lr_steps")
    process.send_signal(signal.SIGTERM)
    _, errors = finish(process, 75)
    assert "stopped by SIGTERM after batch 0; --resume continues" in errors


@pytest.mark.parametrize("number, said, code", [
    (signal.SIGTERM, "terminated\n", 143), (signal.SIGINT, "interrupted\n", 130)])
@pytest.mark.parametrize("place", ["run", "configure"])
def test_a_signal_ends_a_command_with_one_word_and_no_file(tmp_path, monkeypatch, capsys, number,
                                                          said, code, place):
    """Whatever it is doing; `configure` stands for the import of its modules."""
    def killed(_):
        with files.replacing(str(tmp_path / "list")) as file:
            file.write("half")
            os.kill(os.getpid(), number)
            time.sleep(20)

    monkeypatch.setattr(unpack, place, killed)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli.main(["unpack", "DIR", "OUT"]) == code
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr() == ("", said) and os.listdir(str(tmp_path)) == []
