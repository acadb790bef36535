// Products with weights that stay codes: they are looked up as they are read, so memory gives a fraction of the bytes
// that floats have. Panels are WIDTH outputs wide, as those of linear.cpp.
//
// The sum of a group is made of the table's values alone, input by input; scale, zero and offset meet it once. Each row
// goes through the same operations in the same order, whatever the rows beside it: few of them look codes up for
// themselves, many share a group's values, which are looked up once.
#include "codes.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "code_panels.h"
#include "codes_by_bytes.h"
#include "vectors.h"

namespace {

constexpr long SPAN = 128;  // inputs whose sum is made at once at most, a multiple of every CHUNK
constexpr long FEW = 4;     // rows that look codes up for themselves

// --- forms of codes ---------------------------------------------------------------------------------------------
// CHUNK inputs of an output take BYTES bytes. `value` is that of input j of a chunk, for vector v of its panel's outputs;
// it is a UNIT-th of what the table says.

// Words of 32 bits hold so many fields each; what is left of the words' top bits are further codes (`spare`).
template <int BITS>
struct Fields {
  static constexpr int PER_WORD = 32 / BITS;
  static constexpr float UNIT = 1;

  static uvec word(const char* chunk, int v, int i) { return read<uvec>(chunk + (i * VECTORS + v) * sizeof(uvec)); }
};

struct Nibbles : Fields<4> {
  static constexpr long CHUNK = 8, BYTES = 4;
#if defined(__AVX512F__)
  __m512 table;
  explicit Nibbles(const Segment& s) : table(_mm512_loadu_ps(s.table)) {}
  vec value(const char* chunk, int v, int j) const {
    return (vec)_mm512_permutexvar_ps((__m512i)(word(chunk, v, 0) >> (4 * j)), table);
  }
#elif defined(__AVX2__)
  __m256 low, high;
  explicit Nibbles(const Segment& s) : low(_mm256_loadu_ps(s.table)), high(_mm256_loadu_ps(s.table + 8)) {}
  vec value(const char* chunk, int v, int j) const {
    const uvec words = word(chunk, v, 0);
    const __m256i index = (__m256i)(words >> (4 * j));  // of whose bits three are read
    const __m256 upper = (__m256)(words << (28 - 4 * j));  // whose sign says which half
    return (vec)_mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index), upper);
  }
#else
  const float* table;
  explicit Nibbles(const Segment& s) : table(s.table) {}
  vec value(const char* chunk, int v, int j) const {
    const uvec index = word(chunk, v, 0) >> (4 * j) & 15;
    vec out;
    for (int l = 0; l < LANES; l++) out[l] = table[index[l]];
    return out;
  }
#endif
};

// Codes that are counted from a first value on: as the low bits of 2^23 they are floats, less 2^23.
template <int BITS>
struct Counted : Fields<BITS> {
  vec less;
  explicit Counted(const Segment& s) : less(spread(0x1p23f - s.table[0])) {}

  vec counted(uvec code) const {
#if defined(__AVX512F__)
    const __m512i mask = _mm512_set1_epi32((1 << BITS) - 1), one = _mm512_set1_epi32(0x4b000000);
    return (vec)_mm512_ternarylogic_epi32((__m512i)code, mask, one, 0xea) - less;  // code & mask | one
#else
    return (vec)((code & ((1u << BITS) - 1)) | 0x4b000000u) - less;
#endif
  }
  static uvec top(const char* chunk, int v, int word) { return Counted::word(chunk, v, word) >> 30; }
};

struct Fives : Counted<5> {
  static constexpr long CHUNK = 32, BYTES = 20;
  using Counted::Counted;
  vec value(const char* chunk, int v, int j) const {
    if (j < 30) return counted(word(chunk, v, j / 6) >> (5 * (j % 6)));
    const int first = j == 30 ? 0 : 3;
    const uvec low = top(chunk, v, first) | top(chunk, v, first + 1) << 2;
    return counted(low | (top(chunk, v, 2) >> (j - 30) & 1) << 4);
  }
};

struct Sixes : Counted<6> {
  static constexpr long CHUNK = 16, BYTES = 12;
  using Counted::Counted;
  vec value(const char* chunk, int v, int j) const {
    if (j < 15) return counted(word(chunk, v, j / 5) >> (6 * (j % 5)));
    return counted(top(chunk, v, 0) | top(chunk, v, 1) << 2 | top(chunk, v, 2) << 4);
  }
};

