// Products with weights that stay codes: they are looked up as they are read, so memory gives a fraction of the bytes
// that floats have. Panels are WIDTH outputs wide, as those of linear.cpp.
//
// The sum of a group is made of the table's values alone, input by input; scale, zero and offset meet it once. Each row
// goes through the same operations in the same order, whatever the rows beside it: few of them look codes up for
// themselves, many share a group's values, which are looked up once. Rows of whole numbers go to codes_by_bytes.h, other rows of
// prompts to matrix units (codes_by_units.h).
#include "codes.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "bytes_by_units.h"
#include "code_forms.h"
#include "codes_by_blocks.h"
#include "codes_by_bytes.h"
#include "codes_by_units.h"
#include "vectors.h"

namespace {

constexpr long FEW = 4;     // rows that look codes up for themselves

// --- rows -------------------------------------------------------------------------------------------------------

// Room for rows as they are multiplied, and for the sum of each span.
thread_local std::vector<float> single_entries, span_sums;
thread_local std::vector<uint32_t> paired_entries;

template <class Entry>
std::vector<Entry>& entries() {
  if constexpr (std::is_same<Entry, float>::value) return single_entries;
  else return paired_entries;
}

// Rows as they are multiplied: span by span of inputs, [rows][entries of the span], filled up with zeros to whole chunks;
// with the sum of each span, where it is wanted.
class Rows {
  const float* from_ = nullptr;
  const Segment* of_ = nullptr;
  long count_ = 0, inputs_ = 0;

  static float sum(const float* x, long n) {
    vec sums = {};
    long k = 0;
    for (; k + LANES <= n; k += LANES) sums += load(x + k);
    float all = total(sums);
    for (; k < n; k++) all += x[k];
    return all;
  }

  static bool alike(const Segment& a, const Segment& b) {
    return a.order == b.order && a.group == b.group && SHAPES[a.form].chunk == SHAPES[b.form].chunk && wanted(a) == wanted(b);
  }
  static bool wanted(const Segment& s) { return s.zeros.at || s.offsets.at; }

  // The inputs of a span of a row as entries, where `room` has them; they are changed to what they are multiplied as.
  template <class D>
  static void enter(float* room, long n, typename D::Entry* to) {
    if constexpr (D::INPUTS == 1) memcpy(to, room, n * sizeof(float));
#if defined(DOT_UNITS)
    else {
      constexpr long HALF = D::CHUNK / 2;
      for (long k = 0; k < n; k += LANES) {
        const __m256i words = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(room + k));
        _mm512_storeu_si512(room + k, _mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
      }
      const uint32_t* bits = (const uint32_t*)room;
      for (long k = 0; k < n; k += D::CHUNK)
        for (long i = 0; i < HALF; i++) to[k / 2 + i] = bits[k + i] >> 16 | bits[k + i + HALF];
    }
#endif
  }

