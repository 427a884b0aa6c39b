import os

from helpers.sets import COUNTS, DECIDED, decision_list, make, noise_list
from unequal.commands import cli


def test_command(tmp_path, capsys):
    source = make(tmp_path / "all", COUNTS)
    path, out = noise_list(tmp_path, "2 14 0 0"), str(tmp_path / "out")
    assert cli.main(["denoise", source, path, out]) == 0
    assert capsys.readouterr().out == out + ": 36 images of 5 identities, 1 images dropped\n"
    assert cli.main(["denoise", source, path, source]) == 1
    assert "every set needs a folder of its own" in capsys.readouterr().err
    assert cli.main(["denoise", source, str(tmp_path / "none"), out]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/none: No such file or directory\n")


def test_relabelled_sets_can_be_inspected_split_and_unpacked(tmp_path, capsys):
    source, out = make(tmp_path / "all", COUNTS), str(tmp_path / "out")
    (tmp_path / "all" / "identities.csv").write_text(
        "label,name\n" + "".join(f"{label},P {label}\n" for label in range(6)))
    path = decision_list(tmp_path, *DECIDED)
    assert cli.main(["denoise", source, path, out, "--renumber"]) == 0
    assert ("36 images of 5 identities (2 with ten or more, 3 with fewer), 1 dropped, 2 relabelled"
            in capsys.readouterr().out)
    with open(out + "/identities.csv", encoding="utf-8") as file:
        assert file.read().splitlines() == ["label,source,name", "0,0,P 0", "1,1,P 1", "2,3,P 3",
                                            "3,4,P 4", "4,5,P 5"]
    assert cli.main(["inspect", out]) == 0
    assert cli.main(["split", out, str(tmp_path / "head"), str(tmp_path / "tail")]) == 0
    assert cli.main(["unpack", out, str(tmp_path / "folders")]) == 0
    assert sorted(os.listdir(str(tmp_path / "folders"))) == ["P 0", "P 1", "P 3", "P 4", "P 5"]
    assert len(os.listdir(str(tmp_path / "folders" / "P 3"))) == 13
    assert len(os.listdir(str(tmp_path / "folders" / "P 0"))) == 3