// A byte a code, WIDTH of them for each input.
struct Single {
  static constexpr long CHUNK = 8, BYTES = 8;
  static constexpr float UNIT = 1;
  static const char* at(const char* chunk, int v, int j) { return chunk + j * WIDTH + v * LANES; }
};

struct Bytes : Single {
  explicit Bytes(const Segment&) {}
  vec value(const char* chunk, int v, int j) const {
    return floats(read<signed_bytes>(at(chunk, v, j)));
  }
};

struct Indices : Single {
  const float* table;
  explicit Indices(const Segment& s) : table(s.table) {}
  vec value(const char* chunk, int v, int j) const {
    const ivec index = widened(read<unsigned_bytes>(at(chunk, v, j)));
#if defined(__AVX512F__)
    return (vec)_mm512_i32gather_ps((__m512i)index, table, 4);
#elif defined(__AVX2__)
    return (vec)_mm256_i32gather_ps(table, (__m256i)index, 4);
#else
    vec out;
    for (int l = 0; l < LANES; l++) out[l] = table[index[l]];
    return out;
#endif
  }
};

#if defined(__AVX512BW__) && defined(__AVX512VL__)
// Sign and seven bits are those of a half, two apart, whose value is a 256th.
struct Floats : Single {
  static constexpr float UNIT = 256;
  explicit Floats(const Segment&) {}
  vec value(const char* chunk, int v, int j) const {
    const __m256i wide = _mm256_cvtepi8_epi16(read<__m128i>(at(chunk, v, j)));
    const __m256i bits = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16((short)0xbfff));
    return (vec)_mm512_cvtph_ps(bits);
  }
};
#else
using Floats = Indices;
#endif

static_assert(is_shaped<Nibbles>(NIBBLES) && is_shaped<Fives>(FIVES) && is_shaped<Sixes>(SIXES) && is_shaped<Bytes>(BYTES) &&
                  is_shaped<Floats>(FLOATS) && is_shaped<Indices>(INDICES), "");

// --- ways in which rows meet what codes mean ---------------------------------------------------------------------
// An entry is what INPUTS inputs of a row, or of an output, are multiplied as: `entry` is number i of a chunk.

// Input by input, in float32.
template <class Form>
struct Apart : Form {
  using Form::Form;
  static constexpr long INPUTS = 1;
  typedef float Entry;
  typedef vec Value;

  vec entry(const char* chunk, int v, int i) const { return this->value(chunk, v, i); }
  static vec add(vec sum, float x, vec w) { return sum + spread(x) * w; }
};

#if defined(DOT_UNITS)

// Two inputs at a time: rows are rounded to bfloat16, in which all that codes mean is exact. Input i of a chunk goes with
// the one half a chunk behind it.
template <class Form>
struct InPairs : Form {
  using Form::Form;
  static constexpr long INPUTS = 2;
  typedef uint32_t Entry;
  typedef uvec Value;

  uvec entry(const char* chunk, int v, int i) const {
    const uvec first = (uvec)this->value(chunk, v, i), second = (uvec)this->value(chunk, v, i + Form::CHUNK / 2);
    return first >> 16 | (second & 0xffff0000u);
  }
  static vec add(vec sum, uint32_t x, uvec w) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)x), (__m512bh)w);
  }
};

// Four codes a half of a word: both halves are looked up at once, by five bits, of which the table ignores the highest.
struct PairedNibbles : InPairs<Nibbles> {
  __m512i words;
  explicit PairedNibbles(const Segment& s) : InPairs<Nibbles>(s) {
    const __m256i table = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(s.table));
    words = _mm512_broadcast_i64x4(table);
  }
  uvec entry(const char* chunk, int v, int i) const {
    return (uvec)_mm512_permutexvar_epi16(_mm512_srli_epi16((__m512i)word(chunk, v, 0), 4 * i), words);
  }
};

#endif

// Calls with what reads codes of a form.
template <class F>
void with_form(const Segment& s, F&& call) {
#if defined(DOT_UNITS)
  if (s.rounds) switch (s.form) {
      case NIBBLES: return call(PairedNibbles(s));
      case FIVES: return call(InPairs<Fives>(s));
      case SIXES: return call(InPairs<Sixes>(s));
      case BYTES: return call(InPairs<Bytes>(s));
      case FLOATS: return call(InPairs<Floats>(s));
      default: return call(InPairs<Indices>(s));
    }
#endif
  switch (s.form) {
    case NIBBLES: return call(Apart<Nibbles>(s));
    case FIVES: return call(Apart<Fives>(s));
    case SIXES: return call(Apart<Sixes>(s));
    case BYTES: return call(Apart<Bytes>(s));
    case FLOATS: return call(Apart<Floats>(s));
    default: return call(Apart<Indices>(s));
  }
}

