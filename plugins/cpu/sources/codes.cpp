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

#include "vectors.h"

namespace {

constexpr long SPAN = 128;  // inputs whose sum is made at once at most, a multiple of every CHUNK
constexpr long FEW = 4;     // rows that look codes up for themselves
constexpr long FETCHED = 1024;  // bytes of a panel that are fetched before they are read

typedef uint8_t unsigned_bytes __attribute__((vector_size(LANES)));
typedef int8_t signed_bytes __attribute__((vector_size(LANES)));
typedef uint16_t words16 __attribute__((vector_size(LANES * 2)));

template <class V>
inline V read(const void* p) { V v; memcpy(&v, p, sizeof v); return v; }

// Bytes as floats. GCC takes the vectors' own conversion apart, lane by lane.
inline ivec widened(unsigned_bytes b) {
#if defined(__AVX512F__)
  return (ivec)_mm512_cvtepu8_epi32((__m128i)b);
#elif defined(__AVX2__)
  return (ivec)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)b));
#else
  return __builtin_convertvector(b, ivec);
#endif
}

inline ivec widened(signed_bytes b) {
#if defined(__AVX512F__)
  return (ivec)_mm512_cvtepi8_epi32((__m128i)b);
#elif defined(__AVX2__)
  return (ivec)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((long long)b));
#else
  return __builtin_convertvector(b, ivec);
#endif
}

inline uvec widened(words16 w) {
#if defined(__AVX512F__)
  return (uvec)_mm512_cvtepu16_epi32((__m256i)w);
#elif defined(__AVX2__)
  return (uvec)_mm256_cvtepu16_epi32((__m128i)w);
#else
  return __builtin_convertvector(w, uvec);
#endif
}

template <class B>
inline vec floats(B bytes) { return __builtin_convertvector(widened(bytes), vec); }

inline float half(uint16_t h) {
  uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
  float f;
  memcpy(&f, &bits, sizeof f);
  f *= 0x1p112f;
  memcpy(&bits, &f, sizeof f);
  if ((h & 0x7c00) == 0x7c00) bits |= 0x7f800000u;
  bits |= (uint32_t)(h & 0x8000) << 16;
  memcpy(&f, &bits, sizeof f);
  return f;
}

inline vec halves(words16 h) {
#if defined(__AVX512F__)
  return (vec)_mm512_cvtph_ps((__m256i)h);
#elif defined(__AVX__) && defined(__F16C__)
  return (vec)_mm256_cvtph_ps((__m128i)h);
#else
  vec out;
  for (int l = 0; l < LANES; l++) out[l] = half(h[l]);
  return out;
#endif
}

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

struct Shape {
  long chunk, bytes;
};
constexpr Shape SHAPES[] = {{Nibbles::CHUNK, Nibbles::BYTES}, {Fives::CHUNK, Fives::BYTES}, {Sixes::CHUNK, Sixes::BYTES},
                            {Single::CHUNK, Single::BYTES},   {Single::CHUNK, Single::BYTES}, {Single::CHUNK, Single::BYTES}};

long chunks_of(long form, long inputs) { return (inputs + SHAPES[form].chunk - 1) / SHAPES[form].chunk; }
long panel_bytes(long form, long inputs) { return chunks_of(form, inputs) * SHAPES[form].bytes * WIDTH; }

// --- numbers of groups ------------------------------------------------------------------------------------------

// Calls with what reads the vector of numbers of a kind from the i-th on.
template <class F>
inline auto for_kind(long kind, F&& call) {
  switch (kind) {
    case FLOAT: return call([](const char* at, long i) { return load((const float*)at + i); });
    case HALF: return call([](const char* at, long i) { return halves(read<words16>(at + 2 * i)); });
    case BFLOAT: return call([](const char* at, long i) { return (vec)(widened(read<words16>(at + 2 * i)) << 16); });
    case UNSIGNED: return call([](const char* at, long i) { return floats(read<unsigned_bytes>(at + i)); });
    default: return call([](const char* at, long i) { return floats(read<signed_bytes>(at + i)); });
  }
}

inline vec number(const Numbers& n, long index, int v) {
  return for_kind(n.kind, [&](auto one) { return one(n.at, index * WIDTH + v * LANES); });
}

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

// The same of numbers as they lie, for few rows: to lay them out as floats would take longer than to read them.
template <class D>
struct Unlaid {
  const Segment& s;

  static vec of(const Numbers& own, const Numbers& of_blocks, long block, long panel, long group, int v) {
    const vec found = number(own, panel * own.count + group, v);
    return of_blocks.at ? number(of_blocks, panel * of_blocks.count + group / block, v) * found : found;
  }

