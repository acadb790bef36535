// How codes and the numbers of their groups lie in panels, which are WIDTH outputs wide, as those of linear.cpp.
#pragma once

#include <algorithm>
#include <vector>

#include "codes.h"
#include "vectors.h"

namespace {

constexpr long FETCHED = 1024;  // bytes of a panel that are fetched before they are read

typedef uint8_t unsigned_bytes __attribute__((vector_size(LANES)));
typedef int8_t signed_bytes __attribute__((vector_size(LANES)));
typedef uint16_t words16 __attribute__((vector_size(LANES * 2)));

template <class V>
inline V read(const void* p) { V v; memcpy(&v, p, sizeof v); return v; }

// Bytes as floats. GCC takes the vectors' own conversion apart, lane by lane.
inline ivec widened(unsigned_bytes b) {
#if defined(__AVX512F__)
  return (ivec)_mm512_cvtepu8_epi32((__m128i)b);
#elif defined(__AVX2__)
  return (ivec)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)b));
#else
  return __builtin_convertvector(b, ivec);
#endif
}

inline ivec widened(signed_bytes b) {
#if defined(__AVX512F__)
  return (ivec)_mm512_cvtepi8_epi32((__m128i)b);
#elif defined(__AVX2__)
  return (ivec)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((long long)b));
#else
  return __builtin_convertvector(b, ivec);
#endif
}

inline uvec widened(words16 w) {
#if defined(__AVX512F__)
  return (uvec)_mm512_cvtepu16_epi32((__m256i)w);
#elif defined(__AVX2__)
  return (uvec)_mm256_cvtepu16_epi32((__m128i)w);
#else
  return __builtin_convertvector(w, uvec);
#endif
}

template <class B>
inline vec floats(B bytes) { return __builtin_convertvector(widened(bytes), vec); }

inline float half(uint16_t h) {
  uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
  float f;
  memcpy(&f, &bits, sizeof f);
  f *= 0x1p112f;
  memcpy(&bits, &f, sizeof f);
  if ((h & 0x7c00) == 0x7c00) bits |= 0x7f800000u;
  bits |= (uint32_t)(h & 0x8000) << 16;
  memcpy(&f, &bits, sizeof f);
  return f;
}

inline vec halves(words16 h) {
#if defined(__AVX512F__)
  return (vec)_mm512_cvtph_ps((__m256i)h);
#elif defined(__AVX__) && defined(__F16C__)
  return (vec)_mm256_cvtph_ps((__m128i)h);
#else
  vec out;
  for (int l = 0; l < LANES; l++) out[l] = half(h[l]);
  return out;
#endif
}

// --- shapes of forms ----------------------------------------------------------------------------------------------

// So many inputs of an output take so many bytes.
struct Shape {
  long chunk, bytes;
};
constexpr Shape SHAPES[] = {{8, 4}, {32, 20}, {16, 12}, {8, 8}, {8, 8}, {8, 8}, {32, 20}, {16, 12}, {8, 8}};

template <class Form>
constexpr bool is_shaped(long form) { return Form::CHUNK == SHAPES[form].chunk && Form::BYTES == SHAPES[form].bytes; }

inline long panel_bytes(long form, long inputs) {
  const Shape shape = SHAPES[form];
  return (inputs + shape.chunk - 1) / shape.chunk * shape.bytes * WIDTH;
}

// Calls with each span of at most `most` inputs of a group: its number, its group, its first input and how many it has,
// whole chunks.
template <class F>
inline void spans(const Segment& s, long chunk, long most, F&& call) {
  long number = 0;
  for (long group = 0, first = 0; first < s.inputs; group++) {
    const long end = std::min(first + s.group, s.inputs);
    for (; first < end; number++) {
      const long n = std::min(most, end - first);
      call(number, group, first, (n + chunk - 1) / chunk * chunk);
      first += n;
    }
  }
}

// --- numbers of groups ------------------------------------------------------------------------------------------

