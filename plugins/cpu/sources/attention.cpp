// Attention over pages. Query heads that share keys are rows of one small product; keys and values are read where they
// lie. Codes of 8 bits are widened in registers for decoding; for prompts, and in other narrow types, a block at a time
// is widened or, where the processor multiplies bfloat16 and rows may be rounded, laid in pairs. Sums and softmax are in
// float32.
#if defined(_OPENMP)
#include <omp.h>
#endif

#include <algorithm>
#include <cmath>
#include <new>
#include <vector>

#include "bytes.h"
#include "matrix.h"
#include "parts.h"
#include "vectors.h"

namespace {

constexpr long BLOCK = 128;   // positions looked at in one go
constexpr long CHUNK = 512;   // positions of one decoding sequence that a thread takes
constexpr long QUERIES = 32;  // new tokens of one sequence that a thread takes
constexpr long TALL = 96;     // rows, a query head of a token each, that share what is made of a block of keys and values
constexpr long TALLER = 384, TALLEST = 1536;  // the same where matrix units leave less to be shared, by how many there are

// The type of the cache. With PAIRS, rows are rounded to bfloat16, those of 8 bits where a prompt is looked at.
enum Kind {
  IN_FLOAT32 = 0, IN_BFLOAT16 = 1, IN_FLOAT8 = 2, IN_PAIRS = 3, IN_INT8 = 4, FLOAT8_PAIRS = 5, INT8_PAIRS = 6
};

using Call = Attention;

bool of_float8(const Call& call) { return call.kind == IN_FLOAT8 || call.kind == FLOAT8_PAIRS; }
bool of_int8(const Call& call) { return call.kind == IN_INT8 || call.kind == INT8_PAIRS; }
bool of_bytes(const Call& call) { return call.bytes() == 1; }
bool prompts_in_pairs(const Call& call) {
  return call.kind == IN_PAIRS || call.kind == FLOAT8_PAIRS || call.kind == INT8_PAIRS;
}

long padded(const Call& call) { return (call.dim + WIDTH - 1) / WIDTH * WIDTH; }

// --- one value in another type -----------------------------------------------------------------------------------

uint16_t to_bfloat16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

float from_bfloat16(uint16_t word) {
  uint32_t bits = (uint32_t)word << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// `x` is of `dim` numbers; the scale, where the format has one, goes to `scale`.
void write_head(const Call& call, char* at, float* scale, const float* x) {
  if (call.kind == IN_FLOAT32) memcpy(at, x, call.dim * 4);
  else if (of_int8(call)) *scale = to_int8(x, call.dim, (int8_t*)at);
  else if (of_float8(call)) to_float8(x, call.dim, (uint8_t*)at);
  else
    for (long d = 0; d < call.dim; d++) ((uint16_t*)at)[d] = to_bfloat16(x[d]);
}

void read_head(const Call& call, const char* at, const float* scale, float* out) {
  if (call.kind == IN_FLOAT32) memcpy(out, at, call.dim * 4);
  else if (of_int8(call)) from_bytes((const Int8*)at, call.dim, *scale, out);
  else if (of_float8(call)) from_bytes((const Float8*)at, call.dim, Float8::UNIT, out);
  else
    for (long d = 0; d < call.dim; d++) out[d] = from_bfloat16(((const uint16_t*)at)[d]);
}

void write_divided(const Call& call, char* at, float* scale, const float* x, const float* factor);

void write_token(const Call& call, long token) {
  const Store& store = call.store;
  for (long h = 0; h < call.kv_heads; h++) {
    const long head = call.slots[token] * call.kv_heads + h, at = head * call.dim * call.bytes();
    write_divided(call, store.keys + at, store.key_scales + head, call.k + token * call.k_step + h * call.dim,
                  store.key_factors ? store.key_factors + h : nullptr);
    write_divided(call, store.values + at, store.value_scales + head, call.v + token * call.v_step + h * call.dim,
                  store.value_factors ? store.value_factors + h : nullptr);
  }
}

// --- the keys and values of some positions as floats --------------------------------------------------------------

struct Block {
  const float* at;
  long step, count;  // floats from one position to the next; positions
};

// Memory that begins with a line of the cache: rows of a tile, or vectors, that lie in two lines each are read at half the rate.
template <class T>
struct FromLine {
  using value_type = T;
  static constexpr std::align_val_t LINE_OF_CACHE{64};

  FromLine() = default;
  template <class U>
  FromLine(const FromLine<U>&) {}
  T* allocate(size_t count) { return (T*)::operator new(count * sizeof(T), LINE_OF_CACHE); }
  void deallocate(T* at, size_t) { ::operator delete(at, LINE_OF_CACHE); }
  bool operator==(const FromLine&) const { return true; }
  bool operator!=(const FromLine&) const { return false; }
};
template <class T>
using Lines = std::vector<T, FromLine<T>>;

struct Room {  // of one thread
  Lines<vec> heaps;
  Lines<float> keys, values, across, queries, scores, sums, peaks, totals, head, weights;
  Lines<uint32_t> key_words, value_words, query_words, weight_words;
  Lines<uint16_t> key_heads, value_heads;
  Lines<char> laid;
};
thread_local Room room;

void write_divided(const Call& call, char* at, float* scale, const float* x, const float* factor) {
  if (!factor) return write_head(call, at, scale, x);
  room.head.resize(call.dim);
  for (long d = 0; d < call.dim; d++) room.head[d] = x[d] / *factor;
  write_head(call, at, scale, room.head.data());
}

// Where the keys and values of some positions lie in the storage, one after another, `step` numbers apart, and scales
// beside them, as many as there are key heads apart.
struct Stored {
  const char *keys, *values;
  long count, step;
  const float *key_scales, *value_scales;
};

// Positions from `position` on that lie together, up to `limit`, as far as `end`.
Stored stored_at(const Call& call, const int32_t* table, long head, long position, long end, long limit) {
  long page = position / call.page, within = position % call.page;
  long count = call.page - within;
  while (count < limit && position + count < end && table[page + 1] == table[page] + 1) { page++; count += call.page; }
  const long first = (table[position / call.page] * call.page + within) * call.kv_heads + head;
  const long at = first * call.dim * call.bytes();
  return {call.store.keys + at, call.store.values + at, std::min({count, limit, end - position}),
          call.kv_heads * call.dim, call.store.key_scales + first, call.store.value_scales + first};
}

// How many positions decoding looks at in one go. Pairs begin at even positions, wherever pages lie and windows begin.
long most_at(bool pairs, long position, long most) { return !pairs ? most : position % 2 ? 1 : BLOCK; }

// out[count][padded] = keys, or `values`, as floats
void widen_heads(const Call& call, const Stored& stored, bool values, float* out) {
  const char* from = values ? stored.values : stored.keys;
  const float* scales = values ? stored.value_scales : stored.key_scales;
  const long step = stored.step * call.bytes();
  for (long i = 0; i < stored.count; i++)
    read_head(call, from + i * step, scales + i * call.kv_heads, out + i * padded(call));
}

// Keys, or `values`, as floats: as they lie, or in `room`.
Block widened(const Call& call, const Stored& stored, bool values, Lines<float>& room) {
  const long wide = padded(call);
  if (call.kind == IN_FLOAT32 && wide == call.dim)
    return {(const float*)(values ? stored.values : stored.keys), stored.step, stored.count};
  room.assign(stored.count * wide, 0.0f);
  widen_heads(call, stored, values, room.data());
  return {room.data(), wide, stored.count};
}

// scores[r][i] = queries[r] . keys[i], a few query rows (heads of one token) at a time; keys are floats or codes
template <int R, class K>
void dots(const float* queries, long wide, const K* keys, long key_step, long count, float* scores, long step) {
  for (long i = 0; i < count; i++) {
    const K* key = keys + i * key_step;
    for (long d = 0; d < wide; d += 64 / (long)sizeof(K)) __builtin_prefetch(key + AHEAD * key_step + d);
    vec sums[R] = {};
    for (long d = 0; d < wide; d += LANES) {
      vec k = load(key + d);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) sums[r] += load(queries + r * wide + d) * k;
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) scores[r * step + i] = total(sums[r]);
  }
}

template <class K>
void few_scores(long rows, const float* queries, long wide, const K* keys, long key_step, long count, float* scores,
                long step) {
  for (; rows >= 4; rows -= 4, queries += 4 * wide, scores += 4 * step)
    dots<4>(queries, wide, keys, key_step, count, scores, step);
  if (rows == 3) dots<3>(queries, wide, keys, key_step, count, scores, step);
  if (rows == 2) dots<2>(queries, wide, keys, key_step, count, scores, step);
  if (rows == 1) dots<1>(queries, wide, keys, key_step, count, scores, step);
}

// The same for many rows: keys are laid across, then it is a product of tiles. scores has room for BLOCK columns.
void many_scores(long rows, const float* queries, long wide, const Block& block, float* scores) {
  room.across.resize(BLOCK * wide + 1024);
  long panels = (block.count + WIDTH - 1) / WIDTH;
  for (long p = 0; p < panels; p++)
    for (long j = 0; j < WIDTH; j++) {
      long i = std::min(p * WIDTH + j, block.count - 1);
      for (long d = 0; d < wide; d++) room.across[(p * wide + d) * WIDTH + j] = block.at[i * block.step + d];
    }
  std::fill_n(scores, rows * BLOCK, 0.0f);
  for (long p = 0; p < panels; p++)
    tall<float>(rows, queries, wide, room.across.data() + p * wide * WIDTH, WIDTH, onto(scores + p * WIDTH, BLOCK), wide);
}

// sums[r] += scores[r] * values
void add_values(long rows, const float* scores, long step, const Block& block, float* sums, long wide) {
  for (long d = 0; d < wide; d += WIDTH)
    tall<float>(rows, scores, step, block.at + d, block.step, onto(sums + d, wide), block.count);
}

// --- codes of 8 bits, widened in registers --------------------------------------------------------------------------

// Whether heads of a cache of codes are whole panels, so that codes are read as they lie.
bool read_as_codes(const Call& call) { return of_bytes(call) && call.dim % WIDTH == 0; }

// What the codes of a position are multiplied by.
float unit(const Call& call, const float* scales, long position) {
  return of_int8(call) ? scales[position * call.kv_heads] : Float8::UNIT;
}

// What each makes of the positions from `first` to before `end` that lie together: each(stored, first of them).
template <class F>
void pieces_of(const Call& call, const int32_t* table, long head, long first, long end, F each) {
  for (long at = first; at < end;) {
    const Stored stored = stored_at(call, table, head, at, end, BLOCK);
    each(stored, at);
    at += stored.count;
  }
}

// The block of a prompt's codes from `low` to before `end` as floats, in `room`; those before `seen` are zeros. Blocks
// are of the same positions wherever a prompt is cut and its pages lie: a bit more would be another code in 8 bits. There
// are `count` of them, whole vectors, as sums of the last few would be rounded otherwise; those from `end` on are zeros.
void gather_codes(const Call& call, const int32_t* table, long head, long low, long seen, long end, long count) {
  const long wide = padded(call);
  room.keys.assign(count * wide, 0.0f);
  room.values.assign(count * wide, 0.0f);
  pieces_of(call, table, head, std::max(low, seen), end, [&](const Stored& piece, long at) {
    widen_heads(call, piece, false, room.keys.data() + (at - low) * wide);
    widen_heads(call, piece, true, room.values.data() + (at - low) * wide);
  });
}

// Where a prompt's blocks begin that looks at positions from `seen` on.
long first_block(long seen) { return seen / BLOCK * BLOCK; }

// The same of a cache of floats: `count` heads as they lie, or laid together in `room` where they lie apart or some are not
// there.
Stored block_at(const Call& call, const int32_t* table, long head, long low, long seen, long end, long count) {
  if (low >= seen && low + count == end) {
    const Stored stored = stored_at(call, table, head, low, end, BLOCK);
    if (stored.count == count) return stored;
  }
  const long size = call.dim * call.bytes();
  room.laid.assign(2 * count * size, 0);
  char *keys = room.laid.data(), *values = keys + count * size;
  pieces_of(call, table, head, std::max(low, seen), end, [&](const Stored& piece, long at) {
    const long step = piece.step * call.bytes();
    for (long i = 0; i < piece.count; i++) {
      memcpy(keys + (at - low + i) * size, piece.keys + i * step, size);
      memcpy(values + (at - low + i) * size, piece.values + i * step, size);
    }
  });
  return {keys, values, count, call.dim, nullptr, nullptr};
}

template <class K>
void code_scores(const Call& call, long first, long rows, const Stored& stored, float* scores, long step) {
  few_scores(rows, room.queries.data() + first * call.dim, call.dim, (const K*)stored.keys, stored.step, stored.count, scores, step);
  for (long i = 0; i < stored.count; i++) {
    const float scale = unit(call, stored.key_scales, i);
    for (long r = 0; r < rows; r++) scores[r * step + i] *= scale;
  }
}

template <class K>
void add_code_values(const Call& call, long rows, const float* scores, long step, const Stored& stored, float* sums) {
  const long count = stored.count;
  room.weights.resize(rows * count);
  for (long i = 0; i < count; i++) {
    const float scale = unit(call, stored.value_scales, i);
    for (long r = 0; r < rows; r++) room.weights[r * count + i] = scores[r * step + i] * scale;
  }
  for (long d = 0; d < call.dim; d += WIDTH)
    tall<K>(rows, room.weights.data(), count, (const K*)stored.values + d, stored.step, onto(sums + d, call.dim), count);
}

#if defined(DOT_UNITS)

// out[16][16] = in[16][16] across, of words; rows of `in` are zmm registers.
void lay_across(__m512i* r, uint32_t* out, long step) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    _mm512_storeu_si512(out + i * step, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
    _mm512_storeu_si512(out + (i + 8) * step, _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
    _mm512_storeu_si512(out + (i + 4) * step, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88));
    _mm512_storeu_si512(out + (i + 12) * step, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd));
  }
}

