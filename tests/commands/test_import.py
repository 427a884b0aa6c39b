import io
import os
import pickle
import tarfile

import mxnet as mx
import numpy as np
import pytest

from helpers.pictures import encoded, smooth
from unequal.commands import cli, import_
from unequal.data.identities import read_names
from unequal.data.records import RecordSet
from unequal.errors import InputError
from unequal.eval.bins import load_bin

PEOPLE = {"Ann_Lee": 4, "Bo_Li": 3, "Cy_Ng": 2, "Di_Wu": 1, "Zoë_O'Hara": 2}


def marked(name):
    """A picture that says who it is of, for as long as its bytes are copied."""
    return encoded(smooth(16, 16)) + name.encode()


def mark(data):
    return data[data.rindex(b"\xff\xd9") + 2:].decode()


@pytest.fixture
def lfw(tmp_path):
    """LFW as published: a folder of folders below another, the lists beside it."""
    root = tmp_path / "down" / "lfw-deepfunneled"
    for who, count in PEOPLE.items():
        (root / who).mkdir(parents=True)
        for number in range(1, count + 1):
            name = f"{who}/{who}_{number:04d}.jpg"
            (root / name).write_bytes(marked(name))
    (root / "Thumbs.db").write_bytes(b"not a picture")
    same = ["Ann_Lee\t1\t2", "Bo_Li\t1\t3"]
    different = ["Ann_Lee\t1\tBo_Li\t2", "Cy_Ng\t2\tDi_Wu\t1"]
    (tmp_path / "down" / "pairs.txt").write_text(
        "\n".join(["10\t1"] + [same[fold % 2] + "\n" + different[fold % 2]
                               for fold in range(10)]))
    (tmp_path / "down" / "pairsDevTest.txt").write_text(
        "\n".join(["10"] + 5 * same + 5 * different))
    (tmp_path / "overlap.txt").write_text("006\tBo L.\tBo_Li\n", encoding="utf-8")
    return tmp_path


def run(*arguments):
    return cli.main(["import", *map(str, arguments), "--size", "16", "--processes", "1"])


def packed(directory):
    with RecordSet(str(directory)) as records:
        return [(label, mark(data)) for label, data in map(records.image, records.image_keys)]


@pytest.mark.parametrize("archive", [False, True])
def test_lfw(lfw, archive):
    source = lfw / "down"
    if archive:
        source = lfw / "down" / "lfw.tgz"
        with tarfile.open(str(source), "w:gz") as tar:
            tar.add(str(lfw / "down" / "lfw-deepfunneled"), "lfw")
    out = lfw / "out"
    assert run("lfw", source, out, "--without", lfw / "overlap.txt", "--min-images", "2") == 0
    assert list(read_names(str(out)).values()) == ["Ann_Lee", "Cy_Ng", "Zoë_O'Hara"]
    images = packed(out)
    assert [name for _, name in images] == [
        f"{who}/{who}_{number:04d}.jpg" for who in ("Ann_Lee", "Cy_Ng", "Zoë_O'Hara")
        for number in range(1, PEOPLE[who] + 1)]
    pictures, issame = load_bin(str(out / "lfw.bin"))
    assert issame.tolist() == [True, False] * 10  # the published order, so the published folds
    assert [mark(data) for data in pictures[:4]] == [
        "Ann_Lee/Ann_Lee_0001.jpg", "Ann_Lee/Ann_Lee_0002.jpg",
        "Ann_Lee/Ann_Lee_0001.jpg", "Bo_Li/Bo_Li_0002.jpg"]
    _, issame = load_bin(str(out / "lfw_dev_test.bin"))
    assert [int(fold.sum()) for fold in np.array_split(issame, 10)] == [1] * 10
    assert not (out / "lfw_dev_train.bin").exists()


@pytest.mark.parametrize("name", ["lfw", "cfp"])
def test_a_protocol_folder_without_the_lists(lfw, name, capsys):
    source = lfw / "down" if name == "lfw" else make_cfp(lfw / "cfp", 2, 1)
    (lfw / "empty").mkdir()
    assert run(name, source, lfw / "out", "--protocol", lfw / "empty") == 1
    assert "--protocol" in capsys.readouterr().err
    assert not (lfw / "out").exists()


def test_lfw_people_with_one_picture(lfw):
    assert run("lfw", lfw / "down", lfw / "out", "--max-images", "1") == 0
    assert packed(lfw / "out") == [(0, "Di_Wu/Di_Wu_0001.jpg")]


