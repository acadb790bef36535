// Products of low rank. Each sum runs over its entries in order, so a row's numbers do not depend on the rows beside it.
#include "low_rank.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "matrix.h"
#include "vectors.h"

namespace {

constexpr long BLOCK = 16;       // rows that read a weight together
constexpr long PANEL = 16;       // columns of a panel, in which factors lie input by input
constexpr long INPUTS = 32;      // inputs of `down` are filled up to a multiple of it
constexpr long COLUMNS = 256;    // outputs of an item
constexpr long MANY = 4;         // blocks that are enough items for the threads
constexpr long SOON = 4 * 1024;  // bytes that are fetched before they are read
constexpr long FEW = 384 << 10;  // bytes of `down` that each thread reads for itself, sooner than threads wait for each other

long filled(long count, long to) { return (count + to - 1) / to * to; }

// Fetches what is read SOON bytes later than the line at `at`.
inline void fetch(const void* at) { __builtin_prefetch((const char*)at + SOON); }

// Fetches what will be read first.
inline void fetch_first(const void* at) {
  for (long i = 0; i < SOON; i += 64) __builtin_prefetch((const char*)at + i);
}

// Rounded to bfloat16 and filled up with zeros, rows of one thread's item.
struct alignas(64) Words {
  uint16_t words[INPUTS];
};
thread_local std::vector<Words> room;

// Factors in float32: a step of a sum is one of a column's numbers.
struct Single {
  typedef float Number;
  typedef const float* Row;
  static constexpr long DEPTH = 1, MOST = 8;

  static Row row(const float* x, long, long, long) { return x; }
  static Row made(const Number* x) { return x; }
  static void keep(const float* sums, Number* out) { std::copy_n(sums, PANEL, out); }

  // sums[n] += x[n][step] * a line of a panel
  template <int N>
  static inline void add(const Row* x, long step, const Number* line, vec (*sums)[PANEL / LANES]) {
    for (int v = 0; v < PANEL / LANES; v++) {
      const vec columns = load(line + v * LANES);
      for (int n = 0; n < N; n++) sums[n][v] += spread(x[n][step]) * columns;
    }
  }
};

#if defined(DOT_UNITS)

// In bfloat16: a step is two of a column's numbers, which lie beside each other.
struct Double {
  typedef uint16_t Number;
  typedef const uint32_t* Row;
  static constexpr long DEPTH = 2, MOST = 8;

  // The numbers of an item's row number n, of `size` in memory.
  static Row row(const float* x, long count, long n, long size) {
    const size_t lines = size / INPUTS;
    if (room.size() < BLOCK * lines) room.resize(BLOCK * lines);
    uint16_t* out = room[n * lines].words;
    for (long i = 0; i < size; i += LANES) {
      const __mmask16 there = count - i >= LANES ? 0xffff : count <= i ? 0 : (1 << (count - i)) - 1;
      const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(there, x + i));
      memcpy(out + i, &rounded, sizeof rounded);
    }
    return (Row)out;
  }

  static Row made(const Number* x) { return (Row)x; }
  static void keep(const float* sums, Number* out) {
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(sums));
    memcpy(out, &rounded, sizeof rounded);
  }

  template <int N>
  static inline void add(const Row* x, long step, const Number* line, vec (*sums)[PANEL / LANES]) {
    const __m512bh columns = (__m512bh)_mm512_loadu_si512(line);
    for (int n = 0; n < N; n++)
      sums[n][0] = (vec)_mm512_dpbf16_ps((__m512)sums[n][0], (__m512bh)_mm512_set1_epi32((int)x[n][step]), columns);
  }
};

#endif

