// Products with weights kept in panels, and how weights get there.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "matrix.h"
#include "parts.h"
#include "vectors.h"

namespace {

constexpr long DIRECT = 32;   // rows up to which 16-bit weights are widened for every tile anew
constexpr long DEPTH = 1024;  // inputs whose 16-bit weights are widened at once: WIDTH x DEPTH floats stay in cache L2

thread_local std::vector<float> edge, wide;

// The rows of one panel. 16-bit weights that many rows need are widened once for all of them.
template <class W>
void panel_rows(const float* x, long ldx, const W* w, float* c, long ldc, long m, long inputs) {
  const Next next{(const char*)(w + inputs * WIDTH), WIDTH * (long)sizeof(W)};
  if (sizeof(W) == 4 || m <= DIRECT) return tall<W>(m, x, ldx, w, WIDTH, c, ldc, inputs, next);
  wide.resize(DEPTH * WIDTH);
  for (long first = 0; first < inputs; first += DEPTH) {
    long depth = std::min(DEPTH, inputs - first);
    const W* from = w + first * WIDTH;
    for (long k = 0; k < depth; k++) {
      vec row[VECTORS];
      Panel<W>::read(from + k * WIDTH, row);
      for (int v = 0; v < VECTORS; v++) store(wide.data() + k * WIDTH + v * LANES, row[v]);
    }
    tall<float>(m, x + first, ldx, wide.data(), WIDTH, c, ldc, depth, {(const char*)(from + depth * WIDTH), next.step});
  }
}

// Few rows are bound by memory and by the latency of their sums, so several panels run side by side.
int side_by_side(long m) { return m == 1 ? 4 : m <= 3 || (m <= 16 && matrix_units()) ? 2 : 1; }

template <class W>
void panels(const float* x, long ldx, const W* w, float* c, long ldc, long m, long inputs, long count) {
  long panel = inputs * WIDTH;
  if (count == side_by_side(m) && m <= 3) {
    if (m == 1) return tile<1, 4, W>(x, ldx, w, WIDTH, panel, c, ldc, inputs);
    if (m == 2) return tile<2, 2, W>(x, ldx, w, WIDTH, panel, c, ldc, inputs);
    return tile<3, 2, W>(x, ldx, w, WIDTH, panel, c, ldc, inputs);
  }
  for (long p = 0; p < count; p++) panel_rows(x, ldx, w + p * panel, c + p * WIDTH, ldc, m, inputs);
}

// The sums of rows first … start from bias and from what is to be added.
void begin(const Product& p, long first, long rows, long column, long width, float* c, long step) {
  for (long i = 0; i < rows; i++) {
    float* row = c + i * step;
    const float *bias = p.bias ? p.bias + column : nullptr;
    const float *start = p.start ? p.start + (first + i) * p.start_step + column : nullptr;
    if (bias && start) for (long j = 0; j < width; j++) row[j] = start[j] + bias[j];
    else if (bias || start) memcpy(row, bias ? bias : start, width * sizeof(float));
    else std::fill_n(row, width, 0.0f);
  }
}

template <class W> constexpr bool by_units = std::is_same<W, Pair>::value || std::is_same<W, Whole>::value;

// Rows that are multiplied together: as many as stay in cache L2 while the panels pass by, and what is split of panels
// serves enough of them.
template <class W>
long rows_at_once(const Product& p) {
  constexpr bool whole = std::is_same<W, Whole>::value;
  constexpr long step = by_units<W> ? 32 : ROWS, few = whole ? 96 : by_units<W> ? 64 : 8 * ROWS;
  constexpr long floats = by_units<W> && !whole ? 65536 : 131072;
  const long rows = std::max(few, floats / p.inputs / step * step);
  return p.m <= rows + rows / 2 ? p.m : rows;
}

// What a thread keeps of the rows it multiplies, from one item of a product to the next.
template <class W>
struct Kept {};

template <class W>
void part(const Product& p, long first, long rows, long panel, long count, Kept<W>&) {
  long column = panel * WIDTH, width = std::min(count * WIDTH, p.outputs - column);
  bool whole = width == count * WIDTH;  // the last panel may be wider than what is left: it is made beside `out`
  if (!whole) edge.resize(rows * count * WIDTH);
  float* out = p.out + first * p.out_step + column;
  float* c = whole ? out : edge.data();
  long step = whole ? p.out_step : count * WIDTH;
  begin(p, first, rows, column, width, c, step);
  panels(p.x + first * p.x_step, p.x_step, (const W*)p.w + panel * p.inputs * WIDTH, c, step, rows, p.inputs, count);
  for (long i = 0; !whole && i < rows; i++) std::copy_n(c + i * step, width, out + i * p.out_step);
}

#if defined(MATRIX_UNITS)

thread_local Split split;
thread_local std::vector<Line<Pair>> planes;

// Items of the same rows come one after another: they are split for the first.
struct KeptUnits {
  Units units;
  const float* rows = nullptr;

