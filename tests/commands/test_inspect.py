import os
import struct

import numpy as np
import pytest

from helpers.pictures import damaged_jpeg, encoded, smooth
from unequal.commands import cli, inspect
from unequal.data.records import RecordSet, RecordWriter, relabel
from unequal.eval.bins import save_bin

SIZE = (20, 24)


def _make(directory, counts, identities=True, num_classes=None, replace=()):
    """A set whose class i has counts[i] images, all different; ``replace``: other data by key."""
    replace = dict(replace)
    with RecordWriter(str(directory), SIZE, num_classes, identities) as writer:
        key = int(identities)
        for label, count in enumerate(counts):
            for _ in range(count):
                writer.add(label, replace.get(key) or encoded(smooth(*SIZE, seed=key)))
                key += 1
    return str(directory)


def _overwrite(directory, key, change):
    """Write ``change(payload)``, of the same length, over a record."""
    with RecordSet(directory) as records:
        payload, place = records.payload(key), int(records._offsets[records._position(key)])
    with open(os.path.join(directory, "train.rec"), "r+b") as file:
        file.seek(place + 8)
        file.write(change(payload))


def _range(begin, end):
    return lambda payload: payload[:24] + struct.pack("<ff", begin, end)


def test_sound_set(tmp_path):
    report = inspect.inspect(_make(tmp_path / "set", [1, 5, 2, 12]))
    assert report.faults == []
    assert report.counts.tolist() == [1, 5, 2, 12]
    assert report.facts[0] == "20 images of 4 identities, 20x24 pixels, with identity records"
    assert report.facts[2] == "images per identity: 1 to 12, mean 5.0, median 3.5"
    assert report.facts[3] == ("2 identities have fewer than 3 images, what the tail miner takes "
                               "of each")
    assert len(report.facts) == 4


def test_plain_set_and_several_processes(tmp_path):
    directory = _make(tmp_path / "set", [300, 4], identities=False)
    one, two = inspect.inspect(directory), inspect.inspect(directory, processes=2)
    assert one.facts == two.facts and one.faults == two.faults == []
    assert one.facts[0] == "304 images of 2 identities, 20x24 pixels, plain, no identity records"


def test_pictures_at_fault(tmp_path):
    whole = encoded(smooth(*SIZE))
    directory = _make(tmp_path / "set", [3, 3], replace={
        2: whole[:-20], 3: encoded(smooth(24, 20)), 5: damaged_jpeg(smooth(*SIZE)), 6: b"none"})
    faults = inspect.inspect(directory).faults
    assert len(faults) == 4
    for fault, key, text in zip(faults, (2, 3, 5, 6), (
            "not a picture, or cut short", "is 24 pixels high and 20 wide but should be 20 and 24",
            "damaged picture, the decoder says: Corrupt JPEG data", "not a picture")):
        assert fault.startswith(f"{directory}{os.sep}train.rec: record {key}: ")
        assert text in fault


def test_labels_at_fault(tmp_path):
    directory = _make(tmp_path / "set", [3, 3])
    _overwrite(directory, 2, lambda payload: relabel(payload, 7))
    _overwrite(directory, 4, lambda payload: relabel(payload, 0.5))
    faults = inspect.inspect(directory).faults
    assert [fault.split("train.rec: ")[1][:21] for fault in faults] == [
        "record 2 has label 7.", "record 4 has label 0."]


def test_damaged_record(tmp_path):
    directory = _make(tmp_path / "set", [3, 3])
    with RecordSet(directory) as records:
        place = int(records._offsets[5])
    with open(os.path.join(directory, "train.rec"), "r+b") as file:
        file.seek(place)
        file.write(b"gone")
    faults = inspect.inspect(directory).faults
    assert len(faults) == 1 and "record 5 at byte" in faults[0] and "is damaged" in faults[0]


