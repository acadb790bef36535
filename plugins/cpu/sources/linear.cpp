// Products with weights kept in panels, and how weights get there.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "codes.h"
#include "low_rank.h"
#include "matrix.h"
#include "parts.h"
#include "vectors.h"

namespace {

constexpr long DIRECT = 32;   // rows up to which 16-bit weights are widened for every tile anew
constexpr long DEPTH = 1024;  // inputs whose 16-bit weights are widened at once: WIDTH x DEPTH floats stay in cache L2

thread_local std::vector<float> edge, wide;

// The rows of a panel of so many inputs, of float32 and of pairs.
template <class W>
long panel_height(long inputs) { return std::is_same<W, float>::value ? inputs : (inputs + 1) / 2; }

// Few rows are bound by memory and by the latency of their sums, so several panels run side by side.
int side_by_side(long m) { return m == 1 ? 4 : m <= 3 || (m <= 16 && matrix_units()) ? 2 : 1; }

// The rows of one panel; `x` and `depth` in entries of its kind.
template <class W>
void panel_rows(const typename Panel<W>::Entry* x, long ldx, const W* w, const Sums& c, long m, long depth) {
  tall<W>(m, x, ldx, w, WIDTH, c, depth, {(const char*)(w + depth * WIDTH), WIDTH * (long)sizeof(W)});
}

// 16-bit weights that many rows need are widened once for all of them.
template <>
void panel_rows(const float* x, long ldx, const Pair* w, const Sums& c, long m, long inputs) {
  const Next next{(const char*)(w + (inputs + 1) / 2 * WIDTH), WIDTH * (long)sizeof(Pair)};
  if (m <= DIRECT) return tall<Pair>(m, x, ldx, w, WIDTH, c, inputs, next);
  wide.resize(DEPTH * WIDTH);
  for (long first = 0; first < inputs; first += DEPTH) {
    const long depth = std::min(DEPTH, inputs - first);
    const Pair* from = w + first / 2 * WIDTH;
    for (long k = 0; k < depth; k++)
      for (int v = 0; v < VECTORS; v++) {
        const uvec words = words_at(from + k / 2 * WIDTH + v * LANES);
        store(wide.data() + k * WIDTH + v * LANES, k % 2 ? second_of(words) : first_of(words));
      }
    const Next later{(const char*)(from + (depth + 1) / 2 * WIDTH), next.step / 2};
    tall<float>(m, x + first, ldx, wide.data(), WIDTH, first ? onto(c.at, c.step) : c, depth, later);
  }
}

template <class W>
void panels(const typename Panel<W>::Entry* x, long ldx, const W* w, long panel, const Sums& c, long m, long depth,
            long count) {
  if (count == side_by_side(m) && m <= 3) {
    if (m == 1) return tile<1, 4, W>(x, ldx, w, WIDTH, panel, c, depth);
    if (m == 2) return tile<2, 2, W>(x, ldx, w, WIDTH, panel, c, depth);
    return tile<3, 2, W>(x, ldx, w, WIDTH, panel, c, depth);
  }
  for (long p = 0; p < count; p++) panel_rows<W>(x, ldx, w + p * panel, c.behind(0, p * WIDTH), m, depth);
}

// The sums of rows first …, which start from bias and from what is to be added. `room`: whether as many columns as are
// summed may be read of these.
Sums begin(const Product& p, long first, long rows, long column, long width, float* c, long step, bool room) {
  const float* bias = p.bias ? p.bias + column : nullptr;
  const float* start = p.start ? p.start + first * p.start_step + column : nullptr;
  if (!bias && !start) return {c, step};
  if (room && !(bias && start)) return bias ? Sums{c, step, bias, 0} : Sums{c, step, start, p.start_step};
  for (long i = 0; i < rows; i++, start += start ? p.start_step : 0)
    for (long j = 0; j < width; j++) c[i * step + j] = (start ? start[j] : 0.0f) + (bias ? bias[j] : 0.0f);
  return onto(c, step);
}

template <class W> constexpr bool ON_UNITS = false;
template <> constexpr bool ON_UNITS<Whole> = true;
template <long N> constexpr bool ON_UNITS<Planes<N>> = true;

// Whether sums start from rows by weights and go on with terms of changes.
template <class W> constexpr bool ADDS_TERMS = false;
template <long N> constexpr bool ADDS_TERMS<Planes<N>> = true;

// Rows of m that are multiplied together: as many as stay in cache L2 while the panels pass by, and what is split of panels
// serves enough of them.
template <class W>
long rows_at_once(long m, long inputs) {
  constexpr bool units = ON_UNITS<W>, whole = std::is_same<W, Whole>::value;
  constexpr long step = units ? 32 : ROWS, few = whole ? 96 : units ? 64 : 8 * ROWS;
  constexpr long entries = (units && !whole) || std::is_same<W, Dot>::value ? 262144 : 131072;
  const long rows = std::max(few, entries / inputs / step * step);
  return m <= rows + rows / 2 ? m : rows;
}

// Rows as the units that multiply them read them: what a thread keeps from one item of a product to the next.
template <class W>
struct Kept {
  const float* x;
  long step, depth;

