// Vectors as the compiler knows them: GCC's and Clang's own extension, so one source serves every instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

// LANES floats a vector; a panel of weights is VECTORS of them wide; a tile keeps ROWS x VECTORS sums in registers.
#if defined(__AVX512F__)
constexpr int LANES = 16, VECTORS = 2, ROWS = 12;
#elif defined(__AVX__)
constexpr int LANES = 8, VECTORS = 2, ROWS = 6;
#elif defined(__aarch64__)
constexpr int LANES = 4, VECTORS = 4, ROWS = 6;
#else
constexpr int LANES = 4, VECTORS = 2, ROWS = 4;
#endif
constexpr int WIDTH = LANES * VECTORS;
constexpr int AHEAD = LANES == 16 ? 32 : 16;  // rows of a panel to be fetched before they are read

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));
typedef uint32_t uvec __attribute__((vector_size(LANES * 4)));

static inline vec load(const float* p) { vec v; memcpy(&v, p, sizeof v); return v; }
static inline void store(float* p, vec v) { memcpy(p, &v, sizeof v); }
static inline vec spread(float x) { return x - (vec){}; }
static inline vec larger(vec a, vec b) { return a > b ? a : b; }
static inline vec smaller(vec a, vec b) { return a < b ? a : b; }

// All lanes made one: halves, then halves of those, by `f`, which takes vectors or single floats.
template <class F>
static inline float folded(vec v, F f) {
#if defined(__AVX__)
#if defined(__AVX512F__)
  __m256 w = f(_mm512_castps512_ps256((__m512)v), _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)v, 1)));
#else
  __m256 w = (__m256)v;
#endif
  __m128 x = f(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
  x = f(x, _mm_movehl_ps(x, x));
  return f(x[0], x[1]);
#else
  return f(f(v[0], v[2]), f(v[1], v[3]));
#endif
}

static inline float total(vec v) { return folded(v, [](auto a, auto b) { return a + b; }); }
static inline float highest(vec v) { return folded(v, [](auto a, auto b) { return a > b ? a : b; }); }

// e^x to about one unit in the last place: x = n ln 2 + r, a polynomial for e^r, n added to the exponent.
// Below -87.3 the result is 0, never a denormal; above 88.3 it is held there. That of NaN is NaN.
static inline vec exponential(vec of) {
  const vec x = smaller(larger(of, spread(-87.3f)), spread(88.3f));
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  vec n = (x * 1.44269504f + magic) - magic;
  vec r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  vec p = spread(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  ivec power = (__builtin_convertvector(n, ivec) + 127) << 23;
  const vec held = of == of ? p * (vec)power : of;
  return of < spread(-87.3f) ? vec{} : held;
}

// --- weights in panels ------------------------------------------------------------------------------------------
// A panel holds WIDTH outputs, input by input. Weights of 16 bits (bfloat16) lie in pairs of inputs, as instructions for
// dot products read them: a shift and a mask make floats of them, of the first input and of the second.

// Weights of two inputs in one word, the first below the second.
struct Pair {
  uint32_t words;
};

// The same, to be multiplied by rows that are pairs of bfloat16, too.
struct Dot {
  uint32_t words;
};

// A panel's row by W: how many inputs it is of, and `add`, sums[M][P * VECTORS] += a[M] * b[P panels] for that row.
template <class W> struct Panel;

// Of numbers that `load` makes floats of, one for each input.
template <class N> struct SinglePanel {
  typedef float Entry;  // of a row that is multiplied
  static constexpr long INPUTS = 1;

  template <int M, int P>
  static inline void add(const float* a, long lda, const N* b, long panel, vec (*sums)[P * VECTORS]) {
    vec row[P * VECTORS];
#pragma GCC unroll 8
    for (int j = 0; j < P * VECTORS; j++) row[j] = load(b + j / VECTORS * panel + j % VECTORS * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < M; i++) {
      vec x = spread(a[i * lda]);
#pragma GCC unroll 16
      for (int j = 0; j < P * VECTORS; j++) sums[i][j] += x * row[j];
    }
  }
};
template <> struct Panel<float> : SinglePanel<float> {};

static inline uvec words_at(const void* at) { uvec words; memcpy(&words, at, sizeof words); return words; }
static inline vec first_of(uvec words) { return (vec)(words << 16); }
static inline vec second_of(uvec words) { return (vec)(words & 0xffff0000u); }

template <> struct Panel<Pair> {
  typedef float Entry;
  static constexpr long INPUTS = 2;

  template <int M, int P, class F>
  static inline void add_half(const float* a, long lda, const Pair* b, long panel, vec (*sums)[P * VECTORS], F half) {
    vec row[P * VECTORS];
#pragma GCC unroll 8
    for (int j = 0; j < P * VECTORS; j++) row[j] = half(words_at(b + j / VECTORS * panel + j % VECTORS * LANES));
#pragma GCC unroll 16
    for (int i = 0; i < M; i++) {
      vec x = spread(a[i * lda]);
#pragma GCC unroll 16
      for (int j = 0; j < P * VECTORS; j++) sums[i][j] += x * row[j];
    }
  }

  template <int M, int P>
  static inline void add(const float* a, long lda, const Pair* b, long panel, vec (*sums)[P * VECTORS]) {
    add_half<M, P>(a, lda, b, panel, sums, first_of);
    add_half<M, P>(a + 1, lda, b, panel, sums, second_of);
  }
};

#if defined(__AVX512BF16__)
#define DOT_UNITS

template <> struct Panel<Dot> {
  typedef uint32_t Entry;  // two inputs of a row
  static constexpr long INPUTS = 1;

  template <int M, int P>
  static inline void add(const uint32_t* a, long lda, const Dot* b, long panel, vec (*sums)[P * VECTORS]) {
    __m512bh row[P * VECTORS];
#pragma GCC unroll 8
    for (int j = 0; j < P * VECTORS; j++) memcpy(&row[j], b + j / VECTORS * panel + j % VECTORS * LANES, 64);
#pragma GCC unroll 16
    for (int i = 0; i < M; i++) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[i * lda]);
#pragma GCC unroll 16
      for (int j = 0; j < P * VECTORS; j++) sums[i][j] = (vec)_mm512_dpbf16_ps((__m512)sums[i][j], x, row[j]);
    }
  }
};

