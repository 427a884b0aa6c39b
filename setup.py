"""Packaging. The three top-level folders become one package (see package_dir)."""
import pathlib

from setuptools import setup

here = pathlib.Path(__file__).parent

# Why each bound is what it is:
#   numpy                 >=1.19: random.Generator and positional APIs we use; <2: mxnet 1.9.1 uses
#                         names that numpy 2 removed (np.PZERO). 1.24 and later lack np.bool, which
#                         `import unequal` puts back before it imports mxnet.
#   opencv-python-headless  headless: no libGL needed; >=4.5: first with wheels for every Python
#                         from 3.8; <4.12: from 4.12 on it needs numpy 2.
#   scikit-learn          >=0.24: first with Python 3.8-3.9 wheels and the KFold/PCA we use.
#   easydict              >=1.9: first that keeps nested lists intact.
#   tqdm                  >=4.50: contrib.logging, used to keep log lines off the progress bar.
#   setuptools            mxnet 1.9.1 imports distutils, which Python 3.12 no longer has;
#                         setuptools brings it back. 81 and later warn about pkg_resources only.
INSTALL = [
    "numpy>=1.19,<2",
    "opencv-python-headless>=4.5,<4.12",
    "scikit-learn>=0.24",
    "easydict>=1.9",
    "tqdm>=4.50",
    "setuptools; python_version>='3.12'",
]

# mxnet-cu112 needs the CUDA 11 libraries; pip's are loaded by `import unequal` (see runtime.py).
# 11.* : the wheel is linked against CUDA 11's sonames. cudnn 8.*: against libcudnn.so.8.
CUDA = [
    "nvidia-cuda-runtime-cu11>=11.2,<12",
    "nvidia-cublas-cu11>=11.2,<12",
    "nvidia-cusolver-cu11>=11.2,<12",
    "nvidia-cufft-cu11>=10.4,<11",
    "nvidia-curand-cu11>=10.2,<11",
    "nvidia-cusparse-cu11>=11.2,<12",
    "nvidia-cuda-nvrtc-cu11>=11.2,<12",
    "nvidia-nvtx-cu11>=11.2,<12",
    "nvidia-nccl-cu11>=2.8,<3",
    "nvidia-cudnn-cu11>=8.1,<9",
]

setup(
    name="unequal-training",
    version="0.1.0",
    description="Unequal-training for deep face recognition with long-tailed noisy data, in MXNet",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=["unequal", "unequal.symbols", "unequal.eval"],
    package_dir={
        "unequal": "src/unequal",
        "unequal.symbols": "symbols",
        "unequal.eval": "eval",
    },
    python_requires=">=3.8,<3.13",  # 3.13 and later: no numpy 1.x wheel that mxnet accepts
    install_requires=INSTALL,
    extras_require={
        # 1.9.1 is the last release, and the one the recorded reference was made with.
        "cpu": ["mxnet==1.9.1"],
        "cu112": ["mxnet-cu112==1.9.1"] + CUDA,
        "plots": ["matplotlib>=3.3"],
        "dev": ["pytest>=7", "ruff>=0.4"],
        # The peer of the step benchmark; channels_last convolutions are fast from 2.0 on.
        "bench": ["torch>=2.0"],
    },
    entry_points={"console_scripts": ["unequal = unequal.cli:main"]},
)
