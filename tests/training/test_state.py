import errno
import io
import json
import os
import resource
import zipfile
from argparse import Namespace

import mxnet as mx
import numpy as np
import pytest

from helpers.fitting import Batches, arguments, events, train, weights, write_targets
from unequal.commands import cli
from unequal.errors import InputError
from unequal.models import checkpoints
from unequal.training import metrics as measures
from unequal.training import state, trainer
from unequal.training.observers import EventLog

POSITION = {"step": 1, "verified": 1, "saves": 1, "log": ["log", 5],
            "best": {"first": 0.5, "last": 0.5, "mean": 0.5, "epoch": 1, "stale": 0}}
WITH_DROPOUT = ("--version-output", "E", "--lr", "0.05")


def resumable(tmp_path, *flags):
    return arguments(tmp_path, "--verbose", "100", *WITH_DROPOUT, *flags)


def saved(args):
    """Header and arrays of the state file, by plain numpy."""
    with np.load(args.prefix + "-resume.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize("devices", [1, 2])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, devices):
    """Dropout, momentum, the schedule and the order of the batches, cut in the second epoch."""
    whole, cut = resumable(tmp_path / "whole"), resumable(tmp_path / "cut")
    schedule = (2, 5)
    whole.max_steps = 8
    train(whole, Batches(repeat=2), devices, lr_steps=schedule)
    cut.max_steps = 4
    train(cut, Batches(repeat=2), devices, lr_steps=schedule)
    cut.max_steps, cut.resume = 8, "must"
    train(cut, Batches(repeat=2), devices, lr_steps=schedule)
    expected, found = saved(whole), saved(cut)
    assert expected.keys() == found.keys() and any(key.startswith("momentum:") for key in found)
    for name in expected.keys() - {"header"}:
        if devices == 1:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        else:  # each device has moving averages of its own; their mean is saved
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-6,
                                       err_msg=name)
    rates = [[(event["step"], event["lr"]) for event in events(args, "train")]
             for args in (whole, cut)]
    assert rates[0] == rates[1] and len(rates[0]) == 8 and rates[0][-1][1] < 0.001


def test_what_is_saved_is_what_training_has(tmp_path):
    args = resumable(tmp_path, "--max-steps", "3")
    train(args, Batches())
    arrays = saved(args)
    for name, value in weights(args).items():
        kind = "aux:" if "moving" in name else "arg:"
        np.testing.assert_array_equal(arrays[kind + name], value)
    assert all(np.abs(arrays["momentum:" + name]).max() > 0
               for name in ("fc7_weight", "conv0_weight"))


def test_best_accuracies_and_patience_go_on(tmp_path):
    (tmp_path / "sets").mkdir()
    write_targets(tmp_path / "sets")
    flags = ("--end-epoch", "40", "--patience", "3", "--eval-dir", str(tmp_path / "sets"),
             "--target", "lfw,agedb_30")
    whole, cut = resumable(tmp_path / "whole", *flags), resumable(tmp_path / "cut", *flags)
    whole.verbose = cut.verbose = 2
    best = train(whole, Batches())
    steps = events(whole, "end")[0]["step"]
    assert steps < 120
    cut.resume = "auto"
    for limit in range(2, steps + 1, 2):
        cut.max_steps = limit
        again = train(cut, Batches())
    assert vars(again) == vars(best)
    cut.max_steps = 0
    train(cut, Batches())  # ended already
    for kind in ("verify", "save", "end"):
        assert [{**event, "time": 0} for event in events(cut, kind)] == [
            {**event, "time": 0} for event in events(whole, kind)]


def test_an_interrupt_saves_and_says_so(tmp_path, monkeypatch):
    args = resumable(tmp_path, "--max-steps", "9")
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 6:
            raise trainer.interrupts.Interrupted("stopped by SIGTERM")

    monkeypatch.setattr(trainer.interrupts, "check", check)
    with pytest.raises(trainer.interrupts.Interrupted, match="SIGTERM after batch 5; res"):
        train(args, Batches())
    monkeypatch.undo()
    args.resume = "must"
    train(args, Batches())
    whole = resumable(tmp_path / "whole", "--max-steps", "9")
    train(whole, Batches())
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(weights(args)[name], value, err_msg=name)


