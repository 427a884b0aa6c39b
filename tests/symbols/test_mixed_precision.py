"""16-bit arithmetic in the backbone: types at every cast, the loss scale, a trajectory."""
import json
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from helpers.loops import assert_close, run
from unequal.errors import ArgumentError
from unequal.symbols import heads, networks
from unequal.symbols.margins import Margin

SIZE, CLASSES, ROWS, SIDE = 16, 5, 8, 16
LABEL = mx.sym.Variable("softmax_label")


def types(symbol):
    """{node name: (operator, its output types, its input types)}."""
    internals = symbol.get_internals()
    known = {name: np.float32 for name in ("data", "softmax_label")}
    _, found, _ = internals.infer_type(**known)
    kind = {}
    for name, value in zip(internals.list_outputs(), found):
        kind[name[:-len("_output")] if name.endswith("_output") else name] = np.dtype(value).name
    nodes = json.loads(symbol.tojson())["nodes"]
    return {node["name"]: (node["op"], kind.get(node["name"]),
                           [kind.get(nodes[number]["name"]) for number, *_ in node["inputs"]])
            for node in nodes}


@pytest.mark.parametrize("network, options", [
    ("n8", {"version_se": 1}), ("r18", {}), ("y1", {}), ("n8", {"version_output": "GAP"})])
def test_types_at_every_cast(network, options):
    symbol = heads.nra_head(
        networks.get_symbol(network, SIZE, depthwise_prelu=False, dtype="float16", **options),
        LABEL, CLASSES, SIZE, beta=0.9, normalizer=8, on_cpu=False, index=False)
    plain = networks.get_symbol(network, SIZE, depthwise_prelu=False, **options)
    found = types(symbol)
    parameters = set(plain.list_arguments() + plain.list_auxiliary_states()) | {"fc7_weight"}
    for name, (operator, out, inputs) in found.items():
        if operator == "null":
            assert out == "float32", name
        elif operator == "Convolution" or name == "pre_fc1_narrow":
            assert {out, *inputs} == {"float16"}, name
        elif operator == "BatchNorm":
            assert inputs[1:] == ["float32"] * 4, name
            assert out == inputs[0] == ("float32" if name in ("fc1", "bn1") else "float16"), name
        elif operator == "Cast":
            assert {out, inputs[0]} <= {"float16", "float32", "int32"} and out != inputs[0], name
    dense = [inputs for operator, _, inputs in found.values()
             if operator == "FullyConnected"]
    assert ["float16"] * 3 in dense and ["float32"] * 2 in dense  # pre_fc1; fc7
    for name in ("fc1", "embedding", "fc1n", "fc7", "logits", "loss"):
        assert found[name][1] == "float32", name
    assert {name for name, (operator, *_) in found.items() if operator == "null"} == (
        parameters | {"softmax_label"})


def test_checkpoints_are_the_same():
    plain, mixed = (networks.get_symbol("r18", dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert sorted(plain.list_arguments()) == sorted(mixed.list_arguments())
    assert plain.list_outputs() == mixed.list_outputs()
    shapes = [dict(zip(symbol.list_arguments(), symbol.infer_shape(data=(1, 3, 112, 112))[0]))
              for symbol in (plain, mixed)]
    assert shapes[0] == shapes[1]


def test_unknown_type():
    with pytest.raises(ArgumentError, match="dtype 'int8' is unknown; known are float32, float16"):
        networks.get_symbol("n8", dtype="int8")


HEADS = {
    "softmax": lambda *given, **options: heads.softmax_head(*given, **options),
    "nra": lambda *given, **options: heads.nra_head(*given, beta=0.7, normalizer=8, **options),
    "nra for GPUs": lambda *given, **options: heads.nra_head(
        *given, beta=0.7, normalizer=8, on_cpu=False, **options),
    "unequal": lambda *given, **options: heads.unequal_head(
        *given, beta=0.7, normalizer=8, head_size=4, tail_identities=2, images_per_identity=2,
        interweight=5.0, **options),
}


@pytest.mark.parametrize("build", HEADS.values(), ids=HEADS)
def test_scale_is_in_every_gradient_and_no_output(build):
    random = np.random.RandomState(0)
    arrays = {"emb": random.randn(ROWS, SIZE).astype(np.float32),
              "fc7_weight": random.randn(CLASSES, SIZE).astype(np.float32),
              "label": random.randint(0, CLASSES, ROWS).astype(np.float32)}
    given = mx.sym.Variable("emb"), mx.sym.Variable("label"), CLASSES, SIZE, Margin(margin_s=8.0)
    plain, scaled = (run(build(*given, loss_scale=scale), arrays) for scale in (1.0, 1024.0))
    for name, value in plain[0].items():
        np.testing.assert_array_equal(scaled[0][name], value)
    for name, gradient in plain[1].items():
        assert np.abs(gradient).max() > 0
        assert_close(scaled[1][name] / 1024, gradient, 1e-6)


def trajectory(dtype, steps=12):
    """Losses of plain SGD on pictures with a class-wise pattern."""
    mx.random.seed(0)
    np.random.seed(0)
    random = np.random.RandomState(0)
    scale = heads.LOSS_SCALE[dtype]
    symbol = heads.softmax_head(
        networks.get_symbol("n8", SIZE, version_output="I", dtype=dtype), LABEL, CLASSES, SIZE,
        Margin(margin_s=16.0, margin_m=0.2), loss_scale=scale)
    module = mx.mod.Module(symbol, label_names=["softmax_label"])
    module.bind([("data", (ROWS, 3, SIDE, SIDE))], [("softmax_label", (ROWS,))])
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2))
    module.init_optimizer(optimizer=mx.optimizer.SGD(
        learning_rate=0.02, momentum=0.9, wd=5e-4, rescale_grad=1 / scale))
    pattern = random.randint(0, 256, (CLASSES, 3, SIDE, SIDE))
    losses = []
    for _ in range(steps):
        label = random.randint(0, CLASSES, ROWS)
        pictures = 0.5 * pattern[label] + random.randint(0, 128, (ROWS, 3, SIDE, SIDE))
        module.forward_backward(mx.io.DataBatch([mx.nd.array(pictures)], [mx.nd.array(label)]))
        module.update()
        losses.append(-np.log(module.get_outputs()[3].asnumpy() + 1e-30).mean())
    return np.array(losses), module.get_params()[0]


def test_trajectory_stays_beside_float32():
    plain, weights = trajectory("float32")
    mixed, other = trajectory("bfloat16")
    assert plain[-3:].mean() < plain[:3].mean() / 1.5  # it learns
    relative = np.abs(mixed - plain) / plain.mean()
    assert 1e-4 < relative[:6].max() < 0.1  # rounded to 8 bits: not the same, and near
    assert other["conv0_weight"].dtype == np.float32


def test_bfloat16_needs_no_other_package():
    """NumPy knows it by name where ml_dtypes has been imported, which onnx does."""
    code = ("import sys; sys.modules['ml_dtypes'] = None; import unequal, numpy\n"
            "from unequal.symbols import networks\n"
            "try:\n    numpy.dtype('bfloat16')\n"
            "except TypeError:\n    print('unknown to NumPy')\n"
            "print('\"bfloat16\"' in networks.get_symbol('n8', dtype='bfloat16').tojson())")
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert done.stdout == "unknown to NumPy\nTrue\n"
