// Products of low rank. Each sum runs over its entries in order, so a row's numbers do not depend on the rows beside it.
#include "low_rank.h"

#include <algorithm>
#include <type_traits>

#include "vectors.h"

namespace {

constexpr long BLOCK = 8;      // rows that read a weight together
constexpr long RANKS = 16;     // ranks are multiples of it
constexpr long COLUMNS = 256;  // outputs of an item

// made[row][16 columns] = x[row] * down[:, 16 columns], for N rows
template <int N>
void shrink(const float* const* x, const float* down, long down_step, long inputs, float* made, long made_step) {
  constexpr int V = RANKS / LANES;
  vec sums[N][V] = {};
  for (long i = 0; i < inputs; i++, down += down_step)
    for (int v = 0; v < V; v++) {
      const vec w = load(down + v * LANES);
      for (int n = 0; n < N; n++) sums[n][v] += spread(x[n][i]) * w;
    }
  for (int n = 0; n < N; n++)
    for (int v = 0; v < V; v++) store(made + n * made_step + v * LANES, sums[n][v]);
}

// out[row][column …] += made[row] * up[:, column …], for N rows
template <int N>
void expand(const float* made, long made_step, const float* up, long outputs, long rank, float* const* out, long first,
            long end) {
  long column = first;
  for (; column + LANES <= end; column += LANES) {
    vec sums[N] = {};
    for (long r = 0; r < rank; r++) {
      const vec w = load(up + r * outputs + column);
      for (int n = 0; n < N; n++) sums[n] += spread(made[n * made_step + r]) * w;
    }
    for (int n = 0; n < N; n++) store(out[n] + column, load(out[n] + column) + sums[n]);
  }
  for (; column < end; column++)
    for (int n = 0; n < N; n++) {
      float sum = 0;
      for (long r = 0; r < rank; r++) sum += made[n * made_step + r] * up[r * outputs + column];
      out[n][column] += sum;
    }
}

// Calls `f` with as many rows as there are, as a constant.
template <class F>
void with_rows(long count, F f) {
  switch (count) {
    case 1: return f(std::integral_constant<int, 1>());
    case 2: return f(std::integral_constant<int, 2>());
    case 3: return f(std::integral_constant<int, 3>());
    case 4: return f(std::integral_constant<int, 4>());
    case 5: return f(std::integral_constant<int, 5>());
    case 6: return f(std::integral_constant<int, 6>());
    case 7: return f(std::integral_constant<int, 7>());
    default: return f(std::integral_constant<int, BLOCK>());
  }
}

// Columns of `up` that are of one part, few enough for an item.
struct Span {
  long part, first, end;
};

std::vector<Span> spans_of(const LowRank& c) {
  std::vector<Span> spans;
  long start = 0;
  for (long p = 0; p < c.parts; start += c.sizes[p++])
    for (long first = 0; first < c.sizes[p]; first += COLUMNS)
      spans.push_back({p, start + first, start + std::min<long>(first + COLUMNS, c.sizes[p])});
  return spans;
}

}  // namespace

Adapted::Adapted(const int64_t* o, const int64_t* groups, long adapters) : order(o) {
  for (long g = 0; g < adapters; g++, groups += 3)
    for (long first = groups[1]; first < groups[2]; first += BLOCK) {
      blocks.push_back({groups[0] - 1, first, std::min<long>(BLOCK, groups[2] - first)});
      rows += blocks.back().count;
    }
}

void correct(const LowRank& c, const Adapted& adapted, const float* x, long x_step, float* out, long out_step) {
  long widest = 0;
  for (const auto& b : adapted.blocks) widest = std::max<long>(widest, c.ranks[b.slot]);
  if (!widest) return;
  const long step = c.parts * widest, blocks = adapted.blocks.size(), pieces = step / RANKS;
#pragma omp single
  if ((long)adapted.between.size() < adapted.rows * step) adapted.between.resize(adapted.rows * step);
  float* between = adapted.between.data();
#pragma omp for schedule(dynamic, 1)
  for (long item = 0; item < blocks * pieces; item++) {
    const auto& b = adapted.blocks[item / pieces];
    const long rank = c.ranks[b.slot], column = item % pieces * RANKS;
    if (column >= c.parts * rank) continue;
    const float* rows[BLOCK];
    for (long n = 0; n < b.count; n++) rows[n] = x + adapted.order[b.first + n] * x_step;
    with_rows(b.count, [&](auto n) {
      shrink<n.value>(rows, c.down + b.slot * c.down_step + column, c.parts * rank, c.inputs,
                      between + b.first * step + column, step);
    });
  }
  const std::vector<Span> spans = spans_of(c);
  const long columns = spans.size();
#pragma omp for schedule(dynamic, 1)
  for (long item = 0; item < blocks * columns; item++) {
    const auto& b = adapted.blocks[item / columns];
    const Span& s = spans[item % columns];
    const long rank = c.ranks[b.slot];
    if (!rank) continue;
    float* rows[BLOCK];
    for (long n = 0; n < b.count; n++) rows[n] = out + adapted.order[b.first + n] * out_step;
    with_rows(b.count, [&](auto n) {
      expand<n.value>(between + b.first * step + s.part * rank, step, c.up + b.slot * c.up_step, c.outputs, rank, rows,
                      s.first, s.end);
    });
  }
}
