// Squared differences of feature maps and of their means over windows at several levels. A block has a tile: several
// planes of one sample where they are small, a part of one where they are not. Windows are taken apart by rows and
// columns: a line is the window of rows that some windows of a level have in common.
// STUDENT and TEACHER are the types of the maps.
#include "scalars.cuh"

constexpr int THREADS = 256, MOST_LEVELS = 8, BATCH = 4;

struct Levels {
  int count;
  int sides[MOST_LEVELS];
  float weights[MOST_LEVELS + 1];  // of the map itself first
};

struct Strides {
  i64 sample, channel, row, column;
};

struct Map {
  int channels, height, width;
};

struct Tile {
  int planes, rows, columns;

  __device__ int elements() const { return planes * rows * columns; }
};

template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T at[4];
};

template <typename T>
__device__ inline bool is_aligned(const T* pointer) {
  return (unsigned long long)pointer % sizeof(Four<T>) == 0;
}

__device__ inline bool is_dense(Strides s, Tile tile) {
  return s.column == 1 && (tile.rows == 1 || s.row == tile.columns) &&
         (tile.planes == 1 || s.channel == tile.rows * tile.columns);
}

__device__ inline int least(int a, int b) { return a < b ? a : b; }
__device__ inline int window_start(int index, int side, int level) { return index * side / level; }
__device__ inline int window_stop(int index, int side, int level) { return ((index + 1) * side + level - 1) / level; }

// A window of rows among those of all levels.
struct Line {
  int step, index;
};

__device__ inline Line line_of(int index, const Levels& levels) {
  int step = 0;
  for (; index >= levels.sides[step]; ++step) index -= levels.sides[step];
  return {step, index};
}

__device__ inline int lines_of(const Levels& levels) {
  int lines = 0;
  for (int step = 0; step < levels.count; ++step) lines += levels.sides[step];
  return lines;
}

__device__ inline int windows_of(const Levels& levels) {
  int windows = 0;
  for (int step = 0; step < levels.count; ++step) windows += levels.sides[step] * levels.sides[step];
  return windows;
}

// An element of a tile in the order of memory, if neighbours there are channels, else in that of planes.
struct Element {
  int plane, row, column;

  __device__ Element(unsigned at, Tile tile, bool channels_inside) {
    unsigned planes = tile.planes, columns = tile.columns, inner = tile.rows * columns;
    unsigned quotient = at / (channels_inside ? planes : inner);
    unsigned rest = at - quotient * (channels_inside ? planes : inner);
    plane = channels_inside ? rest : quotient;
    inner = channels_inside ? quotient : rest;
    row = inner / columns;
    column = inner - row * columns;
  }

  __device__ i64 offset(Strides s) const { return plane * s.channel + row * s.row + column * s.column; }

  __device__ void next(Tile tile) {
    if (++column < tile.columns) return;
    column = 0;
    if (++row < tile.rows) return;
    row = 0;
    ++plane;
  }
};

// Calls what it is given with each of this thread's elements and the difference there: four neighbours at a time and
// several times four side by side, each of which waits for memory, if all maps are dense and aligned.
template <typename Take>
__device__ void for_differences(const STUDENT::Bits* student, const TEACHER::Bits* teacher, Strides s, Strides t,
                                Tile tile, Take take) {
  int count = tile.elements(), done = 0;
  if (take.is_dense() && is_dense(s, tile) && is_dense(t, tile) && is_aligned(student) && is_aligned(teacher)) {
    int vectors = count / 4;
    for (int first = threadIdx.x; first < vectors; first += BATCH * THREADS) {
      Four<STUDENT::Bits> mine[BATCH];
      Four<TEACHER::Bits> theirs[BATCH];
#pragma unroll
      for (int k = 0; k < BATCH; ++k) {
        int at = least(first + k * THREADS, vectors - 1);
        mine[k] = ((const Four<STUDENT::Bits>*)student)[at];
        theirs[k] = ((const Four<TEACHER::Bits>*)teacher)[at];
      }
#pragma unroll
      for (int k = 0; k < BATCH; ++k) {
        if (first + k * THREADS >= vectors) continue;
        Four<float> difference;
#pragma unroll
        for (int i = 0; i < 4; ++i)
          difference.at[i] = STUDENT::wide(mine[k].at[i]) - TEACHER::wide(theirs[k].at[i]);
        take.four(4 * (first + k * THREADS), difference);
      }
    }
    done = 4 * vectors;
  }
  bool channels_inside = s.channel == 1;
  for (int at = done + threadIdx.x; at < count; at += THREADS) {
    Element element(at, tile, channels_inside && !done);
    float difference =
        STUDENT::wide(student[element.offset(s)]) - TEACHER::wide(teacher[element.offset(t)]);
    take.one(element, difference);
  }
}

