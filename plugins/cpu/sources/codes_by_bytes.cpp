// Products of codes with rows that are whole numbers of one or two bytes for each span of inputs. Sums of a span are
// exact, in whole numbers: a row's bits depend neither on the rows beside it nor on the instructions that are there.
#include "codes_by_bytes.h"

#include <algorithm>
#include <cmath>

#include "bytes.h"
#include "code_panels.h"
#include "vectors.h"

namespace {

// --- forms ------------------------------------------------------------------------------------------------------
// `quad` is the codes of quad q of a chunk as bytes, for vector v of its panel's outputs. What they mean is that plus
// `base` of the segment.

inline uvec word_of(const char* chunk, int v, int i) { return read<uvec>(chunk + (i * VECTORS + v) * sizeof(uvec)); }

// Nibble j of a word is input j.
inline uvec nibbles(const char* chunk, int v, int q) { return word_of(chunk, v, q / 2) >> (q % 2 * 4) & 0x0f0f0f0fu; }

struct CountedNibbles {
  static constexpr long CHUNK = 8, BYTES = 4, MOST = 15;
  explicit CountedNibbles(const Segment&) {}
  uvec quad(const char* chunk, int v, int q) const { return nibbles(chunk, v, q); }
};

// By a table of 16 bytes.
struct LookedUpNibbles {
  static constexpr long CHUNK = 8, BYTES = 4, MOST = 255;
#if defined(__AVX512BW__)
  __m512i table;
  explicit LookedUpNibbles(const Segment& s) : table(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)s.lookup))) {}
  uvec quad(const char* chunk, int v, int q) const {
    return (uvec)_mm512_shuffle_epi8(table, (__m512i)nibbles(chunk, v, q));
  }
#elif defined(__AVX2__)
  __m256i table;
  explicit LookedUpNibbles(const Segment& s)
      : table(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)s.lookup))) {}
  uvec quad(const char* chunk, int v, int q) const {
    return (uvec)_mm256_shuffle_epi8(table, (__m256i)nibbles(chunk, v, q));
  }
#else
  const uint8_t* table;
  explicit LookedUpNibbles(const Segment& s) : table(s.lookup) {}
  uvec quad(const char* chunk, int v, int q) const {
    unsigned char bytes[sizeof(uvec)];
    const uvec codes = nibbles(chunk, v, q);
    memcpy(bytes, &codes, sizeof bytes);
    for (auto& each : bytes) each = table[each];
    return read<uvec>(bytes);
  }
#endif
};

// Nibbles, and in the last word of a chunk the highest bit of each code: bit q of byte b for input b of quad q.
struct QuadFives {
  static constexpr long CHUNK = 32, BYTES = 20, MOST = 31;
  explicit QuadFives(const Segment&) {}
  uvec quad(const char* chunk, int v, int q) const {
    const uvec high = word_of(chunk, v, 4);
    return nibbles(chunk, v, q) | ((q < 4 ? high << (4 - q) : high >> (q - 4)) & 0x10101010u);
  }
};

// Nibbles, and in the last word of a chunk the two highest bits: bits 2q and 2q + 1 of byte b.
struct QuadSixes {
  static constexpr long CHUNK = 16, BYTES = 12, MOST = 63;
  explicit QuadSixes(const Segment&) {}
  uvec quad(const char* chunk, int v, int q) const {
    const uvec high = word_of(chunk, v, 2);
    return nibbles(chunk, v, q) | ((q < 2 ? high << (4 - 2 * q) : high >> (2 * q - 4)) & 0x30303030u);
  }
};

// A word a quad.
struct QuadBytes {
  static constexpr long CHUNK = 8, BYTES = 8, MOST = 255;
  explicit QuadBytes(const Segment&) {}
  uvec quad(const char* chunk, int v, int q) const { return word_of(chunk, v, q); }
};

static_assert(is_shaped<CountedNibbles>(NIBBLES) && is_shaped<LookedUpNibbles>(NIBBLES) && is_shaped<QuadFives>(QUAD_FIVES) &&
                  is_shaped<QuadSixes>(QUAD_SIXES) && is_shaped<QuadBytes>(QUAD_BYTES), "");

template <class F>
void with_form(const Segment& s, F&& call) {
  switch (s.form) {
    case NIBBLES: return s.lookup ? call(LookedUpNibbles(s)) : call(CountedNibbles(s));
    case QUAD_FIVES: return call(QuadFives(s));
    case QUAD_SIXES: return call(QuadSixes(s));
    default: return call(QuadBytes(s));
  }
}

