import os

import numpy as np
import pytest

from helpers.pictures import encoded, smooth
from unequal.commands import cli
from unequal.data import alignment, convert, pictures
from unequal.data.convert import Settings
from unequal.errors import InputError
from unequal.eval.bins import load_bin

SIZE = (24, 24)


@pytest.fixture
def folder(tmp_path):
    for person in range(4):
        name = "P_{}".format(person)
        (tmp_path / "lfw" / name).mkdir(parents=True)
        for number in range(1, 6):
            data = encoded(smooth(30, 20, person * 10 + number), ".png")
            (tmp_path / "lfw" / name / "{}_{:04d}.png".format(name, number)).write_bytes(data)
    return str(tmp_path / "lfw")


def _file(tmp_path, *lines):
    (tmp_path / "pairs.txt").write_text("".join(line + "\n" for line in lines))
    return str(tmp_path / "pairs.txt")


def _pack(path, root, out):
    return convert.pack_pairs(path, root, str(out), Settings(root, SIZE))


def _expected(root, name):
    with open(os.path.join(root, name), "rb") as file:
        return pictures.encode(alignment.fit(pictures.decode(file.read(), name), *SIZE), 95)


def _lfw_lines(folds=10):
    lines = ["{}\t1".format(folds)]
    for fold in range(folds):
        lines.append("P_{}\t1\t{}".format(fold % 4, 2 + fold % 4))
        lines.append("P_{}\t{}\tP_{}\t5".format(fold % 4, 1 + fold % 5, (fold + 1) % 4))
    return lines


def test_lfw_protocol(folder, tmp_path):
    path = _file(tmp_path, *_lfw_lines())
    assert _pack(path, folder, tmp_path / "lfw.bin") == (20, 10)
    stored, issame = load_bin(str(tmp_path / "lfw.bin"))
    assert issame.tolist() == [True, False] * 10
    assert stored[0] == _expected(folder, "P_0/P_0_0001.png")
    assert stored[1] == _expected(folder, "P_0/P_0_0002.png")
    assert stored[6] == _expected(folder, "P_1/P_1_0002.png")
    assert stored[7] == _expected(folder, "P_2/P_2_0005.png")
    assert len(stored) == 40


def test_order_of_lfw_is_kept_even_when_uneven(folder, tmp_path, caplog):
    caplog.set_level("INFO")
    lines = ["10"] + ["P_0\t1\t2"] * 10 + ["P_0\t1\tP_1\t1"] * 10
    _pack(_file(tmp_path, *lines), folder, tmp_path / "x.bin")
    assert load_bin(str(tmp_path / "x.bin"))[1].tolist() == [True] * 10 + [False] * 10
    assert "the folds cannot be all alike: 10 same and 10 different pairs in 10 folds make 0 to 2" \
        in caplog.text


def test_plain_list_is_spread_over_the_folds(folder, tmp_path, caplog):
    caplog.set_level("INFO")
    lines = ["P_0/P_0_000{}.png P_1/P_1_0001.png different".format(1 + k % 5) for k in range(20)]
    lines += ["P_2/P_2_000{}.png P_2/P_2_0001.png SAME".format(1 + k % 5) for k in range(20)]
    assert _pack(_file(tmp_path, *lines), folder, tmp_path / "x.bin") == (40, 20)
    stored, issame = load_bin(str(tmp_path / "x.bin"))
    assert [fold.tolist().count(True) for fold in np.array_split(issame, 10)] == [2] * 10
    assert "put in another order" in caplog.text and "cannot be all alike" not in caplog.text
    firsts = [image for image, same in zip(stored[::2], issame) if same]
    assert firsts == [_expected(folder, "P_2/P_2_000{}.png".format(1 + k % 5)) for k in range(20)]