// A head's entries from `first` on, 32 of them, in bfloat16; those that are not there are 0.
__m512i entries(const uint16_t* head, long first, long dim) {
  const long there = std::min(dim - first, 32L);
  return there == 32 ? _mm512_loadu_si512(head + first)
                     : _mm512_maskz_loadu_epi16(there <= 0 ? 0 : (1u << there) - 1, head + first);
}

// Keys as a panel of dot products for every WIDTH positions: [padded / 2][WIDTH] words.
void pair_keys(const Call& call, const Stored& stored) {
  const long words = padded(call) / 2, step = stored.step;
  room.key_words.resize(BLOCK * words);
  uint32_t* out = room.key_words.data();
  for (long i = 0; i < stored.count; i += LANES)
    for (long d = 0; d < words; d += LANES) {
      __m512i rows[LANES];
      for (long j = 0; j < LANES; j++) {
        const uint16_t* key = (const uint16_t*)stored.keys + std::min(i + j, stored.count - 1) * step;
        __builtin_prefetch(key + BLOCK * step + 2 * d);
        rows[j] = entries(key, 2 * d, call.dim);
      }
      lay_across(rows, out + (i / WIDTH * words + d) * WIDTH + i % WIDTH, WIDTH);
    }
}

// Values of two positions in one word: [(count + 1) / 2][padded].
void pair_values(const Call& call, const Stored& stored) {
  const long wide = padded(call), step = stored.step;
  room.value_words.resize(BLOCK / 2 * wide);
  uint32_t* out = room.value_words.data();
  for (long i = 0; i < stored.count; i += 2, out += wide) {
    const uint16_t *one = (const uint16_t*)stored.values + i * step, *other = one + step;
    for (long d = 0; d < wide; d += 32) {
      __builtin_prefetch(one + BLOCK * step + d);
      __builtin_prefetch(other + BLOCK * step + d);
      const __m512i low = entries(one, d, call.dim);
      const __m512i high = i + 1 < stored.count ? entries(other, d, call.dim) : _mm512_setzero_si512();
      const __m512i first = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(low));
      const __m512i second = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(low, 1));
      const __m512i above = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(high));
      const __m512i beside = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(high, 1));
      _mm512_storeu_si512(out + d, _mm512_or_si512(first, _mm512_slli_epi32(above, 16)));
      _mm512_storeu_si512(out + d + 16, _mm512_or_si512(second, _mm512_slli_epi32(beside, 16)));
    }
  }
}

