"""Preparations for ``import mxnet``, and the devices of this machine.

MXNet reads its thread count from the environment when it is loaded, uses ``np.bool``, which numpy
1.24 removed, and (in the CUDA build) links against CUDA 11 libraries by name.
"""
import ctypes
import importlib.util
import logging
import os
import pickle
import re
import sys
import warnings
from importlib import metadata
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    NoReturn,
    Optional,
    Sequence,
    Tuple,
)

from unequal.errors import ArgumentError, InputError, install_hint

if TYPE_CHECKING:  # mxnet is imported by import_mxnet(), after prepare()
    import mxnet as mx

logger = logging.getLogger(__name__)

MAX_PIXELS = 1 << 27  # of a picture: 400 MB decoded

# Set before the import, unless the user has set them. By default MXNet uses half of the processors,
# so that two cores would train at half speed, and logs at every bind that oneDNN is in use. OpenCV
# reads its limit when it is imported.
ENVIRONMENT: Dict[str, Callable[[], str]] = {
    "OMP_NUM_THREADS": lambda: str(available_cpus()),
    "MXNET_SUBGRAPH_VERBOSE": lambda: "0",
    "OPENCV_IO_MAX_IMAGE_PIXELS": lambda: str(MAX_PIXELS),
}

CUDA_BUILD = "mxnet-cu112"
DRIVER = "libcuda.so.1"
NVRTC = "libnvrtc.so.11.2"
FUSION = "MXNET_USE_FUSION"
# Machine code in mxnet-cu112 1.9.1; it holds no PTX a driver could compile for other GPUs.
CUDA_BUILD_CODE = ((5, 0), (6, 0), (7, 0), (8, 0), (8, 6))

# (folder under site-packages/nvidia, library), each after the ones it needs. Once a library is
# loaded, libmxnet.so finds it by name, wherever the file is. The parts of cuDNN and the builtins
# of nvrtc are opened by name at first use, so they must be loaded too.
CUDA_LIBRARIES = (
    ("cuda_runtime", "libcudart.so.11.0"),
    ("cublas", "libcublasLt.so.11"),
    ("cublas", "libcublas.so.11"),
    ("cusparse", "libcusparse.so.11"),
    ("cusolver", "libcusolver.so.11"),
    ("cufft", "libcufft.so.10"),
    ("curand", "libcurand.so.10"),
    ("cuda_nvrtc", "libnvrtc-builtins.so.11.8"),
    ("cuda_nvrtc", NVRTC),
    ("nvtx", "libnvToolsExt.so.1"),
    ("nccl", "libnccl.so.2"),
    ("cudnn", "libcudnn.so.8"),
    ("cudnn", "libcudnn_ops_infer.so.8"),
    ("cudnn", "libcudnn_ops_train.so.8"),
    ("cudnn", "libcudnn_cnn_infer.so.8"),
    ("cudnn", "libcudnn_cnn_train.so.8"),
    ("cudnn", "libcudnn_adv_infer.so.8"),
    ("cudnn", "libcudnn_adv_train.so.8"),
)


class MXNetImportError(InputError, ImportError):
    """MXNet cannot be imported; the text says in one sentence what to install."""


def available_cpus() -> int:
    """Number of processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def installed(distribution: str) -> Optional[str]:
    """Version of an installed pip distribution, None when it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def prepare() -> None:
    """Set MXNet's environment, put ``np.bool`` back and load pip's CUDA libraries.

    Variables the user has set are left alone. Harmless when called twice.
    """
    if "mxnet" in sys.modules and "OMP_NUM_THREADS" not in os.environ:
        warnings.warn(
            "mxnet was imported before unequal and has chosen its number of threads (half of the "
            "processors): import unequal first, or set OMP_NUM_THREADS",
            RuntimeWarning, stacklevel=3)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value())
    import numpy

    # Not hasattr(): asking for np.bool warns in numpy 1.20-1.23.
    vars(numpy).setdefault("bool", bool)
    if installed(CUDA_BUILD):
        load_cuda_libraries()
        reason = fusion_refused()
        if reason and FUSION not in os.environ:
            os.environ[FUSION] = "0"
            logger.warning("%s: pointwise fusion is switched off (%s=0), which costs some speed; a "
                        "newer driver brings it back.", reason, FUSION)
    if os.environ.get("DMLC_ROLE") == "server":
        pickle.loads = _refuse_pickle  # type: ignore[assignment]


def _refuse_pickle(*_: Any) -> NoReturn:
    # MXNet's server runs inside `import mxnet` and unpickles an optimizer, which anyone who reaches
    # its port can send, and which can run any code. Our server only adds gradients and needs none.
    raise pickle.UnpicklingError("refused: this server takes no optimizer")


