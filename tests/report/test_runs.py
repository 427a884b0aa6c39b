"""Training logs as pages read them; whole runs: tests/commands/test_report.py."""
import json
import math

import pytest

from unequal.errors import InputError
from unequal.report import runs

START = {"event": "start", "stage": "step 2", "options": {}}


def written(path, *events, end="\n"):
    path.write_text("\n".join(map(json.dumps, events)) + end)
    return str(path)


def verify(step, **rates):
    return {"event": "verify", "step": step,
            "results": {name: {"accuracy_flip": rate, "pairs": 40} for name, rate in rates.items()}}


def test_only_the_last_training_counts(tmp_path):
    path = written(tmp_path / "m-trainlog.jsonl", START, {"event": "train", "step": 9},
                   dict(START, stage="step 3.1"), {"event": "train", "step": 1})
    assert [event.get("step") for event in runs.last_training(path)] == [None, 1]
    assert runs.last_training(path)[0]["stage"] == "step 3.1"


def test_a_line_that_a_kill_cut_is_left_out(tmp_path):
    path = written(tmp_path / "m-trainlog.jsonl", START, {"event": "train", "step": 9},
                   end='\n{"event": "tra')
    assert [event["event"] for event in runs.last_training(path)] == ["start", "train"]


@pytest.mark.parametrize("line", [
    '{"event": "tra', "[]", '"start"', '{"event": 3}', '{"step": 1}', '{"event": "train"}',
    '{"event": "train", "step": -1}', '{"event": "train", "step": true}',
    '{"event": "train", "step": 1, "metrics": {"loss": "low"}}',
    '{"event": "verify", "step": 1, "results": {"lfw": 3}}', '{"event": "start", "options": []}',
    '{"event": "start", "step": "2"}', '{"event": "start", "options": {"pretrained": 0.5}}',
    '{"event": "save", "options": 5}', "[" * 100000])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line):
    path = tmp_path / "m-trainlog.jsonl"
    path.write_text(json.dumps(START) + "\n" + line + "\n" + json.dumps(START) + "\n")
    with pytest.raises(InputError, match="m-trainlog.jsonl, line 2: not an event of a training lo"):
        runs.last_training(str(path))


@pytest.mark.parametrize("events, best", [
    ([], None),
    ([{"event": "save", "epoch": 0}], 0),
    ([{"event": "save", "epoch": 2}, {"event": "save", "epoch": 0}], 2),
    ([{"event": "save", "epoch": 2}, {"event": "end", "best_epoch": 1}], 1),
    ([{"event": "save", "epoch": 2}, {"event": "end", "best_epoch": None}], 2),
])
def test_the_best_checkpoint_of_a_log(events, best):
    assert runs.best_checkpoint(events) == best


def test_accuracies_are_of_the_best_mean():
    events = [verify(1, lfw=0.9, cfp=0.5), verify(2, lfw=0.8, cfp=0.7), verify(3)]
    assert runs.accuracies(events) == {"lfw": 0.8, "cfp": 0.7}
    assert runs.accuracies([]) == runs.accuracies([verify(1)]) == {}
    assert runs.counted_pairs(events) == {"lfw": 40, "cfp": 40}


def test_rows_in_the_order_they_were_begun(tmp_path):
    (tmp_path / "deep").mkdir()
    written(tmp_path / "a-trainlog.jsonl", dict(START, time=20), {"event": "save", "epoch": 3})
    written(tmp_path / "deep" / "b-trainlog.jsonl", dict(START, time=10), verify(1, lfw=0.5))
    written(tmp_path / "c-trainlog.jsonl", START)  # says no time: last
    (tmp_path / "a-0003.params").write_bytes(b"")
    found = runs.discovered(str(tmp_path))
    assert [(row["name"], row.get("model")) for row in found["rows"]] == [
        ("step 2: deep/b", None), ("step 2: a", "a,3"), ("step 2: c", None)]
    assert found["pairs"] == {"lfw": 40} and found["title"] == tmp_path.name


def test_a_directory_without_a_run_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="neither run.json nor a training log"):
        runs.discovered(str(tmp_path))
    with pytest.raises(InputError, match="none: no such directory; give that of a run"):
        runs.Run(str(tmp_path / "none"))


def test_null_is_not_a_number(tmp_path):
    path = written(tmp_path / "m-trainlog.jsonl", START,
                   {"event": "train", "step": 1, "metrics": {"loss": None, "acc": 1}})
    metrics = runs.last_training(path)[1]["metrics"]
    assert math.isnan(metrics["loss"]) and metrics["acc"] == 1


@pytest.mark.parametrize("number", ["Infinity", "-1e999", "1e308", "1" + 400 * "0"])
def test_numbers_that_no_training_counts_are_unknown(tmp_path, number):
    path = tmp_path / "m-trainlog.jsonl"
    path.write_text('{"event": "start", "time": 1}\n{"event": "verify", "step": 1, "time": NUMBER, '
                    '"results": {"lfw": {"accuracy_flip": NUMBER}}}\n'.replace("NUMBER", number))
    _, event = runs.last_training(str(path))
    assert math.isnan(event["time"]) and math.isnan(event["results"]["lfw"]["accuracy_flip"])


def test_a_log_that_does_not_begin_with_its_start_has_no_options(tmp_path):
    path = written(tmp_path / "m-trainlog.jsonl", verify(1, lfw=0.5))
    assert runs.last_training(path)[0]["options"] == {}
