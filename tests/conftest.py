"""What several test files need."""
import shutil
import subprocess

import pytest

import unequal  # noqa: F401  before the test files import mxnet

# The driver calls that `unequal.runtime` makes, for an A10 and an H100, and those that
# libmxnet.so of mxnet-cu112 needs to be linked, which fail (100: no device).
DRIVER_SOURCE = """
#include <string.h>
static const char *names[] = {"Stub A10", "Stub H100"};
static const int capabilities[][2] = {{8, 6}, {9, 0}};
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, names[device], length);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (attribute != 75 && attribute != 76) return 1;
    *value = capabilities[device][attribute - 75];
    return 0;
}
""" + "".join("int {}(void) {{ return 100; }}\n".format(name) for name in (
    "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuGetErrorString", "cuGraphKernelNodeGetParams",
    "cuGraphNodeGetType", "cuLaunchKernel", "cuModuleGetFunction", "cuModuleLoadData",
    "cuModuleLoadDataEx", "cuModuleUnload"))


@pytest.fixture(scope="session")
def stub_driver(tmp_path_factory):
    """Path of a libcuda.so.1 that shows two GPUs and computes nothing."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("driver")
    source = folder / "driver.c"
    source.write_text(DRIVER_SOURCE)
    library = folder / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library),
                    str(source)], check=True)
    return library
