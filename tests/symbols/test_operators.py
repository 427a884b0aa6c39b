import concurrent.futures
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from helpers.loops import (
    assert_close,
    cross_entropy,
    probabilities,
    robust_gradient,
    robust_loss,
    run,
    slopes,
)
from unequal.symbols import heads, operators

ROWS, CLASSES = 8, 6


def inputs(seed=0, scale=2.0):
    """Logits and labels; rows 0 and 1 predict their label, the others are mixed."""
    random = np.random.RandomState(seed)
    logits = (scale * random.randn(ROWS, CLASSES)).astype(np.float32)
    label = random.randint(0, CLASSES, ROWS).astype(np.float32)
    label[:2] = logits[:2].argmax(axis=1)
    assert (label[2:] != logits[2:].argmax(axis=1)).sum() >= 3
    return {"logits": logits, "label": label}


def operator(beta, normalizer, threshold=0.0):
    return operators.noise_robust(mx.sym.Variable("logits"), mx.sym.Variable("label"), beta,
                                  normalizer, threshold)


def gradient_of(symbol, arrays, **options):
    outputs, gradients = run(symbol, arrays, **options)
    return outputs, gradients["logits"]


def arrays_gradient(arrays, threshold):
    """Outputs and gradient of the kernels that GPUs use."""
    label = mx.nd.array(arrays["label"])
    out = operators.forward_arrays(mx.nd.array(arrays["logits"]), label)
    return out, operators.backward_arrays(label, out, 0.9, 1.0, threshold).asnumpy()