def test_an_archive_reaches_nowhere_else(tmp_path):
    """Links, absolute names and ``..`` in an archive write nothing outside of the temporary."""
    source = tmp_path / "evil.tar"
    (tmp_path / "x.jpg").write_bytes(marked("x"))
    with tarfile.open(str(source), "w") as tar:
        tar.add(str(tmp_path / "x.jpg"), "lfw/Ann_Lee/Ann_Lee_0001.jpg")
        tar.add(str(tmp_path / "x.jpg"), "../../../Bo_Li/Bo_Li_0001.jpg")
        tar.add(str(tmp_path / "x.jpg"), "lfw/../.._0001.jpg")
        link = tarfile.TarInfo("lfw/Cy_Ng/Cy_Ng_0001.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    with import_.opened(str(source), import_._LFW, "it", str(tmp_path / "set")) as found:
        assert sorted(found.people) == ["Ann_Lee", "Bo_Li"]
        for paths in found.people.values():
            place = os.path.realpath(os.path.join(found.root, paths[0]))
            assert place.startswith(os.path.realpath(found.root) + os.sep)
    assert not os.path.exists(found.root)


def make_cfp(root, people, splits):
    """CFP as published, with 2 frontal pictures and 1 profile a person, a split two people."""
    images, lists = root / "cfp-dataset" / "Data" / "Images", root / "cfp-dataset" / "Protocol"
    frontal, profile = [], []
    for person in range(1, people + 1):
        for kind, count, rows in (("frontal", 2, frontal), ("profile", 1, profile)):
            (images / f"{person:03d}" / kind).mkdir(parents=True)
            for number in range(1, count + 1):
                name = f"{person:03d}/{kind}/{number:02d}.jpg"
                (images / name).write_bytes(marked(name))
                rows.append(f"{len(rows) + 1} ../Data/Images/{name}")
    (lists / "Split").mkdir(parents=True)
    (lists / "Pair_list_F.txt").write_text("\n".join(frontal))
    (lists / "Pair_list_P.txt").write_text("\n".join(profile))
    for split in range(1, splits + 1):
        for kind in ("FF", "FP"):
            folder = lists / "Split" / kind / f"{split:02d}"
            folder.mkdir(parents=True)
            a, b = 2 * split - 1, 2 * split  # the split's people
            same, other = ((2 * a - 1, 2 * a), (2 * a, 2 * b)) if kind == "FF" else (
                (2 * a, a), (2 * a, b))
            (folder / "same.txt").write_text(f"{same[0]},{same[1]}\n" * 2)
            (folder / "diff.txt").write_text(f"{other[0]},{other[1]}\n" * 2)
    return root


def test_cfp(tmp_path):
    source, out = make_cfp(tmp_path / "down", 20, 10), tmp_path / "out"
    assert run("cfp", source, out, "--people", "1-3") == 0
    assert [name for _, name in packed(out)] == [
        f"{person:03d}/{name}.jpg" for person in (1, 2, 3)
        for name in ("frontal/01", "frontal/02", "profile/01")]
    pictures, issame = load_bin(str(out / "cfp_fp.bin"))
    # Ten splits: two same pairs, then two different ones of each, fold by fold.
    assert issame.tolist() == [True, True, False, False] * 10
    one, other = (["001/frontal/02.jpg", f"{who:03d}/profile/01.jpg"] for who in (1, 2))
    assert [mark(data) for data in pictures[:6]] == one + one + other
    pictures, _ = load_bin(str(out / "cfp_ff.bin"))
    assert [mark(data) for data in pictures[-2:]] == ["019/frontal/02.jpg", "020/frontal/02.jpg"]


def test_cfp_some_splits(tmp_path):
    source, out = make_cfp(tmp_path / "down", 20, 7), tmp_path / "out"
    assert run("cfp", source, out, "--splits", "3-7") == 0
    pictures, issame = load_bin(str(out / "cfp_ff.bin"))
    assert [int(fold.sum()) for fold in np.array_split(issame, 10)] == [1] * 10
    assert {int(mark(data)[:3]) for data in pictures} == set(range(5, 15))
    assert run("cfp", source, out, "--splits", "8-9") == 1
    assert run("cfp", source, out, "--people", "21-30") == 1


def test_a_pair_without_its_picture(tmp_path, capsys):
    source = make_cfp(tmp_path / "down", 20, 10)
    next(source.glob("**/003/frontal/01.jpg")).unlink()
    assert run("cfp", source, tmp_path / "out") == 1
    assert "003/frontal/01" in capsys.readouterr().err
    assert not (tmp_path / "out" / "cfp_ff.bin").exists()


@pytest.mark.parametrize("content, sentence", [
    ("3,x", "line 1"), ("1,9999", "line 1"), ("1", "line 1")])
def test_a_damaged_split(tmp_path, content, sentence, capsys):
    source = make_cfp(tmp_path / "down", 20, 10)
    next(source.glob("**/FF/01/same.txt")).write_text(content)
    assert run("cfp", source, tmp_path / "out") == 1
    assert sentence in capsys.readouterr().err


def make_pack(directory, arrays, listed, counts=(12, 3, 10, 5)):
    """A set in the layout of InsightFace's packs, written by MXNet's own writer.

    ``faces_webface_112x112`` has numbers as labels and a train.lst; ``faces_emore`` and
    ``ms1m-retinaface`` have arrays and none. All have header and identity records, ``property``
    and pickles of Python 2's lists.
    """
    directory.mkdir()
    writer = mx.recordio.MXIndexedRecordIO(str(directory / "train.idx"),
                                           str(directory / "train.rec"), "w")
    total = sum(counts)
    pack = mx.recordio.pack
    writer.write_idx(0, pack(mx.recordio.IRHeader(2, [total + 1, total + 1 + len(counts)], 0, 0),
                             b""))
    key, ranges, lines = 1, [], []
    for label, count in enumerate(counts):
        ranges.append((key, key + count))
        for number in range(count):
            header = mx.recordio.IRHeader(0, [label, 0.0] if arrays else float(label), key, 0)
            writer.write_idx(key, pack(header, marked(f"{label}/{number}")))
            lines.append(f"1\t/data/{label}/{number}.jpg\t{label}\n")
            key += 1
    for pair in ranges:
        writer.write_idx(key, pack(mx.recordio.IRHeader(2, list(pair), key, 0), b""))
        key += 1
    writer.close()
    if listed:
        (directory / "train.lst").write_text("".join(lines))
    (directory / "property").write_text(f"{len(counts)},16,16")  # no line break there
    for name in ("lfw", "agedb_30"):
        pictures = [encoded(smooth(16, 16, seed)) for seed in range(40)]
        with open(str(directory / (name + ".bin")), "wb") as file:
            pickle.dump((pictures, [True, False] * 10), file, protocol=2)
    return directory


@pytest.mark.parametrize("arrays, listed", [(False, True), (True, False)])
def test_insightface_pack(tmp_path, arrays, listed, capsys):
    source, out = make_pack(tmp_path / "faces", arrays, listed), tmp_path / "out"
    assert cli.main(["import", "insightface", str(source), str(out)]) == 0
    assert packed(out / "head") == [(new, f"{old}/{number}")
                                    for new, (old, count) in enumerate(((0, 12), (2, 10)))
                                    for number in range(count)]
    assert [name for _, name in packed(out / "tail")] == [
        f"{old}/{number}" for old, count in ((1, 3), (3, 5)) for number in range(count)]
    for name in ("lfw.bin", "agedb_30.bin"):
        assert (out / "eval_dataset" / name).read_bytes() == (source / name).read_bytes()
    said = capsys.readouterr().out
    assert "30 images of 4 identities (4 classes in property), 16x16" in said
    assert "eval_dataset/lfw.bin: 20 pairs, 10 same, 16x16" in said
    assert ("train.lst: 30 lines" in said) == listed
    assert (out / "head" / "train.lst").exists() == listed


def test_insightface_pack_that_does_not_fit(tmp_path, capsys):
    source = make_pack(tmp_path / "faces", False, True)
    (source / "property").write_text("4,32,32")
    assert cli.main(["import", "insightface", str(source), str(tmp_path / "out")]) == 1
    assert "record 1" in capsys.readouterr().err
    (source / "property").unlink()
    assert cli.main(["import", "insightface", str(source), str(tmp_path / "out")]) == 1
    assert "property is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="holds no picture called like Ann"):
        with import_.opened(str(tmp_path), import_._LFW, "Ann_Lee/Ann_Lee_0001.jpg", ""):
            pass
    assert run("lfw", tmp_path / "missing", tmp_path / "out") == 1
    (tmp_path / "half.tar").write_bytes(b"\0" * 100)
    assert run("lfw", tmp_path / "half.tar", tmp_path / "out") == 1


def tar(path, mode="w", **members):
    """An archive with a picture of LFW, and a header of any kind before it."""
    data = encoded(smooth(16, 16))
    with tarfile.open(str(path), mode, format=tarfile.GNU_FORMAT) as archive:
        first = tarfile.TarInfo("lfw/Ann_Lee/Ann_Lee_0001.jpg")
        for name, value in members.items():
            setattr(first, name, value)
        archive.addfile(first)
        entry = tarfile.TarInfo("lfw/Bo_Li/Bo_Li_0001.jpg")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.mark.parametrize("members, said", (
    (dict(type=tarfile.GNUTYPE_LONGNAME, size=6 << 30), "a name of 6,442,450,944 bytes"),
    (dict(type=tarfile.XHDTYPE, size=6 << 30), "a name of 6,442,450,944 bytes"),
    (dict(type=tarfile.GNUTYPE_SPARSE), "a file with holes"),
    (dict(size=6 << 30), "has 6,442,450,944 bytes, more than a picture"),
    (dict(size=200 << 20), "unexpected end of data")))
def test_an_archive_that_announces_what_it_has_not(tmp_path, members, said, capsys):
    """The name of six gigabytes would be read into memory; a hole is written out as zeros."""
    path = tar(tmp_path / "lfw.tar", **members)
    if members["size" if "size" in members else "type"] == 6 << 30:
        os.truncate(str(path), 6 << 30)  # all of it there, as a hole
    assert run("lfw", path, tmp_path / "set") == 1
    assert said in capsys.readouterr().err and not (tmp_path / "set").exists()


def test_an_archive_that_grows_without_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(import_, "_MIN_ROOM", 1 << 20)
    path = tmp_path / "lfw.tgz"
    with tarfile.open(str(path), "w:gz") as archive:
        for number in range(1, 5):
            entry = tarfile.TarInfo(f"lfw/Ann_Lee/Ann_Lee_{number:04d}.jpg")
            entry.size = 1 << 19
            archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    assert run("lfw", path, tmp_path / "set") == 1
    assert "the archive has far more than its size" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ("w:gz", "w:xz", "w:bz2"))
