import os
import subprocess
import sys

import mxnet as mx
import pytest

from unequal import InputError
from unequal.commands import cli, doctor
from unequal.models import device_check
from unequal.system import runtime


def command(**environment):
    return subprocess.run([sys.executable, "-m", "unequal", "doctor"], text=True,
                          env=dict(os.environ, **environment),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def rows(output):
    return {line[:15].strip(): line[16:] for line in output.splitlines()}


def test_a_machine_that_can_train():
    done = command(OMP_NUM_THREADS="3", CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stderr) == (0, "")
    table = rows(done.stdout)
    assert table["mxnet"].startswith("1.9.1 (mxnet")
    assert table["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    assert table["threads"].startswith("3 (OMP_NUM_THREADS)")
    assert table["cpu(0)"].startswith("a small network agrees with the CPU: ")
    assert table["trains on"] == "cpu(0)"
    for name in ("unequal", "numpy", "opencv", "scikit-learn"):
        assert table[name][0].isdigit()


def test_it_works_without_mxnet(tmp_path):
    (tmp_path / "mxnet.py").write_text("raise OSError('libsomething.so.1: absent')")
    done = command(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: MXNet is installed but cannot be imported (libsomething")
    assert done.stderr.count("\n") == 1
    table = rows(done.stdout)
    assert "cannot be imported" in table["mxnet"]
    assert table["numpy"][0].isdigit()
    assert "trains on" not in table


def test_another_module_is_broken(tmp_path):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: absent')")
    done = command(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cv2 cannot be imported (libGL.so.1: absent)" in done.stderr
    assert "--force-reinstall opencv-python-headless" in done.stderr


@pytest.mark.parametrize("version, verdicts", [
    ("1.9.1", ["this MXNet has code for it; multiplies float32 in TF32 unless "
               "NVIDIA_TF32_OVERRIDE=0",
               "this MXNet has no code for it and cannot run on it"]),
    (None, ["unused, since only the extra [cu112] has code for GPUs",
            "no MXNet extra has code for it"]),
])
def test_gpus_and_whether_mxnet_can_run_on_them(version, verdicts, stub_driver, monkeypatch,
                                                capsys):
    monkeypatch.setattr(runtime, "DRIVER", str(stub_driver))
    monkeypatch.setattr(runtime, "installed", lambda name: version)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    doctor._report_gpus()
    assert capsys.readouterr().out.splitlines() == [
        "driver          of CUDA 11.8",
        "GPU 0           Stub A10, compute capability 8.6: " + verdicts[0],
        "GPU 1           Stub H100, compute capability 9.0: " + verdicts[1]]


@pytest.mark.parametrize("fusion, verdict", [
    ("0", "; too old for fused kernels, which are off (MXNET_USE_FUSION=0)"),
    ("1", "; refuses fused kernels: training on a GPU fails at its first step unless "
          "MXNET_USE_FUSION=0"),
])
def test_a_driver_too_old_for_fused_kernels(fusion, verdict, stub_driver, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "DRIVER", str(stub_driver))
    monkeypatch.setattr(runtime, "NVRTC", str(stub_driver))
    monkeypatch.setenv("STUB_DRIVER", "11040")
    monkeypatch.setenv("MXNET_USE_FUSION", fusion)
    doctor._report_gpus()
    assert capsys.readouterr().out.splitlines()[0] == "driver          of CUDA 11.4" + verdict


def test_every_gpu_is_compared_with_the_cpu(monkeypatch, capsys):
    # CPU contexts stand for GPUs.
    monkeypatch.setattr(device_check, "gpus", lambda: [mx.cpu(0), mx.cpu(1)])
    doctor._report_computing([])
    for number, line in enumerate(capsys.readouterr().out.splitlines()):
        assert line.startswith(f"cpu({number})          a small network agrees with the CPU")
    assert number == 1


def test_a_gpu_that_computes_otherwise_is_a_problem(monkeypatch):
    monkeypatch.setattr(device_check, "small_network",
                        lambda device: device_check.Agreement("loss", 0.2, 1e-3))
    problems = []
    doctor._report_computing(problems)
    assert str(problems[0]) == (
        "MXNet computes wrong results on cpu(0) (loss differs from the CPU's by 0.2 of its largest "
        "value, allowed is 1e-03); train on another device (--devices).")


def test_a_gpu_that_cannot_run_a_symbol_is_a_problem(monkeypatch):
    def fail(device):
        raise mx.MXNetError("Traceback\ncuModuleLoadData failed: CUDA_ERROR_UNSUPPORTED_PTX")

    monkeypatch.setattr(device_check, "small_network", fail)
    problems = []
    doctor._report_computing(problems)
    assert "MXNet cannot compute on cpu(0) (cuModuleLoadData failed: CUDA" in str(problems[0])


def test_no_gpu(monkeypatch, capsys):
    monkeypatch.setattr(runtime, "DRIVER", "libabsent.so.1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    doctor._report_gpus()
    assert capsys.readouterr().out == ("GPUs            none visible (no NVIDIA driver: "
                                       "libabsent.so.1 is absent; CUDA_VISIBLE_DEVICES is '0')\n")


def test_cuda_libraries_and_where_they_are(monkeypatch, capsys):
    # libc stands for a library that the system has.
    monkeypatch.setattr(runtime, "CUDA_LIBRARIES", (
        ("cublas", "libcublas.so.11"), ("cuda_runtime", "libc.so.6"), ("nccl", "libabsent.so.2")))
    monkeypatch.setattr(runtime, "find_cuda_libraries", lambda: {"libcublas.so.11": "/p/libcublas"})
    doctor._report_cuda_libraries()
    title, pip, system, missing = capsys.readouterr().out.splitlines()
    assert title == "CUDA libraries"
    assert pip.split() == ["libcublas.so.11", "/p/libcublas", "(pip)"]
    assert system.split()[0] == "libc.so.6"
    assert system.split()[1].endswith("/libc.so.6")
    assert system.split()[2] == "(system)"
    assert missing.split() == ["libabsent.so.2", "missing"]


def test_two_builds_of_mxnet_are_a_problem(monkeypatch, capsys):
    monkeypatch.setattr(runtime, "installed", lambda name: "1.9.1")
    with pytest.raises(InputError, match="both installed and overwrite"):
        doctor.run(None)
    assert "mxnet 1.9.1, mxnet-cu112 1.9.1" in capsys.readouterr().out


def test_it_is_a_subcommand():
    assert cli.COMMANDS["doctor"][0] == "unequal.commands.doctor"
