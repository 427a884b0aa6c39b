"""Hostile input: names that are paths, files that never end, sizes that are lies."""
import io
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib

import cv2
import mxnet as mx
import numpy as np
import pytest

from helpers.pictures import encoded, smooth
from unequal.commands.cli import main
from unequal.data import convert, identities
from unequal.data import pictures as images
from unequal.data.convert import read_pairs
from unequal.data.noise_lists import read_list, read_truth
from unequal.data.records import RecordSet, RecordWriter
from unequal.errors import InputError
from unequal.eval.bins import load_bin
from unequal.eval.features import open_features, write_features
from unequal.models import checkpoints
from unequal.models.embedder import Embedder, LoosePictures
from unequal.symbols import networks
from unequal.system import files

FACE = encoded(smooth(32, 32))

# ------------------------------------------------------------------------------- names and paths

OUTSIDE = ["../x.jpg", "a/../../x.jpg", "/etc/passwd", "..", ".", "", "a/..", "x\0.jpg",
           "a/../../root/../x"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_below_refuses(name):
    with pytest.raises(InputError, match="list.txt, line 3: the path .* leaves root; say --root."):
        files.below("root", name, "list.txt, line 3", "say --root")


def test_below_is_the_path_without_detours(tmp_path):
    root = str(tmp_path)
    assert files.below(root, "a//./b/../c.jpg", "x", "y") == os.path.join("a", "c.jpg")
    assert files.below(root, os.path.join(root, "a.jpg"), "x", "y") == "a.jpg"
    assert files.below(root, "...", "x", "y") == "..."
    assert files.below(root, "..\\a", "x", "y") == "..\\a"  # a name like any other here


def test_a_link_and_back_does_not_leave_the_root(tmp_path):
    """``link/../secret.jpg`` is outside for the system where ``link`` leads out."""
    (tmp_path / "elsewhere" / "folder").mkdir(parents=True)
    (tmp_path / "elsewhere" / "secret.jpg").write_bytes(FACE)
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere" / "folder")
    assert (root / "link" / ".." / "secret.jpg").exists()
    (tmp_path / "pairs.txt").write_text("link/../secret.jpg b.jpg 1\n")
    pairs, _ = read_pairs(str(tmp_path / "pairs.txt"), str(root))
    assert pairs == [("secret.jpg", "b.jpg", True)]
    _, picture = convert.parse_line("1\tlink/../secret.jpg\t0", "x", str(root))
    assert picture.name == "secret.jpg"


def make_set(path, labels=(0, 0, 1, 1)):
    with RecordWriter(str(path), (32, 32)) as writer:
        for label in labels:
            writer.add(label, FACE)
    return str(path)


@pytest.mark.parametrize("name", ["../x", "a/b", "/", "..", ".", "", "x" * 256, "\u00e9" * 128])
def test_an_identity_is_one_folder(tmp_path, name, capsys):
    directory = make_set(tmp_path / "set")
    identities.write_table(os.path.join(directory, "identities.csv"), ("label", "name"),
                           [(0, "ok"), (1, name)])
    before = sorted(os.listdir(tmp_path))
    assert main(["unpack", directory, str(tmp_path / "out")]) == 1
    assert "identities.csv: the name" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == before


def test_an_identity_of_an_odd_name_stays_inside(tmp_path):
    directory = make_set(tmp_path / "set")
    odd = ["x" * 255, "..x\n\r%s`id`"]
    identities.write_names(directory, odd)
    assert main(["unpack", directory, str(tmp_path / "out")]) == 0
    assert sorted(os.listdir(tmp_path / "out")) == sorted(odd)
    assert sorted(os.listdir(tmp_path)) == ["out", "set"]


def test_the_number_of_a_class_as_the_name_of_another(tmp_path, capsys):
    directory = make_set(tmp_path / "set")
    identities.write_table(os.path.join(directory, "identities.csv"), ("label", "name"),
                           [(0, "1")])
    assert main(["unpack", directory, str(tmp_path / "out")]) == 1
    assert "two classes would share the folder 1" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["set"]


def test_a_truth_or_name_table_that_is_none(tmp_path):
    for content in (b"label,name\n0,a\0b\n", b"key,label\n" + b"x" * 200000, b"\xff\xfe\0\n0,a\n"):
        (tmp_path / "identities.csv").write_bytes(content)
        (tmp_path / "truth.csv").write_bytes(b"key,true_identity,kind\n1,1," + content)
        with pytest.raises(InputError, match="identities.csv"):
            identities.read_names(str(tmp_path))
    (tmp_path / "truth.csv").write_text("key,true_identity,kind\n1,1," + "x" * 200000)
    with pytest.raises(InputError, match="truth.csv: expected the columns"):
        read_truth(str(tmp_path / "truth.csv"))


def test_features_of_pictures_from_anywhere_stay_below_the_folder(tmp_path):
    names = ["../../a", "/etc/b", "c/../../../d", "e"]
    write_features(str(tmp_path / "out") + os.sep, (4, 2), [(names, np.ones((4, 2), np.float32))])
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.bin"))
    assert found == ["out/a.bin", "out/d.bin", "out/e.bin", "out/etc/b.bin"]


# ------------------------------------------------------------------------------- no plain files


def special(folder):
    """A pipe, a device, a folder, a dangling link and a link to itself, with pictures' names."""
    folder.mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "dangling.jpg").symlink_to("/nonexistent/x.jpg")
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    return folder


