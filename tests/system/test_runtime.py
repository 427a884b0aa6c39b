import ctypes
import logging
import os
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from unequal import InputError
from unequal.system import runtime


def python(code, *flags, **environment):
    """Run code in a fresh interpreter whose environment lacks what `import unequal` sets."""
    env = {name: value for name, value in os.environ.items() if name not in runtime.ENVIRONMENT}
    env.update(environment)
    return subprocess.run([sys.executable, *flags, "-c", code], env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# Preparing

def test_threads_are_the_processors_this_process_may_use():
    done = python("import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
                  "import unequal; print(os.environ['OMP_NUM_THREADS'])")
    assert done.stdout == "1\n", done.stderr
    assert runtime.available_cpus() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("name", sorted(runtime.ENVIRONMENT))
def test_variables_the_user_has_set_stay(name, monkeypatch):
    monkeypatch.setenv(name, "7")
    runtime.prepare()
    assert os.environ[name] == "7"


def test_numpy_has_its_bool_back():
    assert np.bool is bool


def test_import_and_binding_print_nothing():
    bind = ("import unequal, mxnet as mx; data = mx.sym.Variable('data')\n"
            "mx.sym.Convolution(data, kernel=(1, 1), num_filter=4).simple_bind("
            "mx.cpu(), data=(1, 4, 2, 2), grad_req='null')")
    done = python(bind, "-W", "error::DeprecationWarning:mxnet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # MXNet does print when asked to; else the line above would prove nothing.
    assert "MKLDNN is activated" in python(bind, MXNET_SUBGRAPH_VERBOSE="1").stderr


def test_mxnet_imported_first_is_reported_once():
    code = ("import numpy; vars(numpy).setdefault('bool', bool)\n"
            "import mxnet, unequal; unequal.system.runtime.prepare()")
    assert python(code, "-W", "always::RuntimeWarning").stderr.count("before unequal") == 1
    assert "before unequal" not in python(code, OMP_NUM_THREADS="1").stderr


def test_unequal_works_after_an_import_of_mxnet_that_failed():
    """With NumPy 1.24 or newer MXNet alone stops at np.bool; the README says so."""
    code = ("try:\n    import mxnet\n    print('works')\n"
            "except AttributeError as error:\n    print('bool' in str(error))\n"
            "import unequal, mxnet\nprint(mxnet.nd.ones(1).asscalar())")
    assert python(code).stdout.split() in (["True", "1.0"], ["works", "1.0"])


@pytest.mark.parametrize("version, loads", [("1.9.1", 1), (None, 0)])
def test_cuda_libraries_are_loaded_for_the_cuda_build_only(version, loads, monkeypatch):
    calls = []
    monkeypatch.setattr(runtime, "installed", lambda name: version)
    monkeypatch.setattr(runtime, "load_cuda_libraries", lambda: calls.append(1))
    runtime.prepare()
    assert len(calls) == loads


@pytest.mark.parametrize("driver, nvrtc, refused", [
    ("11020", "11080", "the NVIDIA driver knows CUDA 11.2 and refuses kernels compiled by NVRTC "
                       "11.8"),
    ("11080", "11080", None),
    ("12040", "11080", None),
    ("11020", "11020", None),
])
def test_fusion_needs_a_driver_as_new_as_nvrtc(driver, nvrtc, refused, stub_driver, monkeypatch):
    monkeypatch.setattr(runtime, "DRIVER", str(stub_driver))
    monkeypatch.setattr(runtime, "NVRTC", str(stub_driver))
    monkeypatch.setenv("STUB_DRIVER", driver)
    monkeypatch.setenv("STUB_NVRTC", nvrtc)
    assert (runtime.driver_version(), runtime.nvrtc_version()) == (int(driver), int(nvrtc))
    assert runtime.fusion_refused() == refused


@pytest.mark.parametrize("user, fusion, said", [(None, "0", 1), ("1", "1", 0), ("0", "0", 0)])
def test_fusion_is_switched_off_for_an_old_driver(user, fusion, said, monkeypatch, caplog):
    monkeypatch.setenv("MXNET_USE_FUSION", user or "")  # so that it is put back
    if user is None:
        monkeypatch.delenv("MXNET_USE_FUSION")
    monkeypatch.setattr(runtime, "installed", lambda name: "1.9.1")
    monkeypatch.setattr(runtime, "load_cuda_libraries", lambda: None)
    monkeypatch.setattr(runtime, "fusion_refused", lambda: "the driver is old")
    runtime.prepare()
    runtime.prepare()  # says it once
    assert os.environ["MXNET_USE_FUSION"] == fusion
    assert [message[:17] for message in caplog.messages] == ["the driver is old"] * said


def test_without_a_driver_or_nvrtc_nothing_is_switched_off(stub_driver, monkeypatch):
    monkeypatch.setattr(runtime, "DRIVER", "libabsent.so.1")
    monkeypatch.setattr(runtime, "NVRTC", "libabsent.so.1")
    assert runtime.driver_version() is None and runtime.nvrtc_version() is None
    assert runtime.fusion_refused() is None
    monkeypatch.setattr(runtime, "NVRTC", str(stub_driver))
    assert runtime.fusion_refused() is None


# Importing MXNet

def test_mxnet_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "mxnet", None)
    with pytest.raises(ImportError, match=r"not installed: .* extra \[cpu\].* or \[cu112\]"):
        runtime.import_mxnet()


def test_driver_missing(monkeypatch):
    monkeypatch.setattr(runtime, "installed", lambda name: "1.9.1")
    monkeypatch.setattr(runtime, "DRIVER", "libabsent.so.1")
    monkeypatch.setitem(sys.modules, "mxnet", None)
    with pytest.raises(ImportError) as info:
        runtime.import_mxnet()
    # Not installed at all is a different matter, whatever pip believes.
    assert "not installed" in str(info.value)
    monkeypatch.delitem(sys.modules, "mxnet")
    monkeypatch.setattr("builtins.__import__", _failing_import)
    with pytest.raises(ImportError, match="mxnet-cu112 is installed but libcuda.so.1 is absent"):
        runtime.import_mxnet()


def _failing_import(name, *arguments, original=__import__):
    if name == "mxnet":
        raise OSError("libsomething.so.1: cannot open\nshared object file")
    return original(name, *arguments)


def test_mxnet_broken(tmp_path):
    (tmp_path / "mxnet").mkdir()
    (tmp_path / "mxnet" / "__init__.py").write_text("raise OSError('libsomething.so.1:\\nabsent')")
    done = python("import unequal", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "MXNetImportError: MXNet is installed but cannot be imported (libsomething.so.1: " \
        "absent): install the extra [" in last
    # The command says the same in one line.
    done = subprocess.run([sys.executable, "-m", "unequal", "synth", "--help"],
                          env=dict(os.environ, PYTHONPATH=str(tmp_path)), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: MXNet is installed but cannot be imported (libsomething")
    assert done.stderr.count("\n") == 1


# CUDA libraries

def make_libraries(root, names):
    for folder, name in runtime.CUDA_LIBRARIES:
        if name in names:
            path = root / folder / "lib" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def test_libraries_are_loaded_after_those_they_need(tmp_path):
    make_libraries(tmp_path, [name for _, name in runtime.CUDA_LIBRARIES])
    calls = []
    loaded = runtime.load_cuda_libraries(
        [str(tmp_path)], load=lambda path, mode: calls.append((os.path.basename(path), mode)))
    assert len(loaded) == len(runtime.CUDA_LIBRARIES)
    assert {mode for _, mode in calls} == {ctypes.RTLD_GLOBAL}
    order = [name for name, _ in calls]
    # What `objdump -p` gives as NEEDED in the 11.8 wheels, among the wheels themselves.
    for library, needs in {
            "libcublas.so.11": ["libcublasLt.so.11"],
            "libcusolver.so.11": ["libcublas.so.11", "libcublasLt.so.11"],
            "libcudnn_ops_train.so.8": ["libcudnn_ops_infer.so.8"],
            "libcudnn_cnn_infer.so.8": ["libcudnn_ops_infer.so.8"],
            "libcudnn_cnn_train.so.8": ["libcudnn_ops_train.so.8", "libcudnn_cnn_infer.so.8"],
            "libcudnn_adv_infer.so.8": ["libcudnn_ops_infer.so.8"],
            "libcudnn_adv_train.so.8": ["libcudnn_ops_train.so.8", "libcudnn_adv_infer.so.8"],
    }.items():
        for need in needs:
            assert order.index(need) < order.index(library), (need, library)


def test_missing_and_broken_libraries_are_passed_over(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    make_libraries(first, ["libcublas.so.11", "libnccl.so.2"])
    make_libraries(second, ["libcublas.so.11", "libcudart.so.11.0"])

    def load(path, mode):
        if "nccl" in path:
            raise OSError("wrong ELF class")

    assert runtime.load_cuda_libraries([str(first), str(second)], load) == [
        str(second / "cuda_runtime" / "lib" / "libcudart.so.11.0"),
        str(first / "cublas" / "lib" / "libcublas.so.11")]


def test_libraries_are_looked_for_in_the_nvidia_packages(tmp_path, monkeypatch):
    make_libraries(tmp_path / "nvidia", ["libcublas.so.11"])
    (tmp_path / "nvidia" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert runtime.find_cuda_libraries() == {
        "libcublas.so.11": str(tmp_path / "nvidia" / "cublas" / "lib" / "libcublas.so.11")}


@pytest.mark.cuda
def test_the_cuda_build_imports_with_pips_libraries(stub_driver):
    if not runtime.installed(runtime.CUDA_BUILD):
        pytest.skip("needs the extra [cu112]")
    done = python(
        "import sys; sys.argv = ['unequal']; from unequal import runtime\n"
        "found = runtime.find_cuda_libraries()\n"
        "assert list(found) == [name for _, name in runtime.CUDA_LIBRARIES], found\n"
        "assert runtime.load_cuda_libraries() == list(found.values())\n"
        "runtime.import_mxnet(); import mxnet as mx\n"
        "assert mx.runtime.Features().is_enabled('CUDA')\n"
        "print(runtime.devices())",
        LD_LIBRARY_PATH=str(stub_driver.parent), CUDA_VISIBLE_DEVICES="0")
    assert done.stdout == "[cpu(0)]\n", done.stderr
    assert "CUDA_VISIBLE_DEVICES names 1 GPU but MXNet finds no GPU" in done.stderr


# GPUs

def test_visible_gpus_come_from_the_driver(stub_driver, monkeypatch):
    monkeypatch.setattr(runtime, "DRIVER", str(stub_driver))
    assert runtime.driver_loads()
    assert runtime.visible_gpus() == [("Stub A10", (8, 6)), ("Stub H100", (9, 0))]


def test_without_a_driver_no_gpu_is_visible(monkeypatch):
    monkeypatch.setattr(runtime, "DRIVER", "libabsent.so.1")
    assert not runtime.driver_loads()
    assert runtime.visible_gpus() == []


@pytest.mark.parametrize("capability, runs", [
    ((3, 7), False), ((5, 0), True), ((5, 2), True), ((6, 1), True), ((7, 0), True),
    ((7, 5), True), ((8, 0), True), ((8, 6), True), ((8, 9), True), ((9, 0), False),
    ((10, 0), False), ((12, 0), False)])
def test_machine_code_runs_on_the_same_major_version(capability, runs):
    assert runtime.has_code_for(capability) is runs


# Devices

@pytest.mark.parametrize("spec, contexts", [
    ("cpu", [mx.cpu(0)]),
    ("cpu:1", [mx.cpu(0)]),
    ("cpu:2", [mx.cpu(0), mx.cpu(1)]),
    ("gpu:0,1", [mx.gpu(0), mx.gpu(1)]),
    ("gpu:1", [mx.gpu(1)]),
])
def test_devices_by_flag(spec, contexts, monkeypatch):
    monkeypatch.setattr(runtime, "usable_gpus", lambda: (2, "MXNet finds 2 GPUs"))
    assert runtime.devices(spec) == contexts


@pytest.mark.parametrize("spec", ["", "gpu", "gpu:", "gpu:0,", "gpu:0,0", "cpu:0", "cpu:-1", "0",
                                  "cpu:2\n", "gpu:-1", "tpu:0"])
def test_other_forms_are_refused(spec):
    with pytest.raises(InputError, match="use `cpu`, `cpu:N` .* or `gpu:0,1`"):
        runtime.devices(spec)


def test_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(runtime, "usable_gpus", lambda: (2, "MXNet finds 2 GPUs"))
    with pytest.raises(InputError, match="spec gpu:0,2: MXNet finds 2 GPUs"):
        runtime.devices("gpu:0,2")


@pytest.mark.parametrize("variable, usable, contexts, message", [
    (None, 2, [mx.cpu(0)], ""),
    ("", 2, [mx.cpu(0)], ""),
    ("0", 2, [mx.gpu(0)], ""),
    ("4,5", 2, [mx.gpu(0), mx.gpu(1)], ""),
    ("0,1,2", 2, [mx.gpu(0), mx.gpu(1)],
     "CUDA_VISIBLE_DEVICES names 3 GPUs but reason: computing on 2 of them."),
    ("0,1", 0, [mx.cpu(0)],
     "CUDA_VISIBLE_DEVICES names 2 GPUs but reason: computing on the CPU."),
])
def test_devices_by_environment(variable, usable, contexts, message, monkeypatch, caplog):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    monkeypatch.setattr(runtime, "usable_gpus", lambda: (usable, "reason"))
    with caplog.at_level(logging.WARNING):
        assert runtime.devices() == contexts
    assert caplog.messages == ([message] if message else [])


@pytest.fixture
def cuda_features(monkeypatch):
    class Features:
        def is_enabled(self, name):
            return name == "CUDA"

    monkeypatch.setattr(mx.runtime, "Features", Features)


def test_num_gpus_may_raise(cuda_features, monkeypatch):
    def num_gpus():
        raise mx.MXNetError("no driver")

    monkeypatch.setattr(mx.context, "num_gpus", num_gpus)
    assert runtime.usable_gpus() == (0, "MXNet finds no GPU")


def test_gpus_without_code_are_not_used(cuda_features, stub_driver, monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 2)
    monkeypatch.setattr(runtime, "DRIVER", str(stub_driver))
    count, reason = runtime.usable_gpus()
    assert count == 1
    assert reason == "MXNet has no code for GPU 1 (Stub H100, compute capability 9.0)"


def test_the_cpu_build_uses_no_gpu():
    if mx.runtime.Features().is_enabled("CUDA"):
        pytest.skip("this is the CUDA build")
    assert runtime.usable_gpus()[0] == 0
    with pytest.raises(InputError, match="built without CUDA"):
        runtime.devices("gpu:0")