  inline vec add(vec total, vec sum, float inputs, long panel, long group, int v) const {
    if (s.zeros.at) sum -= of(s.zeros, {}, 1, panel, group, v) / spread(D::UNIT) * inputs;
    total += of(s.scales, s.block_scales, s.block, panel, group, v) * spread(D::UNIT) * sum;
    if (s.offsets.at) total -= of(s.offsets, s.block_offsets, s.block, panel, group, v) * inputs;
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

// Calls with each span: its number, its group, its first input and how many it has, whole chunks.
template <class F>
inline void spans(const Segment& s, long chunk, F&& call) {
  long number = 0;
  for (long group = 0, first = 0; first < s.inputs; group++) {
    const long end = std::min(first + s.group, s.inputs);
    for (; first < end; number++) {
      const long n = std::min(SPAN, end - first);
      call(number, group, first, (n + chunk - 1) / chunk * chunk);
      first += n;
    }
  }
}

template <class D>
void Rows::take(const float* from, long step, long count, const Segment& s) {
  if (from == from_ && count == count_ && inputs_ == D::INPUTS && alike(*of_, s)) return;
  from_ = from, count_ = count, of_ = &s, inputs_ = D::INPUTS;
  auto& to = entries<typename D::Entry>();
  to.resize(count * (s.inputs + 32) / D::INPUTS);
  span_sums.resize(count * (s.inputs / std::min<long>(s.group, SPAN) + s.inputs / s.group + 2));
  alignas(64) float room[SPAN + LANES];
  spans(s, D::CHUNK, [&](long number, long, long first, long n) {
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
  spans(s, D::CHUNK, [&](long number, long group, long first, long n) {
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
  spans(s, D::CHUNK, [&](long number, long group, long first, long n) {
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

  void make(long item, Rows& rows) const {
    const long first = item / groups * block, count = std::min(block, p.m - first);
    const long panels = (s->rows + WIDTH - 1) / WIDTH;
    const long begun = item % groups * together, ended = std::min(begun + together, panels);
    with_form(*s, [&](const auto& d) {
      rows.take<std::decay_t<decltype(d)>>(p.x + first * p.x_step, p.x_step, count, *s);
      for (long panel = begun; panel < ended;) {
        const long wide = count == 1 && panel + 1 < ended ? 2 : 1;
        part(d, panel, wide, first, count);
        panel += wide;
      }
    });
  }

  template <class D>
  void part(const D& d, long panel, long wide, long first, long count) const {
    static thread_local std::vector<float> sums;
    sums.resize(std::max<long>(count * wide * WIDTH, 1));
    float* c = sums.data();
    const long width = std::min(wide * WIDTH, s->rows - panel * WIDTH), column = s->first + panel * WIDTH;
    begin(p, first, count, column, width, c, wide * WIDTH);
    if (wide == 2) few<1, 2>(d, *s, panel, c, 2 * WIDTH);
    else if (count == 1) few<1, 1>(d, *s, panel, c, WIDTH);
    else if (count == 2) few<2, 1>(d, *s, panel, c, WIDTH);
    else if (count == 3) few<3, 1>(d, *s, panel, c, WIDTH);
    else if (count == FEW) few<4, 1>(d, *s, panel, c, WIDTH);
    else many(d, *s, panel, c, count);
    float* out = p.out + first * p.out_step + column;
    for (long i = 0; i < count; i++) std::copy_n(c + i * wide * WIDTH, width, out + i * p.out_step);
  }
};

void add(std::vector<Work>& works, const Product& p, const CodedWeight& w) {
  for (long i = 0; i < w.count; i++) works.push_back(Work(p, w.segments[i], works.empty() ? 0 : works.back().end));
}

void make_all(const std::vector<Work>& works) {
  Rows rows;
#pragma omp for schedule(dynamic, 1)
  for (long item = 0; item < works.back().end; item++) {
    const auto ends_after = [](long item, const Work& work) { return item < work.end; };
    const long i = std::upper_bound(works.begin(), works.end(), item, ends_after) - works.begin();
    works[i].make(item - (i ? works[i - 1].end : 0), rows);
  }
}

// --- how codes get there, and back ------------------------------------------------------------------------------

// The words of one output's chunk: code j is in word j / fields, the last ones in the top two bits of all words.
struct Bits {
  long bits, fields, chunk, words;

  explicit Bits(long form) : bits(form + 4), fields(32 / (form + 4)), chunk(SHAPES[form].chunk), words(SHAPES[form].bytes / 4) {}

  // Calls with the word, the shift in it and the mask of each piece of code j, and the shift of the piece in the code.
  template <class F>
  void pieces(long j, F&& call) const {
    if (j < words * fields) return call(j / fields, j % fields * bits, (1u << bits) - 1, 0);
    if (bits == 6) for (long i = 0; i < 3; i++) call(i, 30, 3u, 2 * i);
    else {
      const long first = j == 30 ? 0 : 3;
      call(first, 30, 3u, 0), call(first + 1, 30, 3u, 2), call(2, j, 1u, 4);
    }
  }
};

char* chunk_at(const char* codes, long form, long inputs, long panel, long chunk) {
  return (char*)codes + panel * panel_bytes(form, inputs) + chunk * SHAPES[form].bytes * WIDTH;
}

void pack(const uint8_t* codes, long ldc, long form, char* packed, long rows, long inputs) {
  const Bits bits(std::min<long>(form, SIXES));
  const long chunk = SHAPES[form].chunk;
#pragma omp parallel for schedule(dynamic, 1)
  for (long p = 0; p < (rows + WIDTH - 1) / WIDTH; p++)
    for (long lane = 0; lane < std::min<long>(WIDTH, rows - p * WIDTH); lane++) {
      const uint8_t* row = codes + (p * WIDTH + lane) * ldc;
      for (long k = 0; k < inputs; k++) {
        char* at = chunk_at(packed, form, inputs, p, k / chunk);
        if (form >= BYTES) at[k % chunk * WIDTH + lane] = row[k];
        else bits.pieces(k % chunk, [&](long word, long shift, uint32_t mask, long from) {
          ((uint32_t*)at)[word * WIDTH + lane] |= ((uint32_t)row[k] >> from & mask) << shift;
        });
      }
    }
}

uint8_t code_of(const Segment& s, const Bits& bits, long row, long k) {
  const long chunk = SHAPES[s.form].chunk, lane = row % WIDTH;
  const char* at = chunk_at(s.codes, s.form, s.inputs, row / WIDTH, k / chunk);
  if (s.form >= BYTES) return at[k % chunk * WIDTH + lane];
  uint32_t code = 0;
  bits.pieces(k % chunk, [&](long word, long shift, uint32_t mask, long from) {
    code |= (((const uint32_t*)at)[word * WIDTH + lane] >> shift & mask) << from;
  });
  return code;
}

float number_of(const Numbers& n, long row, long index) {
  const long v = row % WIDTH / LANES;
  return number(n, row / WIDTH * n.count + index, v)[row % LANES];
}

// The numbers of a row's groups, each rounded as it is made, which `noinline` sees to.
__attribute__((noinline)) void group_numbers(const Segment& s, const Numbers& own, const Numbers& of_blocks, long row,
                                             float* out) {
  for (long g = 0; g < own.count; g++) {
    out[g] = number_of(own, row, g);
    if (of_blocks.at) out[g] = number_of(of_blocks, row, g / s.block) * out[g];
  }
}

__attribute__((noinline)) void subtract(const Segment& s, const float* offsets, float* values) {
  for (long k = 0; k < s.inputs; k++) values[k] -= offsets[k / s.group];
}

// A row's values, in the order of operations that codes.py has.
void decode(const Segment& s, long row, float* out) {
  const Bits bits(std::min<long>(s.form, SIXES));
  std::vector<float> numbers(s.scales.count), values(s.inputs);
  group_numbers(s, s.scales, s.block_scales, row, numbers.data());
  for (long k = 0; k < s.inputs; k++) {
    const float zero = s.zeros.at ? number_of(s.zeros, row, k / s.group) : 0.0f;
    values[k] = numbers[k / s.group] * (s.table[code_of(s, bits, row, k)] - zero);
  }
  if (s.offsets.at) {
    group_numbers(s, s.offsets, s.block_offsets, row, numbers.data());
    subtract(s, numbers.data(), values.data());
  }
  if (s.order) for (long k = 0; k < s.inputs; k++) out[s.order[k]] = values[k];
  else std::copy(values.begin(), values.end(), out);
}

const Segment& segment_of(const CodedWeight& w, long row) {
  long i = w.count - 1;
  while (i && w.segments[i].first > row) i--;
  return w.segments[i];
}

}  // namespace

void multiply_codes(const Product& p) {
  if (!p.m || !((const CodedWeight*)p.w)->count) return;
  std::vector<Work> works;
  add(works, p, *(const CodedWeight*)p.w);
  make_all(works);
}

extern "C" {

// Inputs that the codes of a form come in: a group is a multiple of it.
long ms_codes_chunk(long form) { return SHAPES[form].chunk; }

// Bytes of the panels of codes[rows][inputs].
long ms_codes_bytes(long form, long rows, long inputs) {
  return (rows + WIDTH - 1) / WIDTH * panel_bytes(form, inputs);
}

// Codes[rows][inputs] into panels, which are 0 before.
void ms_codes_pack(const uint8_t* codes, long step, long form, void* packed, long rows, long inputs) {
  pack(codes, step, form, (char*)packed, rows, inputs);
}

// Rows `ids` of a weight: out[count][inputs].
void ms_codes_rows(const void* weight, const int64_t* ids, long count, long inputs, float* out) {
  const CodedWeight& w = *(const CodedWeight*)weight;
#pragma omp parallel for schedule(dynamic, 4) if (count > 4)
  for (long i = 0; i < count; i++) {
    const Segment& s = segment_of(w, ids[i]);
    decode(s, ids[i] - s.first, out + i * inputs);
  }
}

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
