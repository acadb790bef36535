// Products of low rank. Each sum runs over its entries in order, so a row's numbers do not depend on the rows beside it.
#include "low_rank.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "vectors.h"

namespace {

constexpr long BLOCK = 8;      // rows that read a weight together
constexpr long RANKS = 16;     // ranks are multiples of it
constexpr long COLUMNS = 256;  // outputs of an item
constexpr long MANY = 4;       // blocks that are enough items for the threads
constexpr long SOON = 24;      // inputs whose factors are fetched before they are read

// Factors in float32: a step of a sum is one of a column's numbers, an entry of a row one number.
struct Single {
  typedef float Number;
  typedef float Entry;
  static constexpr long DEPTH = 1;

  static const Entry* entries(const float* x, long, std::vector<Entry>&, long) { return x; }

  // sums[n] += x[n][step] * the columns at `w`
  template <int N>
  static inline void add(const Entry* const* x, long step, const Number* w, long, vec* sums) {
    const vec column = load(w);
    for (int n = 0; n < N; n++) sums[n] += spread(x[n][step]) * column;
  }

  static float product(const Entry* x, long i, Number w) { return x[i] * w; }
};

#if defined(DOT_UNITS)

// Sixteen numbers and sixteen others, to two of a column beside each other.
static const __m512i BESIDE = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                               5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);

// In bfloat16: a step is two of a column's numbers, `line` apart, an entry two numbers of a row, rounded.
struct Double {
  typedef uint16_t Number;
  typedef uint32_t Entry;
  static constexpr long DEPTH = 2;

  // The entries of a block's row number n, and zeros to the end of a vector.
  static const Entry* entries(const float* x, long count, std::vector<Entry>& room, long n) {
    const long step = (count + LANES - 1) / LANES * (LANES / 2);
    if ((long)room.size() < BLOCK * step) room.resize(BLOCK * step);
    Entry* out = room.data() + n * step;
    for (long i = 0; i < count; i += LANES) {
      const __mmask16 there = count - i < LANES ? (1 << (count - i)) - 1 : 0xffff;
      const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(there, x + i));
      memcpy(out + i / 2, &rounded, sizeof rounded);
    }
    return out;
  }

  template <int N>
  static inline void add(const Entry* const* x, long step, const Number* w, long line, vec* sums) {
    const __m512i numbers = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)w)),
                                               _mm256_loadu_si256((const __m256i*)(w + line)), 1);
    const __m512bh columns = (__m512bh)_mm512_permutexvar_epi16(BESIDE, numbers);
    for (int n = 0; n < N; n++)
      sums[n] = (vec)_mm512_dpbf16_ps((__m512)sums[n], (__m512bh)_mm512_set1_epi32((int)x[n][step]), columns);
  }

  static float widened(uint16_t word) {
    const uint32_t bits = (uint32_t)word << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
  }
  static float product(const Entry* x, long i, Number w) { return widened(x[i / 2] >> i % 2 * 16) * widened(w); }
};

#endif

// made[row][16 columns] = x[row] * down[:, 16 columns], for N rows. Sums of steps of even and of odd number run beside each
// other: a few rows would wait for each step's products.
template <class F, int N>
void shrink_rows(const typename F::Entry* const* x, const typename F::Number* down, long line, long inputs, float* made,
            long made_step) {
  constexpr int V = RANKS / LANES;
  const long steps = inputs / F::DEPTH;
  vec even[V][N] = {}, odd[V][N] = {};
  long i = 0;
  for (; i + 1 < steps; i += 2, down += 2 * F::DEPTH * line) {
    for (long ahead = 0; ahead < 2 * F::DEPTH; ahead++) __builtin_prefetch(down + (SOON + ahead) * line);
    for (int v = 0; v < V; v++) {
      F::template add<N>(x, i, down + v * LANES, line, even[v]);
      F::template add<N>(x, i + 1, down + F::DEPTH * line + v * LANES, line, odd[v]);
    }
  }
  for (; i < steps; i++, down += F::DEPTH * line)
    for (int v = 0; v < V; v++) F::template add<N>(x, i, down + v * LANES, line, even[v]);
  if (inputs % F::DEPTH)  // the last entry's second number is 0
    for (int v = 0; v < V; v++) F::template add<N>(x, steps, down + v * LANES, 0, even[v]);
  for (int n = 0; n < N; n++)
    for (int v = 0; v < V; v++) store(made + n * made_step + v * LANES, even[v][n] + odd[v][n]);
}

