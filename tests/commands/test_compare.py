"""unequal compare: several runs, from their logs alone."""
import json
import re

import pytest

from unequal.commands import cli, compare

pytest.importorskip("matplotlib")


def log(path, rate, seconds=90, **options):
    """A training log of two batches and one verification."""
    path.parent.mkdir(parents=True, exist_ok=True)
    events = [
        {"event": "start", "time": 1000, "stage": "step 2", "options": {"lr": 0.1, **options}},
        {"event": "train", "time": 1001, "step": 1, "metrics": {"acc": 0.5, "softmaxloss": 2.0}},
        {"event": "train", "time": 1002, "step": 2, "metrics": {"acc": 0.75, "softmaxloss": 1.0}},
        {"event": "verify", "time": 1003, "step": 2, "results": {
            "lfw": {"accuracy_flip": rate}, "cfp_fp": {"accuracy_flip": rate - 0.1}}},
        {"event": "end", "time": 1000 + seconds, "step": 2, "best_epoch": None}]
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


@pytest.fixture
def two(tmp_path):
    log(tmp_path / "<one>" / "model-trainlog.jsonl", 0.9, prefix="a")
    log(tmp_path / "two" / "x" / "model-trainlog.jsonl", 0.8, 7205, prefix="b", lr=0.01, warmup=5)
    return tmp_path


def cells(text):
    return [re.findall("<td.*?>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", text)[1:]]


def test_accuracies_batches_and_time(two):
    found = compare.trainings([str(two / "<one>"), str(two / "two")])
    assert cells(compare.accuracy_table(found)) == [
        ["&lt;one&gt;: step 2: model", "90.00", "80.00", "85.00", "2", "1 min 30 s"],
        ["two: step 2: x/model", "80.00", "70.00", "75.00", "2", "2 h 00 min"]]


def test_directories_of_one_name_are_told_apart(tmp_path):
    paths = [str(tmp_path / name / "models") for name in ("a", "b")]
    assert compare.short_names(paths) == ["a/models", "b/models"]
    assert compare.short_names(paths[:1]) == ["models"]


def test_only_what_differs_is_listed(two):
    found = compare.trainings([str(two / "<one>"), str(two / "two")])
    assert cells(compare.differences(found)) == [["--lr", "0.1", "0.01"], ["--warmup", "-", "5"]]
    assert compare.differences(found[:1]) == ""


def test_curves_are_on_one_chart_a_quantity(two):
    series = compare._series(compare.trainings([str(two / "<one>"), str(two / "two")]))
    assert [(title, [line for line, _, _ in lines]) for title, _, lines in series] == [
        ("mean verification", [0, 1]), ("accuracy on the training batches", [0, 1]),
        ("loss on the head", [0, 1])]
    assert series[0][2][1][1:] == ([2], [75.0])


def test_the_page(two, capsys):
    out = str(two / "c.html")
    assert cli.main(["compare", str(two / "<one>"), str(two / "two"), "--out", out]) == 0
    text = open(out, encoding="utf-8").read()
    assert "<one>" not in text and text.count("<svg") == 0 and text.count("data:image/svg") == 6


@pytest.mark.parametrize("line", [
    "[" * 5000, "[]", '{"event": 1}', '{"event": "train", "step": -1}',
    '{"event": "train", "step": 1, "metrics": {"acc": "x"}}',
    '{"event": "verify", "step": 1, "results": {"lfw": 3}}', '{"event": "train", "step": 1e999}',
    '{"event": "start", "options": []}', '{"event": "lr", "step": 1, "lr": "fast"}'])
def test_a_damaged_log_is_one_sentence(two, capsys, line):
    path = two / "two" / "x" / "model-trainlog.jsonl"
    path.write_text(path.read_text() + line + "\n")
    assert cli.main(["compare", str(two / "two"), "--out", str(two / "c.html")]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "model-trainlog.jsonl, line 6: not an event of a training log" in error
    assert not (two / "c.html").exists()


@pytest.mark.parametrize("names,said", [
    (("none",), "none: no such directory"), (("two", "two"), "given twice"),
    (("empty",), "neither run.json nor a training log")])
def test_what_is_no_run(two, capsys, names, said):
    (two / "empty").mkdir()
    assert cli.main(["compare", *(str(two / name) for name in names)]) == 1
    assert said in capsys.readouterr().err
