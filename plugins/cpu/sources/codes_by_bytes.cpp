// Products of codes with rows that are whole numbers of some bytes for each span of inputs. Sums of a span are
// exact, in whole numbers: a row's bits depend neither on the rows beside it nor on the instructions that are there.
#include "codes_by_bytes.h"

#include <algorithm>

#include "byte_rows.h"
#include "byte_sums.h"
#include "bytes_by_units.h"
#include "quad_forms.h"
#include "vectors.h"

namespace {

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

enum Wanted { NOTHING, SUM, BYTE_SUMS };

// Numbers of three bytes as halves: [2][2][QUADS].
inline void enter_halves(ivec* whole, uint32_t* out) {
  alignas(64) uint8_t bytes[2][BYTES_SPAN];
  for (int half = 0; half < 2; half++) {
    for (int k = 0; k < PARTS; k++) {
      const ivec own = half ? whole[k] : whole[k] << 20 >> 20;
      const uint8s high = low_bytes((uvec)(own >> 4)), low = low_bytes((uvec)(own & 15));
      memcpy(bytes[0] + k * LANES, &high, sizeof high), memcpy(bytes[1] + k * LANES, &low, sizeof low);
      whole[k] = (whole[k] + 2048) >> 12;
    }
    for (int part = 0; part < 2; part++, out += QUADS) weave(bytes[part], BYTES_SPAN, (uint8_t*)out);
  }
}

constexpr long FEW_BY_BYTES = 2;  // rows that are multiplied faster without matrix units

constexpr long TALLEST_TILE = 16;  // rows of a tile at most

constexpr long FEW_IN_HALVES = 5;  // rows whose bytes fit into one tile: codes then need not be there twice

// What has to be known of rows besides: where codes count from a base that is not part of what the units multiply, sums begin with that.
Wanted wanted(const Segment& s, long rows) {
  const bool signs = rows > FEW_BY_BYTES && quads::with_signs(s);
  return s.base && !(byte_units() && signs) ? BYTE_SUMS : Laid::has_offsets(s) ? SUM : NOTHING;
}

// Whether rows are the same numbers for both.
bool alike(const Segment& a, const Segment& b, long rows) {
  return a.order == b.order && a.group == b.group && a.inputs == b.inputs && a.planes == b.planes && a.base == b.base &&
         a.unit == b.unit && wanted(a, rows) == wanted(b, rows);
}

}  // namespace

void ByteRows::take(const float* from, long step, long rows, const Segment& s) {
  const bool halves = byte_units() && rows > FEW_IN_HALVES && s.planes == 3 && quads::sixteenfold(s);
  if (from == from_ && rows == count && halves == halved && alike(*of_, s, rows)) return;
  from_ = from, count = rows, of_ = &s, halved = halves;
  list.clear();
  spans(s, 1, BYTES_SPAN, [&](long number, long group, long first, long n) { list.push_back({number, group, first, n}); });
  const long many = list.size() * rows;
  words.resize((many + TALLEST_TILE) * (halved ? 4 : s.planes) * QUADS);  // the last tile of a span is read to its end
  starts.assign(many * s.planes, 0), scales.resize(many), sums.resize(many);
  if (halved) return take_planes<3, true>(from, step);
  if (s.planes == 1) return take_planes<1, false>(from, step);
  if (s.planes == 2) return take_planes<2, false>(from, step);
  take_planes<3, false>(from, step);
}

template <int N, bool HALVED>
void ByteRows::take_planes(const float* from, long step) {
  switch (wanted(*of_, count)) {
    case NOTHING: return take_spans<N, HALVED, NOTHING>(from, step);
    case SUM: return take_spans<N, HALVED, SUM>(from, step);
    default: return take_spans<N, HALVED, BYTE_SUMS>(from, step);
  }
}

