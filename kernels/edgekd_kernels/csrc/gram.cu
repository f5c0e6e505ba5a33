// The batch Gram matrix, squared distances from it, and the product that carries a gradient back to features.
// ELEMENT is the type of the features.
#include "scalars.cuh"

typedef ELEMENT::Bits Bits;

constexpr int TILE = 64, STEP = 16, THREADS = 256;

// Grid: columns / 128. The first sample is subtracted first: the mean of equal samples is then exact.
extern "C" __global__ void __launch_bounds__(128)
sample_mean(const Bits* rows, float* means, float* moments, i64 batch, i64 columns, i64 sb, i64 sd) {
  i64 column = (i64)blockIdx.x * 128 + threadIdx.x;
  float mean = 0;
  if (column < columns) {
    const Bits* at = rows + column * sd;
    float first = ELEMENT::wide(*at), total = 0;
    for (i64 row = 0; row < batch; ++row) total += ELEMENT::wide(at[row * sb]) - first;
    mean = first + total / batch;
    means[column] = mean;
  }
  float moment = block_sum(mean * mean);
  if (threadIdx.x == 0) moments[blockIdx.x] = moment;
}

// Grid: tiles, tiles, parts. Exact products of a tile's rows over its part of the columns; with means, about them.
extern "C" __global__ void __launch_bounds__(THREADS)
gram_exact(const Bits* rows, const float* means, float* partials, i64 batch, i64 columns, i64 per_part, i64 sb, i64 sd) {
  if (blockIdx.x < blockIdx.y) return;
  __shared__ float a[STEP][TILE + 1], b[STEP][TILE + 1];
  int x = threadIdx.x % 16, y = threadIdx.x / 16;
  i64 left = (i64)blockIdx.x * TILE, right = (i64)blockIdx.y * TILE;
  i64 start = blockIdx.z * per_part, stop = start + per_part < columns ? start + per_part : columns;
  float sums[4][4] = {};
  for (i64 from = start; from < stop; from += STEP) {
    __syncthreads();
    for (int at = threadIdx.x; at < TILE * STEP; at += THREADS) {
      int row = at / STEP, within = at % STEP;
      i64 column = from + within;
      float mean = means && column < stop ? means[column] : 0;
      bool is_left = left + row < batch && column < stop, is_right = right + row < batch && column < stop;
      a[within][row] = is_left ? ELEMENT::wide(rows[(left + row) * sb + column * sd]) - mean : 0;
      b[within][row] = is_right ? ELEMENT::wide(rows[(right + row) * sb + column * sd]) - mean : 0;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < STEP; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(a[k][y + 16 * i], b[k][x + 16 * j], sums[i][j]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      i64 row = left + y + 16 * i, column = right + x + 16 * j;
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

// Grid: tiles, tiles, parts; four warps, each a quarter of the tile. A word of shared memory holds two columns of a row;
// rows are 20 words apart, so that the 32 words of a fragment lie in 32 banks.
extern "C" __global__ void __launch_bounds__(128)
gram_tensor(const Bits* rows, float* partials, i64 batch, i64 columns, i64 per_part, i64 sb, i64 sd) {
  if (blockIdx.x < blockIdx.y) return;
  constexpr int DEPTH = 32, WORDS = 20;
  __shared__ unsigned a[TILE * WORDS], b[TILE * WORDS];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, member = lane % 4;
  int above = warp / 2 * 32, beside = warp % 2 * 32;
  i64 left = (i64)blockIdx.x * TILE, right = (i64)blockIdx.y * TILE;
  i64 start = blockIdx.z * per_part, stop = start + per_part < columns ? start + per_part : columns;
  float sums[2][4][4] = {};
  for (i64 from = start; from < stop; from += DEPTH) {
    __syncthreads();
    for (int at = threadIdx.x; at < TILE * DEPTH / 2; at += 128) {
      int row = at / (DEPTH / 2), word = at % (DEPTH / 2);
      i64 column = from + 2 * word;
      const Bits* mine = rows + (left + row) * sb + column * sd;
      const Bits* theirs = rows + (right + row) * sb + column * sd;
      bool is_left = left + row < batch, is_right = right + row < batch;
      unsigned low = is_left && column < stop ? mine[0] : 0, high = is_left && column + 1 < stop ? mine[sd] : 0;
      a[row * WORDS + word] = low | high << 16;
      low = is_right && column < stop ? theirs[0] : 0, high = is_right && column + 1 < stop ? theirs[sd] : 0;
      b[row * WORDS + word] = low | high << 16;
    }
    __syncthreads();
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
        const unsigned* at = b + (beside + 8 * j + group) * WORDS + k + member;
        unsigned other[2] = {at[0], at[4]};
#pragma unroll
        for (int i = 0; i < 2; ++i) multiply(sums[i][j], fragment[i], other);
      }
    }
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

// Grid: rows, columns / 128. The sum of the parts in their order, mirrored above the diagonal's tiles.
extern "C" __global__ void __launch_bounds__(128)
gram_sum(const float* partials, double* gram, i64 batch, i64 parts) {
  i64 row = blockIdx.x, column = (i64)blockIdx.y * 128 + threadIdx.x;
  if (column >= batch) return;
  const float* at = partials + (row / TILE >= column / TILE ? row * batch + column : column * batch + row);
  double total = 0;
  for (i64 part = 0; part < parts; ++part) total += at[part * batch * batch];
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
  __shared__ float m[STEP][TILE + 1], v[STEP][TILE + 1];
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
#pragma unroll
    for (int k = 0; k < STEP; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(m[k][y + 16 * i], v[k][x + 16 * j], sums[i][j]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      i64 row = top + y + 16 * i, column = side + x + 16 * j;
      if (row < batch && column < columns) combined[row * cb + column * cd] = ELEMENT::narrow(sums[i][j]);
    }
}
