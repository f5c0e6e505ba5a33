// The batch Gram matrix, squared distances from it, and the product that carries a gradient back to features.
// ELEMENT is the type of the features. Long sums in float32 are sums of short ones: tensor cores cut off where others
// round, and the losses are small differences.
#include "scalars.cuh"

typedef ELEMENT::Bits Bits;

constexpr int TILE = 64, THREADS = 256;
constexpr int PITCH = TILE + 4;  // Of a shared tile, so that four neighbours can be read at once.

template <typename T>
struct alignas(16) Four {
  T at[4];
};

// Adds the products of STEP columns to rows 4y.. and columns x, x + 16.. of a tile.
template <int STEP>
__device__ inline void multiply_exact(float (&sums)[4][4], const float (&left)[STEP][PITCH],
                                      const float (&right)[STEP][PITCH], int x, int y) {
  float run[4][4] = {};
#pragma unroll
  for (int k = 0; k < STEP; ++k) {
    Four<float> mine = *(const Four<float>*)&left[k][4 * y];
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) run[i][j] = fmaf(mine.at[i], right[k][x + 16 * j], run[i][j]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[i][j] += run[i][j];
}

// Grid: columns / 128; four threads a column. In double, in which the mean of equal samples is exact. An error of the
// mean shows in all entries of a row of the Gram matrix alike, and what samples have in common carries it to the gradient.
extern "C" __global__ void __launch_bounds__(512)
sample_mean(const Bits* rows, float* means, float* moments, i64 batch, i64 columns, i64 sb, i64 sd) {
  __shared__ double totals[4][128];
  int x = threadIdx.x % 128, y = threadIdx.x / 128;
  i64 column = (i64)blockIdx.x * 128 + x;
  const Bits* at = rows + column * sd;
  float mean = 0;
  double total = 0;
  if (column < columns)
#pragma unroll 8
    for (i64 row = y; row < batch; row += 4) total += ELEMENT::wide(at[row * sb]);
  totals[y][x] = total;
  __syncthreads();
  if (y == 0 && column < columns) {
    mean = (float)((totals[0][x] + totals[1][x] + totals[2][x] + totals[3][x]) / batch);
    means[column] = mean;
  }
  float moment = block_sum(mean * mean);
  if (threadIdx.x == 0) moments[blockIdx.x] = moment;
}

// Copies STEP columns of a tile's rows, column by column; with means, about them.
template <int STEP>
__device__ inline void load_columns(float (&tile)[STEP][PITCH], const Bits* rows, const float* means, i64 top, i64 batch,
                                    i64 from, i64 stop, i64 sb, i64 sd) {
  int within = threadIdx.x % STEP;
  i64 column = from + within;
  float mean = means && column < stop ? means[column] : 0;
  const Bits* at = rows + column * sd;
#pragma unroll
  for (int row = threadIdx.x / STEP; row < TILE; row += THREADS / STEP)
    tile[within][row] = top + row < batch && column < stop ? ELEMENT::wide(at[(top + row) * sb]) - mean : 0;
}

// Grid: tiles, tiles, parts. Exact products of a tile's rows over its part of the columns; with means, about them.
extern "C" __global__ void __launch_bounds__(THREADS)
gram_exact(const Bits* rows, const float* means, float* partials, i64 batch, i64 columns, i64 per_part, i64 sb, i64 sd) {
  if (blockIdx.x < blockIdx.y) return;
  constexpr int STEP = 32;
  alignas(16) __shared__ float a[STEP][PITCH], b[STEP][PITCH];
  bool is_diagonal = blockIdx.x == blockIdx.y;
  int x = threadIdx.x % 16, y = threadIdx.x / 16;
  i64 left = (i64)blockIdx.x * TILE, right = (i64)blockIdx.y * TILE;
  i64 start = blockIdx.z * per_part, stop = start + per_part < columns ? start + per_part : columns;
  float sums[4][4] = {};
  for (i64 from = start; from < stop; from += STEP) {
    __syncthreads();
    load_columns(a, rows, means, left, batch, from, stop, sb, sd);
    if (!is_diagonal) load_columns(b, rows, means, right, batch, from, stop, sb, sd);
    __syncthreads();
    if (left + 4 * y < batch) multiply_exact(sums, a, is_diagonal ? a : b, x, y);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      i64 row = left + 4 * y + i, column = right + x + 16 * j;
      if (row < batch && column < batch) partials[(blockIdx.z * batch + row) * batch + column] = sums[i][j];
    }
}

#ifdef MMA
// One 16 x 8 product of 16 columns on tensor cores, summed in float32.
__device__ inline void multiply(float* c, const unsigned* a, const unsigned* b) {
#ifdef __CUDA_ARCH__
  asm("mma.sync.aligned.m16n8k16.row.col.f32." MMA "." MMA ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  multiply_on_host<ELEMENT>(c, a, b);
#endif
}

constexpr int DEPTH = 64, WORDS = DEPTH / 2 + 4;  // Columns at a time; words between rows, a fragment's in 32 banks.

// Copies a tile's rows: a word of shared memory holds two columns. Eight columns at a time where rows allow it, as the
// end of a part is a multiple of 8 then.
__device__ inline void load_pairs(unsigned* tile, const Bits* rows, i64 top, i64 batch, i64 from, i64 stop, i64 sb,
                                  i64 sd, bool is_packed) {
  if (is_packed) {
#pragma unroll
    for (int at = threadIdx.x; at < TILE * DEPTH / 8; at += 128) {
      int row = at / (DEPTH / 8), word = at % (DEPTH / 8) * 4;
      i64 column = from + 2 * word;
      Four<unsigned> four = {};
      if (top + row < batch && column < stop) four = *(const Four<unsigned>*)(rows + (top + row) * sb + column);
      *(Four<unsigned>*)(tile + row * WORDS + word) = four;
    }
    return;
  }
  for (int at = threadIdx.x; at < TILE * DEPTH / 2; at += 128) {
    int row = at / (DEPTH / 2), word = at % (DEPTH / 2);
    i64 column = from + 2 * word;
    const Bits* source = rows + (top + row) * sb + column * sd;
    bool is_row = top + row < batch;
    unsigned low = is_row && column < stop ? source[0] : 0, high = is_row && column + 1 < stop ? source[sd] : 0;
    tile[row * WORDS + word] = low | high << 16;
  }
}

// Grid: tiles, tiles, parts; four warps, each a quarter of the tile.
extern "C" __global__ void __launch_bounds__(128)
gram_tensor(const Bits* rows, float* partials, i64 batch, i64 columns, i64 per_part, i64 sb, i64 sd) {
  if (blockIdx.x < blockIdx.y) return;
  alignas(16) __shared__ unsigned a[TILE * WORDS], b[TILE * WORDS];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, member = lane % 4;
  int above = warp / 2 * 32, beside = warp % 2 * 32;
  i64 left = (i64)blockIdx.x * TILE, right = (i64)blockIdx.y * TILE;
  i64 start = blockIdx.z * per_part, stop = start + per_part < columns ? start + per_part : columns;
  bool is_packed = sd == 1 && sb % 8 == 0 && columns % 8 == 0 && (i64)rows % 16 == 0;
  const unsigned* beyond = blockIdx.x == blockIdx.y ? a : b;
  float sums[2][4][4] = {};
  for (i64 from = start; from < stop; from += DEPTH) {
    __syncthreads();
    load_pairs(a, rows, left, batch, from, stop, sb, sd, is_packed);
    if (beyond == b) load_pairs(b, rows, right, batch, from, stop, sb, sd, is_packed);
    __syncthreads();
    if (left + above >= batch || right + beside >= batch) continue;
    float run[2][4][4] = {};
#pragma unroll
    for (int k = 0; k < DEPTH / 2; k += 8) {
      unsigned fragment[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int part = 0; part < 4; ++part)
          fragment[i][part] = a[(above + 16 * i + group + part % 2 * 8) * WORDS + k + member + part / 2 * 4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const unsigned* at = beyond + (beside + 8 * j + group) * WORDS + k + member;
        unsigned other[2] = {at[0], at[4]};
#pragma unroll
        for (int i = 0; i < 2; ++i) multiply(run[i][j], fragment[i], other);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int part = 0; part < 4; ++part) sums[i][j][part] += run[i][j][part];
  }
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        i64 row = left + above + 16 * i + group + part / 2 * 8;
        i64 column = right + beside + 8 * j + 2 * member + part % 2;
        if (row < batch && column < batch) partials[(blockIdx.z * batch + row) * batch + column] = sums[i][j][part];
      }
}
#endif

// Grid: rows, columns / width. The sum of the parts, mirrored above the diagonal's tiles: 256 / width threads for an
// entry take turns at the parts, as it is the latency of loads that the sum costs.
extern "C" __global__ void __launch_bounds__(THREADS)
gram_sum(const float* partials, double* gram, i64 batch, i64 parts, i64 width) {
  __shared__ double totals[THREADS];
  int shares = THREADS / (int)width, share = threadIdx.x / (int)width;
  i64 row = blockIdx.x, column = blockIdx.y * width + threadIdx.x % (int)width;
  const float* at = partials + (row / TILE >= column / TILE ? row * batch + column : column * batch + row);
  double total = 0;
  if (column < batch)
#pragma unroll 8
    for (i64 part = share; part < parts; part += shares) total += at[part * batch * batch];
  totals[threadIdx.x] = total;
  __syncthreads();
  if (share || column >= batch) return;
  for (int next = 1; next < shares; ++next) total += totals[next * width + threadIdx.x];
  gram[row * batch + column] = total;
}

// Grid: rows. Squared distances from one sample, exactly 0 to coincident ones. Where the difference of the Gram matrix's
// entries would cancel, a warp takes it from the rows.
extern "C" __global__ void __launch_bounds__(THREADS)
squared_distances(const Bits* rows, const double* gram, const float* moments, double* squares, i64 batch, i64 columns,
                  i64 tiles, i64 sb, i64 sd, double rounding) {
  double norms = 0, moment = 0;
  for (i64 at = threadIdx.x; at < batch; at += THREADS) norms += gram[at * batch + at];
  for (i64 at = threadIdx.x; at < tiles; at += THREADS) moment += moments[at];
  double spread = block_sum(norms);
  bool is_uniform = spread <= rounding * (spread + batch * block_sum(moment));
  i64 row = blockIdx.x;
  int lane = threadIdx.x % 32;
  for (i64 other = threadIdx.x / 32; other < batch; other += THREADS / 32) {
    double both = gram[row * batch + row] + gram[other * batch + other];
    double square = both - 2 * gram[row * batch + other];
    if (other != row && square < 1e-4 * both) {
      float direct = 0;
      for (i64 column = lane; column < columns; column += 32) {
        const Bits* at = rows + column * sd;
        float gap = ELEMENT::wide(at[row * sb]) - ELEMENT::wide(at[other * sb]);
        direct = fmaf(gap, gap, direct);
      }
      square = warp_sum(direct);
    }
    if (lane == 0) squares[row * batch + other] = is_uniform || square <= rounding * both ? 0 : square;
  }
}

// Grid: columns / 64, rows / 64. matrix @ rows; a matrix whose rows sum to 0 does not see what is subtracted from all.
extern "C" __global__ void __launch_bounds__(THREADS)
combine(const float* matrix, const Bits* rows, Bits* combined, i64 batch, i64 columns, i64 sb, i64 sd, i64 cb, i64 cd,
        int is_balanced) {
  constexpr int STEP = 16;
  alignas(16) __shared__ float m[STEP][PITCH], v[STEP][PITCH];
  int x = threadIdx.x % 16, y = threadIdx.x / 16;
  i64 top = (i64)blockIdx.y * TILE, side = (i64)blockIdx.x * TILE;
  float sums[4][4] = {};
  for (i64 from = 0; from < batch; from += STEP) {
    __syncthreads();
    for (int at = threadIdx.x; at < TILE * STEP; at += THREADS) {
      i64 row = top + at / STEP, other = from + at % STEP;
      m[at % STEP][at / STEP] = row < batch && other < batch ? matrix[row * batch + other] : 0;
      i64 sample = from + at / TILE, column = side + at % TILE;
      bool is_inside = sample < batch && column < columns;
      float shift = is_balanced && is_inside ? ELEMENT::wide(rows[column * sd]) : 0;
      v[at / TILE][at % TILE] = is_inside ? ELEMENT::wide(rows[sample * sb + column * sd]) - shift : 0;
    }
    __syncthreads();
    if (top + 4 * y < batch) multiply_exact(sums, m, v, x, y);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      i64 row = top + 4 * y + i, column = side + x + 16 * j;
      if (row < batch && column < columns) combined[row * cb + column * cd] = ELEMENT::narrow(sums[i][j]);
    }
}