def find_cuda_libraries(roots: Optional[Iterable[str]] = None) -> Dict[str, str]:
    """Paths of the CUDA libraries that pip has installed, in the order they must be loaded.

    Parameters
    ----------
    roots : iterable of str, optional
        Folders to look in, the first that has a library wins; default: the ``nvidia`` folders of
        this interpreter.

    Returns
    -------
    dict
        Library name -> path; without those that are missing.
    """
    if roots is None:
        spec = importlib.util.find_spec("nvidia")
        roots = (spec.submodule_search_locations or ()) if spec else ()
    folders, found = list(roots), {}
    for folder, name in CUDA_LIBRARIES:
        paths = [os.path.join(root, folder, "lib", name) for root in folders]
        path = next(filter(os.path.exists, paths), None)
        if path:
            found[name] = path
    return found


def load_cuda_libraries(roots: Optional[Iterable[str]] = None,
                        load: Callable[..., Any] = ctypes.CDLL) -> List[str]:
    """Load pip's CUDA libraries so that libmxnet.so finds them; returns the paths loaded.

    A library that is missing or does not load is no error here: a system-wide CUDA may have it,
    and if not, importing MXNet says which one it misses.
    """
    loaded = []
    for path in find_cuda_libraries(roots).values():
        try:
            load(path, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            logger.debug("%s does not load: %s", path, error)
        else:
            loaded.append(path)
    return loaded


def driver_loads() -> bool:
    """Whether the NVIDIA driver's library can be loaded."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


def driver_version() -> Optional[int]:
    """The newest CUDA version that the driver supports, 1000 * major + 10 * minor, or None.

    None without a driver. Needs no GPU. Driver 520 is the first to support CUDA 11.8 (11080).
    """
    return _asked_version(DRIVER, "cuDriverGetVersion", 1)


def nvrtc_version() -> Optional[int]:
    """The CUDA version of NVRTC, which MXNet compiles fused kernels with; None when it is absent.

    pip's version 11.8 has the file name that MXNet 1.9.1 looks for, ``libnvrtc.so.11.2``, as all
    of NVIDIA's versions since 11.2 have.
    """
    return _asked_version(NVRTC, "nvrtcVersion", 2)


def _asked_version(library: str, function: str, numbers: int) -> Optional[int]:
    """The version that a library's function returns, in one number or as major and minor."""
    values = [ctypes.c_int() for _ in range(numbers)]
    try:
        failed = getattr(ctypes.CDLL(library), function)(*map(ctypes.byref, values))
    except (OSError, AttributeError):
        return None
    if failed:
        return None
    return values[0].value if numbers == 1 else 1000 * values[0].value + 10 * values[1].value


def version_text(version: int) -> str:
    """11080 as ``11.8``."""
    return f"{version // 1000}.{version % 1000 // 10}"


def fusion_refused() -> Optional[str]:
    """Why this driver refuses the kernels that MXNet fuses, None when it takes them (or is absent).

    At the first training step MXNet compiles chains of pointwise operators to PTX with NVRTC
    (src/operator/fusion/fused_op.cu), and the driver compiles the PTX. A driver accepts the PTX of
    its own CUDA version or an older one (CUDA's minor version compatibility excludes PTX).
    """
    driver, nvrtc = driver_version(), nvrtc_version()
    if driver is None or nvrtc is None or driver >= nvrtc:
        return None
    return (f"the NVIDIA driver knows CUDA {version_text(driver)} and refuses kernels compiled by "
            f"NVRTC {version_text(nvrtc)}")


def multiplies_in_tf32(capability: Tuple[int, int]) -> bool:
    """Whether a GPU multiplies float32 matrices in TF32 (10 bits of mantissa instead of 23).

    Ampere (8.0) and later do: cuDNN by default, and matrix products because MXNet 1.9.1 asks for
    it. NVIDIA_TF32_OVERRIDE=0, which NVIDIA's libraries read when they are loaded, prevents it.
    """
    return capability >= (8, 0) and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"


def import_mxnet() -> None:
    """Import mxnet, or explain in one sentence what is missing.

    Raises
    ------
    MXNetImportError
        An ImportError that is also an InputError: the command line prints it as one line.
    """
    try:
        with warnings.catch_warnings():
            # mxnet 1.9.1 imports parts of numpy and distutils that are deprecated now.
            warnings.filterwarnings("ignore", module=r"mxnet\b")
            import mxnet  # noqa: F401
    except Exception as error:  # a broken library raises OSError, an old numpy AttributeError ...
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ModuleNotFoundError) and error.name == "mxnet":
            text = f"MXNet is not installed: {install_hint('cpu')}, or [cu112] for NVIDIA GPUs."
        elif installed(CUDA_BUILD) and not driver_loads():
            text = ("mxnet-cu112 is installed but libcuda.so.1 is absent: install the NVIDIA "
                    f"driver, or run `pip uninstall mxnet-cu112` and {install_hint('cpu')}.")
        else:
            extra = "cu112" if installed(CUDA_BUILD) else "cpu"
            text = (f"MXNet is installed but cannot be imported ({reason}): {install_hint(extra)}, "
                    "which brings what MXNet needs; `unequal doctor` shows what there is.")
        raise MXNetImportError(text) from error


