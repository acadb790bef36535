// Keys and values as codes of 8 bits: whole numbers with a scale for each head, and floats of type e4m3fn.
#pragma once

#include <algorithm>
#include <cmath>

#include "vectors.h"

// A code, which is widened LANES at a time by `load`. The numbers are those times UNIT.
struct Int8 {
  int8_t code;
  static constexpr float UNIT = 1.0f;
};

// e4m3fn: 1 sign, 4 exponent (bias 7), 3 mantissa; no infinity, the largest is 448.
struct Float8 {
  uint8_t code;
#if defined(__F16C__)
  static constexpr float UNIT = 256.0f;  // the exponent of half precision has a bias that is higher by 8
#else
  static constexpr float UNIT = 1.0f;
#endif
};

typedef int8_t int8s __attribute__((vector_size(LANES)));
typedef uint8_t uint8s __attribute__((vector_size(LANES)));
typedef uint16_t uint16s __attribute__((vector_size(LANES * 2)));

// Where there is an instruction it is named: of the general form compilers make one for each lane.
static inline vec load(const Int8* p) {
#if defined(__AVX512F__)
  return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
  return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
  int8s codes;
  memcpy(&codes, p, LANES);
  return __builtin_convertvector(__builtin_convertvector(codes, ivec), vec);
#endif
}

// The lowest bytes, and the lowest words, of whole numbers.
static inline uint8s low_bytes(uvec x) {
#if defined(__AVX512F__)
  return (uint8s)_mm512_cvtepi32_epi8((__m512i)x);
#else
  return __builtin_convertvector(x, uint8s);
#endif
}

static inline uint16s low_words(uvec x) {
#if defined(__AVX512F__)
  return (uint16s)_mm512_cvtepi32_epi16((__m512i)x);
#else
  return __builtin_convertvector(x, uint16s);
#endif
}

// The codes that are no numbers are the same in half precision.
static inline vec load(const Float8* p) {
#if defined(__F16C__) && defined(__AVX512BW__) && defined(__AVX512VL__)
  const __m128i codes = _mm_loadu_si128((const __m128i*)p);
  const __m256i words = _mm256_cvtepi8_epi16(codes);  // the sign, many times
  __m256i half = _mm256_and_si256(_mm256_slli_epi16(words, 7), _mm256_set1_epi16((short)0xbf80));
  half = _mm256_mask_mov_epi16(half, _mm_cmpeq_epi8_mask(_mm_or_si128(codes, _mm_set1_epi8((char)0x80)), _mm_set1_epi8(-1)),
                               _mm256_set1_epi16(0x7e00));
  return (vec)_mm512_cvtph_ps(half);
#elif defined(__F16C__) && defined(__AVX2__) && !defined(__AVX512F__)
  const __m128i codes = _mm_loadl_epi64((const __m128i*)p);
  const __m128i none = _mm_cmpeq_epi8(_mm_or_si128(codes, _mm_set1_epi8((char)0x80)), _mm_set1_epi8(-1));
  const __m128i half = _mm_and_si128(_mm_slli_epi16(_mm_cvtepi8_epi16(codes), 7), _mm_set1_epi16((short)0xbf80));
  return (vec)_mm256_cvtph_ps(_mm_or_si128(half, _mm_and_si128(_mm_cvtepi8_epi16(none), _mm_set1_epi16(0x7e00))));
#else
  uint8s codes;
  memcpy(&codes, p, LANES);
  const uvec bits = __builtin_convertvector(codes, uvec), size = bits & 0x7f;
  const vec small = __builtin_convertvector((ivec)size, vec) * 0.001953125f;  // steps of 2^-9, without an exponent
  vec x = size < 8 ? small : (vec)((size << 20) + (120u << 23));
  x = size == 0x7f ? spread(NAN) : x;
  return (vec)((uvec)(x * (1.0f / Float8::UNIT)) | (bits & 0x80) << 24);
#endif
}

// A panel's row of codes: a head of values.
template <> struct Panel<Int8> : SinglePanel<Int8> {};
template <> struct Panel<Float8> : SinglePanel<Float8> {};

// --- heads of any size ------------------------------------------------------------------------------------------------

// `each(first, count)` for every LANES of `dim` numbers; the last of them may be fewer.
template <class F>
static inline void by_lanes(long dim, F each) {
  for (long d = 0; d < dim; d += LANES) each(d, std::min((long)LANES, dim - d));
}

static inline vec load_some(const float* p, long count) {
  if (count == LANES) return load(p);
  vec x = {};
  memcpy(&x, p, count * 4);
  return x;
}

// out[dim] = codes times `scale`
template <class K>
static inline void from_bytes(const K* codes, long dim, float scale, float* out) {
  by_lanes(dim, [&](long d, long count) {
    K some[LANES] = {};
    memcpy(some, codes + d, count);
    const vec x = load(some) * scale;
    memcpy(out + d, &x, count * 4);
  });
}

// out[dim] = the numbers of codes in bfloat16, exactly
template <class K>
static inline void to_bfloat16(const K* codes, long dim, uint16_t* out) {
  by_lanes(dim, [&](long d, long count) {
    K some[LANES] = {};
    memcpy(some, codes + d, count);
    const uint16s x = low_words((uvec)(load(some) * K::UNIT) >> 16);
    memcpy(out + d, &x, count * 2);
  });
}

static inline vec size_of(vec x) { return (vec)((uvec)x & 0x7fffffffu); }

// What is above 448 becomes that; rounded to even. No number stays none.
static inline void to_float8(const float* x, long dim, uint8_t* out) {
  by_lanes(dim, [&](long d, long count) {
    const vec given = load_some(x + d, count), size = smaller(size_of(given), spread(448.0f));
    const uvec bits = (uvec)size, normal = ((bits + 0x7ffffu + (bits >> 20 & 1u)) >> 20) - (120u << 3);
    const uvec small = (uvec)(size * 512.0f + 12582912.0f) & 0xffu;  // steps of 2^-9; 8 is the first with an exponent
    uvec code = size < 0.015625f ? small : normal;
    code = given == given ? code : code * 0u + 0x7fu;
    const uint8s codes = low_bytes(code | ((uvec)given >> 24 & 0x80u));
    memcpy(out + d, &codes, count);
  });
}

// The scale, the largest magnitude divided by 127, and NaN where a number is not finite.
static inline float to_int8(const float* x, long dim, int8_t* out) {
  vec largest = {}, differences = {};
  by_lanes(dim, [&](long d, long count) {
    const vec given = load_some(x + d, count);
    largest = larger(size_of(given), largest);
    differences += given - given;  // 0 of what is finite
  });
  float scale = highest(largest) / 127.0f;
  if (total(differences) != 0.0f) scale = NAN;
  by_lanes(dim, [&](long d, long count) {
    const vec ratio = smaller(larger(load_some(x + d, count) / scale, spread(-127.0f)), spread(127.0f));
    const ivec whole = (ivec)(ratio + 12582912.0f) - 0x4b400000;  // rounded to even
    const uint8s codes = low_bytes((uvec)(scale > 0.0f ? whole : whole * 0));
    memcpy(out + d, &codes, count);
  });
  return scale;
}