  void take(const Product& p, long first, long) { x = p.x + first * p.x_step, step = p.x_step, depth = p.inputs; }
};

#if defined(DOT_UNITS)

thread_local std::vector<uint32_t> words;

// Rounded to bfloat16, to nearest even: for the first item, since those of the same rows come one after another.
template <>
struct Kept<Dot> {
  const uint32_t* x = nullptr;
  long step, depth;
  const float* rows = nullptr;

  void take(const Product& p, long first, long count) {
    const float* from = p.x + first * p.x_step;
    if (rows == from) return;
    rows = from, depth = (p.inputs + 1) / 2, step = (depth + LANES - 1) / LANES * LANES;
    if ((long)words.size() < count * step) words.resize(count * step);
    for (long i = 0; i < count; i++) round_row(from + i * p.x_step, p.inputs, words.data() + i * step);
    x = words.data();
  }

  static void round_row(const float* from, long inputs, uint32_t* out) {
    for (long k = 0; k < inputs; k += LANES) {
      const __mmask16 there = inputs - k < LANES ? (1 << (inputs - k)) - 1 : 0xffff;
      const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(there, from + k));
      memcpy(out + k / 2, &rounded, sizeof rounded);
    }
  }
};

#endif

template <class W>
void part(const Product& p, long first, long rows, long panel, long count, Kept<W>& kept) {
  long column = panel * WIDTH, width = std::min(count * WIDTH, p.outputs - column);
  bool whole = width == count * WIDTH;  // the last panel may be wider than what is left: it is made beside `out`
  if (!whole) edge.resize(rows * count * WIDTH);
  float* out = p.out + first * p.out_step + column;
  float* c = whole ? out : edge.data();
  long step = whole ? p.out_step : count * WIDTH;
  const Sums sums = begin(p, first, rows, column, width, c, step, whole);
  kept.take(p, first, rows);
  const long size = panel_height<W>(p.inputs) * WIDTH;
  panels<W>(kept.x, kept.step, (const W*)p.w + panel * size, size, sums, rows, kept.depth, count);
  for (long i = 0; !whole && i < rows; i++) std::copy_n(c + i * step, width, out + i * p.out_step);
}

#if defined(MATRIX_UNITS)

thread_local std::vector<Line<Pair>> planes;
thread_local Terms terms[2];

// What a change adds to the sums of rows that begin with one of them and to the columns of a panel.
template <class W>
const Terms& terms_of(const Product& p, long first, long panel, long place = 0) {
  if (ADDS_TERMS<W> && p.change && p.change->on_units()) p.change->terms(first / SQUARE, panel * WIDTH, terms[place]);
  else terms[place].clear();
  return terms[place];
}

// Items of the same rows come one after another: they are split for the first, unless a change has them so already.
template <long N>
struct KeptUnits {
  static constexpr long PLANES_OF_ROWS = N;
  Units units;
  const float* rows = nullptr;

  void take(const Product& p, long first, long count) {
    const float* x = p.x + first * p.x_step;
    if (N == 1 && p.change && p.change->split_rows()) rows = p.change->split_rows();
    if (rows != x) split<N>().take(x, p.x_step, count, p.inputs);
    rows = x;
  }
};
template <long N> struct Kept<Planes<N>> : KeptUnits<N> {};
template <> struct Kept<Whole> : KeptUnits<PLANES> {};

