// Losses on [B, B] matrices of relations and the matrices that carry their gradients. One block a row, sums in double.
#include "scalars.cuh"

constexpr int THREADS = 128;
#define EACH(at) for (i64 at = threadIdx.x; at < batch; at += THREADS)
#define ROW_KERNEL extern "C" __global__ void __launch_bounds__(THREADS)

__device__ double column_sum(const double* statistics, i64 batch, int width, int column) {
  double total = 0;
  EACH(at) total += statistics[width * at + column];
  return block_sum(total);
}

__device__ bool is_uniform(const double* gram, const float* moments, i64 batch, i64 tiles, double rounding) {
  double norms = 0, moment = 0;
  EACH(at) norms += gram[at * batch + at];
  for (i64 at = threadIdx.x; at < tiles; at += THREADS) moment += moments[at];
  double spread = block_sum(norms);
  return spread <= rounding * (spread + batch * block_sum(moment));
}

ROW_KERNEL similarity(const double* mine, const double* theirs, float* losses, float* slopes, i64 batch) {
  const double* s = mine + blockIdx.x * batch;
  const double* t = theirs + blockIdx.x * batch;
  double square_s = 0, square_t = 0, loss = 0, along = 0;
  EACH(at) square_s += s[at] * s[at], square_t += t[at] * t[at];
  double length_s = sqrt(block_sum(square_s)), length_t = sqrt(block_sum(square_t));
  double inverse_s = length_s <= 1e-12 ? 0 : 1 / length_s, inverse_t = length_t <= 1e-12 ? 0 : 1 / length_t;
  EACH(at) {
    double error = s[at] * inverse_s - t[at] * inverse_t;
    loss += error * error;
    along += s[at] * inverse_s * error;
  }
  loss = block_sum(loss), along = block_sum(along);
  if (threadIdx.x == 0) losses[blockIdx.x] = (float)(loss / batch);
  EACH(at) {
    double unit = s[at] * inverse_s, error = unit - t[at] * inverse_t;
    slopes[blockIdx.x * batch + at] = (float)((error - unit * along) * (inverse_s * 2 / batch));
  }
}

ROW_KERNEL similarity_matrix(const float* grad, const float* slopes, float* matrix, i64 batch) {
  i64 row = blockIdx.x;
  EACH(at) matrix[row * batch + at] = slopes[row * batch + at] * grad[row] + slopes[at * batch + row] * grad[at];
}

ROW_KERNEL alignment(const double* gram, const double* target_gram, const float* moments, const float* target_moments,
                     double* mine, double* theirs, double* statistics, i64 batch, i64 tiles, i64 target_tiles,
                     double rounding) {
  bool is_flat = is_uniform(gram, moments, batch, tiles, rounding);
  bool is_target_flat = is_uniform(target_gram, target_moments, batch, target_tiles, rounding);
  double product = 0, square = 0, target_square = 0;
  EACH(at) {
    i64 place = blockIdx.x * batch + at;
    double k = is_flat ? 0 : gram[place], target = is_target_flat ? 0 : target_gram[place];
    mine[place] = k, theirs[place] = target;
    product += k * target, square += k * k, target_square += target * target;
  }
  product = block_sum(product), square = block_sum(square), target_square = block_sum(target_square);
  if (threadIdx.x) return;
  double* row = statistics + 3 * (i64)blockIdx.x;
  row[0] = product, row[1] = square, row[2] = target_square;
}

// Grid: rows / 128.
ROW_KERNEL alignment_values(const double* statistics, float* losses, i64 batch) {
  double scale = sqrt(column_sum(statistics, batch, 3, 1)) * sqrt(column_sum(statistics, batch, 3, 2));
  i64 at = (i64)blockIdx.x * THREADS + threadIdx.x;
  if (at < batch) losses[at] = (float)(statistics[3 * at] * batch * inverse(scale));
}

ROW_KERNEL alignment_rows(const float* grad, const double* mine, const double* theirs, double* statistics, i64 batch) {
  double product = 0, square = 0, target_square = 0, pull = 0;
  EACH(at) {
    double k = mine[blockIdx.x * batch + at], target = theirs[blockIdx.x * batch + at];
    product += k * target, square += k * k, target_square += target * target, pull += target * grad[at];
  }
  product = block_sum(product), square = block_sum(square), target_square = block_sum(target_square);
  pull = block_sum(pull);
  if (threadIdx.x) return;
  double* row = statistics + 4 * (i64)blockIdx.x;
  row[0] = product * grad[blockIdx.x], row[1] = square, row[2] = target_square, row[3] = pull;
}

