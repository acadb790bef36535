// Products on a processor's matrix units (AMX): 16 rows by 16 outputs by 32 inputs in one instruction, in bfloat16 with
// sums in float32. Rows are either rounded to bfloat16, or multiplied as they are: a float32 is three bfloat16 to the bit (8 bits of its 24 each), so rows are split into three planes,
// the largest first, and so are weights of float32. Of the nine products of planes those below the last bit are left out,
// and the sums are as good as those of float32 arithmetic.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "low_rank.h"
#include "vectors.h"

// Weights in pairs that are multiplied by rows of so many planes: 3 are the rows to the bit, 1 is their rounding.
template <long N>
struct Planes {
  uint32_t words;
};

// Weights in panels of float32 that are split while they are multiplied.
struct Whole {
  float value;
};

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define MATRIX_UNITS

#include <sys/syscall.h>
#include <unistd.h>

constexpr long STEP = 32;                   // inputs of one instruction
constexpr long HEIGHT = 16;                 // rows of one instruction
constexpr long TILE = STEP * HEIGHT;        // words of a tile of rows
constexpr long PLANES = 3;
constexpr long SQUARE = 2 * HEIGHT;         // rows that are multiplied by a panel in one go
constexpr long STEP_PAIRS = STEP / 2 * WIDTH;    // pairs of a panel that one step takes
constexpr int LINE = WIDTH * sizeof(Pair);  // bytes from one pair of inputs to the next in a panel
constexpr long FAR = 2;                     // steps of a panel that are fetched before they are read
constexpr long TERMS_SOON = 512;            // words of a term's weights, likewise: those of the next panel

// Whether the system lets this process use them.
static inline bool matrix_units() {
  constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM of asm/prctl.h, the number of the state
  static const bool allowed = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
  return allowed;
}

// Tiles 0 to 3 are sums (two of rows by two of outputs), 4 and 5 rows, 6 and 7 weights. Rows that are not there are
// neither read nor written.
class Units {
  struct Shapes {  // what `ldtilecfg` reads: bytes of a row and rows of each tile
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  };
  long first_ = 0, second_ = 0, words_ = 0;

 public:
  // Sums of `first` rows in tiles 0 and 1, of `second` ones in tiles 2 and 3, 0 where these are not used; rows are of so many
  // words. Another shape costs as much as many products.
  void shape(long first, long second, long words = HEIGHT) {
    if (first == first_ && words == words_ && (!second || second == second_)) return;
    if (!second) second = first;
    first_ = first, second_ = second, words_ = words;
    Shapes shapes;
    for (int t = 0; t < 8; t++) {
      shapes.bytes[t] = t == 4 || t == 5 ? words * 4 : 64;
      shapes.rows[t] = t >= 6 ? words : t == 2 || t == 3 || t == 5 ? second : first;
    }
    asm volatile("" : : "m"(shapes));  // all of it: GCC's own instruction says that it reads the first bytes alone
    _tile_loadconfig(&shapes);
  }
  void release() {
    if (first_) _tile_release();
    first_ = second_ = 0;
  }
  ~Units() { release(); }
};

// Tiles are read by lines of the cache.
template <class W>
struct alignas(64) Line {
  W words[64 / sizeof(W)];
};

// A panel that is read as it lies. With each step some of what is read next is fetched: of itself, unless it is shared.
class PairPanel {
  const Pair *at_, *ahead_;
  long each_ = STEP_PAIRS;

 public:
  static constexpr long PLANES_OF_WEIGHTS = 1;

  explicit PairPanel(const Pair* panel) : at_(panel), ahead_(panel + FAR * STEP_PAIRS) {}

  // The rows that are multiplied next are those of a go of so many, each of which fetches a part of the panel behind this one: its
  // weights are near then when they are first read, and memory is read as evenly as units multiply.
  void share(long steps, long go, long goes) {
    each_ = (STEP_PAIRS / 16 + goes - 1) / goes * 16;
    ahead_ = at_ + steps * (STEP_PAIRS + go * each_);
  }