// out[count][dim] = heads of codes as bfloat16, which holds all that 8 bits do
template <class K>
void bfloat16_heads(const Call& call, const char* codes, long count, long step, uint16_t* out) {
  for (long i = 0; i < count; i++) to_bfloat16((const K*)codes + i * step, call.dim, out + i * call.dim);
}

struct Scales {  // of a block's keys and values
  alignas(64) float keys[BLOCK], values[BLOCK];
};

// As `gather_codes`, in bfloat16, with scales beside them.
Stored gather_words(const Call& call, const int32_t* table, long head, long low, long seen, long end, Scales& scales) {
  const long count = end - low;
  room.key_heads.assign(count * call.dim, 0);
  room.value_heads.assign(count * call.dim, 0);
  std::fill_n(scales.keys, BLOCK, 0.0f);
  std::fill_n(scales.values, BLOCK, 0.0f);
  pieces_of(call, table, head, std::max(low, seen), end, [&](const Stored& piece, long at) {
    const long first = (at - low) * call.dim;
    uint16_t *keys = room.key_heads.data() + first, *values = room.value_heads.data() + first;
    auto* heads = of_int8(call) ? bfloat16_heads<Int8> : bfloat16_heads<Float8>;
    heads(call, piece.keys, piece.count, piece.step, keys);
    heads(call, piece.values, piece.count, piece.step, values);
    for (long i = 0; of_int8(call) && i < piece.count; i++) {
      scales.keys[at - low + i] = piece.key_scales[i * call.kv_heads];
      scales.values[at - low + i] = piece.value_scales[i * call.kv_heads];
    }
  });
  return {(const char*)room.key_heads.data(), (const char*)room.value_heads.data(), count, call.dim, nullptr, nullptr};
}

// out[ceil(count / 2)] = x[count] rounded to bfloat16, and some words of 0 to the end of a vector
void round_row(const float* x, long count, uint32_t* out) {
  for (long i = 0; i < count; i += LANES) {
    const __mmask16 there = count - i < LANES ? (1 << (count - i)) - 1 : 0xffff;
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(there, x + i));
    memcpy(out + i / 2, &rounded, sizeof rounded);
  }
}

