// The forms of codes that are multiplied by rows of whole numbers, four inputs at a time.
#pragma once

#include <type_traits>

#include "code_panels.h"

namespace quads {

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

// Whether what the codes of a segment mean is a byte with a sign.
inline bool with_signs(const Segment& s) {
  bool found = false;
  with_form(s, [&](const auto& f) { found = s.base >= -128 && s.base + std::decay_t<decltype(f)>::MOST <= 127; });
  return found;
}

// Whether sixteen times that is one, too, or a byte without a sign.
inline bool sixteenfold(const Segment& s) { return s.form == NIBBLES && !s.lookup && (s.base == 0 || s.base == -8); }

}  // namespace quads