 public:
  template <class D>
  void take(const float* from, long step, long count, const Segment& s);
};

template <class D>
void Rows::take(const float* from, long step, long count, const Segment& s) {
  if (from == from_ && count == count_ && inputs_ == D::INPUTS && alike(*of_, s)) return;
  from_ = from, count_ = count, of_ = &s, inputs_ = D::INPUTS;
  auto& to = entries<typename D::Entry>();
  to.resize(count * (s.inputs + 32) / D::INPUTS);
  span_sums.resize(count * (s.inputs / std::min<long>(s.group, SPAN) + s.inputs / s.group + 2));
  alignas(64) float room[SPAN + LANES];
  spans(s, D::CHUNK, SPAN, [&](long number, long, long first, long n) {
    const long real = std::min(n, s.inputs - first);
    for (long i = 0; i < count; i++) {
      const float* row = from + i * step;
      if (s.order) for (long k = 0; k < real; k++) room[k] = row[s.order[first + k]];
      else memcpy(room, row + first, real * sizeof(float));
      std::fill(room + real, room + n + LANES, 0.0f);
      enter<D>(room, n, to.data() + (count * first + i * n) / D::INPUTS);
      if (wanted(s)) span_sums[count * number + i] = sum(room, real);
    }
  });
}

// --- products ---------------------------------------------------------------------------------------------------

// c[M][P panels] += rows * P panels, whose codes are looked up for each of the rows.
template <int M, int P, class D>
void few(const D& d, const Segment& s, long panel, float* c, long ldc) {
  constexpr int Q = P * VECTORS;
  const long size = panel_bytes(s.form, s.inputs);
  const char* codes = s.codes + panel * size;
  const typename D::Entry* x = entries<typename D::Entry>().data();
  const float* sums = span_sums.data();
  const Unlaid<D> factors{s};
  vec totals[M][Q];
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 16
    for (int q = 0; q < Q; q++) totals[i][q] = load(c + i * ldc + q * LANES);
  spans(s, D::CHUNK, SPAN, [&](long number, long group, long first, long n) {
    vec acc[M][Q] = {};
    const auto* row = x + M * first / D::INPUTS;
    const long count = n / D::INPUTS;  // entries of a row
    const char* at = codes + first / D::CHUNK * (D::BYTES * WIDTH);
    for (long k = 0; k < n; k += D::CHUNK, at += D::BYTES * WIDTH) {
#pragma GCC unroll 4
      for (int p = 0; p < P; p++)
#pragma GCC unroll 16
        for (long line = 0; line < D::BYTES * WIDTH; line += 64) __builtin_prefetch(at + p * size + FETCHED + line);
#pragma GCC unroll 32
      for (int j = 0; j < D::CHUNK / D::INPUTS; j++) {
        typename D::Value w[Q];
#pragma GCC unroll 16
        for (int q = 0; q < Q; q++) w[q] = d.entry(at + q / VECTORS * size, q % VECTORS, j);
#pragma GCC unroll 16
        for (int i = 0; i < M; i++)
#pragma GCC unroll 16
          for (int q = 0; q < Q; q++) acc[i][q] = D::add(acc[i][q], row[i * count + k / D::INPUTS + j], w[q]);
      }
    }
#pragma GCC unroll 16
    for (int q = 0; q < Q; q++)
#pragma GCC unroll 16
      for (int i = 0; i < M; i++)
        totals[i][q] = factors.add(totals[i][q], acc[i][q], sums[M * number + i], panel + q / VECTORS, group, q % VECTORS);
  });
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 16
    for (int q = 0; q < Q; q++) store(c + i * ldc + q * LANES, totals[i][q]);
}

// c[M][WIDTH] += rows * the values of a span, of n entries.
template <int M, class D>
void tile(const Factors& factors, long group, const typename D::Entry* values, const typename D::Entry* x, long n,
          const float* sums, float* c) {
  vec acc[M][VECTORS] = {};
#pragma GCC unroll 2
  for (long k = 0; k < n; k++) {
    typename D::Value w[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) memcpy(&w[v], values + k * WIDTH + v * LANES, sizeof w[v]);
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) acc[i][v] = D::add(acc[i][v], x[i * n + k], w[v]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) {
      float* to = c + i * WIDTH + v * LANES;
      store(to, factors.add(load(to), acc[i][v], sums[i], group * WIDTH + v * LANES));
    }
}

template <int M, class D>
void tile_of(long m, const Factors& factors, long group, const typename D::Entry* values, const typename D::Entry* x,
             long n, const float* sums, float* c) {
  if constexpr (M > 1) {
    if (m < M) return tile_of<M - 1, D>(m, factors, group, values, x, n, sums, c);
  }
  tile<M, D>(factors, group, values, x, n, sums, c);
}

// c[m][WIDTH] += rows * a panel, whose codes are looked up once.
template <class D>
void many(const D& d, const Segment& s, long panel, float* c, long m) {
  typedef typename D::Entry Entry;
  alignas(64) Entry values[SPAN / D::INPUTS * WIDTH];
  const char* codes = s.codes + panel * panel_bytes(s.form, s.inputs);
  const Entry* x = entries<Entry>().data();
  const float* sums = span_sums.data();
  const long tiles = (m + ROWS - 1) / ROWS;
  const Factors factors(s, panel, 1, D::UNIT);
  spans(s, D::CHUNK, SPAN, [&](long number, long group, long first, long n) {
    const char* at = codes + first / D::CHUNK * (D::BYTES * WIDTH);
    for (long k = 0; k < n; k += D::CHUNK, at += D::BYTES * WIDTH)
#pragma GCC unroll 32
      for (int j = 0; j < D::CHUNK / D::INPUTS; j++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
          const typename D::Value w = d.entry(at, v, j);
          memcpy(values + (k / D::INPUTS + j) * WIDTH + v * LANES, &w, sizeof w);
        }
    for (long t = 0; t < tiles; t++) {
      const long from = m * t / tiles, to = m * (t + 1) / tiles;
      tile_of<ROWS, D>(to - from, factors, group, values, x + (m * first + from * n) / D::INPUTS, n / D::INPUTS,
                       sums + m * number + from, c + from * WIDTH);
    }
  });
}

// The sums of rows first … for the outputs of a panel, from bias and from what is to be added.
void begin(const Product& p, long first, long rows, long column, long width, float* c, long ldc) {
  for (long i = 0; i < rows; i++, c += ldc) {
    const float* start = p.start ? p.start + (first + i) * p.start_step + column : nullptr;
    for (long j = 0; j < width; j++) c[j] = start ? start[j] : 0.0f;
    if (p.bias) for (long j = 0; j < width; j++) c[j] += p.bias[column + j];
  }
}

// A product with a segment, cut into items that threads take: blocks of rows by a few panels.
struct Work {
  Product p;
  const Segment* s;
  long block, together, groups, end;