void round_queries(long rows, long wide) {
  room.query_words.resize(rows * wide / 2);
  for (long r = 0; r < rows; r++) round_row(room.queries.data() + r * wide, wide, room.query_words.data() + r * wide / 2);
}

// By keys that are laid in pairs.
void pair_scores(const Call& call, long first, long rows, const Stored& stored, float* scores, long step) {
  const long words = padded(call) / 2, columns = (stored.count + WIDTH - 1) / WIDTH * WIDTH;
  for (long i = 0; i < columns; i += WIDTH)
    tall<Dot>(rows, room.query_words.data() + first * words, words, (const Dot*)room.key_words.data() + i * words, WIDTH,
              {scores + i, step}, words);
}

// By values that are laid in pairs, of as many positions or more, of which no more are wanted from now on.
void add_pair_values(const Call& call, long rows, const float* scores, long step, const Stored& stored, float* sums) {
  const long wide = padded(call), words = BLOCK / 2;
  if (stored.count % 2) {  // what is there behind the last one would be multiplied by 0
    uint32_t* last = room.value_words.data() + stored.count / 2 * wide;
    for (long d = 0; d < wide; d++) last[d] &= 0xffff;
  }
  room.weight_words.resize(rows * words);
  for (long r = 0; r < rows; r++) round_row(scores + r * step, stored.count, room.weight_words.data() + r * words);
  for (long d = 0; d < wide; d += WIDTH)
    tall<Dot>(rows, room.weight_words.data(), words, (const Dot*)room.value_words.data() + d, wide,
              onto(sums + d, wide), (stored.count + 1) / 2);
}

#endif

float highest_of(const float* x, long count) {
  float best = -INFINITY;
  long i = 0;
  if (count >= LANES) {
    vec high = load(x);
    for (i = LANES; i + LANES <= count; i += LANES) high = larger(high, load(x + i));
    best = highest(high);
  }
  for (; i < count; i++) best = std::max(best, x[i]);
  return best;
}

// x becomes e^(x - peak), and the sum of it is returned
float exponentials(float* x, float peak, long count) {
  vec sums = {};
  long i = 0;
  for (; i + LANES <= count; i += LANES) { vec e = exponential(load(x + i) - peak); store(x + i, e); sums += e; }
  float sum = total(sums);
  for (; i < count; i++) { x[i] = exponential(spread(x[i] - peak))[0]; sum += x[i]; }
  return sum;
}

// Scores go no further than the cap: cap * tanh(score / cap), with tanh u = 1 - 2 / (1 + e^2u).
vec bounded(vec scores, float cap) { return cap - 2.0f * cap / (1.0f + exponential(scores * (2.0f / cap))); }

void bound(const Call& call, float* scores, long count) {
  if (call.cap == 0.0f) return;
  long i = 0;
  for (; i + LANES <= count; i += LANES) store(scores + i, bounded(load(scores + i), call.cap));
  for (; i < count; i++) scores[i] = bounded(spread(scores[i]), call.cap)[0];
}

// What a head's sink adds to a sum of exponentials.
float sink(const Call& call, long head, float peak) { return call.sinks ? std::exp(call.sinks[head] - peak) : 0.0f; }

// Tokens lie far apart where there are many heads: what is read or written of a later one is fetched before.
template <bool WRITTEN>
void fetch(const Call& call, const float* at, long step, long token) {
  constexpr long LATER = 3;
  if (token + LATER >= call.tokens) return;
  for (long d = 0; d < call.group() * call.dim; d += 16) __builtin_prefetch(at + (token + LATER) * step + d, WRITTEN);
}

void read_queries(const Call& call, long token, long head, float* out) {
  long wide = padded(call);
  fetch<false>(call, call.q + head * call.group() * call.dim, call.q_step, token);
  for (long g = 0; g < call.group(); g++) {
    const float* q = call.q + token * call.q_step + (head * call.group() + g) * call.dim;
    const float scale = call.scale * (call.store.key_factors ? call.store.key_factors[head] : 1.0f);
    for (long d = 0; d < call.dim; d++) out[g * wide + d] = q[d] * scale;
    for (long d = call.dim; d < wide; d++) out[g * wide + d] = 0.0f;
  }
}

void prepare_queries(const Call& call, long rows) {
#if defined(DOT_UNITS)
  if (call.kind == IN_PAIRS) round_queries(rows, padded(call));
#else
  (void)call, (void)rows;
#endif
}

// scores[group][step] of a token, whose queries in `room` are those from `first` on, for positions that lie together. Where
// keys are read in pairs they are laid so.
void scores_of_token(const Call& call, long first, const Stored& stored, float* scores, long step) {
  const long rows = call.group(), wide = padded(call);
#if defined(DOT_UNITS)
  if (call.kind == IN_PAIRS) return pair_scores(call, first, rows, stored, scores, step);
#endif
  if (read_as_codes(call))
    return of_int8(call) ? code_scores<Int8>(call, first, rows, stored, scores, step)
                         : code_scores<Float8>(call, first, rows, stored, scores, step);
  const Block keys = widened(call, stored, false, room.keys);
  few_scores(rows, room.queries.data() + first * wide, wide, keys.at, keys.step, keys.count, scores, step);
}

// sums[group][padded] += scores * values, of a token. Values that are read in pairs are laid so.
void add_values_of_token(const Call& call, const Stored& stored, const float* scores, long step, float* sums) {
  const long rows = call.group();
#if defined(DOT_UNITS)
  if (call.kind == IN_PAIRS) return add_pair_values(call, rows, scores, step, stored, sums);
#endif
  if (read_as_codes(call))
    return of_int8(call) ? add_code_values<Int8>(call, rows, scores, step, stored, sums)
                         : add_code_values<Float8>(call, rows, scores, step, stored, sums);
  add_values(rows, scores, step, widened(call, stored, true, room.values), sums, padded(call));
}