@pytest.mark.parametrize("seed", range(3))
def test_forward_by_loops(seed):
    arrays = inputs(seed)
    outputs, _ = run(operator(0.9, 16), arrays)
    assert list(outputs) == ["noise_robust_" + name for name in operators.OUTPUTS]
    probability, prediction, label_log, largest_log = outputs.values()
    for i, row in enumerate(arrays["logits"].astype(np.float64)):
        largest = max(range(CLASSES), key=lambda j, row=row: row[j])
        np.testing.assert_allclose(probability[i], probabilities(row), rtol=1e-5)
        assert prediction[i] == largest
        assert label_log[i] == pytest.approx(-cross_entropy(row, arrays["label"][i]), rel=1e-5)
        assert largest_log[i] == pytest.approx(-cross_entropy(row, largest), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("normalizer", [1, 16, 7.5])
def test_gradient_by_loops_and_by_differences(beta, normalizer):
    arrays = inputs()
    _, gradient = gradient_of(operator(beta, normalizer), arrays)
    assert_close(gradient,
                 robust_gradient(arrays["logits"], arrays["label"], beta, normalizer), 1e-6)
    assert_close(gradient, slopes(lambda logits: robust_loss(
        logits, arrays["label"], beta, normalizer), arrays["logits"]), 1e-6)


def test_beta_decides_between_label_and_prediction():
    arrays = inputs()
    wrong = arrays["label"] != arrays["logits"].argmax(axis=1)
    _, trusting = gradient_of(operator(1.0, 1), arrays)
    _, doubting = gradient_of(operator(0.0, 1), arrays)
    rows = np.arange(ROWS)
    label, prediction = arrays["label"].astype(int), arrays["logits"].argmax(axis=1)
    assert (trusting[rows, label] < 0).all() and (doubting[rows, prediction] < 0).all()
    assert (trusting[rows, prediction][wrong] > 0).all()
    assert (doubting[rows, label][wrong] > 0).all()
    # Where both agree the two losses are the same, whatever beta is.
    np.testing.assert_allclose(trusting[~wrong], doubting[~wrong], atol=1e-7)
    np.testing.assert_allclose(trusting.sum(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 0.999])
@pytest.mark.parametrize("beta", [0.0, 0.7, 1.0])
def test_operator_is_its_composition(beta, threshold):
    arrays = inputs()
    composed, _ = heads.composed_loss(mx.sym.Variable("logits"), mx.sym.Variable("label"), beta,
                                      16, threshold)
    ours = heads.robust_outputs(mx.sym.Variable("logits"), mx.sym.Variable("label"), beta, 16,
                              threshold)
    outputs, gradient = gradient_of(mx.sym.Group(ours), arrays)
    other, other_gradient = gradient_of(composed, arrays)
    expected = robust_loss(arrays["logits"], arrays["label"], beta, 16, threshold)
    assert outputs["loss"].shape == other["loss"].shape == (1,)
    assert outputs["loss"][0] == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert other["loss"][0] == pytest.approx(expected, rel=1e-5, abs=1e-7)
    by_loops = robust_gradient(arrays["logits"], arrays["label"], beta, 16, threshold)
    np.testing.assert_allclose(gradient, by_loops, atol=1e-7)
    np.testing.assert_allclose(other_gradient, by_loops, atol=1e-7)


@pytest.mark.parametrize("threshold, kept", [
    (0.0, 3), (0.24, 3), (0.25, 2), (0.49, 2), (0.5, 1), (0.99, 1), (0.9999, 0), (1.0, 0)])
def test_threshold_keeps_rows_that_exceed_it(threshold, kept):
    """Largest probabilities 1 - 3 exp(-9), 1/2 and 1/4; equality does not exceed."""
    arrays = {"logits": np.array([[9, 0, 0, 0], [5, 5, -90, -90], [7, 7, 7, 7]], np.float32),
              "label": np.array([1, 2, 3], np.float32)}
    outputs, gradient = gradient_of(mx.sym.Group(heads.robust_outputs(
        mx.sym.Variable("logits"), mx.sym.Variable("label"), 0.9, 1, threshold)), arrays)
    _, by_arrays = arrays_gradient(arrays, threshold)
    for found in (gradient, by_arrays):
        assert [bool(np.abs(row).max() > 0) for row in found] == [i < kept for i in range(3)]
    assert outputs["loss"][0] == pytest.approx(
        robust_loss(arrays["logits"], arrays["label"], 0.9, 1, threshold), rel=1e-5)


def test_rows_without_weight_leave_the_others_alone():
    arrays = inputs()
    largest = np.array([max(probabilities(row)) for row in arrays["logits"]])
    threshold = np.sort(largest)[ROWS // 2 - 1:ROWS // 2 + 1].mean()
    certain = largest > threshold
    assert certain.sum() == ROWS // 2
    _, gradient = gradient_of(operator(0.8, 4, threshold), arrays)
    _, ungated = gradient_of(operator(0.8, 4), arrays)
    np.testing.assert_array_equal(gradient[certain], ungated[certain])
    assert (gradient[~certain] == 0).all()


def test_gradient_is_added_when_asked():
    arrays = inputs()
    start = np.random.RandomState(5).randn(ROWS, CLASSES).astype(np.float32)
    symbol = operator(0.9, 4, 0.5)
    _, plain = gradient_of(symbol, arrays)
    _, added = gradient_of(symbol, arrays, grad_req="add", start={"logits": start})
    np.testing.assert_allclose(added, start + plain, atol=1e-6)


def test_no_gradient_when_none_is_asked():
    arrays = {name: mx.nd.array(value) for name, value in inputs().items()}
    executor = operator(0.9, 4).bind(mx.cpu(), arrays, grad_req="null")
    executor.forward(is_train=True)
    executor.backward()
    assert executor.outputs[0].shape == (ROWS, CLASSES)
    # Only the label's, which nobody needs: it must still be written.
    gradient = mx.nd.full((ROWS,), 7)
    executor = operator(0.9, 4).bind(mx.cpu(), arrays, {"label": gradient},
                                     {"logits": "null", "label": "write"})
    executor.forward(is_train=True)
    executor.backward()
    np.testing.assert_array_equal(gradient.asnumpy(), 0)


@pytest.mark.parametrize("index", range(4))
def test_one_output_alone(index):
    """Whichever output a symbol ends in, it is the same, and so is the gradient."""
    arrays = inputs()
    together, gradient = gradient_of(operator(0.9, 4), arrays)
    alone, alone_gradient = gradient_of(operator(0.9, 4)[index], arrays)
    name = "noise_robust_" + operators.OUTPUTS[index]
    assert list(alone) == [name]
    np.testing.assert_array_equal(alone[name], together[name])
    np.testing.assert_array_equal(alone_gradient, gradient)


def test_head_gradients_have_no_say():
    arrays = inputs()
    symbol = operator(0.9, 4)
    _, plain = gradient_of(symbol, arrays)
    shapes = [(ROWS, CLASSES), (ROWS,), (ROWS,), (ROWS,)]
    _, other = gradient_of(symbol, arrays,
                           head_gradients=[np.full(shape, 1e6) for shape in shapes])
    np.testing.assert_array_equal(plain, other)


def test_gradient_of_the_label_is_zero():
    outputs, gradients = run(operator(0.9, 4), inputs(), inputs=())
    np.testing.assert_array_equal(gradients["label"], 0)


def test_imperative_use():
    arrays = {name: mx.nd.array(value) for name, value in inputs().items()}
    arrays["logits"].attach_grad()
    with mx.autograd.record():
        outputs = mx.nd.Custom(arrays["logits"], arrays["label"], op_type=operators.NAME,
                               beta="0.3", normalizer="2", threshold="0")
    outputs[0].backward()
    expected = robust_gradient(arrays["logits"].asnumpy(), arrays["label"].asnumpy(), 0.3, 2)
    assert_close(arrays["logits"].grad.asnumpy(), expected, 1e-6)


def test_float16_logits():
    arrays = inputs()
    rounded = arrays["logits"].astype(np.float16)
    symbol = operators.noise_robust(mx.sym.Cast(mx.sym.Variable("logits"), dtype="float16"),
                                    mx.sym.Variable("label"), 0.7, 4)
    outputs, gradient = gradient_of(symbol, arrays)
    assert {value.dtype for value in outputs.values()} == {np.dtype(np.float32)}
    for i, row in enumerate(rounded.astype(np.float64)):
        np.testing.assert_allclose(outputs["noise_robust_probability"][i], probabilities(row),
                                   rtol=1e-5)
    expected = robust_gradient(rounded, arrays["label"], 0.7, 4)
    assert_close(gradient, expected, 1e-3)  # half precision counts to about 1/2000


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_types_and_shapes_are_inferred(dtype):
    symbol = operator(0.7, 4)
    arguments, outputs, _ = symbol.infer_type(logits=dtype)
    assert [np.dtype(value) for value in arguments] == [np.dtype(dtype), np.dtype(np.float32)]
    assert set(outputs) == {np.float32}
    arguments, outputs, _ = symbol.infer_shape(logits=(5, 9))
    assert arguments == [(5, 9), (5,)] and outputs == [(5, 9), (5,), (5,), (5,)]


def test_float16_bound_directly_with_added_gradient():
    arrays = inputs()
    start = np.ones((ROWS, CLASSES), np.float16)
    arguments = {"logits": mx.nd.array(arrays["logits"], dtype=np.float16),
                 "label": mx.nd.array(arrays["label"])}
    gradient = mx.nd.array(start, dtype=np.float16)
    executor = operator(0.7, 4).bind(mx.cpu(), arguments, {"logits": gradient},
                                     {"logits": "add", "label": "null"})
    executor.forward(is_train=True)
    executor.backward()
    expected = robust_gradient(arrays["logits"].astype(np.float16), arrays["label"], 0.7, 4)
    np.testing.assert_allclose(gradient.asnumpy(), start + expected, atol=2e-3)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("scale", [2.0, 64.0])
def test_row_kernels_and_array_kernels_agree(scale, dtype, threshold):
    arrays = inputs(1, scale)
    logits, label = arrays["logits"].astype(dtype), arrays["label"]
    rows = [np.empty((ROWS, CLASSES), np.float32)] + [np.empty(ROWS, np.float32) for _ in range(3)]
    operators.forward_rows(logits, label, rows)
    ndarrays = operators.forward_arrays(mx.nd.array(logits, dtype=dtype), mx.nd.array(label))
    for by_rows, by_arrays in zip(rows, ndarrays):
        assert by_arrays.dtype == np.float32
        np.testing.assert_allclose(by_arrays.asnumpy(), by_rows, rtol=2e-5, atol=2e-6)
    gradient = np.empty((ROWS, CLASSES), np.float32)
    operators.backward_rows(label, rows, gradient, 0.8, 0.25, threshold)
    other = operators.backward_arrays(mx.nd.array(label), ndarrays, 0.8, 0.25, threshold)
    np.testing.assert_allclose(other.asnumpy(), gradient, atol=1e-6)
    np.testing.assert_allclose(gradient, robust_gradient(logits, label, 0.8, 4, threshold),
                               atol=1e-6)


def test_array_kernels_beyond_float_precision():
    rows, classes = 180, 100_000  # 1.8e7 entries
    label = mx.nd.array(np.full(rows, classes - 1))
    logits = mx.nd.zeros((rows, classes))
    logits[:, classes - 3] = 20
    out = operators.forward_arrays(logits, label)
    gradient = operators.backward_arrays(label, out, 0.75, 1.0, 0.0).asnumpy()
    total = 1 + (classes - 1) * np.exp(-20)
    assert out[1].asnumpy().tolist() == [classes - 3] * rows
    np.testing.assert_allclose(gradient[:, classes - 1], np.exp(-20) / total - 0.75, rtol=1e-5)
    np.testing.assert_allclose(gradient[:, classes - 3], 1 / total - 0.25, rtol=1e-4)
    gradient[:, [classes - 3, classes - 1]] = np.exp(-20) / total
    np.testing.assert_allclose(gradient, np.exp(-20) / total, rtol=1e-5)  # nothing else written


@pytest.mark.parametrize("size", [64.0, 640.0, 1e4])
def test_finite_at_extreme_logits(size):
    random = np.random.RandomState(0)
    arrays = {"logits": np.float32(size * random.choice([-1, 1], (ROWS, CLASSES))),
              "label": inputs()["label"]}
    arrays["logits"][0] = size
    arrays["logits"][1] = -size
    outputs, gradient = gradient_of(operator(0.9, 1), arrays)
    for value in [gradient, *outputs.values()]:
        assert np.isfinite(value).all()
    for i, row in enumerate(arrays["logits"]):
        # The label's probability is 0 in float32, its logarithm is not lost.
        assert outputs["noise_robust_label_log_probability"][i] == pytest.approx(
            -cross_entropy(row.astype(np.float64), arrays["label"][i]), rel=1e-6)
    assert_close(gradient, robust_gradient(arrays["logits"], arrays["label"], 0.9, 1), 1e-6)


# Each executor runs the operator in MXNet's own threads, while other Python threads do the same.
CONCURRENT = """
import concurrent.futures, sys
import unequal
import mxnet as mx, numpy as np
from unequal.symbols import heads, operators

def run(seed):
    random = np.random.RandomState(seed)
    logits, label = mx.sym.Variable("logits"), mx.sym.Variable("label")
    weight = operators.unit_rows(mx.sym.Variable("fc_weight"))
    symbol = operators.noise_robust(mx.sym.FullyConnected(
        logits, weight=weight, num_hidden=50, no_bias=True), label, 0.9, 8)
    executor = symbol.simple_bind(mx.cpu(seed % 2), logits=(8, 20), label=(8,),
                                  fc_weight=(50, 20))
    data, weight = random.randn(8, 20), random.randn(50, 20)
    label = random.randint(0, 50, 8)
    executor.copy_params_from({"logits": mx.nd.array(data), "label": mx.nd.array(label),
                               "fc_weight": mx.nd.array(weight)})
    sums = []
    for _ in range(50):
        executor.forward(is_train=True)
        executor.backward()
    return seed, executor.outputs[0].asnumpy(), executor.grad_dict["fc_weight"].asnumpy()

alone = {seed: run(seed)[1:] for seed in range(6)}
with concurrent.futures.ThreadPoolExecutor(6) as pool:
    for seed, probability, gradient in pool.map(run, range(6)):
        np.testing.assert_array_equal(probability, alone[seed][0])
        np.testing.assert_array_equal(gradient, alone[seed][1])
# And several executors of one thread in flight at once.
executors = []
for seed in range(6):
    logits, label = mx.sym.Variable("logits"), mx.sym.Variable("label")
    executor = operators.noise_robust(logits, label, 0.9, 8).simple_bind(
        mx.cpu(seed), logits=(8, 2000), label=(8,))
    executor.arg_dict["logits"][:] = mx.nd.array(np.random.RandomState(seed).randn(8, 2000))
    executors.append(executor)
for _ in range(50):
    for executor in executors:
        executor.forward(is_train=True)
        executor.backward()
for executor in executors:
    np.testing.assert_allclose(executor.outputs[0].asnumpy().sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(executor.grad_dict["logits"].asnumpy().sum(axis=1), 0, atol=1e-6)
print("done")
"""


def test_many_operators_at_once():
    """In a process of its own, so that a deadlock is a failure rather than a suite that hangs."""
    result = subprocess.run([sys.executable, "-c", CONCURRENT], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, timeout=120, check=False)
    assert result.stdout.decode().strip() == "done", result.stderr.decode()[-2000:]


def test_operators_under_python_threads_release_their_memory():
    """The same operator in a pool of threads of this process, results read in any order."""
    arrays = inputs()
    expected = gradient_of(operator(0.9, 4), arrays)[1]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _, gradient in pool.map(lambda _: gradient_of(operator(0.9, 4), arrays), range(24)):
            np.testing.assert_array_equal(gradient, expected)


needs_compiled = pytest.mark.skipif(
    not operators.COMPILED, reason="rows.c was not built: no compiler when installed")
WEIGHT = mx.sym.Variable("weight")


@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (50, 33), (3, 512)])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_unit_rows_by_loops(shape, size):
    random = np.random.RandomState(0)
    weight = (size * random.randn(*shape)).astype(np.float32)
    outer = random.randn(*shape).astype(np.float32)
    outputs, gradients = run(operators.unit_rows(WEIGHT), {"weight": weight},
                             head_gradients=[outer])
    unit, = outputs.values()
    for j, row in enumerate(weight.astype(np.float64)):
        length = np.sqrt(sum(value * value for value in row) + 1e-10)
        np.testing.assert_allclose(unit[j], row / length, rtol=1e-6)
        along = sum(outer[j] * row) / length
        np.testing.assert_allclose(gradients["weight"][j],
                                   (outer[j] - along * row / length) / length,
                                   atol=2e-6 * np.abs(outer[j]).max() / length)


