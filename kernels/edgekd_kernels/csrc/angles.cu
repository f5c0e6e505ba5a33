// Relational distillation of angles: cosines at every sample by the law of cosines, in tiles of the pairs it sees. A warp
// has one j at a time and its lanes a tile's k, so that sums over k stay within it.
#include "scalars.cuh"

constexpr int TILE = 32, ANCHORS = 8, EACH = 4;

struct Seen {
  float square, inverse;
};

__device__ inline Seen seen(const double* squares, i64 batch, i64 anchor, i64 other) {
  float square = other < batch ? (float)squares[anchor * batch + other] : 0;
  return {square, square == 0 ? 0 : 1 / sqrtf(square)};
}

__device__ inline float cosine(float square_jk, Seen j, Seen k) {
  return (j.square + k.square - square_jk) * 0.5f * j.inverse * k.inverse;
}

__device__ inline float pair(const double* squares, i64 batch, i64 j, i64 k) {
  return j < batch && k < batch ? (float)squares[j * batch + k] : 0;
}

// Grid: tiles, tiles, samples / 8. partials: [tiles, tiles, B].
extern "C" __global__ void __launch_bounds__(256)
angle_values(const double* mine, const double* theirs, float* partials, i64 batch) {
  i64 j = (i64)blockIdx.x * TILE + threadIdx.x / 32 * EACH, k = (i64)blockIdx.y * TILE + threadIdx.x % 32;
  float* place = partials + ((i64)blockIdx.x * gridDim.y + blockIdx.y) * batch;
  for (i64 anchor = (i64)blockIdx.z * ANCHORS; anchor < (i64)(blockIdx.z + 1) * ANCHORS && anchor < batch; ++anchor) {
    Seen mine_k = seen(mine, batch, anchor, k), theirs_k = seen(theirs, batch, anchor, k);
    float total = 0;
#pragma unroll
    for (int at = 0; at < EACH; ++at) {
      float c = cosine(pair(mine, batch, j + at, k), seen(mine, batch, anchor, j + at), mine_k);
      float gap = fabsf(c - cosine(pair(theirs, batch, j + at, k), seen(theirs, batch, anchor, j + at), theirs_k));
      if (j + at < batch && k < batch) total += gap < 1 ? 0.5f * gap * gap : gap - 0.5f;
    }
    total = block_sum(total);
    if (threadIdx.x == 0) place[anchor] = total;
  }
}

// Grid: tiles, tiles, samples / 8. dL/dq: of the sides j, k, summed over this group of samples, sides [groups, B, B]; of
// the ends i, j, summed over this tile's k, ends [tiles, B, B].
extern "C" __global__ void __launch_bounds__(256)
angle_slopes(const float* grad, const double* mine, const double* theirs, float* ends, float* sides, i64 batch) {
  i64 j = (i64)blockIdx.x * TILE + threadIdx.x / 32 * EACH, k = (i64)blockIdx.y * TILE + threadIdx.x % 32;
  float mine_jk[EACH], theirs_jk[EACH], total[EACH] = {};
#pragma unroll
  for (int at = 0; at < EACH; ++at)
    mine_jk[at] = pair(mine, batch, j + at, k), theirs_jk[at] = pair(theirs, batch, j + at, k);
  for (i64 anchor = (i64)blockIdx.z * ANCHORS; anchor < (i64)(blockIdx.z + 1) * ANCHORS && anchor < batch; ++anchor) {
    Seen mine_k = seen(mine, batch, anchor, k), theirs_k = seen(theirs, batch, anchor, k);
#pragma unroll
    for (int at = 0; at < EACH; ++at) {
      Seen mine_j = seen(mine, batch, anchor, j + at);
      float c = cosine(mine_jk[at], mine_j, mine_k);
      float gap = c - cosine(theirs_jk[at], seen(theirs, batch, anchor, j + at), theirs_k);
      float error = gap > 1 ? 1 : gap < -1 ? -1 : gap;
      if (j + at >= batch || k >= batch) error = 0;
      float along = warp_sum(error * c), across = warp_sum(error * mine_k.inverse);
      float weighted = grad[anchor] * mine_j.inverse;
      if (threadIdx.x % 32 == 0 && j + at < batch)
        ends[(blockIdx.y * batch + anchor) * batch + j + at] = weighted * (across - mine_j.inverse * along);
      total[at] -= 0.5f * error * mine_k.inverse * weighted;
    }
  }
#pragma unroll
  for (int at = 0; at < EACH; ++at)
    if (j + at < batch && k < batch) sides[(blockIdx.z * batch + j + at) * batch + k] = total[at];
}

// Grid: rows. One row of S = scale (W + W^T), its diagonal such that it sums to 0.
extern "C" __global__ void __launch_bounds__(128)
angle_matrix(const float* ends, const float* sides, float* matrix, i64 batch, i64 tiles, i64 groups, double scale) {
  i64 row = blockIdx.x, plane = batch * batch;
  double balance = 0;
  for (i64 at = threadIdx.x; at < batch; at += 128) {
    if (at == row) continue;
    double total = 0;
    for (i64 tile = 0; tile < tiles; ++tile) total += ends[tile * plane + row * batch + at] + ends[tile * plane + at * batch + row];
    for (i64 group = 0; group < groups; ++group)
      total += sides[group * plane + row * batch + at] + sides[group * plane + at * batch + row];
    matrix[row * batch + at] = (float)(scale * total);
    balance += total;
  }
  balance = block_sum(balance);
  if (threadIdx.x == 0) matrix[row * batch + row] = (float)(-scale * balance);
}
