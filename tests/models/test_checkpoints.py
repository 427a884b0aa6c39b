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
    with pytest.raises(InputError, match="--model.*expected PREFIX,EPOCH"):
        checkpoints.parse(text, "--model")


def test_parse():
    assert checkpoints.parse("../a,b/model,0012") == ("../a,b/model", 12)


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
