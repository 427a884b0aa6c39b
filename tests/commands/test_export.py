import sys
import warnings
import zlib

import mxnet as mx
import numpy as np
import onnx
import onnxruntime
import pytest

from unequal.commands import cli, export
from unequal.errors import InputError
from unequal.models import checkpoints
from unequal.models.embedder import Embedder
from unequal.symbols import fresnet, layers, networks


def parameters(symbol, size):
    """Parameters drawn by name; residual branches weak, so that outputs stay of usual size."""
    shapes, _, aux_shapes = symbol.infer_shape(data=(1, 3) + size)
    named = [dict(zip(symbol.list_arguments(), shapes)),
             dict(zip(symbol.list_auxiliary_states(), aux_shapes))]
    for part in named:
        part.pop("data", None)
        for name, shape in part.items():
            random = np.random.RandomState(zlib.crc32(name.encode()))
            value = random.randn(*shape).astype(np.float32)
            if name.endswith("_gamma"):
                scale = 0.25 if "relu" in name else 0.3 if "_unit" in name else 1
                value = scale * (1 + 0.2 * value)
            elif name.endswith("moving_var"):
                value = 1 + 0.2 * np.abs(value)
            elif len(shape) == 1:
                value = 0.2 * value
            else:
                value *= np.sqrt(1 / np.prod(shape[1:]))
            part[name] = mx.nd.array(value)
    return tuple(named)


def pixels(count, size):
    return np.random.RandomState(0).randint(0, 256, (count, 3) + size).astype(np.float32)


def largest_difference(symbol, params, size, model, count=2):
    """Between onnxruntime's embeddings and MXNet's."""
    data = pixels(count, size)
    mine = Embedder(symbol, *params, size, batch_size=count).forward(mx.nd.array(data))
    session = onnxruntime.InferenceSession(model.SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    other, = session.run(["embedding"], {"data": data})
    assert other.shape == mine.shape
    assert 0.1 < np.abs(mine).max() < 100  # 1e-4 means something
    return np.abs(other - mine).max()


def published_prelu(data, channels, name):
    """PReLU as the checkpoints of InsightFace hold it."""
    return mx.sym.LeakyReLU(data, act_type="prelu", name=name)


@pytest.mark.parametrize("network, se, prelu", (
    ("r18", 0, "published"), ("r18", 0, "depthwise"), ("r18", 0, "elementwise"),
    ("r18", 1, "published"), ("r18", 1, "depthwise"), ("r18", 1, "elementwise"),
    ("r50", 0, "depthwise"), ("r50", 1, "elementwise"), ("r50", 1, "published"),
    ("r100", 0, "published"), ("r100", 1, "depthwise")))
def test_same_output_as_mxnet(monkeypatch, network, se, prelu):
    if prelu == "published":
        monkeypatch.setitem(layers.ACTIVATIONS, "prelu", published_prelu)
    symbol = networks.get_symbol(network, version_se=se, depthwise_prelu=prelu == "depthwise")
    params = parameters(symbol, (112, 112))
    model = export.to_onnx(symbol, *params)
    assert largest_difference(symbol, params, (112, 112), model, count=1) < 1e-4
    kinds = {node.op_type for node in model.graph.node}
    assert "PRelu" in kinds  # all three become the operator
    assert not kinds & {"Dropout", "Relu", "Reshape"}


@pytest.mark.parametrize("options", [dict(version_output=output) for output in fresnet.OUTPUTS]
                         + [dict(version_act="relu"), dict(version_input=0)])
def test_every_kind_of_network(options):
    symbol = networks.get_symbol("n8", 24, **options)
    params = parameters(symbol, (32, 32))
    model = export.to_onnx(symbol, *params, image_size=(32, 32))
    assert largest_difference(symbol, params, (32, 32), model) < 1e-4


@pytest.fixture(scope="module")
def small():
    symbol = networks.get_symbol("n8", 24)
    return (symbol,) + parameters(symbol, (32, 32))


def test_any_number_of_pictures(small):
    symbol, *params = small
    model = export.to_onnx(symbol, *params)
    for count in (1, 5):
        assert largest_difference(symbol, params, (32, 32), model, count) < 1e-4


def test_head_is_cut_off(small):
    symbol, arg_params, aux_params = small
    head = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(symbol, num_hidden=7, name="fc7"),
                                name="softmax")
    more = dict(arg_params, fc7_weight=mx.nd.ones((7, 24)), fc7_bias=mx.nd.zeros(7))
    model = export.to_onnx(head, more, aux_params)
    assert model.SerializeToString() == export.to_onnx(*small).SerializeToString()
    names = {constant.name for constant in model.graph.initializer}
    assert "conv0_weight" in names and "fc7_weight" not in names