template <long N>
PairPanel panel_of(const Product& p, long panel, long, Kept<Planes<N>>&) {
  return PairPanel((const Pair*)p.w + panel * (p.inputs / 2 * WIDTH));
}
WholePanel panel_of(const Product& p, long panel, long rows, Kept<Whole>&) {
  return WholePanel((const float*)p.w + panel * p.inputs * WIDTH, split<PLANES>().steps(), rows <= SQUARE, planes);
}

// out = sums + start + bias, for the columns of one panel
void finish(const Product& p, long first, long rows, long column, const float* sums) {
  const long width = std::min<long>(WIDTH, p.outputs - column);
  const float* bias = p.bias ? p.bias + column : nullptr;
  for (long i = 0; i < rows; i++, sums += WIDTH) {
    float* out = p.out + (first + i) * p.out_step + column;
    const float* start = p.start ? p.start + (first + i) * p.start_step + column : nullptr;
    if (width == WIDTH)
      for (long j = 0; j < WIDTH; j += LANES) {
        vec made = load(sums + j);
        if (start) made += load(start + j);
        if (bias) made += load(bias + j);
        store(out + j, made);
      }
    else
      for (long j = 0; j < width; j++) out[j] = sums[j] + (start ? start[j] : 0.0f) + (bias ? bias[j] : 0.0f);
  }
}

template <class W>
void part_by_units(const Product& p, long first, long rows, long panel, long count, Kept<W>& kept) {
  alignas(64) float sums[SQUARE * WIDTH];
  kept.take(p, first, rows);
  if (ADDS_TERMS<W> && p.change && p.change->on_units()) p.change->fetch(panel * WIDTH, WIDTH);
  for (long q = panel; q < panel + count; q++) {
    auto weights = panel_of(p, q, rows, kept);
    for (long i = 0; i < rows; i += SQUARE) {
      long high = std::min(SQUARE, rows - i);
      if (rows > SQUARE) weights.share(p.inputs / STEP, i / SQUARE, (rows + SQUARE - 1) / SQUARE);
      split<Kept<W>::PLANES_OF_ROWS>().multiply(kept.units, weights, i, high, sums, terms_of<W>(p, first + i, q));
      finish(p, first + i, high, q * WIDTH, sums);
    }
  }
}

template <long N>
void part(const Product& p, long first, long rows, long panel, long count, Kept<Planes<N>>& kept) {
  if (rows > HEIGHT) return part_by_units(p, first, rows, panel, count, kept);
  alignas(64) float sums[2 * HEIGHT * WIDTH];
  kept.take(p, first, rows);
  for (; count >= 2; panel += 2, count -= 2) {
    terms_of<Planes<N>>(p, first, panel, 0), terms_of<Planes<N>>(p, first, panel + 1, 1);
    split<N>().multiply(kept.units, panel_of(p, panel, rows, kept), panel_of(p, panel + 1, rows, kept), rows, sums, terms);
    finish(p, first, rows, panel * WIDTH, sums);
    finish(p, first, rows, (panel + 1) * WIDTH, sums + HEIGHT * WIDTH);
  }
  if (count) part_by_units(p, first, rows, panel, count, kept);
}

void part(const Product& p, long first, long rows, long panel, long count, Kept<Whole>& kept) {
  kept.take(p, first, rows);
  Kept<float> without;
  if (split<PLANES>().infinite()) part<float>(p, first, rows, panel, count, without);
  else part_by_units(p, first, rows, panel, count, kept);
}

#endif

// How a product is cut into items that threads take: blocks of rows by groups of panels.
struct Cut {
  long block, group, panels, groups, items;

  Cut(const Product& p, long rows) : block(rows), group(side_by_side(p.m)) {
    panels = (p.outputs + WIDTH - 1) / WIDTH, groups = (panels + group - 1) / group;
    items = (p.m + block - 1) / block * groups;
  }

  template <class W>
  void make(const Product& p, long item, Kept<W>& kept) const {
    long first = item / groups * block, panel = item % groups * group;
    part(p, first, std::min(block, p.m - first), panel, std::min(group, panels - panel), kept);
  }
};

