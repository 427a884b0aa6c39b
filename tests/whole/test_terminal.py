"""What a name in a file can do to the terminal, the log or a spreadsheet: nothing."""
import csv
import io
import logging
import os
import re
import sys
import warnings

import pytest

from helpers import ROOT
from helpers.pictures import encoded, smooth
from unequal.commands import cli, inspect
from unequal.commands.cli import main
from unequal.data import identities
from unequal.data.records import RecordWriter
from unequal.errors import InputError
from unequal.system import files, text

FACE = encoded(smooth(32, 32))
HOSTILE = "\x1b[2J\x1b]0;title\x07\nerror: all is lost \u202egpj.exe\u2028\x9b"


def obeyed(text):
    """Letters that a terminal would obey, line breaks of ours aside."""
    return [letter for letter in text if not letter.isprintable() and letter != "\n"]


def test_an_error_is_one_plain_line(capsys):
    def fail():
        raise InputError(f"{HOSTILE}: is no name; give another.")

    assert cli.report_errors(fail) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: \\x1b[2J\\x1b]0;title\\x07 error: all is lost \\u202egpj")
    assert said.count("\n") == 1 and not obeyed(said)
    assert cli.report_errors(lambda: int("\x1b\nx")) == 1
    assert not obeyed(capsys.readouterr().err)


def test_a_message_of_the_log_is_one_plain_line(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(logging.root, "handlers", [])
    cli.setup_logging(stream)
    logging.getLogger("unequal").warning("left out: %s\tnext", HOSTILE)
    said = stream.getvalue()
    assert said.count("\n") == 1 and obeyed(said) == ["\t"]
    assert "\\nerror: all is lost" in said


def test_a_traceback_keeps_its_lines():
    try:
        raise ValueError("x")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 1, "a\nb", None, sys.exc_info())
    assert cli._OneLine("%(message)s").format(record).splitlines()[:2] == [
        "a\\nb", "Traceback (most recent call last):"]


def test_a_folder_of_hostile_names(tmp_path, capfd):
    names = ["=cmd()", "-1+1", "@x", "'=y", "Ann Lee", "\udcff", "a\u2028b"]
    for name in names:
        (tmp_path / "faces" / name).mkdir(parents=True)
        (tmp_path / "faces" / name / "=1.jpg").write_bytes(FACE)
    for name in ("\x1b[31m", "a\nerror: x", "\u202ejpg"):  # what no list of ours can hold
        (tmp_path / "faces" / name).mkdir()
        (tmp_path / "faces" / name / "1.jpg").write_bytes(FACE)
    assert main(["pack", str(tmp_path / "faces"), str(tmp_path / "set"), "--size", "32",
                 "--processes", "1"]) == 0
    assert sorted(identities.read_names(str(tmp_path / "set")).values()) == sorted(names)
    for table in ("identities.csv", "problems.csv"):
        text = (tmp_path / "set" / table).read_text("utf-8")
        assert not obeyed(text)
        for row in csv.reader(text.splitlines()):
            assert not [cell for cell in row if cell[:1] in tuple("=+-@")], row
    assert main(["unpack", str(tmp_path / "set"), str(tmp_path / "out")]) == 0
    assert sorted(os.listdir(str(tmp_path / "out"))) == sorted(names)


def test_names_from_before_there_were_cells(tmp_path):
    (tmp_path / "identities.csv").write_text("label,name\n0,=a\n1,-b\n2,'c\n3,d\\e\n")
    assert identities.read_names(str(tmp_path)) == {0: "=a", 1: "-b", 2: "'c", 3: "d\\e"}


@pytest.mark.parametrize("name", [r"$\frac$", "人名簿", "$x$", "$", "a$b$c", "\\$", "Ann"])
def test_a_picture_of_a_set_of_any_name(tmp_path, name):
    pytest.importorskip("matplotlib")
    with RecordWriter(str(tmp_path / name), (32, 32)) as writer:
        for label in (0, 0, 1):
            writer.add(label, FACE)
    report = inspect.inspect(str(tmp_path / name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # of matplotlib's own dependencies
        inspect.plot(report.counts, str(tmp_path / name), str(tmp_path / "plot.svg"))
    assert (tmp_path / "plot.svg").stat().st_size > 1000


def test_faults_are_plain_lines(tmp_path, capsys, monkeypatch):
    with RecordWriter(str(tmp_path / "set"), (32, 32)) as writer:
        writer.add(0, FACE)
    monkeypatch.setattr(inspect, "inspect", lambda *_: inspect.Report(["a fact"], [HOSTILE], []))
    assert main(["inspect", str(tmp_path / "set")]) == 1
    said = capsys.readouterr().out
    assert said.startswith("a fact\nfault: \\x1b") and said.count("\n") == 2 and not obeyed(said)


def test_results_are_plain_lines(capsys):
    """A path on the command line may come from a glob over anyone's names."""
    text.say(HOSTILE + ": 3 images", "next")
    said = capsys.readouterr().out
    assert said.count("\n") == 2 and not obeyed(said) and said.endswith(": 3 images\nnext\n")


def test_no_command_prints_past_it():
    """Results go through `text.say`, usage through the parser."""
    for path in sorted((ROOT / "src" / "unequal" / "commands").glob("*.py")):
        if path.stem not in ("cli", "doctor"):  # `cli` makes its lines plain; no one's names there
            assert not re.search(r"(?<![\w.])print\(", path.read_text("utf-8")), path


def test_a_misspelt_word_is_shown_as_text(capsys):
    with pytest.raises(SystemExit):
        main(["doctor", HOSTILE])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and not obeyed(said)


@pytest.mark.parametrize("words", (  # templates: {} is a place in tmp_path
    ("drop-centers", "{}", "{}\udcff", "--data-dir", "{}"), ("corrupt", "{}", "{}\udcff")))
def test_a_name_that_mxnet_cannot_write(words, tmp_path, capsys):
    with pytest.raises(InputError, match="is not UTF-8 text, and MXNet can write no such file"):
        files.check_name("a\udcff")
    place = str(tmp_path / "out")
    with RecordWriter(place, (32, 32)) as writer:
        for label in (0, 0, 1, 1):
            writer.add(label, FACE)
    assert main([word.format(place) for word in words]) == 1
    said = capsys.readouterr().err
    assert "\\udcff: is not UTF-8 text" in said and said.count("error: ") == 1
    assert os.listdir(str(tmp_path)) == ["out"]
