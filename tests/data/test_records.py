import os
import struct

import mxnet as mx
import numpy as np
import pytest

from unequal.data.records import MAGIC, RecordSet, RecordWriter, read_property
from unequal.errors import InputError


def payloads(counts, seed=0):
    """``[(label, bytes)]``; some payloads contain RecordIO's magic number, aligned and not."""
    random = np.random.RandomState(seed)
    result = []
    for label, count in enumerate(counts):
        for i in range(count):
            data = random.bytes(random.randint(1, 60))
            result.append((label, data + b"\0" * (i % 4) + struct.pack("<I", MAGIC) * (i % 3)))
    return result


def write(directory, images, **options):
    with RecordWriter(str(directory), (32, 24), **options) as writer:
        for label, data in images:
            writer.add(label, data)
    return str(directory)


def test_round_trip_with_identities(tmp_path):
    images = payloads([3, 1, 5])
    with RecordSet(write(tmp_path, images, num_classes=7)) as records:
        assert (records.num_classes, records.image_size) == (7, (32, 24))
        assert records.image_keys.tolist() == list(range(1, 10)) and len(records) == 9
        assert records.identity_ranges.tolist() == [[1, 4], [4, 5], [5, 10]]
        assert [records.image(key) for key in records.image_keys] == images
        assert records.labels().tolist() == [label for label, _ in images]


def test_plain_set(tmp_path):
    images = payloads([2, 2])
    with RecordSet(write(tmp_path, images, identities=False)) as records:
        assert records.image_keys.tolist() == [0, 1, 2, 3]
        assert records.identity_ranges.shape == (0, 2)
        assert [records.image(key) for key in records.image_keys] == images


def test_mxnet_reads_what_we_write(tmp_path):
    images = payloads([3, 2])
    directory = write(tmp_path, images)
    reader = mx.recordio.MXIndexedRecordIO(directory + "/train.idx", directory + "/train.rec", "r")
    header, _ = mx.recordio.unpack(reader.read_idx(0))
    assert header.flag == 2 and header.label.tolist() == [6, 8]
    for key, (label, data) in enumerate(images, 1):
        header, read = mx.recordio.unpack(reader.read_idx(key))
        assert (header.label, header.id, read) == (label, key, data)
    assert mx.recordio.unpack(reader.read_idx(7))[0].label.tolist() == [4, 6]


def test_array_labels_and_gaps_in_keys(tmp_path):
    """An image label may be an array, whose first number counts; keys need not be dense."""
    (tmp_path / "property").write_text("9,8,8\n")
    writer = mx.recordio.MXIndexedRecordIO(
        str(tmp_path / "train.idx"), str(tmp_path / "train.rec"), "w")
    for key in (3, 10, 4):  # not in order either
        writer.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, [key % 9, 5.5], 0, 0),
                                               b"x" * key))
    writer.close()
    with RecordSet(str(tmp_path)) as records:
        assert records.image_keys.tolist() == [3, 4, 10]
        assert [records.image(key) for key in (10, 3, 4)] == [
            (1, b"x" * 10), (3, b"x" * 3), (4, b"x" * 4)]
        with pytest.raises(InputError, match="no record 5; its keys run from 3 to 10"):
            records.image(5)


def test_an_exception_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), RecordWriter(str(tmp_path), (8, 8)) as writer:
        writer.add(0, b"data", path="a.jpg")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_a_failed_rewrite_leaves_the_old_set(tmp_path):
    images = payloads([2])
    write(tmp_path, images)
    with pytest.raises(InputError, match="no image to write"):
        write(tmp_path, [])
    with RecordSet(str(tmp_path)) as records:
        assert [records.image(key) for key in records.image_keys] == images


def test_classes_must_come_together(tmp_path):
    with pytest.raises(ValueError, match="class 0 do not come together"):
        write(tmp_path, [(0, b"a"), (1, b"b"), (0, b"c")])


def test_list_file(tmp_path):
    with RecordWriter(str(tmp_path), (8, 8)) as writer:
        writer.add(4, b"a", path="p/é.jpg")
    assert (tmp_path / "train.lst").read_text(encoding="utf-8") == "1\tp/é.jpg\t4\n"
    assert read_property(str(tmp_path)) == (5, 8, 8)


@pytest.mark.parametrize("text", ["", "1,2", "a,2,3", "0,112,112", "3,112,112,9", "5,-1,3"])
def test_bad_property(tmp_path, text):
    (tmp_path / "property").write_text(text)
    with pytest.raises(InputError, match="property: expected one line"):
        read_property(str(tmp_path))


@pytest.mark.parametrize("name", ["property", "train.idx", "train.rec"])
def test_missing_file_is_named(tmp_path, name):
    directory = write(tmp_path, payloads([2]))
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        RecordSet(directory)