// Adds a change to what items make, while they have it near, each a group of columns of all rows.
template <class W>
void multiply_and_change(const Product& p, const Cut& cut) {
  Kept<W> kept;
  const long width = cut.group * WIDTH;
#pragma omp for schedule(dynamic, 1)
  for (long item = 0; item < cut.items; item++) {
    const long first = item * width, end = std::min(first + width, p.outputs);
    for (long column = first; column < end; column += WIDTH) p.change->fetch(column, WIDTH);
    cut.make<W>(p, item, kept);
    for (long column = first; column < end; column += WIDTH) p.change->add(column, WIDTH, p.out, p.out_step);
  }
}

template <class W>
void multiply_by(const Product& p) {
  const Cut cut(p, rows_at_once<W>(p.m, p.inputs));
  const bool terms = ADDS_TERMS<W> && p.change && p.change->on_units();
  if (p.change && !terms && cut.items == cut.groups && p.change->by_columns(WIDTH)) return multiply_and_change<W>(p, cut);
  Kept<W> kept;
  // Most items are given to threads beforehand, neighbouring ones to each: the processor fetches ahead what lies behind the
  // panel that is read. The others threads take as they come to them, lest one whose core is wanted elsewhere holds the others
  // up. One row gains nothing by the first.
  const long given = p.m > 1 ? cut.items - cut.items / 4 : 0;
#pragma omp for schedule(static) nowait
  for (long item = 0; item < given; item++) cut.make<W>(p, item, kept);
#pragma omp for schedule(dynamic, 1)
  for (long item = given; item < cut.items; item++) cut.make<W>(p, item, kept);
  if (p.change && !terms) p.change->add(p.out, p.out_step);
}

// The products of a mixture: one for each expert that has rows, their items numbered one after another.
struct Mixture {
  std::vector<Product> products;
  std::vector<Cut> cuts;
  std::vector<long> ends;  // of the items of each product

  template <class W>
  void add(const Product& p) {
    products.push_back(p), cuts.push_back(Cut(p, rows_at_once<W>(p.m, p.inputs)));
    ends.push_back((ends.empty() ? 0 : ends.back()) + cuts.back().items);
  }

  template <class W>
  void make(long item, Kept<W>& kept) const {
    long i = std::upper_bound(ends.begin(), ends.end(), item) - ends.begin();
    cuts[i].make<W>(products[i], item - (ends[i] - cuts[i].items), kept);
  }
};

template <class W>
void multiply_all(const Mixture& mixture) {
  Kept<W> kept;
#pragma omp for schedule(dynamic, 1)
  for (long item = 0; item < mixture.ends.back(); item++) mixture.make<W>(item, kept);
}

// Row k of a panel, of the weights of one output: one input of float32, or two of bfloat16.
float entry(const float* w, long k, long) { return w[k]; }
Pair entry(const uint16_t* w, long k, long inputs) {
  return {w[2 * k] | (2 * k + 1 < inputs ? (uint32_t)w[2 * k + 1] << 16 : 0)};
}

template <class W, class V>
void pack(const V* w, long ldw, W* packed, long first, long count, long inputs) {
  const long end = first + count, height = panel_height<W>(inputs);
#pragma omp parallel for schedule(dynamic, 4)
  for (long p = first / WIDTH; p <= (end - 1) / WIDTH; p++) {
    long from = std::max(first, p * WIDTH), to = std::min(end, (p + 1) * WIDTH);
    for (long k = 0; k < height; k++) {
      W* at = packed + (p * height + k) * WIDTH;
      for (long row = from; row < to; row++) at[row - p * WIDTH] = entry(w + (row - first) * ldw, k, inputs);
    }
  }
}

template <class W, class F>
void rows(const W* packed, const int64_t* ids, long count, long inputs, F&& write) {
  const long height = panel_height<W>(inputs);
  for (long i = 0; i < count; i++) {
    const W* at = packed + ids[i] / WIDTH * height * WIDTH + ids[i] % WIDTH;
    for (long k = 0; k < inputs; k++) write(i * inputs + k, at, k);
  }
}

// Calls with a value of the type that says how a weight is multiplied.
template <class F>
void with_kind(Weights weights, long inputs, bool many, F&& call) {
#if defined(MATRIX_UNITS)
  if (by_units(inputs)) {
    if (weights == BFLOAT16) return call(Planes<PLANES>{});
    if (weights == BFLOAT16_ROUNDS) return call(Planes<1>{});
    if (many) return call(Whole{});
  }
#endif
#if defined(DOT_UNITS)
  if (weights == BFLOAT16_ROUNDS) return call(Dot{});
#endif
  if (weights == FLOAT32) call(float{});
  else call(Pair{});
}

}  // namespace