def test_when_there_is_none(tmp_path, caplog):
    args = resumable(tmp_path, "--max-steps", "1", "--resume")
    with pytest.raises(InputError, match="^resume: .*model-resume.npz: no such file"):
        train(args, Batches())
    args.resume = "auto"
    with caplog.at_level("INFO"):
        train(args, Batches())
    assert "so this run starts anew" in caplog.text
    args.resume = ""
    train(args, Batches())
    assert "of an earlier run will be replaced" in caplog.text


def test_another_run_is_refused_with_what_differs(tmp_path):
    args = resumable(tmp_path, "--max-steps", "1")
    train(args, Batches())
    before = saved(args)
    args.resume = "auto"
    args.lr, args.wd = 0.5, 0.1
    with pytest.raises(InputError) as error:
        train(args, Batches(count=4), devices=2)
    for text in ("model-resume.npz belongs to another run", "run: lr was 0.05, is 0.5",
                 "wd was 0.0005, is 0.1", "the images was 3 batches, is 4 batches",
                 "the number of devices was 1, is 2"):
        assert text in str(error.value)
    said = cli.in_flags(error.value)
    assert said.startswith("--resume: ") and "; --wd was 0.0005, is 0.1; the images was" in said
    assert said.endswith("; give what it was made with, or another --prefix, or leave --resume "
                         "out.")
    assert saved(args).keys() == before.keys()


def test_what_may_change(tmp_path):
    args = resumable(tmp_path, "--max-steps", "1")
    train(args, Batches())
    for name, value in dict(resume="must", verbose=3, max_steps=2, end_epoch=7, patience=2,
                            eval_dir="x", log_dir=str(tmp_path / "logs"), ckpt=2).items():
        assert hasattr(args, name)
        setattr(args, name, value)
    train(args, Batches())


def damage(path, how):
    content = path.read_bytes()
    if how == "half":
        content = content[:len(content) // 2]
    elif how == "empty":
        content = b""
    elif how == "a bit":
        middle = len(content) // 2
        content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:]
    elif how == "text":
        content = b"not a state\n" * 10
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["half", "empty", "a bit", "text"])
def test_a_damaged_state_is_one_sentence(tmp_path, how):
    args = resumable(tmp_path, "--max-steps", "1")
    train(args, Batches())
    damage(tmp_path / "m" / "model-resume.npz", how)
    args.resume = "auto"
    with pytest.raises(InputError, match="model-resume.npz: not the state of a run, or damaged"):
        train(args, Batches())


class Trap:
    """Unpickling it would make a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("header", [True, False])
def test_a_pickle_inside_is_not_opened(tmp_path, header):
    args = resumable(tmp_path, "--max-steps", "1")
    train(args, Batches())
    arrays = saved(args)
    trap = np.array([Trap(str(tmp_path / "executed"))], object)
    arrays["header" if header else "arg:fc7_weight"] = trap
    np.savez(args.prefix + "-resume.npz", **arrays)
    args.resume = "must"
    with pytest.raises(InputError, match="not the state of a run"):
        train(args, Batches())
    assert not (tmp_path / "executed").exists()


def test_of_another_version(tmp_path):
    args = resumable(tmp_path, "--max-steps", "1")
    train(args, Batches())
    arrays = saved(args)
    text = arrays["header"].tobytes().replace(b'"version": 1', b'"version": 2')
    arrays["header"] = np.frombuffer(text, np.uint8)
    np.savez(args.prefix + "-resume.npz", **arrays)
    args.resume = "must"
    with pytest.raises(InputError, match="version 2"):
        train(args, Batches())


def failing_replace(number, code):
    original, calls = os.replace, []

    def replace(source, target):
        calls.append(1)
        if len(calls) == number:
            raise OSError(code, os.strerror(code), source)
        return original(source, target)

    return replace


@pytest.mark.parametrize("number, file", [(1, "model-symbol.json"), (2, "model-0000.params"),
                                          (3, "model-resume.npz")])
def test_a_read_only_directory_leaves_the_earlier_files(tmp_path, monkeypatch, number, file):
    args = resumable(tmp_path, "--max-steps", "1", "--ckpt", "0")
    train(args, Batches())
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").glob("model-*[!l]")}
    args.max_steps, args.resume = 2, "must"
    monkeypatch.setattr(os, "replace", failing_replace(number, errno.EROFS))
    with pytest.raises(InputError, match=file + ": cannot be written .Read-only file system"):
        train(args, Batches())
    monkeypatch.undo()
    after = {path.name: path.read_bytes() for path in (tmp_path / "m").glob("model-*[!l]")}
    assert after.keys() == before.keys() == {"model-symbol.json", "model-0000.params",
                                             "model-resume.npz"}
    assert after["model-resume.npz"] == before["model-resume.npz"]
    train(args, Batches())  # and it goes on once there is room


@pytest.fixture
def file_limit():
    """Files cannot grow beyond so many bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("missing", [1, 100, 5000, 250000])
