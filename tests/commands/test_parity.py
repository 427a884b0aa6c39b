import json

import numpy as np
import pytest

from helpers.loops import RECORDING, assert_close, cases, recorded
from unequal.commands import parity
from unequal.commands.cli import main
from unequal.symbols import networks

NAME = "losses_and_networks"
SMALL = "softmax_lt4"  # a case that takes no time


def recording(directory, arrays=None, settings=None, name=SMALL):
    """A recording of one case, with some of its arrays or settings replaced (None: left out)."""
    own_settings, own_arrays = recorded(name)
    own_settings = {**own_settings, **(settings or {})}
    own_arrays = {**own_arrays, **(arrays or {})}
    (directory / (NAME + ".json")).write_text(json.dumps(
        {name: {key: value for key, value in own_settings.items() if value is not None}}))
    np.savez(directory / (NAME + ".npz"), **{name + "/" + key: value for key, value
                                             in own_arrays.items() if value is not None})
    return str(directory)


def answers(capsys):
    """Lines on stdout, lines on stderr."""
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err.splitlines()


def test_whole_recording_passes(capsys):
    assert main(["parity", str(RECORDING)]) == 0
    lines, errors = answers(capsys)
    assert errors == []
    names, numbers, verdicts = zip(*(line.split() for line in lines))
    assert list(names) == cases("") and len(names) == 17
    assert set(verdicts) == {"ok"}
    assert all(float(number) <= 1e-4 for number in numbers)


def test_networks_of_insightface(capsys):
    """What the reference grew out of, recorded from its public symbols (README.md beside them)."""
    assert main(["parity", str(RECORDING.parent / "insightface")]) == 0
    lines, _ = answers(capsys)
    assert {line.split()[0] for line in lines} >= {
        "net_r18_se", "net_r18_input0", "net_r18_gap", "net_r18_fc", "net_y1"}


def test_network_of_the_other_prelu():
    """What GPUs run, on the recorded pictures."""
    _, arrays = recorded("net_r18")
    assert_close(parity.network_output("r18", arrays["data"], depthwise_prelu=False),
                 arrays["fc1"], 1e-4)


@pytest.mark.parametrize("array", ["out0", "out1", "grad_emb", "grad_fc7_weight"])
def test_each_tampered_array_fails(array, tmp_path, capsys):
    original = recorded(SMALL)[1][array]
    changed = original.copy()
    changed.flat[7] += 0.01 * np.abs(original).max()
    assert main(["parity", recording(tmp_path, {array: changed})]) == 1
    lines, errors = answers(capsys)
    assert [line.split()[0::2] for line in lines] == [[SMALL, "FAIL"]] and errors == []
    assert float(lines[0].split()[1]) == pytest.approx(0.01, rel=0.1)


# Every array that a case of each kind is compared in.
@pytest.mark.parametrize("name, arrays", [
    ("softmax_lt0", ["grad_fc7_bias"]),
    ("nr_beta0.7", ["out0", "out1", "out2", "grad_emb", "grad_fc7_weight"]),
    ("unequal_w5_noise1", ["out0", "out1", "out2", "out3", "out5", "out6", "out8", "grad_emb",
                           "grad_fc7_weight"]),
    ("verification", ["accuracy_per_fold", "tpr", "fpr"]),
    ("mining", ["selected"]),
])
def test_each_kind_of_case_notices(name, arrays, tmp_path):
    assert [error <= 1e-4 for _, error in parity.compare(recording(tmp_path, name=name))] == [True]
    for array in arrays:
        changed = recorded(name)[1][array]
        changed.flat[0] += 1
        (_, error), = parity.compare(recording(tmp_path, {array: changed}, name=name))
        assert error > 1e-4, array


@pytest.mark.parametrize("setting", [{"margin_m": 0.45}, {"margin_s": 60.0}, {"easy_margin": 1}])
def test_other_settings_fail(setting, tmp_path):
    (_, error), = parity.compare(recording(tmp_path, settings=setting))
    assert error > 1e-3