  const Pair* step(long s) const {
    for (long i = 0; i < each_; i += 16) __builtin_prefetch(ahead_ + s * each_ + i);
    return at_ + s * STEP_PAIRS;
  }
};

// A panel of float32, of which each step is split into [PLANES][STEP_PAIRS] pairs when it is first read: one step ahead, for
// tiles wait for what was just written. `room` keeps all steps where rows of more than one go need them, else some.
class WholePanel {
  const float* at_;
  Pair* planes_;
  long steps_, ready_ = 0, ring_;  // the steps that are kept: those of a ring of four, or all

  Pair* place(long s) const { return planes_ + (s & ring_) * PLANES * STEP_PAIRS; }

  void split(long s) {
    const float* from = at_ + s * STEP * WIDTH;
    Pair* out = place(s);
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    for (long pair = 0; pair < STEP / 2; pair++, from += 2 * WIDTH)
      for (long v = 0; v < WIDTH; v += LANES) {
        __builtin_prefetch(from + STEP * WIDTH + v);
        __builtin_prefetch(from + STEP * WIDTH + WIDTH + v);
        __m512i first = _mm512_loadu_si512(from + v), second = _mm512_loadu_si512(from + WIDTH + v);
        for (long p = 0; p < PLANES; p++) {
          const __m512i low = _mm512_and_si512(first, upper), high = _mm512_and_si512(second, upper);
          _mm512_store_si512(out + p * STEP_PAIRS + pair * WIDTH + v, _mm512_or_si512(_mm512_srli_epi32(first, 16), high));
          first = (__m512i)_mm512_sub_ps((__m512)first, (__m512)low);
          second = (__m512i)_mm512_sub_ps((__m512)second, (__m512)high);
        }
      }
  }

 public:
  static constexpr long PLANES_OF_WEIGHTS = PLANES;

  WholePanel(const float* panel, long steps, bool once, std::vector<Line<Pair>>& room) : at_(panel), steps_(steps) {
    ring_ = once ? 3 : ~0L;
    room.resize((once ? 4 : steps) * PLANES * STEP_PAIRS * sizeof(Pair) / sizeof(Line<Pair>));
    planes_ = room.data()->words;
  }

  void share(long, long, long) {}

  const Pair* step(long s) {
    for (; ready_ < std::min(s + 2, steps_); ready_++) split(ready_);
    return place(s);
  }
};