// Calls with what reads the vector of numbers of a kind from the i-th on.
template <class F>
inline auto for_kind(long kind, F&& call) {
  switch (kind) {
    case FLOAT: return call([](const char* at, long i) { return load((const float*)at + i); });
    case HALF: return call([](const char* at, long i) { return halves(read<words16>(at + 2 * i)); });
    case BFLOAT: return call([](const char* at, long i) { return (vec)(widened(read<words16>(at + 2 * i)) << 16); });
    case UNSIGNED: return call([](const char* at, long i) { return floats(read<unsigned_bytes>(at + i)); });
    default: return call([](const char* at, long i) { return floats(read<signed_bytes>(at + i)); });
  }
}

inline vec number(const Numbers& n, long index, int v) {
  return for_kind(n.kind, [&](auto one) { return one(n.at, index * WIDTH + v * LANES); });
}

// A number of a group for the vector v of a panel's outputs, times that of its block, if there are blocks.
inline vec group_number(const Numbers& own, const Numbers& of_blocks, long block, long panel, long group, int v) {
  const vec found = number(own, panel * own.count + group, v);
  return of_blocks.at ? number(of_blocks, panel * of_blocks.count + group / block, v) * found : found;
}

// What sums over groups meet, of numbers as they lie. What is multiplied is a UNIT-th of what a table says.
template <class D>
struct Unlaid {
  const Segment& s;

  inline vec add(vec total, vec sum, float inputs, long panel, long group, int v) const {
    if (s.zeros.at) sum -= group_number(s.zeros, {}, 1, panel, group, v) / spread(D::UNIT) * inputs;
    total += group_number(s.scales, s.block_scales, s.block, panel, group, v) * spread(D::UNIT) * sum;
    if (s.offsets.at) total -= group_number(s.offsets, s.block_offsets, s.block, panel, group, v) * inputs;
    return total;
  }
};

// Numbers of some panels' groups as floats, each times that of its block, if there are blocks.
template <class F>
inline void spread_out(const Numbers& n, long first, long count, float* out, F&& one) {
  for (long i = 0; i < count * n.count * VECTORS; i++) store(out + i * LANES, one(n.at, (first * n.count * VECTORS + i) * LANES));
}

inline const float* floats_of(const Numbers& own, const Numbers& of_blocks, long block, long panel, long count,
                       std::vector<float>& room) {
  room.resize(count * own.count * WIDTH);
  for_kind(own.kind, [&](auto one) { spread_out(own, panel, count, room.data(), one); });
  float* out = room.data();
  if (of_blocks.at) for (long p = panel; p < panel + count; p++)
    for (long b = 0, g = 0; b < of_blocks.count; b++)
      for (const long end = std::min(g + block, own.count); g < end; g++, out += WIDTH)
        for (int v = 0; v < VECTORS; v++)
          store(out + v * LANES, number(of_blocks, p * of_blocks.count + b, v) * load(out + v * LANES));
  return room.data();
}

// What sums over groups meet, of some panels: [panels][groups][WIDTH] each.
struct Factors {
  const float *scales, *zeros = nullptr, *offsets = nullptr;
  long step;  // from one panel's to the next's

  Factors(const Segment& s, long panel, long count, float unit) : step(s.scales.count * WIDTH) {
    static thread_local std::vector<float> scales_room, zeros_room, offsets_room;
    scales = floats_of(s.scales, s.block_scales, s.block, panel, count, scales_room);
    if (s.zeros.at) zeros = floats_of(s.zeros, {}, 1, panel, count, zeros_room);
    if (s.offsets.at) offsets = floats_of(s.offsets, s.block_offsets, s.block, panel, count, offsets_room);
    if (unit == 1) return;
    for (float& each : scales_room) each *= unit;
    if (zeros) for (float& each : zeros_room) each /= unit;
  }

  // What a sum over inputs of a group is of the weight's values, for the vector of outputs `at`; `inputs` is their sum.
  inline vec add(vec total, vec sum, float inputs, long at) const {
    if (zeros) sum -= load(zeros + at) * inputs;
    total += load(scales + at) * sum;
    if (offsets) total -= load(offsets + at) * inputs;
    return total;
  }
};

}  // namespace
