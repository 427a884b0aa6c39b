import pytest

from helpers.pictures import lfw_folder, lfw_pairs
from unequal.commands import cli
from unequal.data import pictures
from unequal.eval.bins import load_bin


@pytest.fixture
def folder(tmp_path):
    return lfw_folder(tmp_path / "lfw")


def test_command(folder, tmp_path, capsys):
    path, out = str(tmp_path / "pairs.txt"), str(tmp_path / "x.bin")
    (tmp_path / "pairs.txt").write_text("\n".join(lfw_pairs()))
    assert cli.main(["pack-bin", path, folder, out, "--size", "20x30", "--processes", "1"]) == 0
    assert capsys.readouterr().out == out + ": 20 pairs, 10 same and 10 different\n"
    assert pictures.decode(load_bin(out)[0][0], "x").shape == (20, 30, 3)
    assert cli.main(["pack-bin", path, "nowhere", out]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert cli.main(["pack-bin", "nolist", folder, out]) == 1
    assert capsys.readouterr().err == "error: nolist: No such file or directory\n"