@pytest.mark.parametrize("grad_req", ["write", "add"])
@pytest.mark.parametrize("normalise", [
    pytest.param(operators.unit_rows, marks=needs_compiled),
    lambda weight: mx.sym.L2Normalization(weight, mode="instance")])
def test_unit_rows_compiled_or_not(normalise, grad_req, monkeypatch):
    """The same of a row of zeros too: the small number under the root keeps all finite."""
    random = np.random.RandomState(1)
    arrays = {"weight": random.randn(31, 12).astype(np.float32)}
    arrays["weight"][3] = 0
    start, outer = random.randn(2, 31, 12).astype(np.float32)
    ours = normalise(WEIGHT)
    monkeypatch.setattr(operators, "COMPILED", None)
    theirs = operators.unit_rows(WEIGHT)
    monkeypatch.undo()
    assert "Custom" not in theirs.tojson()
    (unit, gradient), (expected, expected_gradient) = (
        run(symbol, arrays, head_gradients=[outer], grad_req=grad_req, start={"weight": start})
        for symbol in (ours, theirs))
    assert_close(*(list(outputs.values())[0] for outputs in (unit, expected)), 1e-6)
    np.testing.assert_allclose(gradient["weight"], expected_gradient["weight"], rtol=1e-5,
                               atol=1e-5)