  Work(const Product& product, const Segment& segment, long before) : p(product), s(&segment) {
    const long fit = std::max<long>(8 * ROWS, 131072 / p.inputs / ROWS * ROWS);
    block = p.m <= fit + fit / 2 ? p.m : fit;
    together = p.m <= FEW ? 4 : 1;
    const long panels = (s->rows + WIDTH - 1) / WIDTH;
    groups = (panels + together - 1) / together;
    end = before + (p.m + block - 1) / block * groups;
  }

  void make(long item, Rows& rows, ByteRows& byte_rows, BlockRows& block_rows, UnitRows& unit_rows, Units& units) const {
    const long first = item / groups * block, count = std::min(block, p.m - first);
    const long panels = (s->rows + WIDTH - 1) / WIDTH;
    const long begun = item % groups * together, ended = std::min(begun + together, panels);
    if (p.many && by_blocks(*s)) {
      block_rows.take(p.x + first * p.x_step, p.x_step, count, *s);
      for (long panel = begun; panel < ended; panel++)
        part(panel, 1, first, count, [&](float* c, long) { multiply_by_blocks(units, block_rows, *s, panel, c); });
      return;
    }
    if (s->planes) {
      byte_rows.take(p.x + first * p.x_step, p.x_step, count, *s);
      const auto by_bytes = [&](float* c, long ldc) { multiply_by_bytes(units, byte_rows, *s, begun, ended - begun, c, ldc); };
      return part(begun, ended - begun, first, count, by_bytes);
    }
    if (p.many && by_units(*s)) {
      unit_rows.take(p.x + first * p.x_step, p.x_step, count, *s);
      for (long panel = begun; panel < ended; panel++)
        part(panel, 1, first, count, [&](float* c, long) { multiply_by_units(units, unit_rows, *s, panel, c); });
      return;
    }
    with_form(*s, [&](const auto& d) {
      rows.take<std::decay_t<decltype(d)>>(p.x + first * p.x_step, p.x_step, count, *s);
      for (long panel = begun; panel < ended;) {
        const long wide = count == 1 && panel + 1 < ended ? 2 : 1;
        part(panel, wide, first, count, [&](float* c, long ldc) {
          if (wide == 2) few<1, 2>(d, *s, panel, c, ldc);
          else if (count == 1) few<1, 1>(d, *s, panel, c, ldc);
          else if (count == 2) few<2, 1>(d, *s, panel, c, ldc);
          else if (count == 3) few<3, 1>(d, *s, panel, c, ldc);
          else if (count == FEW) few<4, 1>(d, *s, panel, c, ldc);
          else many(d, *s, panel, c, count);
        });
        panel += wide;
      }
    });
  }

