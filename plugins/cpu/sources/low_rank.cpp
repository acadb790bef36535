// Products of low rank. Each sum runs over its entries in order, so a row's numbers do not depend on the rows beside it.
#include "low_rank.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <type_traits>

#include "matrix.h"
#include "vectors.h"

namespace {

constexpr long BLOCK = 32;       // rows that read a weight together
constexpr long TOGETHER = 32;    // rows that matrix units multiply in one go
constexpr long PANEL = 16;       // columns of a panel, in which factors lie input by input
constexpr long INPUTS = 32;      // inputs of `down` are filled up to a multiple of it
constexpr long COLUMNS = 256;    // outputs of an item
constexpr long MANY = 4;         // blocks that are enough items for the threads
constexpr long SOON = 4 * 1024;  // bytes that are fetched before they are read
constexpr long FEW = 128 << 10;  // bytes of `down` that each thread reads for itself, sooner than threads wait for each other

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

// Rows that are multiplied: where they lie, and whether split<1>() has them.
struct Rows {
  const float* x;
  long step, inputs;
  bool split;

  const float* at(long row) const { return x + row * step; }
};

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

// out[row][width] += made[row] * P panels beside each other, for N rows. Loops over sums are laid out, so that these stay
// in registers.
template <class F, int N, int P>
inline void add_panels(const typename F::Row* made, const typename F::Number* panels, long steps, float* const* out, long width) {
  constexpr long LINE = PANEL * F::DEPTH;
  constexpr int VECTORS = PANEL / LANES;
  vec sums[P][N][VECTORS] = {};
  for (long step = 0; step < steps; step++, panels += LINE)
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) {
      fetch(panels + p * steps * LINE);
      F::template add<N>(made, step, panels + p * steps * LINE, sums[p]);
    }
  float made_alone[N][PANEL];
  const bool whole = width >= PANEL;
#pragma GCC unroll 4
  for (int p = 0; p < P; p++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++)
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++) {
        float* at = out[n] + p * PANEL + v * LANES;
        if (whole) store(at, load(at) + sums[p][n][v]);
        else store(made_alone[n] + v * LANES, sums[p][n][v]);
      }
  for (int n = 0; !whole && n < N; n++)
    for (long i = 0; i < width; i++) out[n][i] += made_alone[n][i];
}

