// Products of codes on matrix units: see codes_by_units.h.
#include "codes_by_units.h"

#include <algorithm>

#include "code_forms.h"
#include "vectors.h"

#if defined(MATRIX_UNITS)

namespace {

constexpr long TILE_WORDS = HEIGHT * STEP / 2;

bool wanted(const Segment& s) { return s.zeros.at || s.offsets.at; }

bool alike(const Segment& a, const Segment& b) {
  return a.order == b.order && a.group == b.group && a.inputs == b.inputs && a.rounds == b.rounds &&
         SHAPES[a.form].chunk == SHAPES[b.form].chunk && wanted(a) == wanted(b);
}

// Where the words of a step's inputs stand in pairs: input i of a chunk goes with the one half a chunk behind it.
__m512i paired(long chunk) {
  alignas(64) uint16_t from[STEP];
  for (long word = 0; word < STEP; word++) {
    const long pair = word / 2, half = chunk / 2;
    from[word] = pair / half * chunk + pair % half + word % 2 * half;
  }
  return _mm512_load_si512(from);
}

vec of_bfloat16(__m256i words) { return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16); }

// What the codes of some inputs from `first` on mean, [pairs][WIDTH].
template <class D>
inline void decode(const D& d, const char* codes, long first, long inputs, uint32_t* values) {
  const char* at = codes + first / D::CHUNK * (D::BYTES * WIDTH);
  for (long k = 0; k < inputs; k += D::CHUNK, at += D::BYTES * WIDTH) {
#pragma GCC unroll 16
    for (long line = 0; line < D::BYTES * WIDTH; line += 64) __builtin_prefetch(at + FETCHED + line);
#pragma GCC unroll 16
    for (int j = 0; j < D::CHUNK / 2; j++)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++)
        _mm512_store_si512(values + (k / 2 + j) * WIDTH + v * LANES, (__m512i)d.entry(at, v, j));
  }
}