def test_a_full_disk_is_noticed_to_the_last_byte(tmp_path, file_limit, missing):
    """MXNet's own writers say nothing when the last few kilobytes do not fit."""
    args = resumable(tmp_path, "--max-steps", "1", "--ckpt", "0")
    train(args, Batches())
    files = {name: tmp_path / "m" / name for name in
             ("model-symbol.json", "model-0000.params", "model-resume.npz")}
    before = {name: path.read_bytes() for name, path in files.items()}
    symbol, arg_params, aux_params = mx.model.load_checkpoint(args.prefix, 0)
    args.max_steps, args.resume = 2, "must"
    data = Batches()
    file_limit(len(before["model-resume.npz"]) - missing)
    with pytest.raises(InputError, match="model-resume.npz: cannot be written"):
        train(args, data)
    assert files["model-resume.npz"].read_bytes() == before["model-resume.npz"]
    file_limit(len(before["model-0000.params"]) - missing)
    with pytest.raises(InputError, match="model-0000.params: cannot be written"):
        checkpoints.save(args.prefix, 0, symbol, arg_params, aux_params)
    file_limit(max(0, len(before["model-symbol.json"]) - missing))
    with pytest.raises(InputError, match="model-symbol.json: cannot be written"):
        checkpoints.save(args.prefix, 0, symbol, arg_params, aux_params)
    file_limit(resource.RLIM_INFINITY)
    assert files["model-symbol.json"].read_bytes() == before["model-symbol.json"]
    assert sorted(os.listdir(tmp_path / "m")) == sorted([*files, "model-trainlog.jsonl"])
    train(args, data)


def test_a_full_disk_names_the_log(tmp_path, file_limit):
    log = EventLog(str(tmp_path / "log.jsonl"))
    file_limit(10)
    with pytest.raises(InputError, match="log.jsonl: cannot be written"):
        log.write("start", text="x" * 100)
    file_limit(resource.RLIM_INFINITY)
    log.close()