  void take(const Product& p, long first, long count) {
    const float* x = p.x + first * p.x_step;
    if (rows != x) split.take(x, p.x_step, count, p.inputs);
    rows = x;
  }
};
template <> struct Kept<Pair> : KeptUnits {};
template <> struct Kept<Whole> : KeptUnits {};

PairPanel panel_of(const Product& p, long panel, long, Kept<Pair>&) {
  return PairPanel((const Pair*)p.w + panel * (p.inputs / 2 * WIDTH));
}
WholePanel panel_of(const Product& p, long panel, long rows, Kept<Whole>&) {
  return WholePanel((const float*)p.w + panel * p.inputs * WIDTH, split.steps(), rows <= SQUARE, planes);
}

// out = sums + start + bias, for the columns of one panel
void finish(const Product& p, long first, long rows, long column, const float* sums) {
  const long width = std::min<long>(WIDTH, p.outputs - column);
  for (long i = 0; i < rows; i++, sums += WIDTH) {
    float* out = p.out + (first + i) * p.out_step + column;
    const float *bias = p.bias ? p.bias + column : nullptr;
    const float* start = p.start ? p.start + (first + i) * p.start_step + column : nullptr;
    if (start) for (long j = 0; j < width; j++) out[j] = sums[j] + start[j];
    else std::copy_n(sums, width, out);
    if (bias) for (long j = 0; j < width; j++) out[j] += bias[j];
  }
}

template <class W>
void part_by_units(const Product& p, long first, long rows, long panel, long count, Kept<W>& kept) {
  alignas(64) float sums[SQUARE * WIDTH];
  kept.take(p, first, rows);
  for (long q = panel; q < panel + count; q++) {
    auto weights = panel_of(p, q, rows, kept);
    for (long i = 0; i < rows; i += SQUARE) {
      long high = std::min(SQUARE, rows - i);
      split.multiply(kept.units, weights, i, high, sums);
      finish(p, first + i, high, q * WIDTH, sums);
    }
  }
}

template <>
void part(const Product& p, long first, long rows, long panel, long count, Kept<Pair>& kept) {
  if (rows > HEIGHT) return part_by_units(p, first, rows, panel, count, kept);
  alignas(64) float sums[2 * HEIGHT * WIDTH];
  kept.take(p, first, rows);
  for (; count >= 2; panel += 2, count -= 2) {
    split.multiply(kept.units, panel_of(p, panel, rows, kept), panel_of(p, panel + 1, rows, kept), rows, sums);
    finish(p, first, rows, panel * WIDTH, sums);
    finish(p, first, rows, (panel + 1) * WIDTH, sums + HEIGHT * WIDTH);
  }
  if (count) part_by_units(p, first, rows, panel, count, kept);
}

template <>
void part(const Product& p, long first, long rows, long panel, long count, Kept<Whole>& kept) {
  kept.take(p, first, rows);
  Kept<float> without;
  if (split.infinite()) part<float>(p, first, rows, panel, count, without);
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
    part<W>(p, first, std::min(block, p.m - first), panel, std::min(group, panels - panel), kept);
  }
};

template <class W>
void multiply_by(const Product& p) {
  const Cut cut(p, rows_at_once<W>(p));
  Kept<W> kept;
  // Threads take work as they come to it, lest one whose core is wanted elsewhere holds the others up.
#pragma omp for schedule(dynamic, 1)
  for (long item = 0; item < cut.items; item++) cut.make<W>(p, item, kept);
}

// The products of a mixture: one for each expert that has rows, their items numbered one after another.
struct Mixture {
  std::vector<Product> products;
  std::vector<Cut> cuts;
  std::vector<long> ends;  // of the items of each product