// Sums of the tiles of some rows; with BOTH those of the next HEIGHT rows, too, whose tiles are `next` words on.
template <bool BOTH>
inline void multiply_span(const uint32_t* rows, long next, long planes, long steps, const uint32_t* values) {
  _tile_zero(0);
  _tile_zero(1);
  if (BOTH) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (long t = 0; t < steps; t++, values += STEP / 2 * WIDTH) {
    _tile_loadd(6, values, WIDTH * 4);
    _tile_loadd(7, values + LANES, WIDTH * 4);
    for (long p = 0; p < planes; p++, rows += TILE_WORDS) {
      _tile_loadd(4, rows, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if (BOTH) {
        _tile_loadd(5, rows + next, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
}

// sums[HEIGHT or twice as many][WIDTH]
template <bool BOTH>
inline void store_sums(float* sums) {
  _tile_stored(0, sums, WIDTH * 4);
  _tile_stored(1, sums + LANES, WIDTH * 4);
  if (BOTH) {
    _tile_stored(2, sums + HEIGHT * WIDTH, WIDTH * 4);
    _tile_stored(3, sums + HEIGHT * WIDTH + LANES, WIDTH * 4);
  }
}

// c[count][WIDTH] += what sums[count][WIDTH] are of the weight's values, as `Factors::add` has it.
template <bool ZEROS, bool OFFSETS>
void meet_rows(const Factors& factors, long at, const float* sums, const float* of_inputs, float* c, long count) {
  vec scales[VECTORS], zeros[VECTORS] = {}, offsets[VECTORS] = {};
  for (int v = 0; v < VECTORS; v++) {
    scales[v] = load(factors.scales + at + v * LANES);
    if (ZEROS) zeros[v] = load(factors.zeros + at + v * LANES);
    if (OFFSETS) offsets[v] = load(factors.offsets + at + v * LANES);
  }
#pragma GCC unroll 4
  for (long row = 0; row < count; row++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) {
      float* to = c + row * WIDTH + v * LANES;
      vec sum = load(sums + row * WIDTH + v * LANES), total = load(to);
      if (ZEROS) sum -= zeros[v] * of_inputs[row];
      total += scales[v] * sum;
      if (OFFSETS) total -= offsets[v] * of_inputs[row];
      store(to, total);
    }
}

// c[rows][WIDTH] += rows * a panel, span by span. What is written for tiles is read a while later, for these wait for it; what
// they leave is read while they make the next sums, and before these are stored, since loads wait for stores that are under way.
template <class D>
void multiply_panel(UnitRows& rows, const D& d, const char* codes, const Factors& factors, float* c) {
  const std::vector<Span>& list = rows.list;
  alignas(64) uint32_t values[2][SPAN / 2 * WIDTH];
  alignas(64) float sums[2 * HEIGHT * WIDTH];
  const long count = rows.count, blocks = (count + 2 * HEIGHT - 1) / (2 * HEIGHT), end = list.size() * blocks;
  const auto decode_span = [&](size_t i) {
    if (i < list.size()) decode(d, codes, list[i].first, list[i].inputs, values[i % 2]);
  };
  const auto meet = [&](long item) {
    const Span& span = list[item / blocks];
    const long first = item % blocks * 2 * HEIGHT, last = std::min(first + 2 * HEIGHT, count);
    const long at = span.group * WIDTH;
    const float* of_inputs = rows.sums.data() + count * span.number + first;
    const auto call = factors.zeros ? factors.offsets ? meet_rows<true, true> : meet_rows<true, false>
                                    : factors.offsets ? meet_rows<false, true> : meet_rows<false, false>;
    call(factors, at, sums, of_inputs, c + first * WIDTH, last - first);
  };
  decode_span(0);
  for (long item = 0; item < end; item++) {
    const Span& span = list[item / blocks];
    if (item % blocks == 0) decode_span(item / blocks + 1);
    const long row = item % blocks * 2 * HEIGHT, step = span.first / STEP, steps = span.inputs / STEP;
    const uint32_t *tiles = rows.tile(step, row), *meant = values[item / blocks % 2];
    const bool both = count - row > HEIGHT;
    if (both) multiply_span<true>(tiles, rows.tile(step, row + HEIGHT) - tiles, rows.planes, steps, meant);
    else multiply_span<false>(tiles, 0, rows.planes, steps, meant);
    if (item) meet(item - 1);
    if (both) store_sums<true>(sums);
    else store_sums<false>(sums);
  }
  meet(end - 1);
}

}  // namespace

bool by_units(const Segment& s) {
  return s.exact && !s.planes && s.inputs % STEP == 0 && s.group % STEP == 0 && matrix_units();
}

uint32_t* UnitRows::tile(long step, long row) {
  return words_.data()->words + (row / HEIGHT * steps_ + step) * planes * TILE_WORDS;
}

void UnitRows::take(const float* from, long step, long rows, const Segment& s) {
  if (from == from_ && rows == count && alike(*of_, s)) return;
  from_ = from, of_ = &s, count = rows, planes = s.rounds ? 1 : PLANES, steps_ = s.inputs / STEP;
  words_.resize((rows + HEIGHT - 1) / HEIGHT * steps_ * planes * TILE_WORDS * sizeof(uint32_t) / sizeof(words_[0]));
  sums.resize(rows * (s.inputs / std::min<long>(s.group, SPAN) + s.inputs / s.group + 2));
  const __m512i order = paired(SHAPES[s.form].chunk);
  __mmask16 odd = 0;  // infinities are multiplied here as elsewhere: no part of a code is 0 that the code is not
  alignas(64) float room[SPAN];
  list.clear();
  spans(s, SHAPES[s.form].chunk, SPAN, [&](long number, long group, long first, long n) {
    list.push_back({number, group, first, n});
    for (long i = 0; i < rows; i++) {
      const float* row = from + i * step;
      if (s.order) for (long k = 0; k < n; k++) room[k] = row[s.order[first + k]];
      else memcpy(room, row + first, n * sizeof(float));
      vec all = {};
      for (long k = 0; k < n; k += STEP) {
        __m512 low = _mm512_load_ps(room + k), high = _mm512_load_ps(room + k + LANES);
        if (!s.rounds) all += (vec)low + (vec)high;
        uint32_t* line = tile((first + k) / STEP, i) + i % HEIGHT * STEP / 2;
        for (long p = 0; p < planes; p++, line += TILE_WORDS) {
          const __m256i one = peel(low, odd), other = peel(high, odd);
          const __m512i words = _mm512_inserti64x4(_mm512_castsi256_si512(one), other, 1);
          _mm512_store_si512(line, _mm512_permutexvar_epi16(order, words));
          if (s.rounds) all += of_bfloat16(one) + of_bfloat16(other);
        }
      }
      if (wanted(s)) sums[rows * number + i] = total(all);
    }
  });
}

void multiply_by_units(Units& units, UnitRows& rows, const Segment& s, long panel, float* c) {
  units.shape(std::min(rows.count, HEIGHT), rows.count > HEIGHT ? HEIGHT : 1);
  with_pairs(s, [&](const auto& d) {
    const Factors factors(s, panel, 1, std::decay_t<decltype(d)>::UNIT);
    multiply_panel(rows, d, s.codes + panel * panel_bytes(s.form, s.inputs), factors, c);
  });
}

#else

bool by_units(const Segment&) { return false; }

#endif