// out[row][column …] += made[row] * up[:, column …], for N rows
template <class F, int N>
void expand_rows(const typename F::Entry* const* made, const typename F::Number* up, long outputs, long rank,
            float* const* out, long first, long end) {
  constexpr long LINE = 64 / sizeof(typename F::Number);
  for (long r = 0; r < rank; r++)  // each of them lies elsewhere, and is short: nothing else would fetch it in time
    for (long c = first; c < end; c += LINE) __builtin_prefetch(up + r * outputs + c, 0, 2);
  long column = first;
  for (; column + LANES <= end; column += LANES) {
    vec sums[N] = {};
    for (long r = 0; r < rank; r += F::DEPTH)
      F::template add<N>(made, r / F::DEPTH, up + r * outputs + column, outputs, sums);
    for (int n = 0; n < N; n++) store(out[n] + column, load(out[n] + column) + sums[n]);
  }
  for (; column < end; column++)
    for (int n = 0; n < N; n++) {
      float sum = 0;
      for (long r = 0; r < rank; r++) sum += F::product(made[n], r, up[r * outputs + column]);
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

// The highest rank of the rows' adapters in a projection, 0 where none changes it.
long highest_rank(const LowRank& c, const Adapted& adapted) {
  long highest = 0;
  for (const auto& b : adapted.blocks) highest = std::max<long>(highest, c.ranks[b.slot]);
  return highest;
}

// `shrink` and `expand`, of factors of one type.
template <class F>
struct Halves {
  typedef typename F::Number Number;
  typedef typename F::Entry Entry;

  static std::vector<Entry>& room() {
    static thread_local std::vector<Entry> room;
    return room;
  }

  static void shrink(const LowRank& c, Adapted& adapted, const float* x, long x_step) {
    const long highest = highest_rank(c, adapted), step = c.parts * highest;
    if (!highest) return;
    const long blocks = adapted.blocks.size(), pieces = step / RANKS;
    const long share = blocks >= MANY ? pieces : 1;  // pieces of an item, which has its rows' entries made once
    const long items = (pieces + share - 1) / share;
    std::vector<Entry>& mine = room();
#pragma omp for schedule(dynamic, 1) nowait
    for (long item = 0; item < blocks * items; item++) {
      const auto& b = adapted.blocks[item / items];
      const long width = c.parts * c.ranks[b.slot], first = item % items * share * RANKS;
      const long end = std::min(first + share * RANKS, width);
      if (first >= end) continue;
      const Entry* rows[BLOCK];
      for (long n = 0; n < b.count; n++)
        rows[n] = F::entries(x + adapted.order[b.first + n] * x_step, c.inputs, mine, n);
      const Number* down = (const Number*)c.down + b.slot * c.down_step;
      float* made = adapted.between.data() + b.first * step;
      with_rows(b.count, [&](auto n) {
        for (long column = first; column < end; column += RANKS)
          shrink_rows<F, n.value>(rows, down + column, width, c.inputs, made + column, step);
      });
    }
  }

  static void expand(const LowRank& c, const Adapted& adapted, float* out, long out_step) {
    const long highest = highest_rank(c, adapted), step = c.parts * highest;
    if (!highest) return;
    const std::vector<Span> spans = spans_of(c);
    const long blocks = adapted.blocks.size(), columns = spans.size();
    std::vector<Entry>& mine = room();
#pragma omp for schedule(dynamic, 1)
    for (long item = 0; item < blocks * columns; item++) {
      const auto& b = adapted.blocks[item / columns];
      const Span& s = spans[item % columns];
      const long rank = c.ranks[b.slot];
      if (!rank) continue;
      const Entry* made[BLOCK];
      float* rows[BLOCK];
      for (long n = 0; n < b.count; n++) {
        made[n] = F::entries(adapted.between.data() + (b.first + n) * step + s.part * rank, rank, mine, n);
        rows[n] = out + adapted.order[b.first + n] * out_step;
      }
      with_rows(b.count, [&](auto n) {
        expand_rows<F, n.value>(made, (const Number*)c.up + b.slot * c.up_step, c.outputs, rank, rows, s.first, s.end);
      });
    }
  }
};

// Calls `g` with the halves for a projection's factors.
template <class G>
void with_halves(const LowRank& c, G g) {
#if defined(DOT_UNITS)
  if (c.in_bfloat16) return g(Halves<Double>());
#endif
  g(Halves<Single>());
}

}  // namespace

Adapted::Adapted(const int64_t* o, const int64_t* groups, long adapters) : order(o) {
  for (long g = 0; g < adapters; g++, groups += 3)
    for (long first = groups[1]; first < groups[2]; first += BLOCK) {
      blocks.push_back({groups[0] - 1, first, std::min<long>(BLOCK, groups[2] - first)});
      rows += blocks.back().count;
    }
}

void Adapted::reserve(const LowRank& c) {
  const size_t size = rows * c.parts * highest_rank(c, *this);
  if (between.size() < size) between.resize(size);
}

void shrink(const LowRank& c, Adapted& adapted, const float* x, long x_step) {
  with_halves(c, [&](auto halves) { halves.shrink(c, adapted, x, x_step); });
}

void expand(const LowRank& c, const Adapted& adapted, float* out, long out_step) {
  with_halves(c, [&](auto halves) { halves.expand(c, adapted, out, out_step); });
}