def test_the_log_loses_half_a_line_and_what_was_done_after_the_state(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"event": "start"}\n{"event": "tr')
    log = EventLog(str(path))
    assert path.read_bytes() == b'{"event": "start"}\n'
    log.write("train", step=1)
    position = log.position
    log.write("train", step=2)
    log.close()
    log = EventLog(str(path), position)
    log.write("resume", step=1)
    log.close()
    lines = path.read_text().splitlines()
    assert [line.split('"')[3] for line in lines] == ["start", "train", "resume"]
    # A position in another log, or in one that is shorter, says nothing.
    for other in ([str(tmp_path / "other.jsonl"), 5], [position[0], 10 ** 6]):
        EventLog(str(path), other).close()
        assert path.read_text().splitlines() == lines
    os.mkfifo(str(tmp_path / "pipe"))  # must not be waited for, with a reader or without
    with pytest.raises(InputError, match="pipe: is not a plain file"):
        EventLog(str(tmp_path / "pipe"))
    reader = os.open(str(tmp_path / "pipe"), os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(InputError, match="pipe: is not a plain file"):
        EventLog(str(tmp_path / "pipe"))
    os.close(reader)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    args = resumable(tmp_path, "--max-steps", "1")
    train(args, Batches())
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").glob("model-*[!l]")}
    args.resume, args.max_steps = "must", 9

    def spoil(learner, step):
        if step == 4:
            for executor in learner.module._exec_group.execs:
                executor.arg_dict["fc7_weight"][:] = np.inf

    finite = [measures.Metric("softmaxloss", [measures.LABEL], lambda label: label)]
    with pytest.raises(InputError) as error:
        train(args, Batches(), before_batch=spoil, metrics=finite)
    for text in ("is no longer finite at batch 9: training has diverged",
                 f"the last good checkpoint is {args.prefix},0 of batch 1", "lr too high"):
        assert text in str(error.value)
    after = {path.name: path.read_bytes() for path in (tmp_path / "m").glob("model-*[!l]")}
    assert after == before


def test_leftovers_of_this_prefix_only_are_removed(tmp_path):
    args = resumable(tmp_path, "--max-steps", "1", "--ckpt", "0")
    (tmp_path / "m").mkdir()
    ours = [".model-0000.params.71", ".model-0012.params.71", ".model-symbol.json.1234",
            ".model-resume.npz.9"]
    others = [".model-b-0000.params.71", ".model-0000.params.x", ".0_noiselist.txt.5",
              "model-0007.params", "notes"]
    for name in ours + others:
        (tmp_path / "m" / name).write_text("x")
    train(args, Batches())
    assert sorted(os.listdir(tmp_path / "m")) == sorted(others + [
        "model-0000.params", "model-symbol.json", "model-resume.npz", "model-trainlog.jsonl"])


def test_the_file_is_a_zip_of_plain_arrays(tmp_path):
    """What docs/reliability.md says of it: readable without this package, with checksums."""
    shape = state.State(POSITION, {"w": mx.nd.ones((2, 3))}, {}, {},
                        {"tail": np.arange(6).reshape(2, 3)})
    prefix = str(tmp_path / "model")
    state.save(prefix, {"a": 1}, shape)
    with zipfile.ZipFile(prefix + "-resume.npz") as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["arg:w.npy", "header.npy", "tail.npy"]
        np.testing.assert_array_equal(np.load(io.BytesIO(archive.read("tail.npy"))),
                                      shape.data["tail"])
    found = state.find(prefix, "must", {"a": 1}, {"arg:w": ((2, 3), np.float32)}, lambda data: None)
    assert found.position == POSITION and found.data["tail"].dtype == np.int64
    assert found.arg_params["w"].asnumpy().tolist() == [[1.0] * 3] * 2


def test_identity_names_flags_as_they_are_typed():
    stage = Namespace(title="s", data=Batches())
    facts = state.identity(stage, Namespace(num_devices=1), Namespace(
        batch_size1=1, batchsize_id=2, verbose=3))
    assert facts == {"--batch-size1": 1, "--batchsize_id": 2, "the stage": "s",
                     "the images": "3 batches", "the number of devices": 1}


def rewritten(name, change, **how):
    """Write a state anew, checksums and all, with its members changed."""
    with np.load(name) as arrays:
        members = {key: arrays[key] for key in arrays.files}
    header = json.loads(members["header"].tobytes())
    change(members, header)
    if isinstance(header, dict):
        header = json.dumps(header)
    members["header"] = np.frombuffer(header.encode(), np.uint8)
    with zipfile.ZipFile(name, "w", **how) as archive:
        for key, array in members.items():
            with archive.open(key + ".npy", "w") as member:
                np.lib.format.write_array(member, array)


def in_header(*path, value):
    def change(members, header):
        for key in path[:-1]:
            header = header[key]
        header[path[-1]] = value
    return change


WRONG = {
    "fc7_weight is missing": lambda members, _: members.pop("arg:fc7_weight"),
    "momentum:fc7_weight is missing": lambda members, _: members.pop("momentum:fc7_weight"),
    "momentum:.* is missing": lambda members, _: [
        members.pop(key) for key in list(members) if key.startswith("momentum:")],
    "arg:more is not of this network": lambda members, _: members.update(
        {"arg:more": np.zeros(3, np.float32)}),
    "is of float64, not float32": lambda members, _: members.update(
        {"arg:fc7_weight": members["arg:fc7_weight"].astype(float)}),
    r"is of shape \(16, 4\), not \(4, 16\)": lambda members, _: members.update(
        {"arg:fc7_weight": members["arg:fc7_weight"].T.copy()}),
    "huge.* is of float32, not int64": lambda members, _: members.update(
        huge=np.zeros(3, np.float32)),
    "step is 'True'": in_header("position", "step", value=True),
    "step is '-1'": in_header("position", "step", value=-1),
    "best mean is 'nan'": in_header("position", "best", "mean", value=float("nan")),
    "best +has": in_header("position", "best", value={"mean": 1}),
    "saves is": in_header("position", "saves", value="9"),
    "log is": in_header("position", "log", value=["x", -3]),
    "verified after its last": in_header("position", "verified", value=99),
    "RecursionError|recursion": None,
}


@pytest.fixture(scope="module")
def whole_state(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    args = resumable(directory, "--max-steps", "1", "--ckpt", "0")
    train(args, Batches())
    return directory / "m" / "model-resume.npz"


def no_data(arrays):
    if arrays:
        raise ValueError(f"{', '.join(arrays)} is not of this data")


def made_by(path):
    """What the run and the network of a state are: identity and expected arrays."""
    with np.load(path) as arrays:
        identity = json.loads(arrays["header"].tobytes())["identity"]
        expected = {key: (arrays[key].shape, arrays[key].dtype)
                    for key in arrays.files if ":" in key}
    return identity, expected


@pytest.mark.parametrize("text", WRONG)
def test_a_state_that_is_not_this_networks_is_refused(whole_state, tmp_path, text):
    identity, expected = made_by(whole_state)
    path = tmp_path / "model-resume.npz"
    path.write_bytes(whole_state.read_bytes())
    if WRONG[text] is None:
        with zipfile.ZipFile(path, "w") as archive, archive.open("header.npy", "w") as member:
            np.lib.format.write_array(member, np.frombuffer(b"[" * 10 ** 6, np.uint8))
    else:
        rewritten(path, WRONG[text])
    with pytest.raises(InputError, match="not the state of a run, or damaged .*(" + text + ")"):
        state.find(str(tmp_path / "model"), "must", identity, expected, no_data)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_compressed_members_are_refused(whole_state, tmp_path, method):
    identity, expected = made_by(whole_state)
    path = tmp_path / "model-resume.npz"
    path.write_bytes(whole_state.read_bytes())
    rewritten(path, lambda members, header: None, compression=method)
    with pytest.raises(InputError, match="header.npy is compressed or encrypted"):
        state.find(str(tmp_path / "model"), "must", identity, expected, lambda data: None)


def test_a_long_zip_directory_is_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "model-resume.npz", "w") as archive:
        for number in range(100):
            archive.writestr(str(number) * 10 + "x" * 60000, b"")
    with pytest.raises(InputError, match="too many arrays"):
        state.find(str(tmp_path / "model"), "must", {}, {}, lambda data: None)


def test_the_state_before_a_damaged_one_is_used(tmp_path, caplog):
    args = resumable(tmp_path, "--max-steps", "4", "--verbose", "2")
    train(args, Batches())
    newest, before = (tmp_path / "m" / f"model-resume{end}.npz" for end in ("", ".1"))
    damage(newest, "a bit")
    args.resume = "auto"
    with caplog.at_level("INFO"):
        train(args, Batches())
    assert "continuing from the state before it" in caplog.text
    assert [event["step"] for event in events(args, "resume")] == [2]
    whole = resumable(tmp_path / "whole", "--max-steps", "4", "--verbose", "2")
    train(whole, Batches())
    for name, value in saved(whole).items():
        if name != "header":
            np.testing.assert_array_equal(saved(args)[name], value, err_msg=name)
    damage(newest, "half")
    damage(before, "empty")
    with pytest.raises(InputError, match="model-resume.npz: not the state of a run"):
        train(args, Batches())


def test_the_log_is_flushed_with_what_it_tells_of(tmp_path, monkeypatch):
    flushed = []
    log = EventLog(str(tmp_path / "new" / "log.jsonl"))
    monkeypatch.setattr(os, "fsync", lambda _: flushed.append(
        (tmp_path / "new" / "log.jsonl").read_text().splitlines()[-1].split('"')[3]))
    for event in ("start", "train", "verify", "save", "lr", "stop", "end"):
        log.notify(event, step=1)
    log.close()
    assert flushed == ["verify", "save", "stop", "end"]


def test_a_state_of_before_a_flag_has_its_default(whole_state, tmp_path):
    identity, expected = made_by(whole_state)
    path = tmp_path / "model-resume.npz"
    path.write_bytes(whole_state.read_bytes())
    rewritten(path, lambda _, header: [header["identity"].pop(name) for name in ("--mom", "--wd")])
    assert state.find(str(tmp_path / "model"), "must", identity, expected, no_data)
    changed = {**identity, "--mom": 0.5}
    with pytest.raises(InputError, match="run: mom was 0.9, is 0.5;"):
        state.find(str(tmp_path / "model"), "must", changed, expected, no_data)