template <int N, bool HALVED, int WANTED>
void ByteRows::take_spans(const float* from, long step) {
  const Segment& s = *of_;
  for (const auto& [number, group, first, n] : list)
    for (long i = 0; i < count; i++) {
      vec x[PARTS];
      read_span(from + i * step, s, first, n, x);
      const long at = number * count + i;
      const Scale scale = scale_of<N>(x, PARTS);
      ivec whole[PARTS], all = {};
      for (int k = 0; k < PARTS; k++) whole[k] = nearest(x[k] * scale.inverse), all += whole[k];
      scales[at] = scale.value * (float)s.unit;
      if (WANTED != NOTHING) sums[at] = scale.value * (float)whole_total(all);
      int32_t byte_sums[N];
      if (HALVED) enter_halves(whole, words.data() + at * 4 * QUADS);
      else enter_bytes<N, WANTED == BYTE_SUMS>(whole, words.data() + at * N * QUADS, QUADS, byte_sums);
      if (WANTED == BYTE_SUMS)
        for (int p = 0; p < N; p++) starts[at * N + p] = (int32_t)s.base * byte_sums[p];
    }
}

namespace {

// --- products ---------------------------------------------------------------------------------------------------

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
  for (int p = 0; p < PANELS; p++) at[p] = s.codes + (panel + p) * size, scales[p] = laid[p].scales() + v * LANES;
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

// Rows of a tile at most: their sums and totals stay in registers.
template <int N>
constexpr int TALLEST = LANES == 16 ? 8 : N == 1 ? 4 : 3;

template <int M, int N, class F>
void tile_of(long m, const F& f, const Segment& s, const ByteRows& rows, long row, long panel, int v, float* c, long ldc) {
  if constexpr (M > 1) {
    if (m < M) return tile_of<M - 1, N>(m, f, s, rows, row, panel, v, c, ldc);
  }
  tile<M, 1, N>(f, s, rows, row, panel, v, c, ldc);
}

template <int N, class F>
void multiply(const F& f, const Segment& s, const ByteRows& rows, long panel, long panels, float* c, long ldc) {
  const long wide = rows.count == 1 && panels > 1 ? 2 : 1, tiles = (rows.count + TALLEST<N> - 1) / TALLEST<N>;
  for (long p = 0; p < wide; p++) laid[p].take(s, panel + p);
  if (wide == 2) tile<1, 2 * VECTORS, N>(f, s, rows, 0, panel, 0, c, ldc);
  else if (rows.count == 1) tile<1, VECTORS, N>(f, s, rows, 0, panel, 0, c, ldc);
  else if (rows.count == 2) tile<2, VECTORS, N>(f, s, rows, 0, panel, 0, c, ldc);
  else
    for (int v = 0; v < VECTORS; v++)
      for (long t = 0; t < tiles; t++) {
        const long row = rows.count * t / tiles, end = rows.count * (t + 1) / tiles;
        tile_of<TALLEST<N>, N>(end - row, f, s, rows, row, panel, v, c + row * ldc + v * LANES, ldc);
      }
  for (long p = 0; p < wide && Laid::has_offsets(s); p++)
    subtract_offsets(rows, laid[p].offsets(), c + p * WIDTH, ldc);
  if (panels > wide) multiply<N>(f, s, rows, panel + wide, panels - wide, c + wide * WIDTH, ldc);
}

}  // namespace

void multiply_by_bytes(Units& units, const ByteRows& rows, const Segment& s, long panel, long panels, float* c, long ldc) {
  if (byte_units() && rows.count > FEW_BY_BYTES) return multiply_bytes_by_units(units, rows, s, panel, panels, c, ldc);
  quads::with_form(s, [&](const auto& f) {
    if (s.planes == 1) multiply<1>(f, s, rows, panel, panels, c, ldc);
    else if (s.planes == 2) multiply<2>(f, s, rows, panel, panels, c, ldc);
    else multiply<3>(f, s, rows, panel, panels, c, ldc);
  });
}
