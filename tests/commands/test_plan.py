import os
import re
import subprocess
import sys

import mxnet as mx
import pytest

from unequal.commands import cli, plan
from unequal.symbols import heads, networks

MIB = 2 ** 20


def lines_of(capsys, *arguments):
    assert cli.main(["plan", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_parts_add_up_to_a_total_in_mib(capsys):
    lines = lines_of(capsys, "--network", "n8", "--classes", "2000", "--image-size", "32",
                     "--devices", "2")
    figures = [int(re.search(r"([\d,]+) MiB$", line).group(1).replace(",", ""))
               for line in lines[1:] if re.search(r"\s{2,}[\d,]+ MiB$", line)]
    assert lines[1].startswith("weights ")
    assert abs(sum(figures[:-1]) - figures[-1]) <= len(figures)  # each is rounded
    assert [line.split(":")[0] for line in lines if " images a GPU" in line] == [
        "11 GB", "16 GB", "24 GB", "32 GB"]


def test_known_figures():
    run = plan.Run("r50", 96499, 100)
    parts = plan.parts(run)
    assert parts["activations"] == 9089 * MIB
    assert plan.parts(run._replace(save_memory=True))["activations"] == 6219 * MIB
    symbol = networks.get_symbol("r50")
    shapes, _, _ = symbol.infer_shape(data=(1, 3, 112, 112))
    numbers = sum(mx.nd.empty(shape).size for shape in shapes[1:]) + 96499 * 512
    assert parts["weights"] == parts["gradients"] == parts["momentum"] == 4 * numbers


@pytest.mark.parametrize("capacity", [11, 24])
def test_the_largest_batch_fits_and_one_more_does_not(capacity):
    run = plan.Run("n8", 500000, 1, image_size=(32, 32))
    size = plan.largest_batch(run, capacity * 1024 * MIB)
    assert 0 < size < plan.MOST
    assert plan.total(run._replace(per_batch_size=size)) <= capacity * 1024 * MIB
    assert plan.total(run._replace(per_batch_size=size + 1)) > capacity * 1024 * MIB


def test_the_largest_batch_is_bounded():
    tiny = plan.Run("n8", 10, 1, image_size=(8, 8))
    assert plan.largest_batch(tiny, 32 * 1024 * MIB) == plan.MOST
    assert plan.largest_batch(tiny, MIB) == 0


def test_the_planner_says_the_same_of_a_module_that_training_binds():
    label = mx.sym.Variable("softmax_label")
    symbol = heads.softmax_head(networks.get_symbol("n8", depthwise_prelu=False), label, 3000, 512,
                                index=False)
    module = mx.mod.Module(symbol, label_names=["softmax_label"], context=[mx.cpu(0), mx.cpu(1)])
    module.bind([("data", (32, 3, 32, 32))], [("softmax_label", (32,))])
    text = module._exec_group.execs[0].debug_str()
    planned = plan.parts(plan.Run("n8", 3000, 16, 2, image_size=(32, 32)))["activations"]
    assert f"Total {planned // MIB} MB allocated" in text


def test_the_heads_of_step_3_plan_the_same():
    label = mx.sym.Variable("softmax_label")
    inputs = {"data": (16, 3, 32, 32), "softmax_label": (16,)}
    network = networks.get_symbol("n8", depthwise_prelu=False)
    nra = plan.bound_size(heads.nra_head(network, label, 50000, 512, beta=0.9, normalizer=32,
                                         on_cpu=False, index=False), inputs, True)
    step2 = plan.parts(plan.Run("n8", 50000, 16, image_size=(32, 32)))["activations"]
    assert abs(nra.planned - step2) <= 0.3 * step2


_MEASURE = """
import resource, sys
import unequal, mxnet as mx
from unequal.commands import plan
from unequal.symbols import heads
inputs = {"data": (64, 128), "softmax_label": (64,)}  # the head: convolutions on CPUs want more
symbol = heads.softmax_head(mx.sym.Variable("data"), mx.sym.Variable("softmax_label"), 40000, 128,
                            index=False)
def resident():
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * resource.getpagesize()
warm = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=8).simple_bind(
    mx.cpu(), data=(1, 8))
warm.forward(is_train=True)
mx.nd.waitall()
before = resident()
bound = plan.bound_size(symbol, inputs, True)
print(resident() - before)
executor = symbol.simple_bind(mx.cpu(), **inputs)
for name, array in (*executor.arg_dict.items(), *executor.aux_dict.items()):
    array[:] = 0.01
executor.forward(is_train=True)
executor.backward()
mx.nd.waitall()
print(resident() - before)
print(2 * sum(bound.parameters.values()) + bound.states + bound.inputs + bound.planned)
"""


_MEASURE_SPLIT = """
import unequal, mxnet as mx, numpy as np
from unequal.commands import plan
from unequal.symbols.margins import Margin
from unequal.training.split_head import SplitHead
from unequal.training.split_learner import _Shard
def peak():  # not ru_maxrss, which begins at that of the process that started this one
    peak, = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return 1024 * int(peak.split()[1])
rows, classes, size = 128, 40000, 64
warm = _Shard(mx.cpu(), 0, 8, 4, SplitHead(8, size, Margin(), 4, beta=0.9))
def step(shard, rows):
    logits = shard.forward(mx.nd.ones((rows, size)), np.zeros(rows))
    total = shard.exponentials(mx.nd.max(logits, axis=1))
    shard.backward(total, mx.nd.ones((rows,)), 0.9)
    mx.nd.waitall()
step(warm, 4)
before = peak()
shard = _Shard(mx.cpu(), 0, classes, rows, SplitHead(classes, size, Margin(), rows, beta=0.9))
for _ in range(2):  # in the first, the executor's last arrays are not there yet
    step(shard, rows)
print(peak() - before)
run = plan.Run("n8", classes, rows, model_parallel=True, emb_size=size, image_size=(32, 32))
network = plan.bound_size(plan._network(run), {"data": (rows, 3, 32, 32)}, True)
print(plan._training(run).planned - network.planned + 2 * 4 * classes * size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_split_heads_plan_is_what_its_arrays_take():
    done = subprocess.run([sys.executable, "-c", _MEASURE_SPLIT], text=True, check=True,
                          stdout=subprocess.PIPE, env=dict(os.environ, UNEQUAL_GPU_FORMS="1"))
    measured, planned = map(int, done.stdout.split())
    assert 0.8 * planned < measured < 1.2 * planned


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_planned_and_resident_memory_of_a_process():
    done = subprocess.run([sys.executable, "-c", _MEASURE], text=True, stdout=subprocess.PIPE,
                          check=True)
    planning, measured, planned = map(int, done.stdout.split())
    assert planning < 0.1 * planned  # asking takes no memory
    assert 0.8 * planned < measured < 1.3 * planned


@pytest.mark.parametrize("save_memory", [False, True])
def test_16_bit_arithmetic_halves_the_activations(save_memory):
    """Not quite: the classifier is float32, and each cast is an array that is kept."""
    run = plan.Run("r18", 1000, 32, save_memory=save_memory)
    half, whole = plan.parts(run._replace(dtype="float16")), plan.parts(run)
    assert half["weights"] == whole["weights"]
    assert 0.5 * whole["activations"] < half["activations"] < 0.6 * whole["activations"]


def test_bytes_by_type():
    data = mx.sym.Variable("data")
    narrow = mx.sym.cast(data, "float16")
    inputs = {"data": (30, 10)}
    assert plan._bytes_of_four(data * 2, inputs) == 1.0
    assert plan._bytes_of_four(narrow * 2, inputs) == 0.5
    wide = mx.sym.cast(mx.sym.slice_axis(narrow, axis=0, begin=0, end=10), "float32")
    assert plan._bytes_of_four(wide, inputs) == (300 + 100 + 2 * 100) / (2 * 500)


def test_the_store_gives_the_largest_array_a_device_of_its_own():
    assert plan.fullest({"a": 50, "b": 20, "c": 20, "d": 5}, 2) == 50
    assert plan.fullest({"a": 50, "b": 20, "c": 20, "d": 5}, 1) == 95


def test_store_buffers():
    weights = plan.parts(plan.Run("n8", 5000, 8, image_size=(32, 32)))["weights"]
    fc7 = 5000 * 512 * 4

    def store(devices, kind="device"):
        found = plan.parts(plan.Run("n8", 5000, 8, devices, kind, image_size=(32, 32)))
        return found["momentum"], found["store buffers"]

    assert store(1) == (weights, 0)
    assert store(8) == (fc7, 9 * fc7)  # the classifier is more than half of this network
    assert store(8, "nccl") == (weights, 2 * weights)


def test_the_classifier_spread_over_devices():
    run = plan.Run("n8", 100000, 8, 4, image_size=(32, 32))
    whole, spread = plan.parts(run), plan.parts(run._replace(model_parallel=True))
    rows = 100000 * 512 * 4
    assert whole["weights"] - spread["weights"] == rows * 3 // 4
    assert spread["store buffers"] < 0.1 * whole["store buffers"]  # the classifier is not in it
    network = plan.fullest(plan._stored(run._replace(model_parallel=True)), 4)
    assert spread["momentum"] == rows // 4 + network
    # As many logits on each device (all images, a fourth of the classes), and a fourth of the
    # weight's copy of unit length and of its gradient; and three more of (images, classes).
    logits = 3 * 4 * 32 * 25000
    assert (0.25 * whole["activations"] < spread["activations"] - logits
            < 0.3 * whole["activations"])


def test_an_unknown_network_is_one_sentence(capsys):
    assert cli.main(["plan", "--network", "r5", "--classes", "10"]) == 1
    assert capsys.readouterr().err.startswith("error: --network 'r5' is unknown; known are ")
