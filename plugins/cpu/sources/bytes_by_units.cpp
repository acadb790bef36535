// Products of codes with rows that are whole numbers, on matrix units: see bytes_by_units.h.
//
// An instruction multiplies HEIGHT lines of bytes by 16 outputs, and takes as long for one line as for all. So the planes of a
// row are lines of one tile, up to HEIGHT of some rows. Sums are exact: those of other kernels, whatever rows are there.
#include "bytes_by_units.h"

#include <algorithm>

#include "byte_sums.h"
#include "quad_forms.h"

#if defined(BYTE_UNITS)

namespace {

constexpr long SUMS = HEIGHT * WIDTH;  // sums of the lines of a tile

// What codes are multiplied as: with what is added to each of them where bytes with a sign have that, else as they are.
enum Sign { WITH_SIGN, WITHOUT_SIGN, WITH_BASE };

inline Sign sign_of(const Segment& s) { return !s.base ? WITHOUT_SIGN : quads::with_signs(s) ? WITH_SIGN : WITH_BASE; }

// What a row is on the units: LINES lines of WORDS words, of bytes apart or of halves.
template <int N>
struct Apart {
  static constexpr int LINES = N, WORDS = QUADS;
  static vec join(const ivec* lines) { return joined<N>(lines); }
};
struct Halves {
  static constexpr int LINES = 2, WORDS = 2 * QUADS;
  static vec join(const ivec* lines) { return joined_halves(lines); }
};

// The codes of a span as bytes, each with `base` added: [VECTORS][QUADS][LANES], and before these 16 times as much, for rows in halves. Of
// spans that are shorter the rest stays what it is, for rows are 0 there.
template <class R, class F>
inline void decode(const F& f, const char* codes, const Span& span, __m512i base, uint32_t* values) {
  constexpr bool HALVED = R::WORDS > QUADS;
  const __m512i upper = _mm512_set1_epi8((char)0xf0);
  const char* at = codes + span.first / F::CHUNK * (F::BYTES * WIDTH);
  const auto chunk = [&](long k) {
#pragma GCC unroll 16
    for (long line = 0; line < F::BYTES * WIDTH; line += 64) __builtin_prefetch(at + AHEAD_BYTES + line);
#pragma GCC unroll 8
    for (int j = 0; j < F::CHUNK / 4; j++)
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++) {
        const __m512i meant = _mm512_add_epi8((__m512i)f.quad(at, v, j), base);
        uint32_t* to = values + (v * R::WORDS + k / 4 + j) * LANES;
        if (HALVED) {
          _mm512_store_si512(to, _mm512_and_si512(_mm512_slli_epi32(meant, 4), upper));
          to += QUADS * LANES;
        }
        _mm512_store_si512(to, meant);
      }
    at += F::BYTES * WIDTH;
  };
  if (span.inputs == BYTES_SPAN) {
#pragma GCC unroll 4
    for (long k = 0; k < BYTES_SPAN; k += F::CHUNK) chunk(k);
  } else {
    for (long k = 0; k < span.inputs; k += F::CHUNK) chunk(k);
  }
}

// Sums of the lines of a tile by the codes in tiles 6 and 7, in tiles 0 and 1, or in 2 and 3 if these are the OTHER ones. The
// halves are written out: tiles are named in the text, by no number that a template could be given.
template <bool OTHER, Sign SIGN, long LINE_BYTES>
inline void multiply_tile(const uint32_t* lines) {
  if (OTHER) {
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(5, lines, LINE_BYTES);
    if (SIGN == WITH_SIGN) {
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    } else {
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_loadd(4, lines, LINE_BYTES);
    if (SIGN == WITH_SIGN) {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
    } else {
      _tile_dpbsud(0, 4, 6);
      _tile_dpbsud(1, 4, 7);
    }
  }
}

// sums[HEIGHT][WIDTH]
template <bool OTHER>
inline void store_sums(int32_t* sums) {
  if (OTHER) {
    _tile_stored(2, sums, WIDTH * 4);
    _tile_stored(3, sums + LANES, WIDTH * 4);
  } else {
    _tile_stored(0, sums, WIDTH * 4);
    _tile_stored(1, sums + LANES, WIDTH * 4);
  }
}

// c[count][WIDTH] += what sums[count][LINES][WIDTH] are of a span; with BASE `starts` have yet to be added to these.
template <class R, bool BASE>
inline void meet(const int32_t* sums, const float* scales, const float* row_scales, const int32_t* starts, float* c, long ldc,
                 long count) {
  constexpr int N = R::LINES;
  const vec own[VECTORS] = {load(scales), load(scales + LANES)};
#pragma GCC unroll 8
  for (long i = 0; i < count; i++)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
      ivec lines[N];
#pragma GCC unroll 3
      for (int p = 0; p < N; p++) {
        lines[p] = read<ivec>(sums + (i * N + p) * WIDTH + v * LANES);
        if (BASE) lines[p] += starts[i * N + p];
      }
      float* to = c + i * ldc + v * LANES;
      store(to, load(to) + own[v] * row_scales[i] * R::join(lines));
    }
}