def test_a_damaged_compressed_archive_is_one_sentence(tmp_path, mode, capsys):
    path = tar(tmp_path / "lfw.tar", mode)
    data = bytearray(path.read_bytes())
    data[len(data) // 2:len(data) // 2 + 40] = b"\x5a" * 40
    path.write_bytes(bytes(data))
    assert run("lfw", path, tmp_path / "set") == 1
    said = capsys.readouterr().err
    assert "error: " in said and "unexpected " not in said.replace("unexpected end of data", "")


def test_a_pipe_and_lists_that_are_no_text(lfw, capsys):
    os.mkfifo(str(lfw / "lfw.tar"))
    assert run("lfw", lfw / "lfw.tar", lfw / "set") == 1
    assert "is not a plain file" in capsys.readouterr().err
    (lfw / "without.txt").write_bytes(b"\xff\xfe\tBo_Li\n\xff")
    assert run("lfw", lfw / "down", lfw / "set", "--without", lfw / "without.txt") == 1
    assert "1 people are not in the set, \\udcff first" in capsys.readouterr().err


def test_a_name_that_comes_again_is_one_picture(tmp_path, capsys):
    """Else a few bytes of compressed entries without data have it decoded millions of times."""
    path, data = tmp_path / "lfw.tgz", encoded(smooth(32, 32))
    with tarfile.open(str(path), "w:gz") as archive:
        for content in (b"",) * 50 + (data,):
            entry = tarfile.TarInfo("lfw/Ann_Lee/Ann_Lee_0001.jpg")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    assert run("lfw", path, tmp_path / "set", "--size", "16") == 0
    assert ": 1 images of 1 people" in capsys.readouterr().out


def test_entries_without_data_have_an_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(import_, "_MIN_ROOM", 0)
    path = tmp_path / "lfw.tgz"
    with tarfile.open(str(path), "w:gz") as archive:
        for _ in range(1000):
            archive.addfile(tarfile.TarInfo("readme"))
    assert run("lfw", path, tmp_path / "set") == 1
    assert "the archive has far more than its size" in capsys.readouterr().err


@pytest.mark.parametrize("mode, said", (
    (None, "holds no picture called like"), ("w:gz", "is mostly a hole"),
    ("w:xz", "is mostly a hole")))
def test_an_archive_of_nothing(tmp_path, mode, said, capsys):
    """Six gigabytes of zeros would be taken for compressed files of no length, or their padding."""
    path = tmp_path / "lfw.tar"
    if mode:
        tar(path, mode)
    else:
        path.write_bytes(b"")
    os.truncate(str(path), 6 << 30)
    assert run("lfw", path, tmp_path / "set") == 1
    assert said in capsys.readouterr().err
