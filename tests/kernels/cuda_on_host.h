// Runs CUDA kernels on a processor: the threads of a block are fibers that take turns between barriers.
// Included before a source; races and memory faults between threads do not show here.
#include <ucontext.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __grid_constant__
#define __shared__ static
#define __launch_bounds__(...)

struct Dim {
  unsigned x, y, z;
};
static Dim threadIdx, blockIdx, blockDim, gridDim;

namespace host {
constexpr int MOST_THREADS = 1024, STACK_BYTES = 1 << 16;
struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  enum { RUNS, WAITS, ENDED } state;
};
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static std::function<void()> body;
static int current;
static double exchanged[MOST_THREADS];
static unsigned words[MOST_THREADS][6];
static float dynamic[16384];

static void yield() { swapcontext(&fibers[current].context, &scheduler); }

static void enter() {
  body();
  fibers[current].state = Fiber::ENDED;
  swapcontext(&fibers[current].context, &scheduler);
}

static void run_block(int threads) {
  fibers.resize(threads);
  for (Fiber& fiber : fibers) {
    fiber.stack.resize(STACK_BYTES);
    fiber.state = Fiber::RUNS;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  for (int alive = threads; alive;) {
    int waiting = 0;
    alive = 0;
    for (current = 0; current < threads; ++current) {
      if (fibers[current].state == Fiber::RUNS) {
        threadIdx = {(unsigned)current, 0, 0};
        swapcontext(&scheduler, &fibers[current].context);
      }
      alive += fibers[current].state != Fiber::ENDED;
      waiting += fibers[current].state == Fiber::WAITS;
    }
    if (waiting == alive)
      for (Fiber& fiber : fibers)
        if (fiber.state == Fiber::WAITS) fiber.state = Fiber::RUNS;
  }
}

template <typename... A, size_t... I>
void call(void (*kernel)(A...), void** values, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_const_t<A>*>(values[I])...);
}

template <typename... A>
void launch(void (*kernel)(A...), void** values, unsigned x, unsigned y, unsigned z, unsigned threads) {
  gridDim = {x, y, z};
  blockDim = {threads, 1, 1};
  body = [=] { call(kernel, values, std::index_sequence_for<A...>()); };
  for (unsigned k = 0; k < z; ++k)
    for (unsigned j = 0; j < y; ++j)
      for (unsigned i = 0; i < x; ++i) {
        blockIdx = {i, j, k};
        run_block(threads);
      }
}
}  // namespace host

inline void __syncthreads() {
  host::fibers[host::current].state = host::Fiber::WAITS;
  host::yield();
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int offset) {
  host::exchanged[threadIdx.x] = value;
  host::yield();
  T other = (T)host::exchanged[threadIdx.x ^ offset];
  host::yield();
  return other;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

float* dynamic_shared() { return host::dynamic; }

// The fragments of mma.m16n8k16 as the PTX manual lays them out over the lanes of a warp.
template <typename Element>
void multiply_on_host(float* c, const unsigned* a, const unsigned* b) {
  unsigned lane = threadIdx.x % 32, first = threadIdx.x - lane;
  for (int i = 0; i < 4; ++i) host::words[threadIdx.x][i] = a[i];
  for (int i = 0; i < 2; ++i) host::words[threadIdx.x][4 + i] = b[i];
  host::yield();
  for (int part = 0; part < 4; ++part) {
    int row = lane / 4 + part / 2 * 8, column = lane % 4 * 2 + part % 2;
    for (int k = 0; k < 16; ++k) {
      unsigned left = host::words[first + row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2] >> (k % 2 * 16);
      unsigned right = host::words[first + column * 4 + k % 8 / 2][4 + k / 8] >> (k % 2 * 16);
      c[part] += Element::wide((unsigned short)left) * Element::wide((unsigned short)right);
    }
  }
  host::yield();
}