// A panel by all rows, without offsets. What is written for tiles is read a while later, for these wait for it; what they leave is read
// while they make the next sums, and before these are stored.
template <class R, Sign SIGN, class F>
class Panel {
  static constexpr long N = R::LINES, EACH = HEIGHT / N;  // rows of a tile
  static constexpr long CODES = R::WORDS * LANES;         // words of the codes of a span, for a vector of outputs

  const F& f_;
  const ByteRows& rows_;
  const char* codes_;
  const float* scales_;
  const __m512i base_;
  float* c_;
  const long ldc_, tiles_;
  alignas(64) uint32_t values_[2][VECTORS * CODES];
  alignas(64) int32_t sums_[SUMS];

  void decode_span(size_t i) {
    if (i < rows_.list.size()) decode<R>(f_, codes_, rows_.list[i], base_, values_[i % 2]);
  }

  void meet_tile(long item) {
    const Span& span = rows_.list[item / tiles_];
    const long first = item % tiles_ * EACH, known = span.number * rows_.count + first;
    const long count = std::min(EACH, rows_.count - first);
    const float *scales = scales_ + span.group * WIDTH, *own = rows_.scales.data() + known;
    const int32_t* starts = rows_.starts.data() + known * N;
    float* c = c_ + first * ldc_;
    constexpr bool BASE = SIGN == WITH_BASE;
    if (count == EACH) meet<R, BASE>(sums_, scales, own, starts, c, ldc_, EACH);
    else meet<R, BASE>(sums_, scales, own, starts, c, ldc_, count);
  }

  template <bool OTHER>
  void make_tile(long item) {
    const long span = item / tiles_, tile = item % tiles_;
    if (tile == 0) {
      decode_span(span + 1);
      _tile_loadd(6, values_[span % 2], 64);
      _tile_loadd(7, values_[span % 2] + CODES, 64);
    }
    constexpr long LINE_BYTES = R::WORDS * sizeof(uint32_t);
    multiply_tile<OTHER, SIGN, LINE_BYTES>(rows_.words.data() + (span * rows_.count + tile * EACH) * (N * R::WORDS));
    if (item) meet_tile(item - 1);
    store_sums<OTHER>(sums_);
  }

 public:
  Panel(const F& f, const ByteRows& rows, const Segment& s, const char* codes, const float* scales, float* c, long ldc)
      : f_(f), rows_(rows), codes_(codes), scales_(scales), base_(_mm512_set1_epi8(SIGN == WITH_SIGN ? (char)s.base : 0)), c_(c),
        ldc_(ldc), tiles_((rows.count + EACH - 1) / EACH) {}

  void multiply() {
    const long end = rows_.list.size() * tiles_;
    decode_span(0);
    for (long item = 0; item < end; item++)
      if (item % 2) make_tile<true>(item);
      else make_tile<false>(item);
    meet_tile(end - 1);
  }
};

template <class R, class F>
void multiply(Units& units, const F& f, const ByteRows& rows, const Segment& s, long panel, const float* scales, float* c, long ldc) {
  const char* codes = s.codes + panel * panel_bytes(s.form, s.inputs);
  const long lines = std::min(rows.count, HEIGHT / R::LINES) * R::LINES;
  units.shape(lines, lines, R::WORDS);
  switch (sign_of(s)) {
    case WITH_SIGN: return Panel<R, WITH_SIGN, F>(f, rows, s, codes, scales, c, ldc).multiply();
    case WITHOUT_SIGN: return Panel<R, WITHOUT_SIGN, F>(f, rows, s, codes, scales, c, ldc).multiply();
    default: return Panel<R, WITH_BASE, F>(f, rows, s, codes, scales, c, ldc).multiply();
  }
}

thread_local Laid laid;

}  // namespace

void multiply_bytes_by_units(Units& units, const ByteRows& rows, const Segment& s, long panel, long panels, float* c, long ldc) {
  quads::with_form(s, [&](const auto& f) {
    for (long p = 0; p < panels; p++) {
      laid.take(s, panel + p);
      float* to = c + p * WIDTH;
      if (rows.halved) multiply<Halves>(units, f, rows, s, panel + p, laid.scales(), to, ldc);
      else if (s.planes == 1) multiply<Apart<1>>(units, f, rows, s, panel + p, laid.scales(), to, ldc);
      else if (s.planes == 2) multiply<Apart<2>>(units, f, rows, s, panel + p, laid.scales(), to, ldc);
      else multiply<Apart<3>>(units, f, rows, s, panel + p, laid.scales(), to, ldc);
      if (Laid::has_offsets(s)) subtract_offsets(rows, laid.offsets(), to, ldc);
    }
  });
}

#endif