// out[row][PANEL] = x[row] * a panel, for N rows. Sums of steps of even and of odd number run beside each other: a few rows
// would wait for each step's products.
template <class F, int N>
void sum_rows(const typename F::Row* x, const typename F::Number* panel, long steps, float (*out)[PANEL]) {
  constexpr long LINE = PANEL * F::DEPTH;
  vec even[N][PANEL / LANES] = {}, odd[N][PANEL / LANES] = {};
  long i = 0;
  for (; i + 1 < steps; i += 2, panel += 2 * LINE) {
    fetch(panel), fetch(panel + LINE);
    F::template add<N>(x, i, panel, even);
    F::template add<N>(x, i + 1, panel + LINE, odd);
  }
  if (i < steps) F::template add<N>(x, i, panel, even);
  for (int n = 0; n < N; n++)
    for (int v = 0; v < PANEL / LANES; v++) store(out[n] + v * LANES, even[n][v] + odd[n][v]);
}

// out[row][width] += made[row] * panels, for N rows; `out` are where the columns begin.
template <class F, int N>
void add_rows(const typename F::Row* made, const typename F::Number* panels, long rank, float* const* out, long width) {
  constexpr long LINE = PANEL * F::DEPTH;
  for (long column = 0; column < width; column += PANEL) {
    vec sums[N][PANEL / LANES] = {};
    for (long step = 0; step < rank / F::DEPTH; step++, panels += LINE) {
      fetch(panels);
      F::template add<N>(made, step, panels, sums);
    }
    for (int n = 0; n < N; n++)
      if (width - column < PANEL)
        for (long i = 0; i < width - column; i++) out[n][column + i] += sums[n][i / LANES][i % LANES];
      else
        for (int v = 0; v < PANEL / LANES; v++) {
          float* at = out[n] + column + v * LANES;
          store(at, load(at) + sums[n][v]);
        }
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
    default: return f(std::integral_constant<int, 8>());
  }
}

// An item's rows times panels, by vectors.
template <class F>
class ByVectors {
  typename F::Row rows_[BLOCK];
  long count_ = 0, steps_ = 0;

 public:
  // Row number n of `count`, of so many inputs.
  void take(const float* x, long n, long count, long inputs) {
    count_ = count, steps_ = (inputs + F::DEPTH - 1) / F::DEPTH;
    rows_[n] = F::row(x, inputs, n, filled(inputs, INPUTS));
  }

  // Gives each panel's sums [count][PANEL] to `end(number of the panel, sums)`.
  template <class End>
  void multiply(const typename F::Number* panels, long count, long size, End end) {
    float sums[BLOCK][PANEL];
    for (long p = 0; p < count; p++, panels += size * PANEL) {
      for (long first = 0; first < count_; first += F::MOST)
        with_rows(std::min(count_ - first, F::MOST),
                  [&](auto n) { sum_rows<F, n.value>(rows_ + first, panels, steps_, sums + first); });
      end(p, sums);
    }
  }
};

#if defined(MATRIX_UNITS)

// The same by matrix units: 32 inputs of a panel are a tile.
class ByUnits {
  const uint16_t* rows_ = nullptr;
  long count_ = 0, shaped_ = 0;

  struct Shapes {  // what `ldtilecfg` reads: bytes of a row and rows of each tile
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64};
    uint8_t rows[16] = {};
  };

  // Tiles 0 and 1 are sums, 2 and 3 weights, 4 is rows.
  void shape() {
    if (shaped_ == count_) return;
    shaped_ = count_;
    Shapes shapes;
    for (int tile : {0, 1, 4}) shapes.rows[tile] = count_;
    for (int tile : {2, 3}) shapes.rows[tile] = HEIGHT;
    _tile_loadconfig(&shapes);
  }

  static void fetch_tile(const uint16_t* tile) {
    for (long i = 0; i < INPUTS * PANEL; i += 32) fetch(tile + i);
  }

  // The sums of a panel, or of two.
  template <bool BOTH>
  void sum(const uint16_t* one, const uint16_t* other, long size, float (*sums)[BLOCK][PANEL]) const {
    _tile_zero(0);
    if (BOTH) _tile_zero(1);
    for (long i = 0; i < size; i += INPUTS, one += INPUTS * PANEL, other += INPUTS * PANEL) {
      fetch_tile(one);
      _tile_loadd(4, rows_ + i, size * 2);
      _tile_loadd(2, one, 64);
      _tile_dpbf16ps(0, 4, 2);
      if (!BOTH) continue;
      fetch_tile(other);
      _tile_loadd(3, other, 64);
      _tile_dpbf16ps(1, 4, 3);
    }
    _tile_stored(0, sums[0], 64);
    if (BOTH) _tile_stored(1, sums[1], 64);
  }

 public:
  ~ByUnits() { if (shaped_) _tile_release(); }

  void take(const float* x, long n, long count, long inputs) {
    Double::row(x, inputs, n, filled(inputs, INPUTS));
    count_ = count, rows_ = room.data()->words;
  }

  template <class End>
  void multiply(const uint16_t* panels, long count, long size, End end) {
    alignas(64) float sums[2][BLOCK][PANEL];
    shape();
    long p = 0;
    for (; p + 1 < count; p += 2, panels += 2 * size * PANEL) {
      sum<true>(panels, panels + size * PANEL, size, sums);
      end(p, sums[0]), end(p + 1, sums[1]);
    }
    if (p == count) return;
    sum<false>(panels, panels, size, sums);
    end(p, sums[0]);
  }
};