// Adds terms to sums in tiles 0 to 3, or 0 and 1, which are shaped as those of `square`.
template <bool BOTH>
static inline void add_tiles(const std::vector<Term>& terms) {
  for (const Term& t : terms) {
    for (long i = 0; i < TILE; i += 32) __builtin_prefetch(t.one + TERMS_SOON + i);
    _tile_loadd(6, t.one, 64);
    _tile_loadd(7, t.other, 64);
    if (t.first) {
      _tile_loadd(4, t.rows, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (BOTH && t.second) {
      _tile_loadd(5, t.rows + TILE, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
}

template <int N>
static inline void add_few(const FewRows& t, float* sums) {
  constexpr long PANEL = WIDTH / 2;
  const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
  for (long first = 0; first < t.rank; first += STEP) {
    vec even[N][2] = {}, odd[N][2] = {};
    const long end = std::min(first + STEP, t.rank);
    for (long k = first; k < end; k += 2) {
      const __m512i one = _mm512_loadu_si512(t.one + k * PANEL), other = _mm512_loadu_si512(t.other + k * PANEL);
      __builtin_prefetch(t.one + k * PANEL + TERMS_SOON), __builtin_prefetch(t.other + k * PANEL + TERMS_SOON);
      const vec e[2] = {(vec)_mm512_slli_epi32(one, 16), (vec)_mm512_slli_epi32(other, 16)};
      const vec o[2] = {(vec)_mm512_and_si512(one, upper), (vec)_mm512_and_si512(other, upper)};
      for (int n = 0; n < N; n++) {
        int two;
        memcpy(&two, t.made[n] + k, sizeof two);
        const __m512i made = _mm512_set1_epi32(two);
        const vec made_even = (vec)_mm512_slli_epi32(made, 16), made_odd = (vec)_mm512_and_si512(made, upper);
        for (int v = 0; v < 2; v++) even[n][v] += made_even * e[v], odd[n][v] += made_odd * o[v];
      }
    }
    for (int n = 0; n < N; n++)
      for (int v = 0; v < 2; v++) {
        float* at = sums + t.rows[n] * WIDTH + v * LANES;
        store(at, load(at) + (even[n][v] + odd[n][v]));
      }
  }
}

static inline void add_few(const std::vector<FewRows>& terms, float* sums) {
  for (const FewRows& t : terms)
    if (t.count == 1) add_few<1>(t, sums);
    else if (t.count == 2) add_few<2>(t, sums);
    else add_few<3>(t, sums);
}

// sums[16 or 32][WIDTH] = rows * panel + terms. Each row's sums run over steps in order and over planes within, whatever rows are
// beside it. `next`: words from the first tiles of rows to the second.
template <long N, bool BOTH, class P>
static inline void square(const uint16_t* rows, long next, P& panel, float* sums, long steps, const Terms& terms) {
  _tile_zero(0);
  _tile_zero(1);
  if (BOTH) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (long s = 0; s < steps; s++, rows += N * TILE) {
    const Pair* weights = panel.step(s);
#pragma GCC unroll 3
    for (long w = 0; w < P::PLANES_OF_WEIGHTS; w++, weights += STEP_PAIRS) {
      _tile_loadd(6, weights, LINE);
      _tile_loadd(7, weights + HEIGHT, LINE);
#pragma GCC unroll 3
      for (long r = 0; r < N - w; r++) {
        _tile_loadd(4, rows + r * TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (BOTH) {
          _tile_loadd(5, rows + next + r * TILE, 64);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
      }
    }
  }
  add_tiles<BOTH>(terms.tiles);
  _tile_stored(0, sums, WIDTH * 4);
  _tile_stored(1, sums + HEIGHT, WIDTH * 4);
  if (BOTH) {
    _tile_stored(2, sums + HEIGHT * WIDTH, WIDTH * 4);
    _tile_stored(3, sums + HEIGHT * WIDTH + HEIGHT, WIDTH * 4);
  }
}

// sums[2][HEIGHT][WIDTH] = up to HEIGHT rows * two panels, which are read side by side. Each sum is made as in `square`.
// The halves are written out: tiles are named in the text, by no number that a template could be given.
template <long N>
static inline void beside(const uint16_t* rows, const PairPanel& one, const PairPanel& other, float* sums, long steps,
                          const Terms (&terms)[2]) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (long s = 0; s < steps; s++, rows += N * TILE) {
    const Pair *weights = one.step(s), *others = other.step(s);
    _tile_loadd(6, weights, LINE);
    _tile_loadd(7, weights + HEIGHT, LINE);
#pragma GCC unroll 3
    for (long r = 0; r < N; r++) {
      _tile_loadd(4, rows + r * TILE, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
    }
    _tile_loadd(6, others, LINE);
    _tile_loadd(7, others + HEIGHT, LINE);
#pragma GCC unroll 3
    for (long r = 0; r < N; r++) {
      _tile_loadd(4, rows + r * TILE, 64);
      _tile_dpbf16ps(2, 4, 6);
      _tile_dpbf16ps(3, 4, 7);
    }
  }
  add_tiles<false>(terms[0].tiles);
  for (const Term& t : terms[1].tiles) {
    _tile_loadd(4, t.rows, 64);
    _tile_loadd(6, t.one, 64);
    _tile_loadd(7, t.other, 64);
    _tile_dpbf16ps(2, 4, 6);
    _tile_dpbf16ps(3, 4, 7);
  }
  _tile_stored(0, sums, WIDTH * 4);
  _tile_stored(1, sums + HEIGHT, WIDTH * 4);
  _tile_stored(2, sums + HEIGHT * WIDTH, WIDTH * 4);
  _tile_stored(3, sums + HEIGHT * WIDTH + HEIGHT, WIDTH * 4);
}

// Sixteen floats' first eight bits; what is left of them stays in `x`, which of infinity is nothing, as `odd` says.
static inline __m256i peel(__m512& x, __mmask16& odd) {
  const __m256i words = (__m256i)_mm512_cvtneps_pbh(x);
  const __m512 peeled = (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16);
  const __mmask16 finite = _mm512_cmp_ps_mask(_mm512_abs_ps(peeled), _mm512_set1_ps(INFINITY), _CMP_NEQ_UQ);
  odd |= ~finite;
  x = _mm512_maskz_sub_ps(finite, x, peeled);
  return words;
}

// Rows split into N planes, as tiles: [HEIGHT rows][inputs / STEP][N][HEIGHT][STEP].
template <long N>
class Split {
  std::vector<Line<uint16_t>> planes_;
  long steps_ = 0;
  __mmask16 odd_ = 0;

  // Of one plane nothing is left.
  inline __m256i next(__m512& x) { return N == 1 ? (__m256i)_mm512_cvtneps_pbh(x) : peel(x, odd_); }

 public:
  void take(const float* x, long step, long rows, long inputs) {
    steps_ = inputs / STEP;
    odd_ = 0;
    planes_.resize((rows + HEIGHT - 1) / HEIGHT * steps_ * N * HEIGHT);
    for (long i = 0; i < rows; i++) {
      uint16_t* out = planes_.data()->words + i / HEIGHT * steps_ * N * TILE + i % HEIGHT * STEP;
      for (long s = 0; s < steps_; s++, out += N * TILE) {
        __m512 low = _mm512_loadu_ps(x + i * step + s * STEP), high = _mm512_loadu_ps(x + i * step + s * STEP + LANES);
        for (long p = 0; p < N; p++) {
          _mm256_store_si256((__m256i*)(out + p * TILE), next(low));
          _mm256_store_si256((__m256i*)(out + p * TILE + LANES), next(high));
        }
      }
    }
  }

  // Whether an infinity is among the rows: a plane of weights that is 0 would make it no number.
  bool infinite() const { return odd_; }
  long steps() const { return steps_; }
  // The tiles of 16 rows, of which a row is the one of this number.
  const uint16_t* tiles(long row) const { return planes_.data()->words + row / HEIGHT * steps_ * N * TILE; }

  // sums[SQUARE][WIDTH] of `count` rows from `first` on, a multiple of HEIGHT, times a panel, and terms.
  template <class P>
  void multiply(Units& units, P& panel, long first, long count, float* sums, const Terms& terms) const {
    const long next = steps_ * N * TILE;
    const uint16_t* rows = planes_.data()->words + first / HEIGHT * next;
    units.shape(std::min(count, HEIGHT), std::max(count - HEIGHT, 0L));
    if (count > HEIGHT) square<N, true>(rows, next, panel, sums, steps_, terms);
    else square<N, false>(rows, next, panel, sums, steps_, terms);
    add_few(terms.few, sums);
  }

  // sums[2][HEIGHT][WIDTH] of all rows, HEIGHT at most, times two panels, and terms of each.
  void multiply(Units& units, const PairPanel& one, const PairPanel& other, long count, float* sums,
                const Terms (&terms)[2]) const {
    units.shape(count, count);
    beside<N>(planes_.data()->words, one, other, sums, steps_, terms);
    add_few(terms[0].few, sums), add_few(terms[1].few, sums + HEIGHT * WIDTH);
  }
};

// Of this thread. A variable template would do, but GCC 12 may initialise one after it has been used.
template <long N>
Split<N>& split() {
  static thread_local Split<N> own;
  return own;
}

// Whether they multiply weights of so many inputs.
static inline bool by_units(long inputs) { return inputs % STEP == 0 && matrix_units(); }

#else

static inline bool matrix_units() { return false; }

struct Units {
  void release() {}
};

#endif