def test_unit_rows_without_gradient():
    weight = mx.nd.array(np.random.RandomState(2).randn(4, 3))
    executor = operators.unit_rows(WEIGHT).bind(
        mx.cpu(), {"weight": weight}, grad_req="null")
    executor.forward(is_train=True)
    executor.backward([mx.nd.ones((4, 3))])
    np.testing.assert_allclose(mx.nd.norm(executor.outputs[0], axis=1).asnumpy(), 1, rtol=1e-6)


def test_unit_rows_is_refused_on_gpus():
    with pytest.raises(ValueError, match=r"use L2Normalization on gpu\(0\)"):
        operators._UnitRowsProp().create_operator(mx.gpu(0), None, None)


@needs_compiled
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_operators_do_not_get_into_each_other(order):
    """MXNet keeps one list of what backward needs for all Custom operators: the last one's."""
    arrays = dict(inputs(), weight=np.ones((2, 3), np.float32))
    symbols = [operator(0.9, 4), operators.unit_rows(WEIGHT)]
    executors = {}
    for place in order:
        executors[place] = symbols[place].simple_bind(mx.cpu(), **{
            name: arrays[name].shape for name in symbols[place].list_arguments()})
        executors[place].copy_params_from({name: mx.nd.array(arrays[name])
                                           for name in symbols[place].list_arguments()})
    for place in (0, 1):
        executors[place].forward(is_train=True)
        executors[place].backward([mx.nd.ones(value.shape) for value in executors[place].outputs])
    assert_close(executors[0].grad_dict["logits"].asnumpy(),
                 robust_gradient(arrays["logits"], arrays["label"], 0.9, 4), 1e-6)
    np.testing.assert_allclose(executors[1].grad_dict["weight"].asnumpy(), 0, atol=1e-6)