// Lays keys, or `values`, in pairs where they are read so.
void lay_in_pairs(const Call& call, const Stored& stored, bool values) {
#if defined(DOT_UNITS)
  if (call.kind == IN_PAIRS) values ? pair_values(call, stored) : pair_keys(call, stored);
#else
  (void)call, (void)stored, (void)values;
#endif
}

// --- decoding: a few new tokens look at a chunk of their sequence ------------------------------------------------------

// A chunk's weighted values [group][wide], then peaks and totals of the group's rows.
long part_size(const Call& call) { return call.group() * (padded(call) + 2); }

// Positions of a chunk that one of its tokens sees.
long seen_of(const Call& call, const Chunk& chunk, long token) {
  const long after = call.query_start[chunk.sequence + 1] - token;  // itself, and the new tokens behind it
  return std::min(call.seq_lens[chunk.sequence] - after + 1 - chunk.first, CHUNK);
}

// What `each` makes of the pieces of a chunk that lie together: keys, or `values`, are laid for all tokens at once, and each
// has its part of them, the last token first. each(token of the chunk, where the piece begins in it, its part)
template <class F>
void look_at(const Call& call, const Chunk& chunk, const Task* joins, bool values, F each) {
  const int32_t* table = call.tables + chunk.sequence * call.table_step;
  const long count = seen_of(call, chunk, joins[chunk.tokens - 1].token);
  for (long at = 0; at < count;) {
    const long most = most_at(call.kind == IN_PAIRS, chunk.first + at, CHUNK);
    Stored stored = stored_at(call, table, chunk.head, chunk.first + at, chunk.first + count, most);
    const long whole = stored.count;
    lay_in_pairs(call, stored, values);
    for (long t = chunk.tokens - 1; t >= 0; t--) {
      stored.count = std::min(whole, seen_of(call, chunk, joins[t].token) - at);
      if (stored.count > 0) each(t, at, stored);
    }
    at += whole;
  }
}

// `joins` are those of its tokens, which say where the parts of each are. Each part is, to the bit, what it would be if its
// token were the only one.
void decode(const Call& call, const Chunk& chunk, const Task* joins, float* parts) {
  constexpr long STEP = CHUNK + BLOCK;  // a block's last panel may be wider than what is left
  const long group = call.group(), wide = padded(call), size = part_size(call);
  room.queries.resize(chunk.tokens * group * wide);
  room.scores.resize(chunk.tokens * group * STEP);
  for (long t = 0; t < chunk.tokens; t++)
    read_queries(call, joins[t].token, chunk.head, room.queries.data() + t * group * wide);
  prepare_queries(call, chunk.tokens * group);
  float* scores = room.scores.data();
  const auto scores_at = [&](long token) { return scores + token * group * STEP; };
  const auto part_of = [&](long token) { return parts + (joins[token].part + chunk.number) * size; };
  look_at(call, chunk, joins, false, [&](long token, long at, const Stored& stored) {
    scores_of_token(call, token * group, stored, scores_at(token) + at, STEP);
  });
  for (long t = 0; t < chunk.tokens; t++) {
    const long count = seen_of(call, chunk, joins[t].token);
    float *part = part_of(t), *peaks = part + group * wide, *totals = peaks + group;
    std::fill_n(part, group * wide, 0.0f);
    for (long g = 0; g < group; g++) {
      float* row = scores_at(t) + g * STEP;
      bound(call, row, count);
      peaks[g] = highest_of(row, count);
      totals[g] = exponentials(row, peaks[g], count);
    }
  }
  look_at(call, chunk, joins, true, [&](long token, long at, const Stored& stored) {
    add_values_of_token(call, stored, scores_at(token) + at, STEP, part_of(token));
  });
}

void write_out(const Call& call, long token, long head, const float* sums, float total) {
  float* out = call.out + (token * call.heads + head) * call.dim;
  if (head % call.group() == 0) fetch<true>(call, call.out + head * call.dim, call.heads * call.dim, token);
  const float* factors = call.store.value_factors;
  if (factors) total /= factors[head / call.group()];
  for (long d = 0; d < call.dim; d++) out[d] = sums[d] / total;
}

// The chunks of one token and key head, which lie one after another, made one.
void join(const Call& call, const Task& task, const float* parts, long chunks) {
  long group = call.group(), wide = padded(call), size = part_size(call);
  room.sums.resize(wide);
  for (long g = 0; g < group; g++) {
    float peak = -INFINITY, sum = 0;
    for (long c = 0; c < chunks; c++) peak = std::max(peak, parts[c * size + group * wide + g]);
    std::fill_n(room.sums.data(), wide, 0.0f);
    for (long c = 0; c < chunks; c++) {
      const float* part = parts + c * size;
      float factor = chunks == 1 ? 1.0f : std::exp(part[group * wide + g] - peak);
      sum += factor * part[group * (wide + 1) + g];
      for (long d = 0; d < wide; d++) room.sums[d] += factor * part[g * wide + d];
    }
    sum += sink(call, task.head * group + g, peak);
    write_out(call, task.token, task.head * group + g, room.sums.data(), sum);
  }
}

// --- prompts: several new tokens look at all of their sequence, a block at a time, with a running softmax --------------

void hide(const Call& call, long position, long count, long from, float* scores) {
  long end = position + 1 - from, start = call.first_seen(position) - from;
  for (long i = std::max(0L, end); i < count; i++) scores[i] = -INFINITY;
  for (long i = 0; i < std::min(start, count); i++) scores[i] = -INFINITY;
}

#if defined(DOT_UNITS)

// 2^x to 2^-13 of it, for weights that are rounded to bfloat16 next: x = n + r, a polynomial for 2^r.
__m512 power_of_two(__m512 x) {
  const __m512 r = _mm512_reduce_ps(x, 0);  // less the nearest whole number; 0 of an infinity
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(5.5171628e-2f), r, _mm512_set1_ps(0.24261112f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.69326097f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, _mm512_sub_ps(x, r));
}

// Rows of prompts' attention: what is known of them after some blocks.
struct Running {
  float* sums;   // [rows][wide], of weighted values
  float* peaks;  // [rows], the highest scores, or as much as GROWTH below these
  vec* heaps;    // [rows], whose lanes' sums are those of the weights
  long wide;
};