@pytest.mark.parametrize("kind", ["missing", "extra", "shape"])
@pytest.mark.parametrize("what", ["args", "aux"])
def test_other_names_and_shapes_fail(what, kind, tmp_path):
    names = dict(recorded("net_r18")[0][what])
    name = next(iter(names))
    if kind == "missing":
        del names[name]
    else:
        names[name if kind == "shape" else "another"] = [3]
    (_, error), = parity.compare(recording(tmp_path, settings={what: names}, name="net_r18"))
    assert np.isnan(error)


def by_names(directory, name, as_lists=False, **options):
    """A recording of the names and shapes of one of our networks, without its output."""
    network = name[len("net_"):].replace("_se", "")
    symbol = networks.get_symbol(network, **options)
    shapes, _, aux_shapes = symbol.infer_shape(data=(1, 3, 112, 112))
    found = {"args": dict(zip(symbol.list_arguments(), shapes)),
             "aux": dict(zip(symbol.list_auxiliary_states(), aux_shapes))}
    if as_lists:
        found = {key: list(names) for key, names in found.items()}
    found.update((key, value) for key, value in options.items() if key != "version_se")
    (directory / (NAME + ".json")).write_text(json.dumps({name: found}))
    np.savez(directory / (NAME + ".npz"))
    return str(directory)


@pytest.mark.parametrize("as_lists", [True, False])
@pytest.mark.parametrize("name, options", [
    ("net_r18", {}), ("net_r18_se", {"version_se": 1}),
    ("net_r18", {"version_input": 0, "version_output": "GAP"})])
def test_network_recorded_by_names_alone(name, options, as_lists, tmp_path):
    directory = by_names(tmp_path, name, as_lists, **options)
    assert list(parity.compare(directory)) == [(name, 0.0)]
    other = by_names(tmp_path, name, as_lists, **dict(options, version_act="relu"))
    content = json.loads((tmp_path / (NAME + ".json")).read_text())
    content[name]["version_act"] = "prelu"
    (tmp_path / (NAME + ".json")).write_text(json.dumps(content))
    (_, error), = parity.compare(other)
    assert np.isnan(error)


def test_not_a_number_fails(tmp_path, capsys):
    changed = np.full_like(recorded(SMALL)[1]["out1"], np.nan)
    assert main(["parity", recording(tmp_path, {"out1": changed})]) == 1
    assert answers(capsys)[0][0].split() == [SMALL, "nan", "FAIL"]


@pytest.mark.parametrize("tolerance, code", [("0.02", 0), ("0.005", 1)])
def test_tolerance(tolerance, code, tmp_path):
    changed = recorded(SMALL)[1]["out1"]
    changed[0, 0] += 0.01 * changed.max()
    directory = recording(tmp_path, {"out1": changed})
    assert main(["parity", directory, "--tolerance", tolerance]) == code


def test_one_failure_among_others_is_enough(tmp_path, capsys):
    settings, arrays = {}, {}
    for name in ("softmax_lt2_m0.35", SMALL, "mining"):
        settings[name], own = recorded(name)
        arrays.update({name + "/" + key: value for key, value in own.items()})
    arrays[SMALL + "/out1"] = arrays[SMALL + "/out1"] + 0.1
    (tmp_path / (NAME + ".json")).write_text(json.dumps(settings))
    np.savez(tmp_path / (NAME + ".npz"), **arrays)
    assert main(["parity", str(tmp_path)]) == 1
    assert [line.split()[0::2] for line in answers(capsys)[0]] == [
        ["mining", "ok"], ["softmax_lt2_m0.35", "ok"], [SMALL, "FAIL"]]