// out[row][width] += made[row] * panels, for N rows; `out` are where the columns begin.
template <class F, int N>
void add_rows(const typename F::Row* made, const typename F::Number* panels, long rank, float* const* out, long width) {
  constexpr int SUMS = N * PANEL / LANES, P = SUMS <= 4 ? 4 : SUMS <= 8 ? 2 : 1;
  float* at[N];
  std::copy_n(out, N, at);
  const long steps = rank / F::DEPTH;
  while (width > 0) {
    const bool all = width >= P * PANEL;
    if (all) add_panels<F, N, P>(made, panels, steps, at, width);
    else add_panels<F, N, 1>(made, panels, steps, at, width);
    const long done = all ? P : 1;
    panels += done * rank * PANEL, width -= done * PANEL;
    for (int n = 0; n < N; n++) at[n] += done * PANEL;
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
  typedef typename F::Number Number;
  typename F::Row rows_[BLOCK];
  long count_ = 0, steps_ = 0;

 public:
  // What the first half makes for a part of a row takes so many numbers.
  static long entries(long rank) { return rank; }
  static void keep(const float* sums, Number* out, bool) { F::keep(sums, out); }

  // The rows of these numbers.
  void take(const Rows& rows, const int64_t* numbers, long count) {
    count_ = count, steps_ = (rows.inputs + F::DEPTH - 1) / F::DEPTH;
    for (long n = 0; n < count; n++) rows_[n] = F::row(rows.at(numbers[n]), rows.inputs, n, filled(rows.inputs, INPUTS));
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
  long count_ = 0, row_ = 0, step_ = 0, next_ = 0;  // bytes of a row; words to the next 32 inputs, and to the second 16 rows
  Units units_;

  static void fetch_tile(const uint16_t* tile) {
    for (long i = 0; i < INPUTS * PANEL; i += 32) fetch(tile + i);
  }

  // The sums of a panel, or of two, for up to 16 rows or `MORE`.
  template <bool BOTH, bool MORE>
  void sum(const uint16_t* one, const uint16_t* other, long size, float (*sums)[BLOCK][PANEL]) const {
    const uint16_t* rows = rows_;
    _tile_zero(0);
    if (BOTH) _tile_zero(1);
    if (MORE) _tile_zero(2);
    if (BOTH && MORE) _tile_zero(3);
    for (long i = 0; i < size; i += INPUTS, one += INPUTS * PANEL, other += INPUTS * PANEL, rows += step_) {
      fetch_tile(one);
      _tile_loadd(4, rows, row_);
      if (MORE) _tile_loadd(5, rows + next_, row_);
      _tile_loadd(6, one, 64);
      _tile_dpbf16ps(0, 4, 6);
      if (MORE) _tile_dpbf16ps(2, 5, 6);
      if (!BOTH) continue;
      fetch_tile(other);
      _tile_loadd(7, other, 64);
      _tile_dpbf16ps(1, 4, 7);
      if (MORE) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums[0], 64);
    if (BOTH) _tile_stored(1, sums[1], 64);
    if (MORE) _tile_stored(2, sums[0][HEIGHT], 64);
    if (BOTH && MORE) _tile_stored(3, sums[1][HEIGHT], 64);
  }

  template <bool BOTH>
  void sum(const uint16_t* one, const uint16_t* other, long size, float (*sums)[BLOCK][PANEL]) const {
    if (count_ > HEIGHT) sum<BOTH, true>(one, other, size, sums);
    else sum<BOTH, false>(one, other, size, sums);
  }

  static const uint16_t* rounded(long number) { return split<1>().tiles(number) + number % HEIGHT * STEP; }

  // Whether tiles can be read where split<1>() has these rows: those of a tile as far from each other as the first two are.
  bool in_place(const int64_t* numbers, long count) {
    const uint16_t* first = rounded(numbers[0]);
    const long apart = count > 1 ? rounded(numbers[1]) - first : 0;
    for (long n = 0; n < count; n++)
      if (rounded(numbers[n]) != rounded(numbers[n / HEIGHT * HEIGHT]) + n % HEIGHT * apart) return false;
    rows_ = first, row_ = apart * 2, step_ = TILE, next_ = count > HEIGHT ? rounded(numbers[HEIGHT]) - first : 0;
    return true;
  }

  // Rows of split<1>() beside each other.
  static void gather(const int64_t* numbers, long count, long lines) {
    if ((long)room.size() < BLOCK * lines) room.resize(BLOCK * lines);
    for (long n = 0; n < count; n++) {
      const uint16_t* from = rounded(numbers[n]);
      for (long i = 0; i < lines; i++) memcpy(&room[n * lines + i], from + i * TILE, sizeof room[0]);
    }
  }

 public:
  void take(const Rows& rows, const int64_t* numbers, long count) {
    const long size = filled(rows.inputs, INPUTS);
    count_ = count;
    if (rows.split && in_place(numbers, count)) return;
    if (rows.split) gather(numbers, count, size / INPUTS);
    else
      for (long n = 0; n < count; n++) Double::row(rows.at(numbers[n]), rows.inputs, n, size);
    rows_ = room.data()->words, row_ = size * 2, step_ = INPUTS, next_ = size * HEIGHT;
  }

  template <class End>
  void multiply(const uint16_t* panels, long count, long size, End end) {
    alignas(64) float sums[2][BLOCK][PANEL];
    units_.shape(std::min(count_, HEIGHT), std::max(count_ - HEIGHT, 1L));
    long p = 0;
    for (; p + 1 < count; p += 2, panels += 2 * size * PANEL) {
      sum<true>(panels, panels + size * PANEL, size, sums);
      end(p, sums[0]), end(p + 1, sums[1]);
    }
    if (p == count) return;
    sum<false>(panels, panels, size, sums);
    end(p, sums[0]);
  }

  // A tile has room for 32 ranks.
  static long entries(long rank) { return filled(rank, INPUTS); }
  // `last`: of the ranks of a part; behind them there may be half a tile of nothing.
  static void keep(const float* sums, uint16_t* out, bool last) {
    Double::keep(sums, out);
    if (last) memset(out + PANEL, 0, PANEL * sizeof *out);
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

  // Numbers from a row of what the first half makes to the next.
  static long step_of(const LowRank& c, const Adapted& adapted) { return c.parts * Products::entries(highest_rank(c, adapted)); }

  // Panels first … end - 1 of a block.
  static void shrink_block(const LowRank& c, const Adapted& adapted, const Adapted::Block& b, long step, long first, long end,
                           const Rows& rows, Products& products, float* between) {
    const long rank = c.ranks[b.slot], size = filled(c.inputs, INPUTS);
    end = std::min(end, c.parts * rank / PANEL);
    if (first >= end) return;
    const Number* down = (const Number*)c.down + b.slot * c.down_step + first * size * PANEL;
    fetch_first(down);
    products.take(rows, adapted.order + b.first, b.count);
    products.multiply(down, end - first, size, [&](long p, const float (*sums)[PANEL]) {
      const long part = (first + p) * PANEL / rank, within = (first + p) * PANEL % rank;
      Number* made = (Number*)between + b.first * step + part * Products::entries(rank) + within;
      for (long n = 0; n < b.count; n++) Products::keep(sums[n], made + n * step, within + PANEL == rank && rank % INPUTS);
    });
  }

  static const float* shrink(const LowRank& c, Adapted& adapted, const Rows& rows) {
    const long step = step_of(c, adapted), blocks = adapted.blocks.size(), pieces = c.parts * highest_rank(c, adapted) / PANEL;
    if (!step) return nullptr;
    Products products;
    if (blocks * pieces * filled(c.inputs, INPUTS) * PANEL * (long)sizeof(Number) <= FEW) {
      static thread_local std::vector<float> own;
      if ((long)own.size() < (adapted.rows + BLOCK) * step) own.resize((adapted.rows + BLOCK) * step);
      for (const auto& b : adapted.blocks) shrink_block(c, adapted, b, step, 0, pieces, rows, products, own.data());
      return own.data();
    }
    const long share = blocks >= MANY ? pieces : 1;  // panels of an item, which has its rows made once
    const long items = (pieces + share - 1) / share;
#pragma omp for schedule(dynamic, 1)
    for (long item = 0; item < blocks * items; item++)
      shrink_block(c, adapted, adapted.blocks[item / items], step, item % items * share, (item % items + 1) * share, rows,
                   products, adapted.between.data());
    return adapted.between.data();
  }

  // Adds the change of some columns of a part to a block's rows.
  static void expand_block(const LowRank& c, const Adapted& adapted, const float* between, const Adapted::Block& b, long step,
                           const Span& span, float* out, long out_step) {
    const long rank = c.ranks[b.slot];
    const Number* up = (const Number*)c.up + b.slot * c.up_step + span.panels * rank * PANEL;
    const Number* made = (const Number*)between + b.first * step + span.part * Products::entries(rank);
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
    const long step = step_of(c, adapted);
    if (!step) return;
    const std::vector<Span> spans = spans_of(c);
    const long blocks = adapted.blocks.size(), items = spans.size();
#pragma omp for schedule(dynamic, 1)
    for (long item = 0; item < blocks * items; item++) {
      const auto& b = adapted.blocks[item / items];
      if (c.ranks[b.slot]) expand_block(c, adapted, between, b, step, spans[item % items], out, out_step);
    }
  }

  static void expand_columns(const LowRank& c, const Adapted& adapted, const float* between, long column, long width,
                             float* out, long out_step) {
    long part = 0, start = 0;
    while (column >= start + c.sizes[part]) start += c.sizes[part++];
    const Span span{part, column, std::min(width, c.outputs - column), column / PANEL};
    for (const auto& b : adapted.blocks)
      if (c.ranks[b.slot]) expand_block(c, adapted, between, b, step_of(c, adapted), span, out, out_step);
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

std::atomic<long> steps{0};  // that had rows with adapters

}  // namespace

Adapted::Adapted(const int64_t* o, const int64_t* g, long count) : order(o), adapters(count), groups(g), number(++steps) {
  for (long a = 0; a < adapters; a++, g += 3) {
    for (long first = g[1]; first < g[2]; first += BLOCK) {
      blocks.push_back({g[0] - 1, first, std::min<long>(BLOCK, g[2] - first)});
      rows += blocks.back().count;
    }
    for (long i = g[1]; i < g[2]; i++) place(a, i);
  }
}

void Adapted::place(long adapter, long entry) {
  const size_t number = order[entry] / TOGETHER;
  if (squares.size() <= number) squares.resize(number + 1);
  auto& shares = squares[number];
  if (shares.empty() || shares.back().adapter != adapter) shares.push_back({groups[3 * adapter] - 1, adapter, entry});
  shares.back().count++;
  (order[entry] % TOGETHER < TOGETHER / 2 ? shares.back().first : shares.back().second) = true;
}

void Adapted::reserve(const LowRank& c) {
  const long ranks = c.parts * filled(highest_rank(c, *this), INPUTS);
  cells = std::max(cells, ranks / INPUTS);
  const size_t size = (rows + BLOCK) * ranks;
  if (between.size() < size) between.resize(size);
}

Change::Change(const LowRank& c, Adapted& adapted, const float* x, long x_step, long rounded) : c_(c), adapted_(adapted) {
  some_ = highest_rank(c, adapted);
#if defined(MATRIX_UNITS)
  if (some_ && rounded && c.in_bfloat16) split<1>().take(split_ = x, x_step, rounded, c.inputs);
#endif
  with_halves(c, [&](auto halves) { made_ = halves.shrink(c, adapted, {x, x_step, c.inputs, split_ != nullptr}); });
#if defined(MATRIX_UNITS)
  if (some_ && on_units()) lay_in_tiles();
#endif
}

bool Change::by_columns(long width) const {
  bool whole = true;
  for (long p = 0; p < c_.parts; p++) whole &= c_.sizes[p] % width == 0;
  return whole;
}

void Change::fetch(long column, long width) const {
  if (some_) with_halves(c_, [&](auto halves) { halves.fetch_columns(c_, adapted_, column, width); });
}

void Change::add(long column, long width, float* out, long out_step) const {
  if (some_) with_halves(c_, [&](auto halves) { halves.expand_columns(c_, adapted_, made_, column, width, out, out_step); });
}

void Change::add(float* out, long out_step) const {
  with_halves(c_, [&](auto halves) { halves.expand(c_, adapted_, made_, out, out_step); });
}

#if defined(MATRIX_UNITS)

namespace {

// Of this thread: rows as tiles of the change that it computes, whose rows of others stay empty for a step, and what ends
// with the last panel of an adapter.
thread_local std::vector<Line<uint16_t>> tiles, ends;
thread_local long laid = 0, changes = 0;  // of which step, and how many changes
constexpr long LINES = HEIGHT;            // of a tile
static_assert(TOGETHER == SQUARE, "terms are of the rows that are multiplied in one go");

}  // namespace

bool Change::on_units() const { return c_.in_bfloat16 && matrix_units() && by_columns(WIDTH); }

const uint16_t* Change::up(long slot) const { return (const uint16_t*)c_.up + slot * c_.up_step; }

// What the first half has made of a row for a part, for the ranks of its adapter.
const uint16_t* Change::made(const Adapted::Share& share, long entry, long part) const {
  return (const uint16_t*)made_ + entry * c_.parts * steps_ * STEP + part * ByUnits::entries(c_.ranks[share.slot]);
}

// Tiles of an adapter in 32 rows lie where its first of these rows would: [parts][steps of ranks][32 rows][32 ranks].
uint16_t* Change::tile(const Adapted::Share& share, long part, long step) const {
  return tiles[(share.entry / (FewRows::MOST + 1) * adapted_.cells + part * steps_ + step) * 2 * LINES].words;
}

void Change::lay_in_tiles() {
  steps_ = Halves<Double, ByUnits>::step_of(c_, adapted_) / c_.parts / STEP;
  number_ = ++changes;
  const size_t lines = (adapted_.rows / (FewRows::MOST + 1) + 1) * adapted_.cells * 2 * LINES;
  if (laid != adapted_.number) tiles.assign(lines, {});
  laid = adapted_.number;
  for (const auto& shares : adapted_.squares)
    for (const auto& share : shares)
      if (share.count > FewRows::MOST) lay(share);
}

void Change::lay(const Adapted::Share& share) {
  for (long p = 0; p < c_.parts; p++)
    for (long s = 0; s * STEP < c_.ranks[share.slot]; s++) {
      uint16_t* out = tile(share, p, s);
      for (long i = share.entry; i < share.entry + share.count; i++)
        memcpy(out + adapted_.order[i] % TOGETHER * STEP, made(share, i, p) + s * STEP, STEP * sizeof *out);
    }
}

// A last panel of half a tile, and nothing behind it.
const uint16_t* Change::filled_end(const Adapted::Share& share, const uint16_t* from) const {
  if (ends.size() < adapted_.adapters * LINES) ends.resize(adapted_.adapters * LINES);
  uint16_t* out = ends[share.adapter * LINES].words;
  memcpy(out, from, STEP / 2 * PANEL * sizeof *out);
  memset(out + STEP / 2 * PANEL, 0, STEP / 2 * PANEL * sizeof *out);
  return out;
}

void Change::move(long column, Terms& terms) {
  const long by = column - terms.column;
  for (Term& t : terms.tiles) t.one += by * t.rank, t.other += by * t.rank;
  for (FewRows& t : terms.few) t.one += by * t.rank, t.other += by * t.rank;
  terms.column = column;
}

// What lies behind the ranks of a panel is the next panel, which is multiplied by nothing.
void Change::terms(long square, long column, Terms& terms) const {
  const bool last = column + WIDTH == c_.outputs;
  if (number_ && terms.change == number_ && terms.square == square && terms.column <= column && column < terms.end && !last)
    return move(column, terms);
  terms.clear();
  if (!some_ || square >= (long)adapted_.squares.size()) return;
  long part = 0, end = c_.sizes[0];
  for (; column >= end; end += c_.sizes[++part]) {}
  terms.change = number_, terms.square = square, terms.column = column, terms.end = end;
  for (const auto& share : adapted_.squares[square]) {
    const long rank = c_.ranks[share.slot];
    if (!rank) continue;
    const uint16_t *one = up(share.slot) + column * rank, *other = one + rank * PANEL;
    if (share.count <= FewRows::MOST) {
      FewRows few{one, other, rank, share.count};
      for (long n = 0; n < share.count; n++) {
        few.rows[n] = adapted_.order[share.entry + n] % TOGETHER;
        few.made[n] = made(share, share.entry + n, part);
      }
      terms.few.push_back(few);
      continue;
    }
    for (long s = 0; s * STEP < rank; s++, one += STEP * PANEL, other += STEP * PANEL) {
      const bool alone = last && rank - s * STEP < STEP;
      terms.tiles.push_back({one, alone ? filled_end(share, other) : other, tile(share, part, s), share.first,
                            share.second, rank});
    }
  }
}

#else

bool Change::on_units() const { return false; }

#endif