def test_pack_neither_waits_nor_reads_for_ever(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    special(source / "a")
    (source / "a" / "face.jpg").write_bytes(FACE)
    (source / "b").mkdir()
    (tmp_path / "real.jpg").write_bytes(FACE)
    (source / "b" / "link.jpg").symlink_to(tmp_path / "real.jpg")  # the user's own: followed
    # In a process of its own: a defect would hang.
    done = subprocess.run([sys.executable, "-m", "unequal", "pack", str(source),
                           str(tmp_path / "out"), "--size", "32", "--processes", "1"], timeout=100,
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0
    problems = (tmp_path / "out" / "problems.csv").read_text()
    assert problems.count("skipped,is not a plain file") == 2
    assert "dangling.jpg,skipped,No such file" in problems
    assert "itself.jpg,skipped,Too many levels" in problems
    with RecordSet(str(tmp_path / "out")) as records:
        assert [records.image(key)[0] for key in records.image_keys] == [0, 1]


def test_loose_pictures_are_plain_files(tmp_path):
    folder = special(tmp_path / "a")
    pictures = LoosePictures([str(folder / "pipe.jpg"), str(folder / "zero.jpg")], (32, 32))
    for key in (0, 1):
        with pytest.raises(InputError, match="is not a plain file"):
            pictures.image(key)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.jpg"
    with open(path, "wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    with pytest.raises(InputError, match=r"large.jpg: has 268,435,457 bytes, more than"):
        images.read(str(path))

# ------------------------------------------------------------------------------- bombs


def jpeg_of(height, width):
    data = encoded(smooth(32, 32))
    place = data.index(b"\xff\xc0")
    return data[:place + 5] + struct.pack(">HH", height, width) + data[place + 9:]


def png_of(height, width):
    data = encoded(smooth(32, 32), ".png")
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize("data", [jpeg_of(65500, 65500), png_of(50000, 50000),
                                  png_of(2 ** 31 - 1, 2 ** 31 - 1), jpeg_of(12000, 12000)])
def test_a_picture_that_announces_too_much(data, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)  # never reached
    for given in (data, bytearray(data), np.frombuffer(data, np.uint8)):
        with pytest.raises(InputError, match="x: the picture is .* more than 134,217,728 in all"):
            images.decode(given, "x")


def test_a_picture_that_begins_as_an_honest_one():
    """The check is skipped for a known beginning, which ends with the size."""
    honest = encoded(smooth(32, 32), ".jpg")
    images.decode(honest, "x")
    at = honest.index(struct.pack(">HHB", 32, 32, 3))
    with pytest.raises(InputError, match="x: the picture is 65500 pixels high"):
        images.decode(honest[:at] + struct.pack(">HH", 65500, 65500) + honest[at + 4:], "x")


def test_opencv_knows_the_limit_for_other_formats():
    bitmap = bytearray(encoded(smooth(32, 32), ".bmp"))
    bitmap[18:26] = struct.pack("<ii", 20000, 20000)
    code = ("import sys, unequal; from unequal.data import pictures as images\n"
            "try: images.decode(sys.stdin.buffer.read(), 'x')\n"
            "except unequal.InputError as error: print(error)\n"
            "peak, = (line for line in open('/proc/self/status') if 'VmHWM' in line)\n"
            "print(int(peak.split()[1]) // 1024)")  # ru_maxrss would begin with pytest's own
    done = subprocess.run([sys.executable, "-c", code], input=bytes(bitmap),
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    said, megabytes = done.stdout.decode().splitlines()
    assert said.startswith("x: not a picture") and int(megabytes) < 1000


def test_a_jpeg_of_a_thousand_scans():
    data = encoded(smooth(1000, 1000), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    begin, end = data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd9")
    assert images.decode(data, "x").shape == (1000, 1000, 3)
    with pytest.raises(InputError, match="more than 200 scans"):
        images.decode(data[:end] + data[begin:end] * 1000 + data[end:], "x")


def test_padding_without_end():
    assert images.jpeg_frame(b"\xff\xd8" + b"\xff" * 10 ** 7) is None


@pytest.mark.parametrize("text", ["99999999999,112,112", "16777217,112,112", "10,4097,112",
                                  "10,112,999999999", "1e3,2,2", "10,112", "10,112,112,3",
                                  "9" * 5000 + ",1,1", "nan,1,1", "-1,112,112", ""])
def test_property_beyond_reason(tmp_path, text):
    directory = make_set(tmp_path / "set")
    with open(os.path.join(directory, "property"), "w") as file:
        file.write(text)
    with pytest.raises(InputError, match="property: expected one line"):
        RecordSet(directory)


def test_numbers_of_the_index_that_overflow(tmp_path):
    directory = make_set(tmp_path / "set")
    for offset in (2 ** 63 - 1, 2 ** 63 - 8, 2 ** 62, 2 ** 64):
        with open(os.path.join(directory, "train.idx"), "w") as file:
            file.write(f"0\t0\n1\t{offset}\n")
        with pytest.raises(InputError, match="train.idx: expected lines|beyond the end"):
            RecordSet(directory)


@pytest.mark.parametrize("values", [(np.nan, 7), (5, np.inf), (-1, 7), (7, 5), (3e38, 3e38),
                                    (1e6, 1e6)])
def test_a_header_that_makes_no_sense(tmp_path, values):
    directory = make_set(tmp_path / "set")
    path = os.path.join(directory, "train.rec")
    with open(path, "r+b") as file:
        file.seek(32)
        file.write(struct.pack("<ff", *values))
    with pytest.raises(InputError, match="the header says"):
        RecordSet(directory)


@pytest.mark.parametrize("values", [(np.nan, 3), (-np.inf, 3), (1, 3e38), (3, 3), (0, 3)])
def test_an_identity_that_is_empty_or_nonsense(tmp_path, values):
    directory = make_set(tmp_path / "set")
    with RecordSet(directory) as records:
        place = int(records._offsets[5])
    with open(os.path.join(directory, "train.rec"), "r+b") as file:
        file.seek(place + 32)
        file.write(struct.pack("<ff", *values))
    with RecordSet(directory) as records:
        with pytest.raises(InputError, match="identity record 5 has the key range"), \
                warnings.catch_warnings():
            warnings.simplefilter("error")
            records.identity_ranges


def test_a_record_reads_no_more_than_it_says(tmp_path):
    """The index may leave out what follows; a gap of a gigabyte is not read."""
    directory = make_set(tmp_path / "set")
    path = os.path.join(directory, "train.rec")
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) + (4 << 30))  # a hole, which takes no space
    with RecordSet(directory) as records:
        flag, label, _ = records.record(6)
        assert flag == 2 and label.tolist() == [3, 5]


def test_a_record_longer_than_one_read(tmp_path):
    long = FACE + b"\xed\xce\x23\x0a"[::-1] * 30 + os.urandom(300000)
    with RecordWriter(str(tmp_path / "set"), (32, 32)) as writer:
        for data in (FACE, long, FACE):
            writer.add(0, data)
    with RecordSet(str(tmp_path / "set")) as records:
        assert [records.image(key)[1] for key in records.image_keys] == [FACE, long, FACE]


def test_a_text_encoded_again_and_again(tmp_path):
    """A pickle of 2 MB that asks for 20,000 copies of 1 MB."""
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
    copy = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    path = tmp_path / "x.bin"
    path.write_bytes(text + b"q\x00](" + copy * 20000 + b"e](" + b"\x88" * 10000 + b"e\x86.")
    with pytest.raises(InputError, match="x.bin: not a pickle of lists"):
        load_bin(str(path))
    # What Python 3 writes for Python 2 to read encodes each text once.
    path.write_bytes(pickle.dumps(([FACE] * 2, [True]), protocol=2))
    assert load_bin(str(path))[0] == [FACE] * 2


def test_one_picture_millions_of_times(tmp_path):
    path = tmp_path / "x.bin"
    count = (1 << 20) + 1
    path.write_bytes(b"B\x01\x00\x00\x00xq\x00](" + b"h\x00" * (2 * count) + b"e]("
                     + b"\x88" * count + b"e\x86.")
    with pytest.raises(InputError, match="x.bin: has 2,097,154 images, more than 2,097,152"):
        load_bin(str(path))


@pytest.mark.parametrize("line", ["1e300 3", "3 9223372036854775808", "-1e17 2", "nan 1", "1 inf"])
def test_a_noise_list_of_huge_numbers(tmp_path, line):
    (tmp_path / "list").write_text(line)
    with pytest.raises(InputError, match="list, line 1: expected"):
        read_list(str(tmp_path / "list"))


def npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (kind, shape, body) in members.items():
            content = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                content, {"descr": kind, "fortran_order": False, "shape": shape})
            archive.writestr(name + ".npy", content.getvalue() + body)


@pytest.mark.parametrize("features, names", [
    (("<f4", (10 ** 12, 8), b"\0" * 64), ("<U4", (10 ** 12,), b"")),
    (("<f4", (2, 8), b"\0" * 64), ("<U99999999", (2,), b"\0" * (1 << 20))),
    (("<f4", (2, 8), b"\0" * 64), ("|O", (2,), b"\0" * 16)),
    (("<f4", (2, 8), b"\0" * (1 << 20)), ("<U1", (2,), b"\0" * 8)),
    (("<f4", (2 ** 62, 2 ** 62), b""), ("<U1", (2,), b"\0" * 8)),
])
def test_an_archive_that_is_not_what_it_says(tmp_path, features, names):
    path = str(tmp_path / "x.npz")
    npz(path, features=features, names=names)
    with pytest.raises(InputError, match="x.npz: no arrays `features` and `names`"):
        open_features(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\0\x10\0" + b"(" * 16,
                                     pickle.dumps([1]), b"\x93NUMPY\x01\0\xff\xff{"])
def test_what_is_no_array(tmp_path, content):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match="x.npy: not an array numpy can read"):
        open_features(str(path))

# ------------------------------------------------------------------------------- networks


def network(**changes):
    symbol = networks.get_symbol("n8", 8)
    shapes, _, states = symbol.infer_shape(data=(1, 3, 32, 32))
    random = np.random.RandomState(0)
    arguments = {name: mx.nd.array(random.randn(*shape) * 0.1) for name, shape in
                 zip(symbol.list_arguments(), shapes) if name != "data"}
    auxiliary = {name: mx.nd.ones(shape) for name, shape in
                 zip(symbol.list_auxiliary_states(), states)}
    arguments.update(changes)
    return symbol, arguments, auxiliary


@pytest.mark.parametrize("value, message", [
    (mx.nd.ones((8, 3)), r"pre_fc1_weight has shape \(8, 3\) but should have \(8, 1024\)"),
    (mx.nd.ones((8, 1024, 1)), r"has shape \(8, 1024, 1\)"),
    (mx.nd.full((8, 1024), np.nan), "embeddings that are not finite"),
    (mx.nd.full((8, 1024), 3e38), "embeddings that are not finite"),
])
def test_weights_that_cannot_be(value, message):
    with pytest.raises(InputError, match=message):
        Embedder(*network(pre_fc1_weight=value), (32, 32)).transform([FACE])


def test_weights_of_another_network():
    _, arguments, auxiliary = network()
    with pytest.raises(InputError, match="do not fit the network at 32x32 pixels: the parameter"):
        Embedder(networks.get_symbol("r18", 8), arguments, auxiliary, (32, 32))


def test_a_layer_larger_than_memory():
    with pytest.raises(InputError, match="too many for this machine's memory; lower batch_size"):
        Embedder(*network(), (32, 32), batch_size=1 << 30)


def test_a_checkpoint_of_another_kind_is_one_line(tmp_path, capsys):
    prefix = str(tmp_path / "model")
    checkpoints.save(prefix, 1, *network())
    (tmp_path / "face.jpg").write_bytes(FACE)
    command = ["embed", str(tmp_path / "face.jpg"), "--out", str(tmp_path / "x.npy"), "--model"]
    assert main(command + [prefix + ",1"]) == 0
    capsys.readouterr()
    os.replace(prefix + "-0001.params", prefix + "-0002.params")
    (tmp_path / "model-0001.params").write_bytes(pickle.dumps({"arg:w": 1}))
    assert main(command + [prefix + ",1"]) == 1
    assert main(command + [prefix + ",\u00b2"]) == 1
    assert main(command + [prefix + ",9"]) == 1
    (tmp_path / "model-symbol.json").write_text(
        '{"nodes": [{"op": "Custom", "name": "fc1", "inputs": []}]}')
    assert main(command + [prefix + ",2"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4 and all(line.startswith("error: ") for line in said)
    assert "not a checkpoint's parameters" in said[0] and "expected PREFIX,EPOCH" in said[1]
    assert "no such file" in said[2] and "an operator that embedding networks do not" in said[3]