// --- numbers of groups ------------------------------------------------------------------------------------------

// Numbers of some panels' groups as floats, each times that of its block, if there are blocks.
template <class F>
void spread_out(const Numbers& n, long first, long count, float* out, F&& one) {
  for (long i = 0; i < count * n.count * VECTORS; i++) store(out + i * LANES, one(n.at, (first * n.count * VECTORS + i) * LANES));
}

const float* floats_of(const Numbers& own, const Numbers& of_blocks, long block, long panel, long count,
                       std::vector<float>& room) {
  room.resize(count * own.count * WIDTH);
  for_kind(own.kind, [&](auto one) { spread_out(own, panel, count, room.data(), one); });
  float* out = room.data();
  if (of_blocks.at) for (long p = panel; p < panel + count; p++)
    for (long b = 0, g = 0; b < of_blocks.count; b++)
      for (const long end = std::min(g + block, own.count); g < end; g++, out += WIDTH)
        for (int v = 0; v < VECTORS; v++)
          store(out + v * LANES, number(of_blocks, p * of_blocks.count + b, v) * load(out + v * LANES));
  return room.data();
}

// What sums over groups meet, of some panels: [panels][groups][WIDTH] each.
struct Factors {
  const float *scales, *zeros = nullptr, *offsets = nullptr;
  long step;  // from one panel's to the next's

  Factors(const Segment& s, long panel, long count, float unit) : step(s.scales.count * WIDTH) {
    static thread_local std::vector<float> scales_room, zeros_room, offsets_room;
    scales = floats_of(s.scales, s.block_scales, s.block, panel, count, scales_room);
    if (s.zeros.at) zeros = floats_of(s.zeros, {}, 1, panel, count, zeros_room);
    if (s.offsets.at) offsets = floats_of(s.offsets, s.block_offsets, s.block, panel, count, offsets_room);
    if (unit == 1) return;
    for (float& each : scales_room) each *= unit;
    if (zeros) for (float& each : zeros_room) each /= unit;
  }

  // What a sum over inputs of a group is of the weight's values, for the vector of outputs `at`; `inputs` is their sum.
  inline vec add(vec total, vec sum, float inputs, long at) const {
    if (zeros) sum -= load(zeros + at) * inputs;
    total += load(scales + at) * sum;
    if (offsets) total -= load(offsets + at) * inputs;
    return total;
  }
};

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

  void make(long item, Rows& rows, ByteRows& byte_rows) const {
    const long first = item / groups * block, count = std::min(block, p.m - first);
    const long panels = (s->rows + WIDTH - 1) / WIDTH;
    const long begun = item % groups * together, ended = std::min(begun + together, panels);
    if (s->planes) {
      byte_rows.take(p.x + first * p.x_step, p.x_step, count, *s);
      const auto by_bytes = [&](float* c, long ldc) { multiply_by_bytes(byte_rows, *s, begun, ended - begun, c, ldc); };
      return part(begun, ended - begun, first, count, by_bytes);
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
  Rows rows;
#pragma omp for schedule(dynamic, 1)
  for (long item = 0; item < works.back().end; item++) {
    const auto ends_after = [](long item, const Work& work) { return item < work.end; };
    const long i = std::upper_bound(works.begin(), works.end(), item, ends_after) - works.begin();
    works[i].make(item - (i ? works[i - 1].end : 0), rows, byte_rows);
  }
}

// The product with a PLAIN segment.
Product plain(const Product& p, const Segment& s) {
  return {p.x, p.x_step, s.codes, (Weights)s.weights, p.bias ? p.bias + s.first : nullptr, p.start ? p.start + s.first : nullptr,
          p.start_step, p.out + s.first, p.out_step, p.m, p.inputs, (long)s.rows, p.many};
}

}  // namespace

void multiply_codes(const Product& p) {
  const CodedWeight& w = *(const CodedWeight*)p.w;
  std::vector<Work> works;
  if (p.m) add(works, p, w);
  if (!works.empty()) make_all(works);
  for (long i = 0; i < w.count; i++)
    if (w.segments[i].form == PLAIN) multiply(plain(p, w.segments[i]));
}

extern "C" {

// out[m][outputs] = x[m][inputs] * w' + bias
void ms_codes_linear(const float* x, long x_step, const void* weight, const float* bias, float* out, long m, long inputs,
                     long outputs) {
  const Product product{x, x_step, weight, CODES, bias, nullptr, 0, out, outputs, m, inputs, outputs};
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