#endif

// Columns of `up` that are of one part, few enough for an item; `panels` come before them.
struct Span {
  long part, column, width, panels;
};

std::vector<Span> spans_of(const LowRank& c) {
  std::vector<Span> spans;
  for (long p = 0, column = 0, panels = 0; p < c.parts; column += c.sizes[p++])
    for (long first = 0; first < c.sizes[p]; first += COLUMNS) {
      spans.push_back({p, column + first, std::min<long>(COLUMNS, c.sizes[p] - first), panels});
      panels += filled(spans.back().width, PANEL) / PANEL;
    }
  return spans;
}

// The highest rank of the rows' adapters in a projection, 0 where none changes it.
long highest_rank(const LowRank& c, const Adapted& adapted) {
  long highest = 0;
  for (const auto& b : adapted.blocks) highest = std::max<long>(highest, c.ranks[b.slot]);
  return highest;
}

// The halves of a change, of factors of one type. What the first makes is kept as the second reads it.
template <class F, class Products>
struct Halves {
  typedef typename F::Number Number;

  // Panels first … end - 1 of a block.
  static void shrink_block(const LowRank& c, const Adapted& adapted, const Adapted::Block& b, long step, long first, long end,
                           const float* x, long x_step, Products& products, float* between) {
    end = std::min(end, c.parts * c.ranks[b.slot] / PANEL);
    if (first >= end) return;
    const long size = filled(c.inputs, INPUTS);
    const Number* down = (const Number*)c.down + b.slot * c.down_step + first * size * PANEL;
    fetch_first(down);
    for (long n = 0; n < b.count; n++) products.take(x + adapted.order[b.first + n] * x_step, n, b.count, c.inputs);
    Number* made = (Number*)between + b.first * step + first * PANEL;
    products.multiply(down, end - first, size, [&](long p, const float (*sums)[PANEL]) {
      for (long n = 0; n < b.count; n++) F::keep(sums[n], made + n * step + p * PANEL);
    });
  }

  static const float* shrink(const LowRank& c, Adapted& adapted, const float* x, long x_step) {
    const long step = c.parts * highest_rank(c, adapted), blocks = adapted.blocks.size(), pieces = step / PANEL;
    if (!step) return nullptr;
    Products products;
    if (blocks * pieces * filled(c.inputs, INPUTS) * PANEL * (long)sizeof(Number) <= FEW) {
      static thread_local std::vector<float> own;
      if ((long)own.size() < adapted.rows * step) own.resize(adapted.rows * step);
      for (const auto& b : adapted.blocks) shrink_block(c, adapted, b, step, 0, pieces, x, x_step, products, own.data());
      return own.data();
    }
    const long share = blocks >= MANY ? pieces : 1;  // panels of an item, which has its rows made once
    const long items = (pieces + share - 1) / share;
#pragma omp for schedule(dynamic, 1)
    for (long item = 0; item < blocks * items; item++)
      shrink_block(c, adapted, adapted.blocks[item / items], step, item % items * share, (item % items + 1) * share, x, x_step,
                   products, adapted.between.data());
    return adapted.between.data();
  }