// Keeps the difference in shared memory and sums its squares.
struct Stage {
  float* staged;
  int pitch, columns;
  float* total;

  __device__ bool is_dense() const { return true; }
  __device__ void four(int at, Four<float> difference) const {
    *(Four<float>*)(staged + at) = difference;
    for (int i = 0; i < 4; ++i) *total = fmaf(difference.at[i], difference.at[i], *total);
  }
  __device__ void one(Element element, float difference) const {
    staged[element.plane * pitch + element.row * columns + element.column] = difference;
    *total = fmaf(difference, difference, *total);
  }
};

// Adds to each column's sums over lines what the rows in shared memory add.
__device__ inline void add_lines(float* sums, const float* staged, Tile tile, int pitch, int top, int height, int lines,
                                 const Levels& levels) {
  for (int task = threadIdx.x; task < tile.planes * lines * tile.columns; task += THREADS) {
    int column = task % tile.columns, index = task / tile.columns % lines, plane = task / tile.columns / lines;
    Line line = line_of(index, levels);
    int level = levels.sides[line.step];
    int start = window_start(line.index, height, level) - top, stop = window_stop(line.index, height, level) - top;
    const float* from = staged + plane * pitch + column;
    float sum = top ? sums[task] : 0;
    for (int row = start > 0 ? start : 0; row < least(stop, tile.rows); ++row) sum += from[row * tile.columns];
    sums[task] = sum;
  }
}

// Adds what the columns in shared memory add to the means of a tile's planes, and returns this thread's share of their
// weighted squares when they are complete.
__device__ inline float add_means(float* means, const float* sums, Tile tile, int left, Map map, int lines,
                                  const Levels& levels) {
  float total = 0;
  int windows = windows_of(levels);
  for (int task = threadIdx.x; task < tile.planes * windows; task += THREADS) {
    int plane = task / windows, index = task % windows, first = 0, step = 0;
    for (; index >= levels.sides[step] * levels.sides[step]; ++step) {
      index -= levels.sides[step] * levels.sides[step];
      first += levels.sides[step];
    }
    int level = levels.sides[step], i = index / level, j = index % level;
    int start = window_start(j, map.width, level), stop = window_stop(j, map.width, level);
    int tall = window_stop(i, map.height, level) - window_start(i, map.height, level);
    const float* from = sums + (plane * lines + first + i) * tile.columns;
    float sum = 0;
    for (int column = start > left ? start - left : 0; column < least(stop - left, tile.columns); ++column)
      sum += from[column];
    float mean = sum / (tall * (stop - start)) + (left ? means[task] : 0);
    means[task] = mean;
    if (left + tile.columns == map.width) total = fmaf(levels.weights[step + 1] * mean, mean, total);
  }
  return total;
}

// Grid: tiles of planes of every sample. values [B, tiles] are a tile's share of its sample's value, means
// [B C, windows]. Large planes are gone over part by part, in columns of parts.
extern "C" __global__ void __launch_bounds__(THREADS)
pooled_values(const STUDENT::Bits* student, const TEACHER::Bits* teacher, float* values, float* means, Strides s,
              Strides t, const __grid_constant__ Map map, const __grid_constant__ Tile most,
              const __grid_constant__ Levels levels) {
  int tiles = (map.channels + most.planes - 1) / most.planes, lines = lines_of(levels);
  i64 sample = blockIdx.x / tiles;
  int channel = blockIdx.x % tiles * most.planes;
  Tile tile = {least(most.planes, map.channels - channel), 0, 0};
  float *staged = dynamic_shared(), *sums = staged + most.planes * (most.rows * most.columns / 4 * 4 + 4);
  student += sample * s.sample + channel * s.channel;
  teacher += sample * t.sample + channel * t.channel;
  means += (sample * map.channels + channel) * windows_of(levels);
  float total = 0, pooled = 0;
  for (int left = 0; left < map.width; left += most.columns) {
    tile.columns = least(most.columns, map.width - left);
    for (int top = 0; top < map.height; top += most.rows) {
      tile.rows = least(most.rows, map.height - top);
      // Of an odd pitch if neighbours in memory are channels: they would fall on one bank of shared memory.
      int pitch = tile.rows * tile.columns;
      if (s.channel == 1) pitch |= 1;
      __syncthreads();
      for_differences(student + top * s.row + left * s.column, teacher + top * t.row + left * t.column, s, t, tile,
                      Stage{staged, pitch, tile.columns, &total});
      __syncthreads();
      add_lines(sums, staged, tile, pitch, top, map.height, lines, levels);
    }
    __syncthreads();
    pooled += add_means(means, sums, tile, left, map, lines, levels);
  }
  total = block_sum(fmaf(levels.weights[0], total, pooled));
  if (threadIdx.x == 0) values[blockIdx.x] = total;
}