@pytest.mark.parametrize("text, message", [
    ("", "damaged or empty"), ("0\t0\n1", "damaged or empty"), ("0 x\n", "damaged or empty"),
    ("0\t0\n1\t40\n1\t80\n", "key 1 occurs twice"),
    ("0\t0\n1\t999999\n", "record 1 beyond the end"),
    ("0\t0\n1\t-4\n", "a negative number"), ("0\t99999999999999999999999\n", "damaged"),
])
def test_bad_index(tmp_path, text, message):
    directory = write(tmp_path, payloads([2]))
    (tmp_path / "train.idx").write_text(text)
    with pytest.raises(InputError, match=message):
        RecordSet(directory)


def test_truncated_file(tmp_path):
    directory = write(tmp_path, payloads([2, 2]))
    content = (tmp_path / "train.rec").read_bytes()
    (tmp_path / "train.rec").write_bytes(content[:len(content) // 2])
    with pytest.raises(InputError, match="train.rec: the index places record"):
        RecordSet(directory)


def test_flipped_bits_are_found_where_they_matter(tmp_path):
    directory = write(tmp_path, payloads([2, 2]))
    content = bytearray((tmp_path / "train.rec").read_bytes())
    with RecordSet(directory) as records:
        offset = int(records._offsets[2])
    for position, value in ((offset, 0), (offset + 5, 255), (offset + 7, 0x40)):
        damaged = bytearray(content)
        damaged[position] = value  # the magic, the length, the continuation flag
        (tmp_path / "train.rec").write_bytes(damaged)
        with RecordSet(directory) as records:
            with pytest.raises(InputError, match=f"record 2 at byte {offset} is damaged"):
                records.image(2)
            assert records.image(3)  # the others can be read


def test_label_outside_property(tmp_path):
    directory = write(tmp_path, payloads([1, 1, 1]), num_classes=2)
    with RecordSet(directory) as records:
        with pytest.raises(InputError, match=r"record 3 has label 2.*2 classes"):
            records.image(3)


def test_identity_range_outside_the_images(tmp_path):
    directory = write(tmp_path, payloads([2, 2]))
    with RecordSet(directory) as records:
        offset = int(records._offsets[5])
    content = bytearray((tmp_path / "train.rec").read_bytes())
    content[offset + 32:offset + 40] = struct.pack("<ff", 1, 50)
    (tmp_path / "train.rec").write_bytes(content)
    with RecordSet(directory) as records:
        with pytest.raises(InputError, match=r"identity record 5 has the key range \[1, 50\)"):
            records.identity_ranges


def test_header_that_disagrees_with_the_index(tmp_path):
    directory = write(tmp_path, payloads([2, 2]))
    lines = (tmp_path / "train.idx").read_text().splitlines(keepends=True)
    (tmp_path / "train.idx").write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match="keys 1 to 4 are images and 5 to 6 identities"):
        RecordSet(directory)


def test_what_a_killed_writer_left_is_removed(tmp_path):
    for name in (".train.rec.17", ".train.idx.17", ".property.17", ".train.lock", ".notes.17"):
        (tmp_path / name).write_bytes(b"half")
    write(tmp_path, payloads([2, 1]))
    assert sorted(os.listdir(str(tmp_path))) == [".notes.17", "property", "train.idx", "train.rec"]


def test_half_of_one_set_and_half_of_another_is_no_set(tmp_path, monkeypatch):
    """Killed between the renames: what is there must not be taken for a set."""
    write(tmp_path, payloads([2, 1]))
    replace = os.replace

    def killed(source, target):
        if target.endswith("train.idx"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, payloads([3, 3]))
    assert sorted(os.listdir(str(tmp_path))) == ["train.idx", "train.rec"]
    with pytest.raises(InputError, match="property: no such file"):
        RecordSet(str(tmp_path))
    monkeypatch.undo()
    with RecordSet(write(tmp_path, payloads([3, 3]))) as records:
        assert len(records) == 6


def test_one_writer_a_directory(tmp_path, monkeypatch):
    """Two at once would mix their files."""
    with RecordWriter(str(tmp_path), (32, 24)) as writer:
        with pytest.raises(InputError, match=r"a set is being written there already \(process "):
            RecordWriter(str(tmp_path), (32, 24))
        writer.add(0, b"x")
    images = payloads([2, 1])
    with RecordSet(write(tmp_path, images)) as records:
        assert len(records) == 3
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(mx.recordio, "MXIndexedRecordIO", None)
        RecordWriter(str(tmp_path), (32, 24))
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(RecordWriter, "_write", None)  # with its files open
        RecordWriter(str(tmp_path / "other"), (32, 24))
    assert os.listdir(str(tmp_path / "other")) == []
    write(tmp_path, images)  # what failed to begin holds nothing
