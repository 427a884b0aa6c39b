"""``unequal doctor``: what this machine can do.

Works where MXNet is missing or broken: nothing here imports it before the versions are printed.
"""
import argparse
import ctypes
import importlib
import os
import platform
import sys
from importlib.util import find_spec
from typing import List, Optional

import unequal
from unequal.errors import InputError
from unequal.system import runtime

# (label, module, distribution)
MODULES = (
    ("numpy", "numpy", "numpy"),
    ("opencv", "cv2", "opencv-python-headless"),
    ("scikit-learn", "sklearn", "scikit-learn"),
)
MXNET_BUILDS = ("mxnet", runtime.CUDA_BUILD)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = ("Print versions, threads, GPUs and CUDA libraries; exit with 0 when "
                          "training is possible here, with 1 and the reason when not.")


def run(options: argparse.Namespace) -> None:
    problems: List[InputError] = []
    _row("python", f"{platform.python_version()} ({sys.executable})")
    _row("unequal", f"{unequal.__version__} ({os.path.dirname(unequal.__file__)})")
    _report_mxnet(problems)
    for label, name, distribution in MODULES:
        try:
            _row(label, importlib.import_module(name).__version__)
        except Exception as error:
            _row(label, f"cannot be imported ({_line(error)})")
            problems.append(InputError(f"{name} cannot be imported ({_line(error)}): install it "
                                       "again with `pip install --force-reinstall "
                                       f"{distribution}`."))
    _row("threads", f"{os.environ['OMP_NUM_THREADS']} (OMP_NUM_THREADS), "
                    f"{runtime.available_cpus()} processors")
    _report_gpus()
    _report_cuda_libraries()
    if not problems:
        _report_computing(problems)
    if not problems:
        _row("trains on", ", ".join(map(str, runtime.devices())))
    if problems:
        raise problems[0]


def _row(label: str, text: str) -> None:
    print(f"{label:<15} {text}".rstrip())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _report_mxnet(problems: List[InputError]) -> None:
    builds = [name for name in MXNET_BUILDS if runtime.installed(name)]
    build = ", ".join(f"{name} {runtime.installed(name)}" for name in builds)
    try:
        runtime.import_mxnet()
    except runtime.MXNetImportError as error:
        _row("mxnet", f"{build}; cannot be imported" if build else "not installed")
        problems.append(error)
        return
    import mxnet as mx

    from unequal.symbols import operators

    features = mx.runtime.Features()
    enabled = [label for feature, label in (
        ("CUDA", "CUDA"), ("CUDNN", "cuDNN"), ("MKLDNN", "oneDNN"), ("DIST_KVSTORE", "distributed"))
        if features.is_enabled(feature)]
    _row("mxnet", f"{mx.__version__} ({build or 'not from pip'}) with {', '.join(enabled)}")
    _row("weight rows", "by the compiled kernel" if operators.COMPILED else
         "by MXNet: there was no C compiler at installation, so step 3's head is slower")
    decoder = ("simplejpeg" if find_spec("simplejpeg") else
               "OpenCV (slower; simplejpeg is not installed)")
    writer = ("the compiled pass" if find_spec("unequal.data._planes") else
              "OpenCV (slower; there was no C compiler at installation)")
    _row("pictures", f"ordinary JPEGs decoded by {decoder}, batches written by {writer}")
    if len(builds) > 1:
        problems.append(InputError(
            "mxnet and mxnet-cu112 are both installed and overwrite each other's files: run `pip "
            "uninstall mxnet mxnet-cu112`, then install one of the extras [cpu] and [cu112]."))


def _report_gpus() -> None:
    version = runtime.driver_version()
    if version is not None:
        verdict = ""
        if runtime.fusion_refused():
            verdict = (f"; too old for fused kernels, which are off ({runtime.FUSION}=0)"
                       if os.environ.get(runtime.FUSION) == "0" else
                       f"; refuses fused kernels: training on a GPU fails at its first step unless "
                       f"{runtime.FUSION}=0")
        _row("driver", f"of CUDA {runtime.version_text(version)}{verdict}")
    gpus = runtime.visible_gpus()
    cuda_build = runtime.installed(runtime.CUDA_BUILD)
    for number, (name, capability) in enumerate(gpus):
        if not cuda_build:
            verdict = "unused, since only the extra [cu112] has code for GPUs"
            if not runtime.has_code_for(capability):
                verdict = "no MXNet extra has code for it"
        elif runtime.has_code_for(capability):
            verdict = "this MXNet has code for it"
            if runtime.multiplies_in_tf32(capability):
                verdict += "; multiplies float32 in TF32 unless NVIDIA_TF32_OVERRIDE=0"
        else:
            verdict = "this MXNet has no code for it and cannot run on it"
        _row(f"GPU {number}",
             f"{name}, compute capability {'.'.join(map(str, capability))}: {verdict}")
    if not gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        driver = ("the NVIDIA driver is there" if runtime.driver_loads()
                  else f"no NVIDIA driver: {runtime.DRIVER} is absent")
        value = "unset" if visible is None else f"'{visible}'"
        _row("GPUs", f"none visible ({driver}; CUDA_VISIBLE_DEVICES is {value})")


def _report_cuda_libraries() -> None:
    pip = runtime.find_cuda_libraries()
    places = []
    for _, name in runtime.CUDA_LIBRARIES:
        if name in pip:
            places.append((name, f"{pip[name]} (pip)"))
        elif _system_path(name):
            places.append((name, f"{_system_path(name)} (system)"))
        else:
            places.append((name, "missing"))
    if not runtime.installed(runtime.CUDA_BUILD) and all(text == "missing" for _, text in places):
        _row("CUDA libraries", "none (only the extra [cu112] needs them)")
        return
    _row("CUDA libraries", "")
    for name, text in places:
        print(f"  {name:<25} {text}")


def _system_path(name: str) -> Optional[str]:
    """Where the system's loader finds the library, None when it does not."""
    try:
        ctypes.CDLL(name)
        with open("/proc/self/maps") as maps:
            return next(line.split()[-1] for line in maps if name in line)
    except (OSError, StopIteration):
        return None


def _report_computing(problems: List[InputError]) -> None:
    """Run the small network on each GPU, or on the CPU where there is none, beside the CPU."""
    import mxnet as mx

    from unequal.models import device_check

    for device in device_check.gpus() or [mx.cpu(0)]:
        try:
            found = device_check.small_network(device)
        except mx.MXNetError as error:
            problems.append(InputError(f"MXNet cannot compute on {device} "
                                       f"({str(error).strip().splitlines()[-1]}); train with "
                                       "--devices cpu."))
            continue
        if found.good:
            _row(str(device), f"a small network agrees with the CPU: {found.error:.1g} (allowed "
                              f"{found.allowed:.0e})")
        else:
            problems.append(InputError(
                f"MXNet computes wrong results on {device} ({found.name} differs from the CPU's by "
                f"{found.error:.1g} of its largest value, allowed is {found.allowed:.0e}); train "
                "on another device (--devices)."))