def test_identity_records_at_fault(tmp_path):
    # keys 1-3, 4-6, 7-9; identity records 10, 11, 12
    directory = _make(tmp_path / "set", [3, 3, 3])
    _overwrite(directory, 11, _range(3, 6))  # takes an image of the first, forgets record 6
    faults = [fault.split("train.rec: ")[1] for fault in inspect.inspect(directory).faults]
    assert faults == [
        "identity record 11 claims images that identity record 10 has too.",
        "identity record 11 holds images of the classes 0, 1.",
        "1 images belong to no identity record, the first is record 6."]

    directory = _make(tmp_path / "same", [3, 3, 3])
    for key in (7, 8, 9):
        _overwrite(directory, key, lambda payload: relabel(payload, 0))
    faults = [fault.split("train.rec: ")[1] for fault in inspect.inspect(directory).faults]
    assert faults == ["identity record 12 is of class 0, as identity record 10 is."]

    directory = _make(tmp_path / "outside", [3, 3, 3])
    _overwrite(directory, 11, _range(4, 99))
    faults = inspect.inspect(directory).faults
    assert len(faults) == 1 and "identity record 11 has the key range [4, 99)" in faults[0]


def test_missing_key(tmp_path):
    directory = _make(tmp_path / "set", [5, 5], identities=False)
    path = os.path.join(directory, "train.idx")
    with open(path) as index:
        lines = index.readlines()
    with open(path, "w") as index:
        index.writelines(lines[:3] + lines[5:])
    faults = inspect.inspect(directory).faults
    assert len(faults) == 1 and "no record between keys 2 and 5" in faults[0]


def test_gaps_and_duplicates_are_facts(tmp_path):
    same = encoded(smooth(*SIZE, seed=77))
    directory = _make(tmp_path / "set", [4, 0, 4], num_classes=9,
                      replace={1: same, 3: same, 6: same})
    report = inspect.inspect(directory)
    assert report.faults == []
    assert "7 of 9 classes have no image (right in a denoised set)" in report.facts
    assert report.facts[-1] == ("2 images repeat the content of another, 1 of them under another "
                                "identity (such as records 3 and 6)")


def test_distribution():
    counts = np.array([1, 1, 2, 3, 3, 4, 7, 8, 40])
    rows = inspect.distribution(counts)
    assert rows == [("1", 2), ("2-3", 3), ("4-7", 2), ("8-15", 1), ("16-31", 0), ("32-63", 1)]
    assert inspect.distribution(np.array([1])) == [("1", 1)]
    lines = inspect.draw(rows, 40)
    assert max(map(len, lines)) <= 40
    lengths = [line.count("#") for line in lines]
    assert lengths[1] == max(lengths) and lengths[4] == 0 and 0 < lengths[3] < lengths[0]
    huge = inspect.draw([("1", 500000), ("2-3", 1)], 60)
    assert huge[1].count("#") == 1 and "500,000" in huge[0]  # what there is can be seen


def test_command(tmp_path, capsys):
    directory = _make(tmp_path / "set", [3, 3])
    assert cli.main(["inspect", directory, "--processes", "1"]) == 0
    out = capsys.readouterr().out
    assert "6 images of 2 identities" in out and "2-3 2 #" in out and "fault" not in out
    directory = _make(tmp_path / "bad", [3, 3], replace={1: b"a", 4: b"b"})
    assert cli.main(["inspect", directory, "--processes", "1"]) == 1
    out = capsys.readouterr().out
    assert sum(line.startswith("fault: ") for line in out.splitlines()) == 2
    assert cli.main(["inspect", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_plot(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    directory = _make(tmp_path / "set", [1, 9, 3])
    picture = tmp_path / "tail.png"
    assert cli.main(["inspect", directory, "--processes", "1", "--plot", str(picture)]) == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert cli.main(["inspect", directory, "--processes", "1", "--plot",
                     str(tmp_path / "tail.xyz")]) == 1
    assert "name a picture file" in capsys.readouterr().err


def test_verification_set(tmp_path, capsys):
    pictures = [encoded(smooth(*SIZE, seed=seed)) for seed in range(40)]
    path = str(tmp_path / "x.bin")
    save_bin(path, pictures, [True, False] * 10)
    assert cli.main(["inspect", path]) == 0
    assert capsys.readouterr().out == (
        "20 pairs, 10 same and 10 different\n20x24 pixels\n"
        "same pairs in each of 10 folds: 1 1 1 1 1 1 1 1 1 1\n")
    pictures[3], pictures[7] = b"no", damaged_jpeg(smooth(24, 24))
    save_bin(path, pictures, [True, False] * 10)
    assert cli.main(["inspect", path]) == 1
    faults = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fault: ")]
    assert len(faults) == 3
    assert "picture 3: not a picture" in faults[0] and "picture 7: damaged" in faults[1]
    assert "2 different sizes" in faults[2]