ROW_KERNEL alignment_matrix(const float* grad, const double* mine, const double* theirs, const double* statistics,
                            float* matrix, i64 batch) {
  i64 row = blockIdx.x;
  double square = column_sum(statistics, batch, 4, 1);
  double scale = batch * inverse(sqrt(square) * sqrt(column_sum(statistics, batch, 4, 2)));
  double shrink = 2 * scale * column_sum(statistics, batch, 4, 0) * inverse(square);
  double mean = (column_sum(statistics, batch, 4, 3) / batch - statistics[4 * row + 3]) / batch;
  EACH(at) {
    i64 place = row * batch + at;
    double both = theirs[place] * ((double)grad[row] + grad[at]);
    matrix[place] = (float)(scale * (both + mean - statistics[4 * at + 3] / batch) - shrink * mine[place]);
  }
}

ROW_KERNEL root_sums(const double* mine, const double* theirs, double* statistics, i64 batch) {
  double total = 0, count = 0, target_total = 0, target_count = 0;
  EACH(at) {
    double s = mine[blockIdx.x * batch + at], t = theirs[blockIdx.x * batch + at];
    total += sqrt(s), target_total += sqrt(t), count += s != 0, target_count += t != 0;
  }
  total = block_sum(total), count = block_sum(count);
  target_total = block_sum(target_total), target_count = block_sum(target_count);
  if (threadIdx.x) return;
  double* row = statistics + 4 * (i64)blockIdx.x;
  row[0] = total, row[1] = count, row[2] = target_total, row[3] = target_count;
}

__device__ double inverse_mean(const double* statistics, i64 batch, int column) {
  double total = column_sum(statistics, batch, 4, column), count = column_sum(statistics, batch, 4, column + 1);
  return total == 0 ? 1 : count / total;
}

__device__ double clamped(double gap) { return gap > 1 ? 1 : gap < -1 ? -1 : gap; }

ROW_KERNEL distance_values(const double* mine, const double* theirs, const double* statistics, float* losses,
                           i64 batch) {
  double scale = inverse_mean(statistics, batch, 0), target_scale = inverse_mean(statistics, batch, 2), total = 0;
  EACH(at) {
    i64 place = blockIdx.x * batch + at;
    double gap = fabs(sqrt(mine[place]) * scale - sqrt(theirs[place]) * target_scale);
    total += gap < 1 ? 0.5 * gap * gap : gap - 0.5;
  }
  total = block_sum(total);
  if (threadIdx.x == 0) losses[blockIdx.x] = (float)(total / batch);
}

ROW_KERNEL distance_shares(const float* grad, const double* mine, const double* theirs, const double* statistics,
                           double* shares, i64 batch) {
  double scale = inverse_mean(statistics, batch, 0), target_scale = inverse_mean(statistics, batch, 2), total = 0;
  EACH(at) {
    i64 place = blockIdx.x * batch + at;
    double s = sqrt(mine[place]) * scale;
    total += s * clamped(s - sqrt(theirs[place]) * target_scale);
  }
  total = block_sum(total);
  if (threadIdx.x == 0) shares[blockIdx.x] = total * grad[blockIdx.x];
}

ROW_KERNEL distance_matrix(const float* grad, const double* mine, const double* theirs, const double* statistics,
                           const double* shares, float* matrix, i64 batch) {
  i64 row = blockIdx.x;
  double scale = inverse_mean(statistics, batch, 0), target_scale = inverse_mean(statistics, batch, 2), balance = 0;
  double common = 2 * column_sum(shares, batch, 1, 0) * inverse(column_sum(statistics, batch, 4, 1));
  EACH(at) {
    i64 place = row * batch + at;
    double s = sqrt(mine[place]) * scale, slope = clamped(s - sqrt(theirs[place]) * target_scale);
    double pull = (slope * ((double)grad[row] + grad[at]) - common) * inverse(s) * scale * scale / batch;
    if (at == row) continue;
    matrix[place] = (float)-pull;
    balance += pull;
  }
  balance = block_sum(balance);
  if (threadIdx.x == 0) matrix[row * batch + row] = (float)balance;
}