// How much higher than its peak a row's scores may be: their weights are 256 then. A new peak takes longer than weighing the row.
constexpr float GROWTH = 5.545f;

// scores[rows][BLOCK] of a block become its weights, pairs of bfloat16; what was there before is brought to the new peaks.
// Weights of values with scales are multiplied by these.
template <bool SCALED>
void weigh(const float* scores, long rows, const Running& running, const float* scales, uint32_t* words) {
  const __m512 log2e = _mm512_set1_ps(1.44269504f);
  float *sums = running.sums, *peaks = running.peaks;
  vec* heaps = running.heaps;
  const long wide = running.wide;
  for (long r = 0; r < rows; r++, scores += BLOCK, words += BLOCK / 2, sums += wide) {
    vec high = load(scores);
#pragma GCC unroll 8
    for (long i = LANES; i < BLOCK; i += LANES) high = larger(high, load(scores + i));
    if (__builtin_expect(_mm512_cmp_ps_mask((__m512)high, _mm512_set1_ps(peaks[r] + GROWTH), _CMP_GT_OQ), 0)) {
      const float peak = highest(high);
      const vec factor = exponential(spread(peaks[r] - peak));  // a call would cost all that registers hold
      for (long d = 0; d < wide; d += LANES) store(sums + d, load(sums + d) * factor);
      heaps[r] *= factor;
      peaks[r] = peak;
    }
    if (peaks[r] == -INFINITY) {  // nothing to be seen yet
      std::fill_n(words, BLOCK / 2, 0);
      continue;
    }
    const __m512 peak = _mm512_set1_ps(peaks[r] * 1.44269504f);
    vec sum = heaps[r];
    const auto weighed = [&](long i) {
      const __m512 weight = power_of_two(_mm512_fmsub_ps((__m512)load(scores + i), log2e, peak));
      sum += (vec)weight;
      return SCALED ? (__m512)((vec)weight * load(scales + i)) : weight;
    };
#pragma GCC unroll 2
    for (long i = 0; i < BLOCK; i += 2 * LANES) {  // a line at once, as tiles read it
      const __m512 low = weighed(i), high = weighed(i + LANES);
      const __m512bh rounded = _mm512_cvtne2ps_pbh(high, low);
      memcpy(words + i / 2, &rounded, sizeof rounded);
    }
    heaps[r] = sum;
  }
}

// The products of a block with a tile of rows, by dot products of vectors.
class ByDots {
 public:
  static constexpr long HEIGHT = ROWS;

  // scores[HEIGHT][BLOCK] = queries[HEIGHT][words] * the keys of the block's first `count` positions
  void scores(const uint32_t* queries, long words, const uint32_t* keys, long count, float* scores) const {
    for (long i = 0; i < count; i += WIDTH)
      tile<ROWS, 1, Dot>(queries, words, (const Dot*)keys + i * words, WIDTH, 0, {scores + i, BLOCK}, words);
  }

  // sums[HEIGHT][wide] += weights[HEIGHT][BLOCK / 2] * the values of as many positions
  void add_values(const uint32_t* weights, long wide, const uint32_t* values, long count, float* sums) const {
    for (long d = 0; d < wide; d += WIDTH)
      tile<ROWS, 1, Dot>(weights, BLOCK / 2, (const Dot*)values + d, wide, 0, onto(sums + d, wide), (count + 1) / 2);
  }
};

#if defined(MATRIX_UNITS)

// The same by matrix units: a tile of rows by four of positions or entries at a time. Half of a square of rows, so that the first
// cache keeps a block of keys and values beside scores and weights.
class ByUnits {
  static constexpr long WORDS = STEP / 2, LINE_OF_WEIGHTS = BLOCK * sizeof(uint16_t);
  Units units_;

  // Tiles 0 and 1, or all to 3, += a[16][WORDS] * b[WORDS][32 or 64]; `next`: words from the first half of b to the second.
  template <bool ALL>
  static void add(const uint32_t* a, long a_line, const uint32_t* b, long b_line, long next) {
    _tile_loadd(4, a, a_line);
    _tile_loadd(5, b, b_line);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, b + LANES, b_line);
    _tile_dpbf16ps(1, 4, 6);
    if (!ALL) return;
    _tile_loadd(7, b + next, b_line);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(5, b + next + LANES, b_line);
    _tile_dpbf16ps(3, 4, 5);
  }

  template <bool ALL>
  static void store(float* to, long line) {
    _tile_stored(0, to, line);
    _tile_stored(1, to + LANES, line);
    if (!ALL) return;
    _tile_stored(2, to + WIDTH, line);
    _tile_stored(3, to + WIDTH + LANES, line);
  }

  template <bool ALL>
  static void score(const uint32_t* queries, long words, const uint32_t* keys, float* scores) {
    _tile_zero(0);
    _tile_zero(1);
    if (ALL) {
      _tile_zero(2);
      _tile_zero(3);
    }
    for (long s = 0; s < words; s += WORDS) add<ALL>(queries + s, words * 4, keys + s * WIDTH, LINE, words * WIDTH);
    store<ALL>(scores, BLOCK * 4);
  }

  template <bool ALL>
  static void add_some(const uint32_t* weights, long wide, const uint32_t* values, long count, float* sums) {
    const long line = wide * 4;
    _tile_loadd(0, sums, line);
    _tile_loadd(1, sums + LANES, line);
    if (ALL) {
      _tile_loadd(2, sums + WIDTH, line);
      _tile_loadd(3, sums + WIDTH + LANES, line);
    }
    for (long s = 0; s < count; s += STEP) add<ALL>(weights + s / 2, LINE_OF_WEIGHTS, values + s / 2 * wide, line, WIDTH);
    store<ALL>(sums, line);
  }

 public:
  static constexpr long HEIGHT = ::HEIGHT;

  ByUnits() { units_.shape(HEIGHT, HEIGHT); }

  void scores(const uint32_t* queries, long words, const uint32_t* keys, long count, float* scores) const {
    long i = 0;
    for (; i + WIDTH < count; i += 2 * WIDTH) score<true>(queries, words, keys + i * words, scores + i);
    if (i < count) score<false>(queries, words, keys + i * words, scores + i);
  }

  void add_values(const uint32_t* weights, long wide, const uint32_t* values, long count, float* sums) const {
    asm volatile("" : : : "memory");  // weights and sums were written: GCC does not know that tiles are loaded from memory
    long d = 0;
    for (; d + WIDTH < wide; d += 2 * WIDTH) add_some<true>(weights, wide, values + d, count, sums + d);
    if (d < wide) add_some<false>(weights, wide, values + d, count, sums + d);
  }
};

