"""Files that would hold a command up, or fill the memory: pipes, holes, names without end."""
import contextlib
import json
import os
import pickle
import resource
import signal
import struct
import zipfile

import cv2
import mxnet as mx
import numpy as np
import pytest

from helpers.pictures import encoded, smooth
from unequal.commands import inspect
from unequal.commands.cli import main
from unequal.data import convert, copying, identities, noise_lists
from unequal.data.records import RecordSet, RecordWriter
from unequal.errors import InputError
from unequal.eval import bins, features
from unequal.models import checkpoints, untrusted
from unequal.symbols import networks

FACE = encoded(smooth(32, 32))
HOLE = 6 << 30  # bytes


@pytest.fixture(autouse=True)
def no_hang():
    """What would wait for ever, or for minutes, fails instead."""
    def late(*_):
        raise AssertionError("still at work after a minute")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def memory(megabytes):
    """So much more than this process has: what asks for more gets a MemoryError, which is no
    InputError."""
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def little_memory():
    with memory(256):
        yield


def make_set(path):
    with RecordWriter(str(path), (32, 32)) as writer:
        for label in (0, 0, 1, 1):
            writer.add(label, FACE, "x")
    identities.write_names(str(path), ["a", "b"])
    return str(path)


def read_set(path):
    with RecordSet(path) as records:
        list(copying.list_lines(records))
        return identities.read_names(path)


READERS = {  # name of a file -> what reads it
    "property": read_set, "train.rec": read_set, "train.idx": read_set, "train.lst": read_set,
    "identities.csv": read_set,
    "x.npz": features.open_features, "x.npy": features.open_features,
    "x.bin": features.open_features, "pairs.bin": bins.load_bin,
    "list.txt": noise_lists.read_list, "names.txt": noise_lists.read_names,
    "truth.csv": noise_lists.read_truth, "scores.csv": noise_lists.read_scores,
    "pictures.lst": lambda path: list(convert.in_list(path, ".")),
    "pairs.txt": lambda path: convert.read_pairs(path, "."),
    "m-symbol.json": untrusted.read_symbol, "m-0000.params": untrusted.read_arrays,
}


def read(directory, name):
    reader = READERS[name]
    return reader(directory if reader is read_set else os.path.join(directory, name))


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_not_waited_for(tmp_path, name):
    directory = make_set(tmp_path / "set")
    path = os.path.join(directory, name)
    if os.path.exists(path):
        os.remove(path)
    os.mkfifo(path)
    with pytest.raises(InputError, match=name + ": is not a plain file"):
        read(directory, name)


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_six_gigabytes_of_nothing(tmp_path, name, little_memory):
    directory = make_set(tmp_path / "set")
    path = os.path.join(directory, name)
    with open(path, "ab" if name in os.listdir(directory) else "wb") as file:
        file.truncate(HOLE)
    if name in ("train.rec", "property"):  # sound to its end, whatever lies behind
        return
    with pytest.raises(InputError, match=name):
        read(directory, name)


def test_an_index_has_no_more_entries_than_records_fit(tmp_path):
    directory = make_set(tmp_path / "set")
    with open(os.path.join(directory, "train.idx"), "w") as file:
        file.writelines(f"{key}\t{4 * key}\n" for key in range(10000))
    with pytest.raises(InputError, match="train.idx: has more records than train.rec has room for"):
        RecordSet(directory)


def test_a_matrix_in_a_hole_is_read_block_by_block(tmp_path):
    """Two gigabytes of features, most of them a hole: only what is looked at is in memory."""
    path = str(tmp_path / "x.bin")
    with open(path, "wb") as file:
        file.write(struct.pack("<4i", 1 << 20, 512, 2048, 5) + b"\0\0\x80\x3f" * 512)
        file.truncate(16 + (1 << 31))
    opened = features.open_features(path)
    assert (len(opened), opened.size) == (1 << 20, 512)
    block = next(opened.blocks(100))
    assert block.shape == (100, 512) and block[0].sum() > 1 and not block[1:].any()