#endif

// --- a tile: c[M][P panels] = start + a[M][depth] * b[depth][P panels] --------------------------------------------
// Each sum runs over depth in order, whatever M and P are: a row's numbers do not depend on the rows beside it.

// What comes after the panel may be fetched meanwhile: `next`, so many bytes a row of it. With AVX-512 that only wastes
// what memory can give: another thread takes the next panel.
struct Next {
  const char* at = nullptr;
  long step = 0;
};

// Where sums go, and what they start from: zero without a `from`. A step of 0: all rows start from the same.
struct Sums {
  float* at;
  long step;
  const float* from = nullptr;
  long from_step = 0;

  Sums behind(long row, long column) const {
    return {at + row * step + column, step, from ? from + row * from_step + column : nullptr, from_step};
  }
};

// What was there before is added to.
static inline Sums onto(float* at, long step) { return {at, step, at, step}; }

// `depth` counts entries of `a`.
template <int M, int P, class W>
static inline void tile(const typename Panel<W>::Entry* a, long lda, const W* b, long ldb, long panel, const Sums& c,
                        long depth, Next next = {}) {
  constexpr long INPUTS = Panel<W>::INPUTS;
  vec sums[M][P * VECTORS];
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 16
    for (int j = 0; j < P * VECTORS; j++) sums[i][j] = c.from ? load(c.from + i * c.from_step + j * LANES) : vec{};
  for (long k = 0; k < depth / INPUTS; k++) {
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) {
      const char* ahead = p == 0 && next.at ? next.at + k * next.step : (const char*)(b + p * panel + (k + AHEAD) * ldb);
#pragma GCC unroll 2
      for (long line = 0; line < WIDTH * (long)sizeof(W); line += 64) __builtin_prefetch(ahead + line);
    }
    Panel<W>::template add<M, P>(a + k * INPUTS, lda, b + k * ldb, panel, sums);
  }
  if constexpr (INPUTS == 2)
    if (depth % 2) Panel<W>::template add_half<M, P>(a + depth - 1, lda, b + depth / 2 * ldb, panel, sums, first_of);
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 16
    for (int j = 0; j < P * VECTORS; j++) store(c.at + i * c.step + j * LANES, sums[i][j]);
}

// One panel, 1 to ROWS rows.
template <class W>
static inline void rows(long m, const typename Panel<W>::Entry* a, long lda, const W* b, long ldb, const Sums& c,
                        long depth, Next next) {
  switch (m) {
    case 1: return tile<1, 1, W>(a, lda, b, ldb, 0, c, depth, next);
    case 2: return tile<2, 1, W>(a, lda, b, ldb, 0, c, depth, next);
    case 3: return tile<3, 1, W>(a, lda, b, ldb, 0, c, depth, next);
    case 4: return tile<4, 1, W>(a, lda, b, ldb, 0, c, depth, next);
#if defined(__AVX__) || defined(__aarch64__)
    case 5: return tile<5, 1, W>(a, lda, b, ldb, 0, c, depth, next);
    case 6: return tile<6, 1, W>(a, lda, b, ldb, 0, c, depth, next);
#endif
#if defined(__AVX512F__)
    case 7: return tile<7, 1, W>(a, lda, b, ldb, 0, c, depth, next);
    case 8: return tile<8, 1, W>(a, lda, b, ldb, 0, c, depth, next);
    case 9: return tile<9, 1, W>(a, lda, b, ldb, 0, c, depth, next);
    case 10: return tile<10, 1, W>(a, lda, b, ldb, 0, c, depth, next);
    case 11: return tile<11, 1, W>(a, lda, b, ldb, 0, c, depth, next);
    case 12: return tile<12, 1, W>(a, lda, b, ldb, 0, c, depth, next);
#endif
  }
}

// One panel, any number of rows, in tiles of nearly equal height.
template <class W>
static inline void tall(long m, const typename Panel<W>::Entry* a, long lda, const W* b, long ldb, const Sums& c,
                        long depth, Next next = {}) {
  constexpr int height = Panel<W>::INPUTS == 2 && LANES == 8 ? 4 : ROWS;  // two halves of a word need registers too
  long tiles = (m + height - 1) / height;
  for (long t = 0; t < tiles; t++) {
    long first = m * t / tiles, end = m * (t + 1) / tiles;
    rows<W>(end - first, a + first * lda, lda, b, ldb, c.behind(first, 0), depth,
            t == 1 && LANES < 16 ? next : Next{});
  }
}