  // Adds the change of some columns of a part to a block's rows.
  static void expand_block(const LowRank& c, const Adapted& adapted, const float* between, const Adapted::Block& b, long step,
                           const Span& span, float* out, long out_step) {
    const long rank = c.ranks[b.slot];
    const Number* up = (const Number*)c.up + b.slot * c.up_step + span.panels * rank * PANEL;
    const Number* made = (const Number*)between + b.first * step + span.part * rank;
    typename F::Row rows[BLOCK];
    float* outs[BLOCK];
    for (long n = 0; n < b.count; n++) {
      rows[n] = F::made(made + n * step);
      outs[n] = out + adapted.order[b.first + n] * out_step + span.column;
    }
    for (long first = 0; first < b.count; first += F::MOST)
      with_rows(std::min(b.count - first, F::MOST),
                [&](auto n) { add_rows<F, n.value>(rows + first, up, rank, outs + first, span.width); });
  }

  static void expand(const LowRank& c, const Adapted& adapted, const float* between, float* out, long out_step) {
    const long step = c.parts * highest_rank(c, adapted);
    if (!step) return;
    const std::vector<Span> spans = spans_of(c);
    const long blocks = adapted.blocks.size(), items = spans.size();
#pragma omp for schedule(dynamic, 1)
    for (long item = 0; item < blocks * items; item++) {
      const auto& b = adapted.blocks[item / items];
      if (c.ranks[b.slot]) expand_block(c, adapted, between, b, step, spans[item % items], out, out_step);
    }
  }

  // `step`: numbers from a row of what the first half made to the next.
  static void expand_columns(const LowRank& c, const Adapted& adapted, const float* between, long step, long column,
                             long width, float* out, long out_step) {
    long part = 0, start = 0;
    while (column >= start + c.sizes[part]) start += c.sizes[part++];
    const Span span{part, column, std::min(width, c.outputs - column), column / PANEL};
    for (const auto& b : adapted.blocks)
      if (c.ranks[b.slot]) expand_block(c, adapted, between, b, step, span, out, out_step);
  }

  static void fetch_columns(const LowRank& c, const Adapted& adapted, long column, long width) {
    for (const auto& b : adapted.blocks) {
      const long rank = c.ranks[b.slot], size = std::min(width, c.outputs - column) * rank * sizeof(Number);
      const char* up = (const char*)((const Number*)c.up + b.slot * c.up_step + column * rank);
      for (long i = 0; i < size; i += 64) __builtin_prefetch(up + i, 0, 2);
    }
  }
};

// Calls `g` with the halves for a projection's factors.
template <class G>
void with_halves(const LowRank& c, G g) {
#if defined(MATRIX_UNITS)
  if (c.in_bfloat16 && matrix_units()) return g(Halves<Double, ByUnits>());
#endif
#if defined(DOT_UNITS)
  if (c.in_bfloat16) return g(Halves<Double, ByVectors<Double>>());
#endif
  g(Halves<Single, ByVectors<Single>>());
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

Change::Change(const LowRank& c, Adapted& adapted, const float* x, long x_step) : c_(c), adapted_(adapted) {
  step_ = c.parts * highest_rank(c, adapted);
  with_halves(c, [&](auto halves) { made_ = halves.shrink(c, adapted, x, x_step); });
}

bool Change::by_columns(long width) const {
  bool whole = true;
  for (long p = 0; p < c_.parts; p++) whole &= c_.sizes[p] % width == 0;
  return whole;
}

void Change::fetch(long column, long width) const {
  if (step_) with_halves(c_, [&](auto halves) { halves.fetch_columns(c_, adapted_, column, width); });
}

void Change::add(long column, long width, float* out, long out_step) const {
  if (step_)
    with_halves(c_, [&](auto halves) { halves.expand_columns(c_, adapted_, made_, step_, column, width, out, out_step); });
}

void Change::add(float* out, long out_step) const {
  with_halves(c_, [&](auto halves) { halves.expand(c_, adapted_, made_, out, out_step); });
}