// sum + codes[4] * x[4] in each lane, of codes of 0 … MOST and of signed bytes.
template <long MOST>
inline ivec dot(ivec sum, uvec codes, ivec x) {
#if defined(__AVX512VNNI__)
  return (ivec)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, (__m512i)x);
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
  return (ivec)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)codes, (__m256i)x);
#elif defined(__AVX512BW__)
  if (MOST < 128) {
    const __m512i pairs = _mm512_maddubs_epi16((__m512i)codes, (__m512i)x);
    return sum + (ivec)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
  }
  const __m512i even = _mm512_madd_epi16((__m512i)(codes & 0x00ff00ffu), _mm512_srai_epi16(_mm512_slli_epi16((__m512i)x, 8), 8));
  const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16((__m512i)codes, 8), _mm512_srai_epi16((__m512i)x, 8));
  return sum + (ivec)even + (ivec)odd;
#elif defined(__AVX2__)
  if (MOST < 128) {
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)codes, (__m256i)x);
    return sum + (ivec)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
  const __m256i even = _mm256_madd_epi16((__m256i)(codes & 0x00ff00ffu), _mm256_srai_epi16(_mm256_slli_epi16((__m256i)x, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16((__m256i)codes, 8), _mm256_srai_epi16((__m256i)x, 8));
  return sum + (ivec)even + (ivec)odd;
#else
  for (int b = 0; b < 4; b++) sum += (ivec)(codes >> (8 * b) & 255u) * ((ivec)((uvec)x << (24 - 8 * b)) >> 24);
  return sum;
#endif
}

// --- rows -------------------------------------------------------------------------------------------------------

// The largest whole number of so many bytes, each from -128 to 127.
template <int N>
constexpr float LARGEST = N == 1 ? 127 : 127 * 257;

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

struct Scale {
  float value, inverse;  // NaN where a number is not finite, 0 where all are next to nothing
};

template <int N>
inline Scale scale_of(const vec* x) {
  ivec sizes = {};  // bits of magnitudes are in the order of these, those that are no numbers at the end
  for (int k = 0; k < PARTS; k++) {
    const ivec size = (ivec)x[k] & 0x7fffffff;
    sizes = size > sizes ? size : sizes;
  }
  const int32_t bits = whole_highest(sizes);
  float most;
  memcpy(&most, &bits, sizeof most);
  if (bits >= 0x7f800000) return {NAN, 0.0f};
  return most < SMALLEST ? Scale{0.0f, 0.0f} : Scale{most / LARGEST<N>, LARGEST<N> / most};
}

// A span as whole numbers of N bytes, each of them by itself [N][QUADS]; gives the scale and each byte's sum.
template <int N>
inline float enter(const vec* x, uint32_t* out, int32_t* sums) {
  alignas(64) uint8_t bytes[BYTES_SPAN];
  const Scale scale = scale_of<N>(x);
  ivec whole[PARTS];
  for (int k = 0; k < PARTS; k++) whole[k] = nearest(x[k] * scale.inverse);
  for (int p = 0; p < N; p++) {
    ivec all = {};
    for (int k = 0; k < PARTS; k++) {
      const uint8s low = low_bytes((uvec)whole[k]);
      memcpy(bytes + k * LANES, &low, sizeof low);
      all += whole[k] << 24 >> 24;
      whole[k] = (whole[k] + 128) >> 8;
    }
    weave(bytes, BYTES_SPAN, (uint8_t*)(out + p * QUADS));
    sums[p] = whole_total(all);
  }
  return scale.value;
}

}  // namespace

void ByteRows::take(const float* from, long step, long rows, const Segment& s) {
  const bool alike = of_ && of_->order == s.order && of_->group == s.group && of_->inputs == s.inputs &&
                     of_->planes == s.planes && of_->base == s.base && of_->unit == s.unit;
  if (from == from_ && rows == count && alike) return;
  from_ = from, count = rows, of_ = &s;
  long many = 0;
  spans(s, 1, BYTES_SPAN, [&](long, long, long, long) { many++; });
  words.resize(many * rows * s.planes * QUADS);
  starts.resize(many * rows * s.planes), scales.resize(many * rows), sums.resize(many * rows);
  if (s.planes == 1) take_planes<1>(from, step);
  else take_planes<2>(from, step);
}

