// Squared differences of feature maps and of their means over windows at several levels. A block has one plane.
// STUDENT and TEACHER are the types of the maps.
#include "scalars.cuh"

constexpr int THREADS = 256, MOST_LEVELS = 8;

struct Levels {
  int count;
  int sides[MOST_LEVELS];
  float weights[MOST_LEVELS + 1];  // of the map itself first
};

struct Strides {
  i64 sample, channel, row, column;
};

struct Planes {
  const STUDENT::Bits* student;
  const TEACHER::Bits* teacher;
  i64 student_row, student_column, teacher_row, teacher_column;
  int width;

  __device__ float difference(int y, int x) const {
    return STUDENT::wide(student[y * student_row + x * student_column]) -
           TEACHER::wide(teacher[y * teacher_row + x * teacher_column]);
  }
};

__device__ inline Planes plane_of(const STUDENT::Bits* student, const TEACHER::Bits* teacher, Strides s, Strides t,
                                  i64 channels, int width) {
  i64 sample = blockIdx.x / channels, channel = blockIdx.x % channels;
  return {student + sample * s.sample + channel * s.channel, teacher + sample * t.sample + channel * t.channel,
          s.row, s.column, t.row, t.column, width};
}

__device__ inline int window_start(int index, int side, int level) { return (int)((i64)index * side / level); }
__device__ inline int window_stop(int index, int side, int level) {
  return (int)(((i64)(index + 1) * side + level - 1) / level);
}

// Grid: planes. values [B C] are a plane's share of its sample's value, means [B C, windows]. Dynamic shared memory, where
// the plane fits, holds the difference so that the maps are read once.
extern "C" __global__ void __launch_bounds__(THREADS)
pooled_values(const STUDENT::Bits* student, const TEACHER::Bits* teacher, float* values, float* means, Strides s,
              Strides t, i64 channels, int height, int width, const __grid_constant__ Levels levels, int is_staged) {
  float* staged = dynamic_shared();
  Planes plane = plane_of(student, teacher, s, t, channels, width);
  float total = 0;
  for (int at = threadIdx.x; at < height * width; at += THREADS) {
    float difference = plane.difference(at / width, at % width);
    if (is_staged) staged[at] = difference;
    total = fmaf(difference, difference, total);
  }
  total *= levels.weights[0];
  __syncthreads();
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, windows = 0;
  for (int at = 0; at < levels.count; ++at) windows += levels.sides[at] * levels.sides[at];
  int first = 0;
  for (int at = 0; at < levels.count; ++at) {
    int level = levels.sides[at];
    for (int window = warp; window < level * level; window += THREADS / 32) {
      int top = window_start(window / level, height, level), left = window_start(window % level, width, level);
      int tall = window_stop(window / level, height, level) - top, wide = window_stop(window % level, width, level) - left;
      float sum = 0;
      for (int inner = lane; inner < tall * wide; inner += 32) {
        int y = top + inner / wide, x = left + inner % wide;
        sum += is_staged ? staged[y * width + x] : plane.difference(y, x);
      }
      float mean = warp_sum(sum) / (tall * wide);
      if (lane == 0) {
        means[(i64)blockIdx.x * windows + first + window] = mean;
        total = fmaf(levels.weights[at + 1] * mean, mean, total);
      }
    }
    first += level * level;
  }
  total = block_sum(total);
  if (threadIdx.x == 0) values[blockIdx.x] = total;
}

// Grid: planes. The difference itself and, of every window that a position lies in, its mean over its size.
extern "C" __global__ void __launch_bounds__(THREADS)
pooled_gradient(const float* grad, const STUDENT::Bits* student, const TEACHER::Bits* teacher, const float* means,
                STUDENT::Bits* gradient, Strides s, Strides t, Strides g, i64 channels, int height, int width,
                const __grid_constant__ Levels levels) {
  float* staged = dynamic_shared();
  Planes plane = plane_of(student, teacher, s, t, channels, width);
  int windows = 0;
  for (int at = 0; at < levels.count; ++at) windows += levels.sides[at] * levels.sides[at];
  for (int at = threadIdx.x; at < windows; at += THREADS) staged[at] = means[(i64)blockIdx.x * windows + at];
  __syncthreads();
  float scale = 2 * grad[blockIdx.x / channels];
  STUDENT::Bits* out = gradient + blockIdx.x / channels * g.sample + blockIdx.x % channels * g.channel;
  for (int at = threadIdx.x; at < height * width; at += THREADS) {
    int y = at / width, x = at % width, first = 0;
    float total = levels.weights[0] * plane.difference(y, x);
    for (int step = 0; step < levels.count; ++step) {
      int level = levels.sides[step];
      int row = (int)((i64)y * level / height), column = (int)((i64)x * level / width);
      for (int i = row > 0 ? row - 1 : 0; i <= row + 1 && i < level; ++i) {
        int top = window_start(i, height, level), bottom = window_stop(i, height, level);
        if (y < top || y >= bottom) continue;
        for (int j = column > 0 ? column - 1 : 0; j <= column + 1 && j < level; ++j) {
          int left = window_start(j, width, level), right = window_stop(j, width, level);
          if (x < left || x >= right) continue;
          total += levels.weights[step + 1] * staged[first + i * level + j] / ((bottom - top) * (right - left));
        }
      }
      first += level * level;
    }
    out[y * g.row + x * g.column] = STUDENT::narrow(scale * total);
  }
}