// Words of the values of positions that are not there become 0: units multiply whole steps, by weights of 0.
void clear_values(const Call& call, const Stored& stored) {
  const long wide = padded(call), there = (stored.count + 1) / 2;
  std::fill(room.value_words.begin() + there * wide, room.value_words.begin() + BLOCK / 2 * wide, 0);
}

#endif

// As `prompt`, a tile of rows at a time, so that scores and weights stay near. Between a tile's weights and its values, the next
// tile's scores are made: units and vectors wait for nothing that the others have just written.
template <class Products>
void prompt_by_pairs(const Call& call, const Task& task) {
  static_assert(BLOCK % (2 * LANES) == 0);
  constexpr long HEIGHT = Products::HEIGHT;
  const Products products;
  Room& own = room;
  const long group = call.group(), wide = padded(call), words = wide / 2, tokens = task.end - task.first;
  const long count = tokens * group, rows = (count + HEIGHT - 1) / HEIGHT * HEIGHT;
  const long start = call.query_start[task.sequence];
  const long before = call.seq_lens[task.sequence] - (call.query_start[task.sequence + 1] - start);
  const int32_t* table = call.tables + task.sequence * call.table_step;
  own.queries.assign(rows * wide, 0.0f);
  own.sums.assign(rows * wide, 0.0f);
  own.peaks.assign(rows, -INFINITY);
  own.heaps.assign(rows, vec{});
  for (long t = 0; t < tokens; t++)
    read_queries(call, start + task.first + t, task.head, own.queries.data() + t * group * wide);
  round_queries(rows, wide);
  const long last = before + task.end, position = before + task.first;
  alignas(64) float scores[HEIGHT * BLOCK];
  alignas(64) uint32_t weights[HEIGHT * BLOCK / 2];
  Scales scales;
  const bool scaled = of_int8(call);
  const uint32_t* queries = own.query_words.data();
  float *sums = own.sums.data(), *peaks = own.peaks.data();
  vec* heaps = own.heaps.data();
  const long seen = call.first_seen(position);
  for (long low = first_block(seen); low < last;) {
    const long end = std::min(low + BLOCK, last);
    const Stored stored = of_bytes(call) ? gather_words(call, table, task.head, low, seen, end, scales)
                                         : block_at(call, table, task.head, low, seen, end, end - low);
    pair_keys(call, stored);
    pair_values(call, stored);
#if defined(MATRIX_UNITS)
    clear_values(call, stored);
#endif
    const uint32_t *keys = own.key_words.data(), *values = own.value_words.data();
    const auto position_of = [&](long row) { return std::min(position + row / group, last - 1); };  // its token's position
    const auto count_of = [&](long first) { return std::min(stored.count, position_of(first + HEIGHT - 1) + 1 - low); };
    const auto see = [&](float* row, long at) {
      for (long i = 0; scaled && i < BLOCK; i += LANES) store(row + i, load(row + i) * load(scales.keys + i));
      bound(call, row, stored.count);
      std::fill(row + stored.count, row + BLOCK, -INFINITY);
      hide(call, at, stored.count, low, row);
    };
    long begin = 0, until = rows;  // the others do not see the block
    while (count_of(begin) <= 0) begin += HEIGHT;
    while (low + stored.count <= call.first_seen(position_of(until - HEIGHT))) until -= HEIGHT;
    const auto score = [&](long first) { products.scores(queries + first * words, words, keys, count_of(first), scores); };
    score(begin);
    for (long first = begin; first < until; first += HEIGHT) {
      const bool plain = !scaled && call.cap == 0.0f && low + BLOCK <= position_of(first) + 1 && stored.count == BLOCK &&
                         low >= call.first_seen(position_of(first + HEIGHT - 1));
      for (long r = 0; !plain && r < HEIGHT; r++) see(scores + r * BLOCK, position_of(first + r));
      const Running running{sums + first * wide, peaks + first, heaps + first, wide};
      if (scaled) weigh<true>(scores, HEIGHT, running, scales.values, weights);
      else weigh<false>(scores, HEIGHT, running, nullptr, weights);
      if (first + HEIGHT < until) score(first + HEIGHT);
      products.add_values(weights, wide, values, count_of(first), sums + first * wide);
    }
    low += stored.count;
  }
  for (long r = 0; r < count; r++) {
    const long head = task.head * group + r % group;
    write_out(call, start + task.first + r / group, head, own.sums.data() + r * wide,
              total(own.heaps[r]) + sink(call, head, own.peaks[r]));
  }
}

#endif