  // Panels of some rows, whose products `add` adds to what they begin with.
  template <class F>
  void part(long panel, long wide, long first, long count, F&& add) const {
    static thread_local std::vector<float> sums;
    sums.resize(std::max<long>(count * wide * WIDTH, 1));
    float* c = sums.data();
    const long width = std::min(wide * WIDTH, s->rows - panel * WIDTH), column = s->first + panel * WIDTH;
    begin(p, first, count, column, width, c, wide * WIDTH);
    add(c, wide * WIDTH);
    float* out = p.out + first * p.out_step + column;
    for (long i = 0; i < count; i++) std::copy_n(c + i * wide * WIDTH, width, out + i * p.out_step);
  }
};

void add(std::vector<Work>& works, const Product& p, const CodedWeight& w) {
  for (long i = 0; i < w.count; i++)
    if (w.segments[i].form != PLAIN) works.push_back(Work(p, w.segments[i], works.empty() ? 0 : works.back().end));
}

void make_all(const std::vector<Work>& works) {
  static thread_local ByteRows byte_rows;
  byte_rows.forget();
  static thread_local BlockRows block_rows;
  block_rows.forget();
  static thread_local UnitRows unit_rows;
  unit_rows.forget();
  static thread_local Units units;
  Rows rows;
#pragma omp for schedule(dynamic, 1)
  for (long item = 0; item < works.back().end; item++) {
    const auto ends_after = [](long item, const Work& work) { return item < work.end; };
    const long i = std::upper_bound(works.begin(), works.end(), item, ends_after) - works.begin();
    works[i].make(item - (i ? works[i - 1].end : 0), rows, byte_rows, block_rows, unit_rows, units);
  }
  units.release();
}

// The product with a PLAIN segment.
Product plain(const Product& p, const Segment& s) {
  return {p.x, p.x_step, s.codes, (Weights)s.weights, p.bias ? p.bias + s.first : nullptr, p.start ? p.start + s.first : nullptr,
          p.start_step, p.out + s.first, p.out_step, p.m, p.inputs, (long)s.rows, p.many};
}

}  // namespace

bool units_multiply(const CodedWeight& w) {
  return std::any_of(w.segments, w.segments + w.count, [](const Segment& s) { return s.form != PLAIN && (by_units(s) || by_blocks(s)); });
}

void multiply_codes(const Product& p) {
  const CodedWeight& w = *(const CodedWeight*)p.w;
  std::vector<Work> works;
  if (p.m) add(works, p, w);
  if (!works.empty()) make_all(works);
  for (long i = 0; i < w.count; i++)
    if (w.segments[i].form == PLAIN) multiply(plain(p, w.segments[i]));
}

extern "C" {

// Whether rows of whole numbers are multiplied on matrix units.
int ms_byte_units() { return byte_units(); }

// out[m][outputs] = x[m][inputs] * w' + bias; `many` as a Product has it.
void ms_codes_linear(const float* x, long x_step, const void* weight, const float* bias, float* out, long m, long inputs,
                     long outputs, long many) {
  const Product product{x, x_step, weight, CODES, bias, nullptr, 0, out, outputs, m, inputs, outputs, many != 0};
#pragma omp parallel if (m * inputs * outputs > 32768)
  multiply_codes(product);
}

// ms_experts of experts that are codes: one CodedWeight after another.
void ms_codes_experts(const float* x, long x_step, const void* weights, const float* bias, float* out,
                      const int64_t* ends, long experts, long inputs, long outputs) {
  std::vector<Work> works;
  for (long e = 0; e < experts; e++) {
    const long first = e ? ends[e - 1] : 0, rows = ends[e] - first;
    if (rows)
      add(works, {x + first * x_step, x_step, nullptr, CODES, bias ? bias + e * outputs : nullptr, nullptr, 0,
                  out + first * outputs, outputs, rows, inputs, outputs},
          ((const CodedWeight*)weights)[e]);
  }
  if (works.empty()) return;
#pragma omp parallel
  make_all(works);
}
}
