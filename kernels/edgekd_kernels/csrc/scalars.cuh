// Element types and sums over a block. No header of CUDA is needed: conversions are written out.
#pragma once

#ifndef __CUDA_ARCH__
float* dynamic_shared();
#endif

typedef long long i64;

struct Float32 {
  typedef float Bits;
  static __device__ float wide(Bits x) { return x; }
  static __device__ Bits narrow(float x) { return x; }
};

struct BFloat16 {
  typedef unsigned short Bits;
  static __device__ float wide(Bits x) { return __uint_as_float((unsigned)x << 16); }
  static __device__ Bits narrow(float x) {
    unsigned bits = __float_as_uint(x);
    if (x != x) return 0x7fff;
    return (Bits)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
};

struct Float16 {
  typedef unsigned short Bits;
#ifdef __CUDA_ARCH__
  static __device__ float wide(Bits x) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x));
    return result;
  }
  static __device__ Bits narrow(float x) {
    Bits result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(x));
    return result;
  }
#else  // Compiled for a processor, in tests.
  static float wide(Bits x);
  static Bits narrow(float x);
#endif
};

#ifdef __CUDA_ARCH__
// The shared memory whose size the launch gives.
__device__ inline float* dynamic_shared() {
  extern __shared__ float memory[];
  return memory;
}
#endif

template <typename T>
__device__ T warp_sum(T value) {
  for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// The sum over all threads, in every thread. The order of additions is fixed.
template <typename T>
__device__ T block_sum(T value) {
  __shared__ T parts[32];
  value = warp_sum(value);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = value;
  __syncthreads();
  T total = 0;
  for (int warp = 0; warp < (int)(blockDim.x >> 5); ++warp) total += parts[warp];
  return total;
}

__device__ inline double inverse(double x) { return x == 0 ? 0.0 : 1 / x; }
