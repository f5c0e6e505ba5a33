// Variational information distillation: the negative log-likelihood of a Gaussian with a variance for each channel.
// STUDENT and TEACHER are the types of the maps.
#include "scalars.cuh"

constexpr int THREADS = 256;

__device__ inline float variance_of(float raw, float epsilon) {
  // softplus, linear where its exponential would overflow.
  return (raw > 20 ? raw : log1pf(expf(raw))) + epsilon;
}

// Grid: planes. squares: [B, C].
extern "C" __global__ void __launch_bounds__(THREADS)
vid_squares(const STUDENT::Bits* mean, const TEACHER::Bits* teacher, float* squares, i64 channels, i64 positions, i64 sb,
            i64 sc, i64 sp, i64 tb, i64 tc, i64 tp) {
  i64 sample = blockIdx.x / channels, channel = blockIdx.x % channels;
  const STUDENT::Bits* s = mean + sample * sb + channel * sc;
  const TEACHER::Bits* t = teacher + sample * tb + channel * tc;
  float total = 0;
  for (i64 at = threadIdx.x; at < positions; at += THREADS) {
    float difference = STUDENT::wide(s[at * sp]) - TEACHER::wide(t[at * tp]);
    total = fmaf(difference, difference, total);
  }
  total = block_sum(total);
  if (threadIdx.x == 0) squares[blockIdx.x] = total;
}

// Grid: samples.
extern "C" __global__ void __launch_bounds__(THREADS)
vid_values(const float* squares, const float* raw_variance, float* losses, i64 channels, i64 positions, float epsilon) {
  float total = 0;
  for (i64 channel = threadIdx.x; channel < channels; channel += THREADS) {
    float variance = variance_of(raw_variance[channel], epsilon);
    total += squares[blockIdx.x * channels + channel] / (variance * positions) + logf(variance);
  }
  total = block_sum(total);
  if (threadIdx.x == 0) losses[blockIdx.x] = total / (2 * channels);
}

// Grid: planes.
extern "C" __global__ void __launch_bounds__(THREADS)
vid_gradient(const float* grad, const STUDENT::Bits* mean, const TEACHER::Bits* teacher, const float* raw_variance,
             STUDENT::Bits* gradient, i64 channels, i64 positions, i64 sb, i64 sc, i64 sp, i64 tb, i64 tc, i64 tp, i64 gb,
             i64 gc, i64 gp, float epsilon) {
  i64 sample = blockIdx.x / channels, channel = blockIdx.x % channels;
  const STUDENT::Bits* s = mean + sample * sb + channel * sc;
  const TEACHER::Bits* t = teacher + sample * tb + channel * tc;
  STUDENT::Bits* out = gradient + sample * gb + channel * gc;
  float scale = grad[sample] / (variance_of(raw_variance[channel], epsilon) * channels * positions);
  for (i64 at = threadIdx.x; at < positions; at += THREADS)
    out[at * gp] = STUDENT::narrow(scale * (STUDENT::wide(s[at * sp]) - TEACHER::wide(t[at * tp])));
}

// Grid: channels.
extern "C" __global__ void __launch_bounds__(THREADS)
vid_raw_gradient(const float* grad, const float* squares, const float* raw_variance, float* gradient, i64 batch,
                 i64 channels, i64 positions, float epsilon) {
  i64 channel = blockIdx.x;
  float raw = raw_variance[channel], variance = variance_of(raw, epsilon), total = 0;
  for (i64 sample = threadIdx.x; sample < batch; sample += THREADS)
    total += grad[sample] * (1 - squares[sample * channels + channel] / (variance * positions));
  total = block_sum(total);
  if (threadIdx.x == 0) gradient[channel] = total / (2 * channels * variance) / (1 + expf(-raw));
}