void prompt(const Call& call, const Task& task) {
#if defined(DOT_UNITS)
#if defined(MATRIX_UNITS)
  if (prompts_in_pairs(call) && matrix_units()) return prompt_by_pairs<ByUnits>(call, task);
#endif
  if (prompts_in_pairs(call)) return prompt_by_pairs<ByDots>(call, task);
#endif
  long group = call.group(), wide = padded(call), tokens = task.end - task.first, rows = tokens * group;
  long start = call.query_start[task.sequence];
  long before = call.seq_lens[task.sequence] - (call.query_start[task.sequence + 1] - start);
  const int32_t* table = call.tables + task.sequence * call.table_step;
  room.queries.resize(rows * wide);
  room.scores.resize(rows * BLOCK);
  room.sums.assign(rows * wide, 0.0f);
  room.peaks.assign(rows, -INFINITY);
  room.totals.assign(rows, 0.0f);
  for (long t = 0; t < tokens; t++)
    read_queries(call, start + task.first + t, task.head, room.queries.data() + t * group * wide);
  prepare_queries(call, rows);
  long last = before + task.end, position = before + task.first;
  const long seen = call.first_seen(position);
  for (long low = first_block(seen); low < last;) {
    const long end = std::min(low + BLOCK, last);
    Stored stored{nullptr, nullptr, (end - low + LANES - 1) / LANES * LANES, 0, nullptr, nullptr};
    if (of_bytes(call)) {
      gather_codes(call, table, task.head, low, seen, end, stored.count);
      many_scores(rows, room.queries.data(), wide, {room.keys.data(), wide, stored.count}, room.scores.data());
    } else {
      stored = block_at(call, table, task.head, low, seen, end, stored.count);
      many_scores(rows, room.queries.data(), wide, widened(call, stored, false, room.keys), room.scores.data());
    }
    bool clear = low + stored.count <= position + 1 && low >= call.first_seen(last - 1);
    for (long r = 0; r < rows; r++) {
      float *scores = room.scores.data() + r * BLOCK, *sums = room.sums.data() + r * wide;
      bound(call, scores, stored.count);
      if (!clear) hide(call, position + r / group, stored.count, low, scores);
      float peak = std::max(room.peaks[r], highest_of(scores, stored.count));
      if (peak == -INFINITY) { std::fill_n(scores, stored.count, 0.0f); continue; }  // nothing to be seen yet
      float factor = room.peaks[r] == peak ? 1.0f : std::exp(room.peaks[r] - peak);
      if (factor != 1.0f)
        for (long d = 0; d < wide; d += LANES) store(sums + d, load(sums + d) * factor);
      room.totals[r] = room.totals[r] * factor + exponentials(scores, peak, stored.count);
      room.peaks[r] = peak;
    }
    if (of_bytes(call))
      add_values(rows, room.scores.data(), BLOCK, {room.values.data(), wide, stored.count}, room.sums.data(), wide);
    else
      add_values(rows, room.scores.data(), BLOCK, widened(call, stored, true, room.values), room.sums.data(), wide);
    low += stored.count;
  }
  for (long r = 0; r < rows; r++) {
    long head = task.head * group + r % group;
    write_out(call, start + task.first + r / group, head, room.sums.data() + r * wide,
              room.totals[r] + sink(call, head, room.peaks[r]));
  }
}

}  // namespace

// The chunks of a few new tokens, which are those that it would have alone: drafts change no bit of what is accepted.
// Tokens that look at the same positions, but for those that are new, do so together.
static void divide_few(const Attention& call, long sequence, long head, Tasks& tasks, long& part) {
  const long start = call.query_start[sequence], tokens = call.query_start[sequence + 1] - start;
  const long before = call.seq_lens[sequence] - tokens, join = tasks.joins.size();
  for (long t = 0; t < tokens; t++) {
    const long chunks = (before + t + 1 - call.first_seen(before + t) + CHUNK - 1) / CHUNK;
    tasks.joins.push_back({sequence, head, 0, chunks, part, start + t});
    part += chunks;
  }
  for (long begin = 0, end; begin < tokens; begin = end) {
    const long seen = call.first_seen(before + begin);
    for (end = begin + 1; end < tokens && call.first_seen(before + end) == seen;) end++;
    for (long number = 0; number < tasks.joins[join + end - 1].end; number++) {
      long first = begin;  // the others see no position of it
      while (tasks.joins[join + first].end <= number) first++;
      tasks.decodes.push_back({sequence, head, seen + number * CHUNK, number, join + first, end - first});
    }
  }
}

// Rows that share what is made of a block, so many that all threads have several tasks.
static long rows_of_task(const Attention& call) {
  if (!matrix_units()) return TALL;
#if defined(_OPENMP)
  const long threads = omp_get_max_threads();
#else
  const long threads = 1;
#endif
  return std::clamp(call.tokens * call.heads / (16 * threads), TALLER, TALLEST);
}

Tasks divide(const Attention& call) {
  const long queries = prompts_in_pairs(call) ? std::max(QUERIES, rows_of_task(call) / call.group()) : QUERIES;
  Tasks tasks;
  long part = 0;
  for (long s = 0; s < call.sequences; s++) {
    const long tokens = call.query_start[s + 1] - call.query_start[s];
    for (long head = 0; head < call.kv_heads; head++) {
      if (tokens <= FEW_TOKENS) divide_few(call, s, head, tasks, part);
      else
        for (long first = (tokens - 1) / queries * queries; first >= 0; first -= queries)
          tasks.prompts.push_back({s, head, first, std::min(tokens, first + queries), -1, -1});  // long ones first
    }
  }
  tasks.parts.resize(part * part_size(call));
  return tasks;
}

void attend(const Attention& call, Tasks& tasks) {
  long decodes = tasks.decodes.size(), prompts = tasks.prompts.size(), joins = tasks.joins.size();
  long size = part_size(call);
  float* parts = tasks.parts.data();
#pragma omp for schedule(static)
  for (long t = 0; t < call.tokens; t++) write_token(call, t);
#pragma omp for schedule(dynamic, 1) nowait
  for (long i = 0; i < prompts; i++) prompt(call, tasks.prompts[i]);
#pragma omp for schedule(dynamic, 1)
  for (long i = 0; i < decodes; i++) decode(call, tasks.decodes[i], tasks.joins.data() + tasks.decodes[i].join, parts);
#pragma omp for schedule(static)
  for (long i = 0; i < joins; i++) join(call, tasks.joins[i], parts + tasks.joins[i].part * size, tasks.joins[i].end);
}

extern "C" {

// `steps` are the elements between tokens of q, k and v; `store` is a Store. `sizes`: heads, key heads, head size, page size, window, kind
// of the cache, chunk, elements between tables.
void ms_attend(const float* q, const float* k, const float* v, const int64_t* steps, float* out, const void* store,
               const int64_t* sizes, const int64_t* slots, const int64_t* query_start, const int64_t* seq_lens,
               const int32_t* tables, long tokens, long sequences, float scale, float cap, const float* sinks) {
  Attention call{q, k, v, steps[0], steps[1], steps[2], out, *(const Store*)store, sizes[5], sizes[0], sizes[1],
                 sizes[2], sizes[3], sizes[4], sizes[6], slots, query_start, seq_lens, tables, sizes[7], tokens,
                 sequences, scale, cap, sinks};
  Tasks tasks = divide(call);
#pragma omp parallel if (tokens * call.heads * call.dim > 512)
  attend(call, tasks);
}
}
