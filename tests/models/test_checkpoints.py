import json
import os

import mxnet as mx
import pytest

from unequal.errors import InputError
from unequal.models import checkpoints


def network():
    symbol = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2, name="fc1")
    return symbol, {"fc1_weight": mx.nd.ones((2, 3)), "fc1_bias": mx.nd.zeros(2)}, {
        "bn_moving_mean": mx.nd.full(3, 7)}


def test_plain_mxnet_loads_what_we_save(tmp_path):
    prefix = str(tmp_path / "new" / "model")
    symbol, arguments, states = network()
    checkpoints.save(prefix, 12, symbol, arguments, states)
    assert sorted(os.listdir(tmp_path / "new")) == ["model-0012.params", "model-symbol.json"]
    loaded, loaded_arguments, loaded_states = mx.model.load_checkpoint(prefix, 12)
    assert loaded.tojson() == symbol.tojson()
    assert (loaded_arguments["fc1_weight"].asnumpy() == 1).all()
    assert (loaded_states["bn_moving_mean"].asnumpy() == 7).all()


def test_we_load_what_plain_mxnet_saves(tmp_path):
    prefix = str(tmp_path / "model")
    symbol, arguments, states = network()
    mx.model.save_checkpoint(prefix, 3, symbol, arguments, states)
    loaded, loaded_arguments, _ = checkpoints.load(prefix, 3)
    assert loaded.list_outputs() == ["fc1_output"]
    assert loaded_arguments["fc1_weight"].shape == (2, 3)


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    prefix = str(tmp_path / "model")
    checkpoints.save(prefix, 0, *network())
    before = (tmp_path / "model-0000.params").read_bytes()

    def half_written(path, arrays):
        with open(path, "wb") as file:
            file.write(b"half")
        raise mx.base.MXNetError("No space left on device")

    monkeypatch.setattr(mx.nd, "save", half_written)
    with pytest.raises(InputError, match="model-0000.params: cannot be written.*No space left"):
        checkpoints.save(prefix, 0, *network())
    assert sorted(os.listdir(tmp_path)) == ["model-0000.params", "model-symbol.json"]
    assert (tmp_path / "model-0000.params").read_bytes() == before


@pytest.mark.parametrize("text", ["", "model", "model,", ",3", "model,xx", "model,-1"])
def test_parse_refuses(text):
    with pytest.raises(InputError, match="^model .*expected PREFIX,EPOCH"):
        checkpoints.parse(text, "model")


def test_parse():
    assert checkpoints.parse("../a,b/model,0012") == ("../a,b/model", 12)


def write_log(prefix, *events):
    with open(str(prefix) + "-trainlog.jsonl", "w", encoding="utf-8") as log:
        for event in events:
            log.write(event if isinstance(event, str) else json.dumps(event) + "\n")


def verified(step, *accuracies, epoch=None):
    events = [dict(event="save", step=step, epoch=0),
              dict(event="verify", step=step, results={
                  str(number): {"accuracy_flip": accuracy}
                  for number, accuracy in enumerate(accuracies)})]
    return events + ([dict(event="save", step=step, epoch=epoch)] if epoch else [])


def test_the_best_checkpoint_by_the_log(tmp_path):
    prefix = tmp_path / "model"
    assert_best = [
        # The highest mean; a later one is kept (the first set rose) but is not better.
        ([*verified(2, 0.5, 0.7, epoch=1), *verified(4, 0.8, 0.9, epoch=2),
          *verified(6, 0.9, 0.6, epoch=3)], 2),
        ([*verified(2, 0.5, epoch=1), *verified(4, 0.8)], 1),  # the better one was not kept
        ([*verified(2, 0.9, epoch=5), {"event": "start"}, *verified(2, 0.5, epoch=1)], 1),
        ([*verified(2, 0.9, epoch=5), "half a li\n", "[1]\n", "\n"], 5),
        ([*verified(2, 0.9, epoch=5), *verified(4, 0.8, epoch=6),
          dict(event="end", step=4, best_epoch=6)], 6),
    ]
    for events, number in assert_best:
        write_log(prefix, *events)
        assert checkpoints.parse(str(prefix) + ",best") == (str(prefix), number)


@pytest.mark.parametrize("events", [
    (), ({"event": "start"},), verified(2, 0.5), verified(2, epoch=1),
    [dict(event="verify", step=1, results=3), dict(event="save", step=1, epoch="x")],
])
def test_no_best_checkpoint_is_one_sentence(tmp_path, events):
    prefix = tmp_path / "model"
    with pytest.raises(InputError, match="model-trainlog.jsonl: no such file"):
        checkpoints.parse(str(prefix) + ",best")
    write_log(prefix, *events)
    with pytest.raises(InputError, match="model-trainlog.jsonl: calls no checkpoint best"):
        checkpoints.parse(str(prefix) + ",best")


def test_missing_and_damaged_files_are_named(tmp_path):
    prefix = str(tmp_path / "model")
    with pytest.raises(InputError, match="model-symbol.json: no such file"):
        checkpoints.load(prefix, 1)
    checkpoints.save(prefix, 1, *network())
    with pytest.raises(InputError, match="model-0002.params: no such file"):
        checkpoints.load(prefix, 2)
    (tmp_path / "model-0001.params").write_bytes(b"not parameters")
    with pytest.raises(InputError, match="model-0001.params: not a checkpoint"):
        checkpoints.load(prefix, 1)
