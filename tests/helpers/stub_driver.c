/* A libcuda.so.1 that shows two GPUs and computes nothing: the calls that unequal.runtime makes,
   and those that libmxnet.so of mxnet-cu112 must find to be loaded, which fail. */
#include <string.h>

static const char *names[] = {"Stub A10", "Stub H100"};
static const int capabilities[][2] = {{8, 6}, {9, 0}};

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
