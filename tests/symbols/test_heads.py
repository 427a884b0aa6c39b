"""The form of the heads for GPUs beside that for CPUs, on CPU contexts; what checkpoints hold."""
import json
import os
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from helpers import TESTS, gradients
from helpers.gradients import (
    CLASSES,
    EMBEDDING,
    HEADS,
    LABEL,
    MARGINS,
    ROWS,
    SIZE,
    STEP4,
    inputs,
)
from helpers.loops import assert_close, run
from unequal.symbols import heads, margins, networks
from unequal.symbols.margins import Margin

margins_of_every_type = pytest.mark.parametrize(
    "margin", MARGINS, ids=lambda margin: f"{margin.loss_type}-{margin.easy_margin}")


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
        assert_close(value, cpu[1][argument], 2e-5)  # oneDNN's log_softmax: 1e-5, see below


@pytest.fixture(scope="module")
def measured():
    """In MXNet's own operators, which GPUs run too."""
    done = subprocess.run([sys.executable, TESTS / "helpers" / "gradients.py"], check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(
                              os.environ, MXNET_MKLDNN_ENABLED="0", PYTHONPATH=str(TESTS)))
    return json.loads(done.stdout)


def test_gradients_of_both_forms_by_float64(measured):
    """Within 1e-6 of float64 and of each other, 7e-7 measured.

    oneDNN's log_softmax, which CPUs take for the form for GPUs, is off by up to 1e-5.
    """
    found = {key: measured[key] for key in ("cpu", "gpu", "between")}
    assert 0 < max(found.values()) < 1e-6, found


def test_gradients_with_activations_computed_anew_are_the_same_bits(measured):
    """`--save-memory 1`. (oneDNN computes in another layout what is computed anew.)"""
    assert measured["computed anew"] == 0 and measured["another picture"] > 1e-3


@margins_of_every_type
@pytest.mark.parametrize("name", HEADS)
def test_gradients_by_float64_with_onednn(name, margin):
    found = gradients.errors(name, margin)
    assert found["cpu"] < 1e-6 and found["gpu"] < 2e-5, found


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
