// The forms of codes, and the ways in which rows meet what they mean.
#pragma once

#include <cstdint>

#include "code_panels.h"

namespace {

constexpr long SPAN = 128;  // inputs whose sum is made at once at most, a multiple of every CHUNK

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

#if defined(DOT_UNITS)

// Calls with what reads codes of a form two at a time.
template <class F>
void with_pairs(const Segment& s, F&& call) {
  switch (s.form) {
    case NIBBLES: return call(PairedNibbles(s));
    case FIVES: return call(InPairs<Fives>(s));
    case SIXES: return call(InPairs<Sixes>(s));
    case BYTES: return call(InPairs<Bytes>(s));
    case FLOATS: return call(InPairs<Floats>(s));
    default: return call(InPairs<Indices>(s));
  }
}

#endif

// Calls with what reads codes of a form.
template <class F>
void with_form(const Segment& s, F&& call) {
#if defined(DOT_UNITS)
  if (s.rounds) return with_pairs(s, call);
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

}  // namespace
