// Rows as whole numbers of some bytes, and their scales.
#pragma once

#include <algorithm>
#include <cmath>

#include "bytes.h"
#include "codes_by_bytes.h"
#include "vectors.h"

namespace {

// The largest whole number of so many bytes, each from -128 to 127. Three have room for what rounding to floats adds.
template <int N>
constexpr float LARGEST = N == 1 ? 127 : N == 2 ? 127 * 257 : 127 * 65536;

constexpr float SMALLEST = 0x1p-100f;  // spans of numbers below it are nothing: their scales would have no inverse

inline ivec nearest(vec x) {
#if defined(__AVX512F__)
  return (ivec)_mm512_cvtps_epi32((__m512)x);
#elif defined(__AVX__)
  return (ivec)_mm256_cvtps_epi32((__m256)x);
#else
  return (ivec)(x + 12582912.0f) - 0x4b400000;
#endif
}

inline int32_t whole_total(ivec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)v);
#else
  int32_t sum = 0;
  for (int l = 0; l < LANES; l++) sum += v[l];
  return sum;
#endif
}

inline int32_t whole_highest(ivec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_epi32((__m512i)v);
#else
  int32_t most = v[0];
  for (int l = 1; l < LANES; l++) most = std::max(most, v[l]);
  return most;
#endif
}

// Bytes of inputs, of each eight first those of even numbers.
inline void weave(const uint8_t* bytes, long n, uint8_t* out) {
  long k = 0;
#if defined(__SSSE3__)
  const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
  for (; k + 16 <= n; k += 16)
    _mm_storeu_si128((__m128i*)(out + k), _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)(bytes + k)), order));
#endif
  for (; k < n; k++) out[k / 8 * 8 + k % 2 * 4 + k % 8 / 2] = bytes[k];
}

constexpr int PARTS = BYTES_SPAN / LANES;  // vectors of a span

// A span of a row, whose columns are taken in an order, if there is one, and 0 behind its inputs.
inline void read_span(const float* row, const Segment& s, long first, long inputs, vec* x) {
  if (inputs == BYTES_SPAN && !s.order) {
    memcpy(x, row + first, BYTES_SPAN * sizeof(float));
    return;
  }
  float room[BYTES_SPAN] = {};
  for (long k = 0; k < inputs; k++) room[k] = row[s.order ? s.order[first + k] : first + k];
  memcpy(x, room, sizeof room);
}

struct Scale {
  float value, inverse;  // NaN where a number is not finite, 0 where all are next to nothing
};

// The scale of `count` vectors as numbers of N bytes.
template <int N>
inline Scale scale_of(const vec* x, long count) {
  ivec sizes = {};  // bits of magnitudes are in the order of these, those that are no numbers at the end
  for (long k = 0; k < count; k++) {
    const ivec size = (ivec)x[k] & 0x7fffffff;
    sizes = size > sizes ? size : sizes;
  }
  const int32_t bits = whole_highest(sizes);
  float most;
  memcpy(&most, &bits, sizeof most);
  if (bits >= 0x7f800000) return {NAN, 0.0f};
  return most < SMALLEST ? Scale{0.0f, 0.0f} : Scale{most / LARGEST<N>, LARGEST<N> / most};
}

// Numbers of N bytes, each of them by itself: [N][QUADS], of which each plane begins `apart` words behind the one before. Gives the sums
// of each byte, if they are WANTED.
template <int N, bool WANTED>
inline void enter_bytes(ivec* whole, uint32_t* out, long apart, int32_t* sums) {
  alignas(64) uint8_t bytes[BYTES_SPAN];
  for (int p = 0; p < N; p++) {
    ivec all = {};
    for (int k = 0; k < PARTS; k++) {
      const uint8s low = low_bytes((uvec)whole[k]);
      memcpy(bytes + k * LANES, &low, sizeof low);
      if (WANTED) all += whole[k] << 24 >> 24;
      whole[k] = (whole[k] + 128) >> 8;
    }
    weave(bytes, BYTES_SPAN, (uint8_t*)(out + p * apart));
    if (WANTED) sums[p] = whole_total(all);
  }
}

}  // namespace