def test_depthwise_convolutions_that_are_no_prelu():
    """Two depthwise convolutions are only a PReLU when their weights make one."""
    data = mx.sym.Variable("data")
    scale = dict(num_filter=3, num_group=3, kernel=(1, 1), no_bias=True)
    positive = mx.sym.Convolution(mx.sym.Activation(data, act_type="relu"), name="a", **scale)
    symbol = mx.sym.FullyConnected(positive + mx.sym.Convolution(data, name="b", **scale),
                                   num_hidden=4, name="fc1")
    params = ({"a_weight": mx.nd.array([[[[0.5]]], [[[0.1]]], [[[2]]]]) / 100,
               "b_weight": mx.nd.array([[[[0.6]]], [[[0.9]]], [[[-1]]]]) / 100,
               "fc1_weight": mx.nd.ones((4, 48)) / 10, "fc1_bias": mx.nd.zeros(4)}, {})
    model = export.to_onnx(symbol, *params, image_size=(4, 4))
    assert "PRelu" not in {node.op_type for node in model.graph.node}
    assert largest_difference(symbol, params, (4, 4), model) < 1e-4
    # The weights of one, 1 - slope: now they make one.
    params[0]["a_weight"] = 1 - params[0]["b_weight"]
    model = export.to_onnx(symbol, *params, image_size=(4, 4))
    assert "PRelu" in {node.op_type for node in model.graph.node}


def test_metadata(small):
    model = export.to_onnx(*small)
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "embedding_size": "24", "input_size": "32x32", "layout": "NCHW", "channel_order": "RGB",
        "pixel_range": "0-255", "input_normalisation": "in the model: (x - 127.5) * 0.0078125"}
    given, = model.graph.input
    assert given.name == "data"
    assert [side.dim_param or side.dim_value for side in given.type.tensor_type.shape.dim] == [
        "batch", 3, 32, 32]
    result, = model.graph.output
    assert result.name == "embedding"


def test_what_cannot_be_exported(small):
    _, arg_params, aux_params = small
    data = mx.sym.Variable("data")
    for symbol, message in (
            (mx.sym.sin(data, name="wave"), "Layer wave: sin cannot be exported; known are _copy"),
            (mx.sym.Activation(data, act_type="softrelu", name="soft"), "Layer soft: softrelu"),
            (mx.sym.Pooling(data, kernel=(2, 2), pool_type="avg", name="pool"),
             "Layer pool: avg cannot be exported; known are max"),
            (mx.sym.reshape(data, shape=(-1, 48), name="flat"),
             "Layer flat: data is computed, but only a parameter"),
            (mx.sym.LeakyReLU(data, mx.sym.Activation(data, act_type="relu", name="made"),
                              act_type="prelu", name="bent"), "Layer bent: made is computed")):
        head = mx.sym.FullyConnected(symbol, num_hidden=4, no_bias=True, name="fc1")
        with pytest.raises(InputError, match=message):
            export.to_onnx(head, {"fc1_weight": mx.nd.zeros((4, 48))}, {}, (4, 4))
    with pytest.raises(InputError, match="lacks the parameter conv0_weight"):
        export.to_onnx(small[0], {name: value for name, value in arg_params.items()
                                  if name != "conv0_weight"}, aux_params)


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
def test_weights_that_overflow(value):
    """3e38 is finite, but not what folding constants makes of it."""
    x = mx.sym.Variable("w", shape=(1, 3, 1, 1)) * 2
    network = mx.sym.FullyConnected(mx.sym.broadcast_mul(mx.sym.Variable("data"), x),
                                    num_hidden=2, name="fc1")
    arrays = {"w": mx.nd.full((1, 3, 1, 1), value), "fc1_weight": mx.nd.ones((2, 48)),
              "fc1_bias": mx.nd.zeros(2)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="holds nan or infinity"):
            export.to_onnx(network, arrays, {}, (4, 4))


def test_command(small, tmp_path, capsys):
    checkpoints.save(str(tmp_path / "model"), 7, *small)
    out = tmp_path / "out" / "model.onnx"
    command = ["export", "--model", str(tmp_path / "model") + ",7", "--onnx", str(out)]
    assert cli.main(command) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{out}: ") and "embedding_size 24" in line
    symbol, *params = small
    assert largest_difference(symbol, params, (32, 32), onnx.load(str(out))) < 1e-4
    for size in ("32", "32x32", "32,32"):  # the last was our older spelling
        assert cli.main(command + ["--image-size", size]) == 0
    with pytest.raises(SystemExit):
        cli.main(command + ["--image-size", "32x"])
    assert "--image-size: '32x' is not a size such as 112 or 112x96" in capsys.readouterr().err
    assert cli.main(["export", "--model", "none,7", "--onnx", str(out)]) == 1
    assert "none-symbol.json: no such file" in capsys.readouterr().err


def test_without_the_package(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"install the extra \[onnx\]"):
        export.to_onnx(*small)