def damaged(directory, how):
    """Recordings nobody can read; returns what the message must name."""
    recording(directory)
    table, arrays = directory / (NAME + ".json"), directory / (NAME + ".npz")
    if how == "no json":
        table.unlink()
        return [table.name, "no such file"]
    if how == "no npz":
        arrays.unlink()
        return [arrays.name, "no such file"]
    if how == "empty npz":
        arrays.write_bytes(b"")
        return [arrays.name]
    if how == "garbage npz":
        arrays.write_bytes(b"garbage " * 100)
        return [arrays.name]
    if how == "cut npz":
        arrays.write_bytes(arrays.read_bytes()[:5000])
        return [arrays.name]
    if how == "damaged npz":
        data = bytearray(arrays.read_bytes())
        data[300:400] = bytes(100)
        arrays.write_bytes(data)
        return [arrays.name]
    if how == "npz of one array":
        with open(arrays, "wb") as file:
            np.save(file, np.zeros(3))
        return [arrays.name]
    if how == "garbage json":
        table.write_text("{ not json")
        return [table.name]
    if how == "binary json":
        table.write_bytes(b"\xff\xfe\x00garbage")
        return [table.name]
    if how == "json of a list":
        table.write_text("[1, 2]")
        return [table.name]
    if how == "json of a number":
        table.write_text('{"softmax_lt4": 3}')
        return [table.name, SMALL]
    if how == "unknown case":
        table.write_text('{"triplet_m0.2": {}}')
        return [table.name, "triplet_m0.2", "softmax_", "nr_", "unequal_", "net_", "mining"]
    if how == "setting left out":
        recording(directory, settings={"num_classes": None})
        return [SMALL, "num_classes"]
    if how == "input left out":
        recording(directory, {"emb": None})
        return [SMALL, "emb"]
    recording(directory, {"fc7_weight": np.zeros((3, 3), np.float32)})
    return [SMALL]


@pytest.mark.parametrize("how", [
    "no json", "no npz", "empty npz", "garbage npz", "cut npz", "damaged npz", "npz of one array",
    "garbage json", "binary json", "json of a list", "json of a number", "unknown case",
    "setting left out", "input left out", "input of another shape"])
def test_unreadable_recordings_take_one_line(how, tmp_path, capsys):
    expected = damaged(tmp_path, how)
    assert main(["parity", str(tmp_path)]) == 1
    lines, errors = answers(capsys)
    assert lines == [] and len(errors) == 1
    assert errors[0].startswith("error: ") and "unexpected" not in errors[0]
    for text in expected:
        assert text in errors[0]


def test_no_such_directory(tmp_path, capsys):
    assert main(["parity", str(tmp_path / "nowhere")]) == 1
    lines, errors = answers(capsys)
    assert lines == [] and len(errors) == 1 and "nowhere" in errors[0]


def test_usage():
    for arguments in (["parity"], ["parity", str(RECORDING), "--tolerance", "small"]):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2


def test_relative_error():
    assert parity.relative_error([1.0, -4.0], [1.0, -5.0]) == pytest.approx(0.2)
    assert parity.relative_error([0.0], [0.0]) == 0
    assert np.isnan(parity.relative_error([1.0], [1.0, 2.0]))
    assert np.isnan(parity.relative_error([[1.0]], [1.0]))


def test_parameters_are_drawn_by_name():
    """The rule of the recording: seeded by the name, so in any order and alone."""
    shapes = {"conv0_weight": (4, 3, 3, 3), "bn0_gamma": (5,), "bn0_beta": (5,), "fc1_bias": (5,),
              "relu0_gamma": (5,), "bn0_moving_mean": (5,), "bn0_moving_var": (5,)}
    drawn = parity.parameters(shapes)
    assert {name: value.shape for name, value in drawn.items()} == shapes
    assert {value.dtype for value in drawn.values()} == {np.dtype(np.float32)}
    seed = 0xf33a40b2 % 2 ** 31  # crc32 of "relu0_gamma"
    v = np.random.RandomState(seed).randn(5).astype("float32")
    np.testing.assert_allclose(drawn["relu0_gamma"], 0.25 + 0.05 * v, rtol=1e-6)
    assert (drawn["bn0_moving_var"] >= 1).all()
    alone = parity.parameters({"conv0_weight": (4, 3, 3, 3)})
    np.testing.assert_array_equal(alone["conv0_weight"], drawn["conv0_weight"])