template <int N>
void ByteRows::take_planes(const float* from, long step) {
  const Segment& s = *of_;
  alignas(64) float room[BYTES_SPAN];
  spans(s, 1, BYTES_SPAN, [&](long number, long, long first, long n) {
    for (long i = 0; i < count; i++) {
      const float* row = from + i * step;
      vec x[PARTS];
      if (n < BYTES_SPAN || s.order) {
        for (long k = 0; k < n; k++) room[k] = row[s.order ? s.order[first + k] : first + k];
        std::fill(room + n, room + BYTES_SPAN, 0.0f);
        memcpy(x, room, sizeof x);
      } else memcpy(x, row + first, sizeof x);
      const long at = number * count + i;
      int32_t in_all[N];
      const float scale = enter<N>(x, words.data() + at * N * QUADS, in_all);
      float sum = 0.0f;
      for (int p = 0; p < N; p++) {
        starts[at * N + p] = (int32_t)s.base * in_all[p];
        sum += (float)in_all[p] * (float)(1 << (8 * p));
      }
      scales[at] = scale * (float)s.unit, sums[at] = scale * sum;
    }
  });
}

namespace {

// --- products ---------------------------------------------------------------------------------------------------

constexpr long AHEAD_BYTES = 2048;  // of a panel that are fetched before they are read

// What the sums of a span by the planes of a row are, as a multiple of the row's scale.
template <int N>
inline vec joined(const ivec* planes) {
  return __builtin_convertvector(N == 1 ? planes[0] : (planes[N - 1] << 8) + planes[0], vec);
}

// Scales of a panel's groups, and what is subtracted for each of their inputs, as floats: [groups][WIDTH] each.
struct Laid {
  std::vector<float> scales, offsets;

  void take(const Segment& s, long panel) {
    scales.resize(s.scales.count * WIDTH);
    each_group(s, scales, [&](long g, int v) { return group_number(s.scales, s.block_scales, s.block, panel, g, v); });
    if (!has_offsets(s)) return;
    offsets.resize(s.scales.count * WIDTH);
    each_group(s, offsets, [&](long g, int v) {
      vec all = {};
      if (s.offsets.at) all = group_number(s.offsets, s.block_offsets, s.block, panel, g, v);
      if (s.zeros.at) all += load(scales.data() + g * WIDTH + v * LANES) * group_number(s.zeros, {}, 1, panel, g, v);
      return all;
    });
  }
  static bool has_offsets(const Segment& s) { return s.zeros.at || s.offsets.at; }

