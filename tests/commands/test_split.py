

from helpers.sets import COUNTS, make
from unequal.commands import cli


def test_command(tmp_path, capsys):
    source = make(tmp_path / "all", COUNTS)
    head, tail = str(tmp_path / "head"), str(tmp_path / "tail")
    assert cli.main(["split", source, head, tail, "--head-min-images", "9"]) == 0
    assert capsys.readouterr().out == (
        f"{head}: 31 images of 3 identities\n{tail}: 6 images of 3 identities\n")
    for same in ([source, head, head], [source, source, tail], [source, head, source + "/."]):
        assert cli.main(["split"] + same) == 1
        assert "every set needs a folder of its own" in capsys.readouterr().err
