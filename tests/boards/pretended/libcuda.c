/* The few calls of the CUDA driver that the program for boards makes, on memory of the process. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }
int cuCtxSetCurrent(void *context) { return context == (void *)1 ? 0 : 201; }
int cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)7; return 0; }
int cuMemAlloc_v2(uint64_t *address, size_t size) {
    if (size > (1u << 24)) return 2;
    *address = (uint64_t)malloc(size);
    return 0;
}
int cuMemsetD8_v2(uint64_t address, unsigned char value, size_t size) { memset((void *)address, value, size); return 0; }
int cuEventCreate(void **event, unsigned flags) { *event = calloc(1, sizeof(struct timespec)); return 0; }
int cuEventRecord(void *event, void *stream) {
    return stream == (void *)7 ? clock_gettime(CLOCK_MONOTONIC, event) : 400;
}
int cuEventSynchronize(void *event) { return 0; }
int cuEventElapsedTime(float *ms, void *from, void *to) {
    struct timespec *a = from, *b = to;
    *ms = (b->tv_sec - a->tv_sec) * 1e3f + (b->tv_nsec - a->tv_nsec) / 1e6f;
    return 0;
}