// Writes the gradient: the difference itself and, of every window that a position lies in, its mean over its size.
struct Spread {
  const float* lines;
  const int* first_lines;  // [level, row], negative where a second line follows
  STUDENT::Bits* gradient;
  Strides g;
  Tile tile;
  int count, plane_lines;
  float scale, own_weight;

  __device__ bool is_dense() const { return ::is_dense(g, tile) && is_aligned(gradient); }
  __device__ float at(Element element, float difference) const {
    float total = own_weight * difference;
    const float* from = lines + element.plane * plane_lines + element.column;
    for (int step = 0; step < count; ++step) {
      int first = first_lines[step * tile.rows + element.row];
      total += from[first < 0 ? ~first : first];
      if (first < 0) total += from[~first + tile.columns];
    }
    return scale * total;
  }
  __device__ void four(int at_first, Four<float> difference) const {
    Element element(at_first, tile, false);
    Four<STUDENT::Bits> result;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      result.at[i] = STUDENT::narrow(at(element, difference.at[i]));
      element.next(tile);
    }
    *(Four<STUDENT::Bits>*)(gradient + at_first) = result;
  }
  __device__ void one(Element element, float difference) const {
    gradient[element.offset(g)] = STUDENT::narrow(at(element, difference));
  }
};

// Where a row's first line begins, in elements of a plane's lines.
__device__ inline void set_first_lines(int* first_lines, Tile tile, int top, int height, const Levels& levels) {
  int first = 0;
  for (int step = 0; step < levels.count; ++step) {
    int level = levels.sides[step];
    for (int row = threadIdx.x; row < tile.rows; row += THREADS) {
      int index = (top + row) * level / height;
      bool has_second = index + 1 < level && window_start(index + 1, height, level) <= top + row;
      int place = (first + index) * tile.columns;
      first_lines[step * tile.rows + row] = has_second ? ~place : place;
    }
    first += level;
  }
}

// What each line adds to the gradient, by column.
__device__ inline void set_lines(float* into, const float* means, Tile tile, int left, Map map, int lines,
                                 const Levels& levels) {
  int windows = windows_of(levels);
  for (int task = threadIdx.x; task < tile.planes * lines * tile.columns; task += THREADS) {
    int column = left + task % tile.columns, at = task / tile.columns % lines, plane = task / tile.columns / lines;
    Line line = line_of(at, levels);
    int level = levels.sides[line.step], first = 0, j = column * level / map.width;
    for (int step = 0; step < line.step; ++step) first += levels.sides[step] * levels.sides[step];
    int tall = window_stop(line.index, map.height, level) - window_start(line.index, map.height, level);
    const float* from = means + (i64)plane * windows + first + line.index * level;
    float total = 0;
    for (int each = j; each < level && window_start(each, map.width, level) <= column; ++each) {
      int wide = window_stop(each, map.width, level) - window_start(each, map.width, level);
      total += from[each] / (tall * wide);
    }
    into[task] = levels.weights[line.step + 1] * total;
  }
}

// Grid: tiles of planes of every sample, by parts of planes. Without the 3 blocks of a multiprocessor the compiler makes
// room for 4, in too few registers.
extern "C" __global__ void __launch_bounds__(THREADS, 3)
pooled_gradient(const float* grad, const STUDENT::Bits* student, const TEACHER::Bits* teacher, const float* means,
                STUDENT::Bits* gradient, Strides s, Strides t, Strides g, const __grid_constant__ Map map,
                const __grid_constant__ Tile most, const __grid_constant__ Levels levels) {
  int tiles = (map.channels + most.planes - 1) / most.planes, lines = lines_of(levels);
  i64 sample = blockIdx.x / tiles;
  int channel = blockIdx.x % tiles * most.planes, across = (map.width + most.columns - 1) / most.columns;
  int top = blockIdx.y / across * most.rows, left = blockIdx.y % across * most.columns;
  Tile tile = {least(most.planes, map.channels - channel), least(most.rows, map.height - top),
               least(most.columns, map.width - left)};
  float* staged = dynamic_shared();
  int* first_lines = (int*)(staged + most.planes * lines * most.columns);
  set_lines(staged, means + (sample * map.channels + channel) * windows_of(levels), tile, left, map, lines, levels);
  set_first_lines(first_lines, tile, top, map.height, levels);
  __syncthreads();
  student += sample * s.sample + channel * s.channel + top * s.row + left * s.column;
  teacher += sample * t.sample + channel * t.channel + top * t.row + left * t.column;
  gradient += sample * g.sample + channel * g.channel + top * g.row + left * g.column;
  for_differences(student, teacher, s, t, tile,
                  Spread{staged, first_lines, gradient, g, tile, levels.count, lines * tile.columns,
                         2 * grad[sample], levels.weights[0]});
}
