"""`unequal synth`; the data set itself: tests/synthetic."""
import pytest

from unequal.commands import cli
from unequal.synthetic import dataset as synth


def test_command_line_errors(tmp_path, capsys):
    assert cli.main(["synth", str(tmp_path / "data"), "--noise", "2"]) == 1
    assert capsys.readouterr().err == "error: --noise 2.0: must be a share from 0 to 1.\n"
    with pytest.raises(SystemExit) as exit_:
        cli.main(["synth", str(tmp_path / "data"), "--noise", "much"])
    assert exit_.value.code == 2
    assert not list(tmp_path.iterdir())


def test_a_preset_is_other_defaults(tmp_path, monkeypatch):
    """Flags given by hand stand above it, flags it does not name keep their defaults."""
    drawn = []
    monkeypatch.setattr(synth, "make_dataset", lambda directory, **numbers: drawn.append(numbers))
    assert cli.main(["synth", str(tmp_path / "a")]) == 0
    assert cli.main(["synth", str(tmp_path / "b"), "--preset", "study"]) == 0
    assert cli.main(["synth", str(tmp_path / "c"), "--preset", "study", "--noise", "0"]) == 0
    plain, preset, mixed = drawn
    assert (plain["noise"], plain["split"], plain["eval_pairs"]) == (0.3, 0.05, 600)
    assert (preset["noise"], preset["split"], preset["eval_pairs"]) == (0.4, 0, 1400)
    assert mixed == dict(preset, noise=0)
    assert {name: value for name, value in preset.items()
            if name not in ("noise", "split", "eval_pairs")} == {
        name: value for name, value in plain.items()
        if name not in ("noise", "split", "eval_pairs")}
