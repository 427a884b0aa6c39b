"""The GPU suite on CPU contexts: the same code, and faults that it must find."""
import importlib.util

import mxnet as mx
import numpy as np
import pytest

from helpers import TESTS
from unequal.models import device_check
from unequal.symbols import heads

_spec = importlib.util.spec_from_file_location("suite", str(TESTS / "gpu" / "suite.py"))
suite = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(suite)


def test_every_head_and_network_agrees():
    for name, run in suite.in_process(mx.cpu(1)):
        found = run()
        assert found.good, (name, found)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    return suite.Stages(str(tmp_path_factory.mktemp("gpu")))


def test_every_case_by_scripts_agrees(stages):
    lines = list(suite.table(suite.by_scripts(stages, "cpu:2")))
    assert all(good for _, good in lines), "\n".join(line for line, _ in lines)
    assert len(lines) == 8


def test_the_forms_for_gpus_are_run(stages, monkeypatch):
    seen = []
    right = heads.nra_head
    monkeypatch.setattr(heads, "nra_head",
                        lambda *a, **k: seen.append(k["on_cpu"]) or right(*a, **k))
    stages.train("relusoft", "cpu", True, "--max-steps", "1", "--pretrained", stages.start())
    assert set(seen) == {False}


def test_a_wrong_step_is_found(stages, monkeypatch):
    stages.start()
    right = mx.optimizer.SGD
    rates = iter([1.0, 1.01])
    monkeypatch.setattr(mx.optimizer, "SGD", lambda **kinds: right(**dict(
        kinds, learning_rate=0.1 * next(rates))))
    (line, good), = suite.table([("case", lambda: stages.compare("softmax", "cpu", "cpu"))])
    assert not good and "FAIL at momentum:" in line


def test_nccl_without_gpus_is_one_sentence(stages, capsys):
    with pytest.raises(RuntimeError, match="error: --kv-store nccl: NCCL adds gradients between "
                                           r"GPUs, and this run is on cpu\(0\); use the default"):
        stages.train("softmax", "cpu:2", True, "--max-steps", "1", "--kv-store", "nccl")


def test_an_error_is_a_line(monkeypatch):
    def fail():
        raise mx.MXNetError("out of\nmemory")

    assert list(suite.table([("case", fail)])) == [(f"{'case':34s} FAIL out of memory", False)]


def test_sgd_makes_the_same_update_of_several_arrays_in_one_call():
    """On GPUs MXNet updates four arrays at a time (aggregate_num), on CPUs we have it take one."""
    random = np.random.RandomState(0)
    drawn = [random.randn(2, 7, 3).astype(np.float32) for _ in range(9)]

    def updated(count):
        sgd = mx.optimizer.SGD(learning_rate=0.1, momentum=0.9, wd=5e-4, rescale_grad=0.5)
        sgd.aggregate_num = count
        updater = mx.optimizer.get_updater(sgd)
        weights = [mx.nd.array(value[0]) for value in drawn]
        for _ in range(3):
            for start in range(0, len(weights), count):
                part = list(range(start, min(start + count, len(weights))))
                if count == 1:
                    updater(part[0], mx.nd.array(drawn[part[0]][1]), weights[part[0]])
                else:
                    updater(part, [mx.nd.array(drawn[i][1]) for i in part],
                            [weights[i] for i in part])
        return [weight.asnumpy() for weight in weights]

    for one, four in zip(updated(1), updated(4)):
        assert np.array_equal(one, four)
    assert device_check.relative_error(updated(4)[0], drawn[0][0]) > 0.01
