"""The form of the heads for GPUs beside that for CPUs, on CPU contexts; what checkpoints hold."""
import json

import mxnet as mx
import numpy as np
import pytest

from helpers.loops import assert_close, run
from unequal.symbols import heads, margins, networks
from unequal.symbols.margins import Margin

ROWS, CLASSES, SIZE = 12, 9, 6
EMBEDDING, LABEL = mx.sym.Variable("emb"), mx.sym.Variable("label")
MARGINS = [Margin(loss_type=0), Margin(1, 8.0), Margin(2, 8.0, 0.35), Margin(4, 8.0, 0.5),
           Margin(4, 8.0, 0.5, easy_margin=1), Margin(5, 8.0, 0.3, 0.9, 0.1)]
STEP4 = dict(head_size=6, tail_identities=2, images_per_identity=3, interweight=5.0)
HEADS = {"step 3": (heads.nra_head, {}), "step 4": (heads.unequal_head, STEP4)}
margins_of_every_type = pytest.mark.parametrize(
    "margin", MARGINS, ids=lambda margin: f"{margin.loss_type}-{margin.easy_margin}")


def inputs(seed=0):
    random = np.random.RandomState(seed)
    return {"emb": random.randn(ROWS, SIZE).astype(np.float32),
            "fc7_weight": random.randn(CLASSES, SIZE).astype(np.float32),
            "fc7_bias": random.randn(CLASSES).astype(np.float32),
            margins.SPHERE_BETA: np.array([2.0], np.float32),
            "label": random.randint(0, CLASSES, ROWS).astype(np.float32)}


def operators_of(symbol):
    return {node["op"] for node in json.loads(symbol.tojson())["nodes"]}


@margins_of_every_type
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("beta, threshold", [(0.7, 0.0), (0.7, 0.6)])
def test_form_for_gpus_is_that_for_cpus(name, margin, beta, threshold):
    build, options = HEADS[name]
    options = dict(options, beta=beta, normalizer=8, threshold=threshold)
    cpu, gpu = (run(build(EMBEDDING, LABEL, CLASSES, SIZE, margin, on_cpu=on_cpu, **options),
                    inputs(), ("label", margins.SPHERE_BETA)) for on_cpu in (True, False))
    assert set(cpu[0]) - set(gpu[0]) == {"noise_robust_probability"} and set(gpu[0]) < set(cpu[0])
    for output, value in gpu[0].items():
        assert_close(value, cpu[0][output], 3e-5)
    assert set(gpu[1]) == set(cpu[1]) and "fc7_weight" in gpu[1]
    for argument, value in gpu[1].items():
        assert_close(value, cpu[1][argument], 2e-5)  # log_softmax of oneDNN: 1e-5


@margins_of_every_type
def test_form_for_gpus_runs_no_python_and_searches_no_index(margin):
    given = EMBEDDING, LABEL, CLASSES, SIZE, margin
    options = dict(beta=0.9, normalizer=8, on_cpu=False)
    for symbol in (heads.softmax_head(*given, index=False),
                   heads.nra_head(*given, index=False, **options),
                   heads.unequal_head(*given, index=False, **options, **STEP4)):
        assert not operators_of(symbol) & {"argmax", "Custom", "topk", "one_hot"}
        assert "prediction_output" not in symbol.list_outputs()
    for symbol in (heads.softmax_head(*given), heads.nra_head(*given, **options)):
        assert "argmax" in operators_of(symbol)
        assert "prediction_output" in symbol.list_outputs()


def planned(symbol, shapes):
    """MXNet's planner: what a bound symbol needs beside its arguments and their gradients, MB."""
    executor = symbol.simple_bind(mx.cpu(), grad_req={
        name: "null" if name == "label" else "write" for name in symbol.list_arguments()}, **shapes)
    line, = (line for line in executor.debug_str().splitlines() if line.endswith("allocated"))
    return int(line.split()[1])


def test_form_for_gpus_needs_no_more_memory():
    shapes = dict(emb=(128, 16), label=(128,))
    cpu, gpu = (planned(heads.nra_head(EMBEDDING, LABEL, 40_000, 16, beta=0.9, normalizer=8,
                                       on_cpu=on_cpu, index=False), shapes)
                for on_cpu in (True, False))
    assert cpu >= 3 * 19  # a matrix of N x C is 19 MB
    assert gpu <= cpu


@pytest.mark.parametrize("build", [
    lambda *given: heads.softmax_head(*given),
    lambda *given: heads.nra_head(*given, beta=0.9, normalizer=8, on_cpu=False)])
def test_accuracy_needs_no_index(build):
    outputs, _ = run(build(EMBEDDING, LABEL, CLASSES, SIZE, Margin(margin_m=0.0)), inputs(3))
    own, largest = (next(value for name, value in outputs.items() if name.startswith(begin))
                    for begin in ("label", "largest"))
    right = outputs["prediction"] == inputs(3)["label"]
    assert 0 < right.sum() < ROWS
    np.testing.assert_array_equal(own >= largest, right)


def test_the_reference_finds_the_logits_of_step_3_1():
    """Its step 3.2 (train_NR.py) looks up blockgrad1_output in the saved symbol: (N, classes)."""
    label = mx.sym.Variable("softmax_label")
    saved = heads.nra_head(networks.get_symbol("n8", SIZE), label, CLASSES, SIZE, beta=0.9,
                           normalizer=8, composed=True)
    loaded = mx.sym.load_json(saved.tojson())
    logits = loaded.get_internals()["blockgrad1_output"]
    _, shapes, _ = logits.infer_shape(data=(4, 3, 32, 32), softmax_label=(4,))
    assert shapes == [(4, CLASSES)]
    internals = loaded.get_internals().list_outputs()
    assert len(internals) == len(set(internals))
    # And they are the margin logits.
    head = heads.nra_head(EMBEDDING, LABEL, CLASSES, SIZE, beta=0.9, normalizer=8, composed=True)
    arrays = inputs()
    outputs, _ = run(head, arrays)
    expected, _ = run(margins.margin_logits(EMBEDDING, LABEL, CLASSES, SIZE), arrays,
                      head_gradients=[np.zeros((ROWS, CLASSES))])
    np.testing.assert_array_equal(outputs["blockgrad1"], expected["logits"])
