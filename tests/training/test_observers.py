"""Observers are told events from a list; no training runs."""
import json
import logging
from types import SimpleNamespace

import pytest

from unequal.errors import InputError
from unequal.training import observers

RESULT = SimpleNamespace(xnorm=7.5, accuracy=0.75, accuracy_std=0.01, accuracy_flip=0.875,
                         accuracy_flip_std=0.02)
EVENTS = [
    ("start", dict(stage="step 2", name="softmax", options={}, devices=["cpu(0)"])),
    ("begin", dict(title="step 2", step=0, limit=4, batches=2, batch_size=10, lr_steps=[3])),
    ("batch", dict(step=1)),
    ("train", dict(step=1, epoch=0, speed=20.0, lr=0.1, metrics={"softmaxloss": 2.5})),
    ("lr", dict(step=1, lr=0.01)),
    ("verify", dict(step=1, results={"lfw": RESULT})),
    ("save", dict(step=1, epoch=1)),
    ("highest", dict(step=1, best=SimpleNamespace(last=0.875))),
    ("end", dict(step=1, reason="--max-steps 1", best_epoch=1, best_mean=0.875)),
]


def tell(observer, events=EVENTS):
    for event, fields in events:
        observer.notify(event, **fields)
    observer.close()


def test_the_event_log_has_a_line_for_what_it_knows(tmp_path):
    events = [(event, fields) for event, fields in EVENTS if event != "verify"]
    path = tmp_path / "new" / "log.jsonl"
    tell(observers.EventLog(str(path)), events)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "train", "lr", "save", "end"]
    assert lines[1]["metrics"] == {"softmaxloss": 2.5} and lines[1]["time"] > 0


def test_the_event_log_takes_off_half_a_line_and_what_came_after_a_state(tmp_path):
    path = tmp_path / "log.jsonl"
    log = observers.EventLog(str(path))
    log.notify("lr", step=1, lr=0.1)
    position = log.position
    tell(log, [("lr", dict(step=2, lr=0.01))])
    with open(path, "a") as file:
        file.write('{"event": "l')
    observers.EventLog(str(path)).close()
    assert [json.loads(line)["step"] for line in path.open()] == [1, 2]
    observers.EventLog(str(path), position).close()
    assert [json.loads(line)["step"] for line in path.open()] == [1]


def test_the_console_writes_the_references_lines(caplog):
    caplog.set_level(logging.INFO)
    tell(observers.Console("models/m"))
    text = [record.getMessage() for record in caplog.records]
    assert text[0] == "lr_steps [3]"
    assert text[1].startswith("Epoch[0] Batch [0]\tSpeed: 20.00 samples/sec\tsoftmaxloss=2.500000")
    assert text[2:] == ["lr change to 0.01", "[lfw][1]XNorm: 7.500000",
                        "[lfw][1]Accuracy: 0.75000+-0.01000",
                        "[lfw][1]Accuracy-Flip: 0.87500+-0.02000", "saving 1",
                        "[1]Accuracy-Highest: 0.87500", "ended after 1 batches: --max-steps 1",
                        "best model: models/m,1 with mean accuracy 0.87500"]


def test_a_resumed_table_loses_the_lines_after_its_first_batch(tmp_path):
    path = tmp_path / "log.csv"
    tell(observers.CsvLog(str(path)))
    first = path.read_text()
    assert first.splitlines()[:2] == ["step,name,value", "1,train/softmaxloss,2.5"]
    with open(path, "a") as file:
        file.write("2,train/softmaxloss,9.0\n2,tra")
    tell(observers.CsvLog(str(path)), [("resume", dict(step=1, path="m"))])
    assert path.read_text() == first
    tell(observers.CsvLog(str(path)))  # a new run begins anew
    assert path.read_text() == first


def test_a_full_disk_is_one_sentence():
    log = observers.CsvLog("/dev/full")
    log._file = open("/dev/full", "w", buffering=1)
    with pytest.raises(InputError, match=r"^/dev/full: cannot be written \(No space left"):
        tell(log, EVENTS[3:4])
