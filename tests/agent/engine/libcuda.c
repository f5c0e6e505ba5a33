/* The few calls of the CUDA driver that the agent makes, on memory of the process. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static size_t taken = 0;

int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Orin", length); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 7; return 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }
int cuCtxSetCurrent(void *context) { return context == (void *)1 ? 0 : 201; }
int cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)7; return 0; }
int cuMemGetInfo_v2(size_t *free_, size_t *total) { *total = 1u << 30; *free_ = *total - taken; return 0; }
int cuMemAlloc_v2(uint64_t *address, size_t size) {
    if (size > (1u << 24)) return 2;
    taken += size;
    *address = (uint64_t)malloc(size);
    return 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
    memcpy((void *)to, from, size);
    return stream == (void *)7 ? 0 : 400;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
    memcpy(to, (void *)from, size);
    return stream == (void *)7 ? 0 : 400;
}
int cuStreamSynchronize(void *stream) { return stream == (void *)7 ? 0 : 400; }