@pytest.mark.parametrize("rows, cols", [(1 << 30, 1), (1, 1 << 28), (1 << 27, 2)])
def test_a_matrix_of_too_many_features(tmp_path, rows, cols):
    path = str(tmp_path / "x.bin")
    with open(path, "wb") as file:
        file.write(struct.pack("<4i", rows, cols, 4 * cols, 5))
        file.truncate(16 + 4 * rows * cols)
    with pytest.raises(InputError, match="x.bin: holds .* features of length"):
        features.open_features(path)


def archive(path, names, count, method=zipfile.ZIP_DEFLATED):
    """Features of length 1 with an array of names, given in parts."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, dtype, shape, parts in (("features", "<f4", (count, 1), [b"\0" * (4 * count)]),
                                          ("names", "<U4096", (count,), names)):
            with file.open(name + ".npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(
                    member, {"descr": dtype, "fortran_order": False, "shape": shape})
                for part in parts:
                    member.write(part)


def test_room_for_names_is_not_memory(tmp_path):
    """128 MB of room for names in a file of less than one."""
    path, count = str(tmp_path / "x.npz"), 1 << 13
    row = np.array(["id/name"], "<U4096").tobytes()
    archive(path, [row * 64] * (count // 64), count)
    assert os.path.getsize(path) < 1 << 20
    with memory(64):
        assert features.open_features(path).names == ["id/name"] * count


def test_names_of_too_many_characters(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_MAX_NAMES", 1000)
    path = str(tmp_path / "x.npz")
    archive(path, [np.array(["x" * 600] * 2, "<U4096").tobytes()], 2)
    with pytest.raises(InputError, match="x.npz: .*names of more than 1,000 characters"):
        features.open_features(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_members_that_numpy_does_not_write(tmp_path, method, capsys):
    path = str(tmp_path / "x.npz")
    archive(path, [np.array(["a/b"], "<U4096").tobytes()], 1, method)
    assert main(["identify", "--probes", path, "--distractors", path]) == 1
    assert "x.npz: " in capsys.readouterr().err


def test_names_that_are_no_characters(tmp_path):
    path = str(tmp_path / "x.npz")
    archive(path, [struct.pack("<I", 0x110000) * 4096], 1)
    with pytest.raises(InputError, match="x.npz: no arrays"):
        features.open_features(path)


def test_a_header_of_an_array_is_short(tmp_path, little_memory):
    path = str(tmp_path / "x.npy")
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x02\0" + struct.pack("<I", 1 << 31))
        file.truncate(HOLE)
    with pytest.raises(InputError, match="a header of 2,147,483,648 bytes"):
        features.open_features(path)


# ------------------------------------------------------------------------------ verification sets


def test_a_tuple_of_tuples_is_not_written_out(tmp_path):
    """330 bytes: each tuple holds the one before twice, 2 ** 100 parts when it is shown."""
    path = tmp_path / "x.bin"
    nested = b")" + b"q\x00h\x00\x86" * 100
    path.write_bytes(b"\x80\x02cnumpy\ndtype\n" + nested + b"\x85R.")
    with pytest.raises(InputError, match="x.bin: refused, the pickle holds an array of type no"):
        bins.load_bin(str(path))


def test_a_part_longer_than_a_picture(tmp_path, little_memory):
    path = tmp_path / "x.bin"
    with open(str(path), "wb") as file:
        file.write(b"\x80\x04\x8e" + struct.pack("<Q", 3 << 30))
        file.truncate(4 << 30)
    with pytest.raises(InputError, match="x.bin: not a pickle of lists"):
        bins.load_bin(str(path))


def test_one_picture_hundreds_of_thousands_of_times(tmp_path, capsys):
    picture = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    path = tmp_path / "x.bin"
    path.write_bytes(b"\x80\x02]q\x00(" + b"T" + struct.pack("<i", len(picture)) + picture
                     + b"q\x01" + b"h\x01" * 399999 + b"e](" + b"\x88" * 200000 + b"e\x86.")
    assert main(["inspect", str(path)]) == 1
    assert "x.bin: names 1 pictures, each 400,000 times" in capsys.readouterr().err


def test_a_picture_in_several_pairs_is_looked_at_once(tmp_path, monkeypatch):
    cut = FACE[:-30]
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([FACE, cut] * 10, [True] * 10), 2))
    report = inspect.inspect_bin(str(tmp_path / "x.bin"))
    assert len(report.faults) == 1 and "picture 1" in report.faults[0]
    # In all there may be as many pixels as real pictures have.
    monkeypatch.setattr(inspect, "_FREE_PIXELS", 1000)
    monkeypatch.setattr(inspect, "_PIXELS_A_BYTE", 0)
    with pytest.raises(InputError, match="x.bin: its pictures hold more than 1,000 pixels"):
        inspect.inspect_bin(str(tmp_path / "x.bin"))


# ------------------------------------------------------------------------------------ checkpoints


@pytest.fixture
def symbol(tmp_path):
    network = networks.get_symbol("n8", 16)
    path = tmp_path / "m-symbol.json"

    def changed(change):
        document = json.loads(network.tojson())
        change(document)
        path.write_text(json.dumps(document))
        return str(path)
    return changed


@pytest.mark.parametrize("kernel, said", [
    ("(3" + " " * 400 + "x", "kernel of"), ("(3," + " " * 900 + "3)", None),
    ("(3" + " " * 100000, "kernel of .* has 100,002 characters"),
    ("1" * 900, "kernel of"), ("(3, 3, 3, 3, 3)", "kernel of")])
def test_spaces_in_a_size(symbol, kernel, said):
    def change(document):
        node = next(node for node in document["nodes"] if node["op"] == "Convolution"
                    and node["attrs"]["kernel"] == "(3, 3)")
        node["attrs"]["kernel"] = kernel

    path = symbol(change)
    if said is None:
        assert untrusted.read_symbol(path).list_outputs() == ["fc1_output"]
    else:
        with pytest.raises(InputError, match=said):
            untrusted.read_symbol(path)


def test_a_chain_of_copies(tmp_path):
    nodes = [{"op": "null", "name": "data", "inputs": []}]
    nodes += [{"op": "_copy", "name": f"c{place}", "inputs": [[place, 0, 0]]}
              for place in range(20000)]
    nodes.append({"op": "_copy", "name": "fc1", "inputs": [[20000, 0, 0]]})
    path = tmp_path / "m-symbol.json"
    path.write_text(json.dumps({"nodes": nodes, "heads": [[len(nodes) - 1, 0, 0]]}))
    with pytest.raises(InputError, match="it has 20,002 layers"):
        untrusted.read_symbol(str(path))


def test_a_number_of_a_million_digits(tmp_path):
    path = tmp_path / "m-symbol.json"
    path.write_text('{"nodes": [' + "1" * 1000000 + "]}")
    with pytest.raises(InputError, match="a number of 1,000,000 digits"):
        untrusted.read_symbol(str(path))


def test_a_million_arrays_of_one_byte(tmp_path):
    count = 1000000
    one = struct.pack("<IiIqiii", 0xF993FAC9, 0, 1, 1, 1, 0, 3) + b"x"
    path = tmp_path / "m-0000.params"
    path.write_bytes(struct.pack("<QQQ", 0x112, 0, count) + one * count + struct.pack("<Q", count))
    with pytest.raises(InputError, match="it says that it has 1,000,000 arrays"):
        untrusted.read_arrays(str(path))


def test_the_largest_network_has_room(tmp_path):
    network = networks.get_symbol("r100", 512)
    nodes = json.loads(network.tojson())["nodes"]
    assert 2.5 * len(nodes) < untrusted._MAX_NODES
    arrays = {f"w{number}": mx.nd.zeros((1,)) for number in range(3000)}
    checkpoints.save(str(tmp_path / "m"), 0, networks.get_symbol("n8", 16), arrays, {})
    assert len(untrusted.read_arrays(str(tmp_path / "m-0000.params"))[0]) == 3000
