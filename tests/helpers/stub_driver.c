/* A libcuda.so.1 that shows two GPUs and computes nothing: the calls that unequal.runtime makes,
   and those that libmxnet.so of mxnet-cu112 must find to be loaded, which fail. It stands for
   libnvrtc as well. STUB_DRIVER and STUB_NVRTC say which CUDA they are of, in the driver's numbers
   (11080 is 11.8, the default). */
#include <stdlib.h>
#include <string.h>

static const char *names[] = {"Stub A10", "Stub H100"};
static const int capabilities[][2] = {{8, 6}, {9, 0}};

static int version(const char *variable) {
    const char *value = getenv(variable);
    return value ? atoi(value) : 11080;
}

int cuDriverGetVersion(int *value) {
    *value = version("STUB_DRIVER");
    return 0;
}

int nvrtcVersion(int *major, int *minor) {
    *major = version("STUB_NVRTC") / 1000;
    *minor = version("STUB_NVRTC") % 1000 / 10;
    return 0;
}

int cuInit(unsigned flags) { return 0; }

int cuDeviceGetCount(int *count) {
    *count = 2;
    return 0;
}

int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, names[device], length);
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (attribute != 75 && attribute != 76) /* compute capability, major and minor */
        return 1;
    *value = capabilities[device][attribute - 75];
    return 0;
}

#define FAILS(name) int name(void) { return 100; } /* CUDA_ERROR_NO_DEVICE */
FAILS(cuDeviceGet)
FAILS(cuDevicePrimaryCtxRetain)
FAILS(cuGetErrorString)
FAILS(cuGraphKernelNodeGetParams)
FAILS(cuGraphNodeGetType)
FAILS(cuLaunchKernel)
FAILS(cuModuleGetFunction)
FAILS(cuModuleLoadData)
FAILS(cuModuleLoadDataEx)
FAILS(cuModuleUnload)