  template <class W>
  void add(const Product& p) {
    products.push_back(p), cuts.push_back(Cut(p, rows_at_once<W>(p)));
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

template <class W>
void pack(const W* w, long ldw, W* packed, long first, long count, long inputs) {
  long end = first + count;
#pragma omp parallel for schedule(dynamic, 4)
  for (long p = first / WIDTH; p <= (end - 1) / WIDTH; p++) {
    long from = std::max(first, p * WIDTH), to = std::min(end, (p + 1) * WIDTH);
    for (long k = 0; k < inputs; k++) {
      W* at = packed + (p * inputs + k) * WIDTH;
      for (long row = from; row < to; row++) at[Panel<W>::place(row - p * WIDTH)] = w[(row - first) * ldw + k];
    }
  }
}

template <class W>
void rows(const W* packed, const int64_t* ids, long count, long inputs, W* out) {
  for (long i = 0; i < count; i++) {
    const W* at = packed + ids[i] / WIDTH * inputs * WIDTH + Panel<W>::place(ids[i] % WIDTH);
    for (long k = 0; k < inputs; k++) out[i * inputs + k] = at[k * WIDTH];
  }
}

// Calls with a value of the type that the panels of a weight are of.
template <class F>
void with_kind(long bytes, long inputs, bool many, F&& call) {
#if defined(MATRIX_UNITS)
  if (paired(bytes, inputs)) return call(Pair{});
  if (many && splits(bytes, inputs)) return call(Whole{});
#endif
  if (bytes == 4) call(float{});
  else call(uint16_t{});
}

}  // namespace

void multiply(const Product& p) {
  if (!p.m) return;
  with_kind(p.bytes, p.inputs, p.many, [&](auto kind) { multiply_by<decltype(kind)>(p); });
}

extern "C" {

int ms_width() { return WIDTH; }

int ms_matrix_units() { return matrix_units(); }

// Rows first … first + count - 1 of a weight [outputs, inputs] into its panels; `bytes` a value: 4 or 2.
void ms_pack(const void* w, long ldw, long bytes, void* packed, long first, long count, long inputs) {
  if (paired(bytes, inputs)) ldw /= 2, inputs /= 2, bytes = 4;  // pairs are packed like floats
  if (bytes == 4) pack((const float*)w, ldw, (float*)packed, first, count, inputs);
  else pack((const uint16_t*)w, ldw, (uint16_t*)packed, first, count, inputs);
}

// Rows `ids` of such a weight, as they were packed: out[count][inputs].
void ms_rows(const void* packed, long bytes, const int64_t* ids, long count, long inputs, void* out) {
  if (paired(bytes, inputs)) inputs /= 2, bytes = 4;
  if (bytes == 4) rows((const float*)packed, ids, count, inputs, (float*)out);
  else rows((const uint16_t*)packed, ids, count, inputs, (uint16_t*)out);
}

// out[m][outputs] = x[m][inputs] * w' + bias
void ms_linear(const float* x, long x_step, const void* w, long bytes, const float* bias, float* out, long m,
               long inputs, long outputs) {
  Product product{x, x_step, w, bytes, bias, nullptr, 0, out, outputs, m, inputs, outputs};
#pragma omp parallel if (m * inputs * outputs > 32768)
  multiply(product);
}

// Rows ends[e - 1] … ends[e] - 1 of x[…][inputs] times weight e of experts[…], each in panels of its own, `bytes` a value:
// out[ends[experts - 1]][outputs]. `bias` [experts][outputs] may be missing.
void ms_experts(const float* x, long x_step, const void* w, long bytes, const float* bias, float* out,
                const int64_t* ends, long experts, long inputs, long outputs) {
  const long size = (outputs + WIDTH - 1) / WIDTH * WIDTH * inputs * bytes;
  with_kind(bytes, inputs, false, [&](auto kind) {
    using W = decltype(kind);
    Mixture mixture;
    for (long e = 0; e < experts; e++) {
      long first = e ? ends[e - 1] : 0, rows = ends[e] - first;
      if (rows)
        mixture.add<W>({x + first * x_step, x_step, (const char*)w + e * size, bytes,
                        bias ? bias + e * outputs : nullptr, nullptr, 0, out + first * outputs, outputs, rows, inputs,
                        outputs});
    }
    if (mixture.products.empty()) return;
#pragma omp parallel
    multiply_all<W>(mixture);
  });
}
}