def visible_gpus() -> List[Tuple[str, Tuple[int, int]]]:
    """The GPUs that the driver shows to this process; it obeys CUDA_VISIBLE_DEVICES.

    Asks the driver, not MXNet, so that it works without MXNet.

    Returns
    -------
    list of tuple
        (name, (major, minor)) of each, the pair being its compute capability; empty without a
        driver.
    """
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return []
    count, value = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    gpus = []
    for device in range(count.value):
        name = ctypes.create_string_buffer(256)
        driver.cuDeviceGetName(name, len(name), device)
        capability = []
        for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
            driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            capability.append(value.value)
        gpus.append((name.value.decode(errors="replace"), (capability[0], capability[1])))
    return gpus


def has_code_for(capability: Sequence[int]) -> bool:
    """Whether mxnet-cu112 can run on a GPU of this compute capability ``(major, minor)``.

    Machine code runs on the same major version with an equal or higher minor one (CUDA's rule).
    """
    major, minor = capability
    return any(major == built and minor >= least for built, least in CUDA_BUILD_CODE)


def usable_gpus() -> Tuple[int, str]:
    """How many GPUs MXNet can compute on, and why not more."""
    import mxnet as mx

    if not mx.runtime.Features().is_enabled("CUDA"):
        return 0, "this MXNet is built without CUDA (the extra [cu112] has it)"
    try:
        count = mx.context.num_gpus()
    except mx.MXNetError:  # no driver, or one too old
        return 0, "MXNet finds no GPU"
    for number, (name, capability) in enumerate(visible_gpus()[:count]):
        if not has_code_for(capability):
            kind = ".".join(map(str, capability))
            return number, (f"MXNet has no code for GPU {number} ({name}, compute capability "
                            f"{kind})")
    return count, f"MXNet finds {count or 'no'} GPU{'' if count == 1 else 's'}"


def wants_cpu_forms(contexts: "Sequence[mx.Context]") -> bool:
    """Whether symbols and the optimizer use their CPU form on these devices.

    UNEQUAL_GPU_FORMS=1 uses the GPU form on CPU contexts, so that tests without a GPU run the
    branches that are for GPUs (`make test-gpu`). The results are the same; it is slower.
    """
    return contexts[0].device_type == "cpu" and os.environ.get("UNEQUAL_GPU_FORMS") != "1"


def devices(spec: Optional[str] = None) -> "List[mx.Context]":
    """The devices to compute on.

    Parameters
    ----------
    spec : str, optional
        ``cpu``, ``cpu:N`` (N CPU contexts that share the processors) or ``gpu:0,1`` (flag
        ``--devices``). Default: as the reference, one GPU per entry of CUDA_VISIBLE_DEVICES;
        the CPU when that is empty, unset or names no GPU that MXNet can use.

    Returns
    -------
    list of mxnet.Context

    Raises
    ------
    InputError
        When ``spec`` has another form or names a GPU that MXNet cannot use.
    """
    import mxnet as mx

    if spec is None:
        return _default_devices()
    cpu = re.fullmatch(r"cpu(?::([1-9]\d*))?", spec)
    if cpu:
        return [mx.cpu(number) for number in range(int(cpu.group(1) or 1))]
    gpu = re.fullmatch(r"gpu:(\d+(?:,\d+)*)", spec)
    numbers = [int(number) for number in gpu.group(1).split(",")] if gpu else []
    if not gpu or len(set(numbers)) != len(numbers):
        raise ArgumentError(f"spec {spec}: use `cpu`, `cpu:N` for N CPU contexts, or `gpu:0,1` for "
                            "GPUs by number, each once.", "spec")
    count, reason = usable_gpus()
    if max(numbers) >= count:
        raise ArgumentError(f"spec {spec}: {reason}; `unequal doctor` says more.", "spec")
    return [mx.gpu(number) for number in numbers]


def _default_devices() -> "List[mx.Context]":
    import mxnet as mx

    named = [entry for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
             if entry.strip()]
    if not named:
        return [mx.cpu(0)]
    count, reason = usable_gpus()
    if count < len(named):
        logger.warning("CUDA_VISIBLE_DEVICES names %d GPU%s but %s: computing on %s.",
                    len(named), "" if len(named) == 1 else "s", reason,
                    f"{count} of them" if count else "the CPU")
    return [mx.gpu(number) for number in range(min(count, len(named)))] or [mx.cpu(0)]