bool rounds_at_once(Weights weights, long rows, long inputs) {
#if defined(MATRIX_UNITS)
  return weights == BFLOAT16_ROUNDS && by_units(inputs) && rows_at_once<Planes<1>>(rows, inputs) == rows;
#else
  return false;
#endif
}

void multiply(const Product& p) {
  if (!p.m) return;
  if (p.weights == CODES) {
    multiply_codes(p);
    if (p.change) p.change->add(p.out, p.out_step);
    return;
  }
  with_kind(p.weights, p.inputs, p.many, [&](auto kind) { multiply_by<decltype(kind)>(p); });
}

void read_row(const void* packed, Weights weights, int64_t row, long inputs, float* out) {
  if (weights == FLOAT32)
    return rows((const float*)packed, &row, 1, inputs, [&](long i, const float* at, long k) { out[i] = at[k * WIDTH]; });
  rows((const Pair*)packed, &row, 1, inputs, [&](long i, const Pair* at, long k) {
    const uint32_t bits = at[k / 2 * WIDTH].words >> k % 2 * 16 << 16;
    memcpy(out + i, &bits, sizeof bits);
  });
}

extern "C" {

int ms_width() { return WIDTH; }

int ms_matrix_units() { return matrix_units(); }

// Whether products of bfloat16 by bfloat16 are an instruction here.
int ms_dot_units() {
#if defined(DOT_UNITS)
  return 1;
#else
  return 0;
#endif
}

// Rows first … first + count - 1 of a weight [outputs, inputs] into its panels.
void ms_pack(const void* w, long ldw, long weights, void* packed, long first, long count, long inputs) {
  if (weights == FLOAT32) pack((const float*)w, ldw, (float*)packed, first, count, inputs);
  else pack((const uint16_t*)w, ldw, (Pair*)packed, first, count, inputs);
}

// Rows `ids` of such a weight, as they were packed: out[count][inputs].
void ms_rows(const void* packed, long weights, const int64_t* ids, long count, long inputs, void* out) {
  if (weights == FLOAT32)
    rows((const float*)packed, ids, count, inputs,
         [&](long i, const float* at, long k) { ((float*)out)[i] = at[k * WIDTH]; });
  else
    rows((const Pair*)packed, ids, count, inputs,
         [&](long i, const Pair* at, long k) { ((uint16_t*)out)[i] = at[k / 2 * WIDTH].words >> k % 2 * 16; });
}

// out[m][outputs] = x[m][inputs] * w' + bias
void ms_linear(const float* x, long x_step, const void* w, long weights, const float* bias, float* out, long m,
               long inputs, long outputs) {
  Product product{x, x_step, w, (Weights)weights, bias, nullptr, 0, out, outputs, m, inputs, outputs};
#pragma omp parallel if (m * inputs * outputs > 32768)
  multiply(product);
}

// Rows ends[e - 1] … ends[e] - 1 of x[…][inputs] times weight e of experts[…], each in panels of its own:
// out[ends[experts - 1]][outputs]. `bias` [experts][outputs] may be missing.
void ms_experts(const float* x, long x_step, const void* w, long weights, const float* bias, float* out,
                const int64_t* ends, long experts, long inputs, long outputs) {
  const long panels = (outputs + WIDTH - 1) / WIDTH;
  const long size = panels * WIDTH * (weights == FLOAT32 ? inputs * 4 : (inputs + 1) / 2 * (long)sizeof(Pair));
  with_kind((Weights)weights, inputs, false, [&](auto kind) {
    using W = decltype(kind);
    Mixture mixture;
    for (long e = 0; e < experts; e++) {
      long first = e ? ends[e - 1] : 0, rows = ends[e] - first;
      if (rows)
        mixture.add<W>({x + first * x_step, x_step, (const char*)w + e * size, (Weights)weights,
                        bias ? bias + e * outputs : nullptr, nullptr, 0, out + first * outputs, outputs, rows, inputs,
                        outputs});
    }
    if (mixture.products.empty()) return;
#pragma omp parallel
    multiply_all<W>(mixture);
  });
}
}