 private:
  template <class G>
  static void each_group(const Segment& s, std::vector<float>& out, G&& made) {
    for (long g = 0; g < s.scales.count; g++)
      for (int v = 0; v < VECTORS; v++) store(out.data() + g * WIDTH + v * LANES, made(g, v));
  }
};
thread_local Laid laid[2];  // of panels that are multiplied side by side

// sums[M][Q][N] += rows * the codes of one chunk; `x` is the first quad of the first row.
template <int M, int Q, int N, class F>
inline void add_chunk(const F& f, const char* const* at, long behind, int v, const uint32_t* x, ivec (*sums)[Q][N]) {
#pragma GCC unroll 8
  for (int j = 0; j < F::CHUNK / 4; j++) {
    uvec codes[Q];
#pragma GCC unroll 8
    for (int q = 0; q < Q; q++) codes[q] = f.quad(at[q / VECTORS] + behind, (v + q) % VECTORS, j);
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 2
      for (int p = 0; p < N; p++) {
        const ivec four = (int32_t)x[(i * N + p) * QUADS + j] - (ivec){};
#pragma GCC unroll 8
        for (int q = 0; q < Q; q++) sums[i][q][p] = dot<F::MOST>(sums[i][q][p], codes[q], four);
      }
  }
}

// c[M][Q vectors] += rows row … * outputs of a panel from vector v on, or of two panels; without offsets.
template <int M, int Q, int N, class F>
void tile(const F& f, const Segment& s, const ByteRows& rows, long row, long panel, int v, float* c, long ldc) {
  constexpr int PANELS = Q > VECTORS ? 2 : 1;
  constexpr long CHUNK_BYTES = F::BYTES * WIDTH;
  const long size = panel_bytes(s.form, s.inputs);
  const char* at[PANELS];
  const float* scales[PANELS];
  for (int p = 0; p < PANELS; p++) at[p] = s.codes + (panel + p) * size, scales[p] = laid[p].scales.data() + v * LANES;
  vec totals[M][Q];
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 8
    for (int q = 0; q < Q; q++) totals[i][q] = load(c + i * ldc + q * LANES);
  spans(s, F::CHUNK, BYTES_SPAN, [&](long number, long group, long first, long n) {
    const long known = number * rows.count + row;
    const uint32_t* x = rows.words.data() + known * (N * QUADS);
    const int32_t* starts = rows.starts.data() + known * N;
    ivec sums[M][Q][N];
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 8
      for (int q = 0; q < Q; q++)
#pragma GCC unroll 2
        for (int p = 0; p < N; p++) sums[i][q][p] = starts[i * N + p] - (ivec){};
    const long behind = first / F::CHUNK * CHUNK_BYTES;
    if (!row && !v)
      for (int p = 0; p < PANELS; p++)
        for (long line = 0; line < BYTES_SPAN / F::CHUNK * CHUNK_BYTES; line += 64)
          __builtin_prefetch(at[p] + behind + AHEAD_BYTES + line);
    if (n == BYTES_SPAN)
#pragma GCC unroll 4
      for (long k = 0; k < BYTES_SPAN; k += F::CHUNK)
        add_chunk<M, Q, N>(f, at, behind + k / F::CHUNK * CHUNK_BYTES, v, x + k / 4, sums);
    else
      for (long k = 0; k < n; k += F::CHUNK)
        add_chunk<M, Q, N>(f, at, behind + k / F::CHUNK * CHUNK_BYTES, v, x + k / 4, sums);
#pragma GCC unroll 8
    for (int q = 0; q < Q; q++) {
      const vec scale = load(scales[q / VECTORS] + group * WIDTH + q % VECTORS * LANES);
#pragma GCC unroll 16
      for (int i = 0; i < M; i++) totals[i][q] += scale * rows.scales[known + i] * joined<N>(sums[i][q]);
    }
  });
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 8
    for (int q = 0; q < Q; q++) store(c + i * ldc + q * LANES, totals[i][q]);
}

// c[rows][WIDTH] -= what groups have of each input, times the sums of these.
void subtract_offsets(const Segment& s, const ByteRows& rows, const float* offsets, float* c, long ldc) {
  for (long i = 0; i < rows.count; i++)
    for (int v = 0; v < VECTORS; v++) {
      vec total = load(c + i * ldc + v * LANES);
      spans(s, 1, BYTES_SPAN, [&](long number, long group, long, long) {
        total -= load(offsets + group * WIDTH + v * LANES) * rows.sums[number * rows.count + i];
      });
      store(c + i * ldc + v * LANES, total);
    }
}

// Rows of a tile at most: their sums and totals stay in registers.
template <int N>
constexpr int HEIGHT = LANES == 16 ? 8 : N == 1 ? 4 : 3;

template <int M, int N, class F>
void tile_of(long m, const F& f, const Segment& s, const ByteRows& rows, long row, long panel, int v, float* c, long ldc) {
  if constexpr (M > 1) {
    if (m < M) return tile_of<M - 1, N>(m, f, s, rows, row, panel, v, c, ldc);
  }
  tile<M, 1, N>(f, s, rows, row, panel, v, c, ldc);
}

template <int N, class F>
void multiply(const F& f, const Segment& s, const ByteRows& rows, long panel, long panels, float* c, long ldc) {
  const long wide = rows.count == 1 && panels > 1 ? 2 : 1, tiles = (rows.count + HEIGHT<N> - 1) / HEIGHT<N>;
  for (long p = 0; p < wide; p++) laid[p].take(s, panel + p);
  if (wide == 2) tile<1, 2 * VECTORS, N>(f, s, rows, 0, panel, 0, c, ldc);
  else if (rows.count == 1) tile<1, VECTORS, N>(f, s, rows, 0, panel, 0, c, ldc);
  else
    for (int v = 0; v < VECTORS; v++)
      for (long t = 0; t < tiles; t++) {
        const long row = rows.count * t / tiles, end = rows.count * (t + 1) / tiles;
        tile_of<HEIGHT<N>, N>(end - row, f, s, rows, row, panel, v, c + row * ldc + v * LANES, ldc);
      }
  for (long p = 0; p < wide && Laid::has_offsets(s); p++)
    subtract_offsets(s, rows, laid[p].offsets.data(), c + p * WIDTH, ldc);
  if (panels > wide) multiply<N>(f, s, rows, panel + wide, panels - wide, c + wide * WIDTH, ldc);
}

}  // namespace

void multiply_by_bytes(const ByteRows& rows, const Segment& s, long panel, long panels, float* c, long ldc) {
  with_form(s, [&](const auto& f) {
    if (s.planes == 1) multiply<1>(f, s, rows, panel, panels, c, ldc);
    else multiply<2>(f, s, rows, panel, panels, c, ldc);
  });
}