def test_even_plain_list_keeps_its_order(folder, tmp_path, caplog):
    caplog.set_level("INFO")
    lines = ["P_0/P_0_0001.png\tP_0/P_0_0002.png\t1", "P_0/P_0_0001.png\tP_1/P_1_0002.png\t0"] * 10
    _pack(_file(tmp_path, *lines), folder, tmp_path / "x.bin")
    assert load_bin(str(tmp_path / "x.bin"))[1].tolist() == [True, False] * 10
    assert caplog.text == ""


@pytest.mark.parametrize("same, different", [(150, 150), (155, 145), (13, 200), (7, 7), (30, 0),
                                             (17, 94), (109, 2)])
def test_spread(same, different):
    issame = np.array([True] * same + [False] * different)
    order = convert.spread(issame)
    assert sorted(order) == list(range(same + different))
    assert np.ptp(convert.fold_counts(issame[order]), axis=0).max() <= 1
    kept = order[issame[order]]
    assert (np.diff(kept) > 0).all()  # each kind in its own order


def test_uneven_numbers_are_explained(folder, tmp_path, caplog):
    caplog.set_level("INFO")
    lines = ["P_0/P_0_0001.png P_0/P_0_0002.png 1"] * 15
    lines += ["P_0/P_0_0001.png P_1/P_1_0002.png 0"] * 8
    _pack(_file(tmp_path, *lines), folder, tmp_path / "x.bin")
    assert "15 same and 8 different pairs in 10 folds make 1 to 2 same and 0 to 1" in caplog.text


@pytest.mark.parametrize("lines, text", [
    (["a b"], "line 1: expected `path path answer`"),
    (["a b maybe"], "line 1: expected `path path answer`"),
    (["a b 1", "a b"], "line 2: expected `path path answer`"),
    (["10 300", "P_0 1"], "line 2: expected `name i j`"),
    (["10 300", "P_0 1 x"], "line 2: expected `name i j`"),
    (["10 300", "P_0 1 P_1 2 3"], "line 2: expected `name i j`"),
    (["../a b 1"], "line 1: the path '../a' leaves"),
    (["a /etc/passwd 1"], "line 1: the path '/etc/passwd' leaves"),
    (["10", "../../P 1 2"], "line 2: the path .* leaves"),
    ([], "holds no pair"), (["10 300"], "holds no pair"),
    (["P_0/P_0_0001.png P_0/P_0_0002.png 1"] * 9, "has 9 pairs, but verification needs 10 folds"),
])
def test_bad_lists(folder, tmp_path, lines, text):
    with pytest.raises(InputError, match=text):
        _pack(_file(tmp_path, *lines), folder, tmp_path / "x.bin")
    assert not (tmp_path / "x.bin").exists()


def test_missing_pictures_are_named(folder, tmp_path, caplog):
    os.remove(os.path.join(folder, "P_0", "P_0_0001.png"))
    with open(os.path.join(folder, "P_1", "P_1_0002.png"), "wb") as file:
        file.write(b"damaged")
    with pytest.raises(InputError, match=r"2 pictures of .* cannot be read \(P_0/P_0_0001.jpg fir"):
        _pack(_file(tmp_path, *_lfw_lines()), folder, tmp_path / "x.bin")
    assert caplog.text.count("unreadable: P_0/P_0_0001.jpg: No such file or directory") == 1
    assert "unreadable: P_1/P_1_0002.png: not a picture" in caplog.text
    assert not (tmp_path / "x.bin").exists()
    assert not [name for name in os.listdir(str(tmp_path)) if name.startswith(".")]


def test_command(folder, tmp_path, capsys):
    path, out = _file(tmp_path, *_lfw_lines()), str(tmp_path / "x.bin")
    assert cli.main(["pack-bin", path, folder, out, "--size", "20x30", "--processes", "1"]) == 0
    assert capsys.readouterr().out == out + ": 20 pairs, 10 same and 10 different\n"
    assert pictures.decode(load_bin(out)[0][0], "x").shape == (20, 30, 3)
    assert cli.main(["pack-bin", path, "nowhere", out]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert cli.main(["pack-bin", "nolist", folder, out]) == 1
    assert capsys.readouterr().err == "error: nolist: No such file or directory\n"
