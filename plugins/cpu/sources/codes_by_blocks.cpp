// Products of codes on matrix units, block by block: see codes_by_blocks.h.
//
// An output's numbers of two bytes and a row's of three are multiplied byte by byte. Six products have four different places, each
// of which is a tile of sums: exact in 32 bits, and as floats, for a block has no more than 256 inputs.
#include "codes_by_blocks.h"

#include <algorithm>

#include "byte_rows.h"
#include "byte_sums.h"
#include "bytes_by_units.h"
#include "quad_forms.h"

#if defined(BLOCK_UNITS)

namespace {

constexpr long MOST_INPUTS = 256;       // of a block
constexpr long STEP_INPUTS = 64;        // of an instruction
constexpr long TILE_WORDS = HEIGHT * STEP_INPUTS / 4;
constexpr int ROW_PLANES = 3, CODE_PLANES = 2, PLACES = 4;

inline long block_inputs(const Segment& s) { return s.group * s.block; }

bool alike(const Segment& a, const Segment& b) {
  return a.order == b.order && a.group == b.group && a.block == b.block && a.inputs == b.inputs && a.unit == b.unit &&
         Laid::has_offsets(a) == Laid::has_offsets(b);
}

// --- codes ------------------------------------------------------------------------------------------------------

// The scales of a group as operands of products of bytes: every other byte is one, so that sums of two products are one of them. What
// is added to each is `base` times the scale, unless it is added to codes before.
struct GroupScales {
  __m512i even, odd, added;

  GroupScales(const Numbers& n, long base, const char* at) {
    const __m128i bytes = _mm_loadu_si128((const __m128i*)at);
    const __m512i one = _mm512_cvtepu8_epi32(bytes);
    even = _mm512_or_si512(one, _mm512_slli_epi32(one, 16)), odd = _mm512_slli_epi16(even, 8);
    const __m512i signed_words = _mm512_srai_epi16(odd, 8);
    added = n.kind == SIGNED ? _mm512_mullo_epi16(signed_words, _mm512_set1_epi16((short)base)) : _mm512_setzero_si512();
  }
};

// What the codes of a block mean, without the block's scale: [VECTORS][CODE_PLANES][steps][TILE_WORDS], the lower bytes, which have no
// sign, first.
template <bool SIGNED_SCALES, class F>
void decode_block(const F& f, const Segment& s, long panel, long block, uint32_t* values) {
  const long inputs = block_inputs(s), planes_apart = inputs / STEP_INPUTS * TILE_WORDS;
  const char* at = s.codes + panel * panel_bytes(s.form, s.inputs) + block * inputs / F::CHUNK * (F::BYTES * WIDTH);
  const char* scales = s.scales.at + (panel * s.scales.count + block * s.block) * WIDTH;
  const __m512i base = _mm512_set1_epi8((char)s.base), lower = _mm512_set1_epi16(255);
  uint32_t* to = values;
  for (long g = 0; g < s.block; g++, scales += WIDTH) {
    const GroupScales own[VECTORS] = {{s.scales, s.base, scales}, {s.scales, s.base, scales + LANES}};
    for (long k = 0; k < s.group; k += F::CHUNK, at += F::BYTES * WIDTH, to += F::CHUNK / 4 * LANES) {
#pragma GCC unroll 16
      for (long line = 0; line < F::BYTES * WIDTH; line += 64) __builtin_prefetch(at + AHEAD_BYTES + line);
#pragma GCC unroll 8
      for (int j = 0; j < F::CHUNK / 4; j++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
          const __m512i codes = (__m512i)f.quad(at, v, j);
          __m512i even, odd;
          if (SIGNED_SCALES) {
            even = _mm512_add_epi16(_mm512_maddubs_epi16(codes, own[v].even), own[v].added);
            odd = _mm512_add_epi16(_mm512_maddubs_epi16(codes, own[v].odd), own[v].added);
          } else {
            const __m512i meant = _mm512_add_epi8(codes, base);
            even = _mm512_maddubs_epi16(own[v].even, meant), odd = _mm512_maddubs_epi16(own[v].odd, meant);
          }
          uint32_t* first = to + v * CODE_PLANES * planes_apart + j * LANES;
          // One of both, as `lower` says.
          _mm512_store_si512(first, _mm512_ternarylogic_epi32(lower, even, _mm512_slli_epi16(odd, 8), 0xca));
          _mm512_store_si512(first + planes_apart, _mm512_ternarylogic_epi32(lower, _mm512_srli_epi16(even, 8), odd, 0xca));
        }
    }
  }
}

// --- products ---------------------------------------------------------------------------------------------------

// Sums of a block by places, in tiles 0 … 3. The order is one in which few products wait for the sums of another.
inline void multiply_block(const uint32_t* rows, const uint32_t* codes, long steps) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const uint32_t* high = codes + steps * TILE_WORDS;
  for (long t = 0; t < steps; t++, rows += ROW_PLANES * TILE_WORDS, codes += TILE_WORDS, high += TILE_WORDS) {
    _tile_loadd(6, codes, 64);
    _tile_loadd(7, high, 64);
    _tile_loadd(4, rows + 2 * TILE_WORDS, 64);
    _tile_dpbssd(3, 4, 7);
    _tile_dpbsud(2, 4, 6);
    _tile_loadd(4, rows + TILE_WORDS, 64);
    _tile_loadd(5, rows, 64);
    _tile_dpbsud(1, 4, 6);
    _tile_dpbsud(0, 5, 6);
    _tile_dpbssd(2, 4, 7);
    _tile_dpbssd(1, 5, 7);
  }
}

// sums[PLACES][HEIGHT][LANES]
inline void store_places(int32_t* sums) {
  _tile_stored(3, sums + 3 * HEIGHT * LANES, LANES * 4);
  _tile_stored(0, sums, LANES * 4);
  _tile_stored(2, sums + 2 * HEIGHT * LANES, LANES * 4);
  _tile_stored(1, sums + HEIGHT * LANES, LANES * 4);
}

// c[count][LANES of WIDTH] += what the sums of a block are.
inline void meet(const int32_t* sums, vec scales, const float* row_scales, float* c, long count) {
#pragma GCC unroll 4
  for (long i = 0; i < count; i++) {
    const auto place = [&](int p) { return __builtin_convertvector(read<ivec>(sums + (p * HEIGHT + i) * LANES), vec); };
    const vec sum = ((place(3) * 256.0f + place(2)) * 256.0f + place(1)) * 256.0f + place(0);
    store(c + i * WIDTH, load(c + i * WIDTH) + scales * row_scales[i] * sum);
  }
}

// c[rows][WIDTH] += rows * a panel, without offsets. What the units leave is read while they make the next sums.
template <bool SIGNED_SCALES, class F>
void multiply_panel(const F& f, BlockRows& rows, const Segment& s, long panel, float* c) {
  alignas(64) static thread_local uint32_t values[VECTORS * CODE_PLANES * MOST_INPUTS / STEP_INPUTS * TILE_WORDS];
  alignas(64) int32_t sums[2][PLACES * HEIGHT * LANES];
  const long blocks = s.inputs / block_inputs(s), tiles = (rows.count + HEIGHT - 1) / HEIGHT;
  long item = 0;
  const auto met = [&](long item) {
    const long v = item % VECTORS, tile = item / VECTORS % tiles, block = item / VECTORS / tiles, row = tile * HEIGHT;
    const vec scales = number(s.block_scales, panel * s.block_scales.count + block, v);
    meet(sums[item % 2], scales, rows.scales.data() + block * rows.count + row, c + row * WIDTH + v * LANES,
         std::min(HEIGHT, rows.count - row));
  };
  for (long block = 0; block < blocks; block++) {
    decode_block<SIGNED_SCALES>(f, s, panel, block, values);
    for (long tile = 0; tile < tiles; tile++)
      for (long v = 0; v < VECTORS; v++, item++) {
        multiply_block(rows.tiles(block, tile * HEIGHT), values + v * CODE_PLANES * rows.steps * TILE_WORDS, rows.steps);
        if (item) met(item - 1);
        store_places(sums[item % 2]);
      }
  }
  met(item - 1);
}

thread_local Laid laid;

}  // namespace

bool by_blocks(const Segment& s) {
  const bool whole = s.block_scales.at && (s.scales.kind == UNSIGNED || s.scales.kind == SIGNED);
  return whole && s.planes == ROW_PLANES && byte_units() && quads::with_signs(s) && s.group % SHAPES[s.form].chunk == 0 &&
         block_inputs(s) % STEP_INPUTS == 0 && block_inputs(s) <= MOST_INPUTS && s.inputs % block_inputs(s) == 0;
}

uint32_t* BlockRows::tiles(long block, long row) {
  const long of_rows = (count + HEIGHT - 1) / HEIGHT;
  return words_.data()->words + (block * of_rows + row / HEIGHT) * steps * ROW_PLANES * TILE_WORDS;
}

void BlockRows::take(const float* from, long step, long rows, const Segment& s) {
  if (from == from_ && rows == count && alike(*of_, s)) return;
  from_ = from, of_ = &s, count = rows, steps = block_inputs(s) / STEP_INPUTS;
  const long blocks = s.inputs / block_inputs(s), tiles = (rows + HEIGHT - 1) / HEIGHT;
  words_.resize(blocks * tiles * steps * ROW_PLANES * TILE_WORDS * sizeof(uint32_t) / sizeof(words_[0]));
  scales.resize(blocks * rows);
  list.clear();
  spans(s, 1, BYTES_SPAN, [&](long number, long group, long first, long n) { list.push_back({number, group, first, n}); });
  sums.resize(list.size() * rows);
  for (long block = 0; block < blocks; block++)
    for (long i = 0; i < rows; i++) take_block(from + i * step, block, i);
}

void BlockRows::take_block(const float* row, long block, long i) {
  const Segment& s = *of_;
  const long first = block * block_inputs(s), spans = block_inputs(s) / BYTES_SPAN;
  vec x[MOST_INPUTS / LANES];
  ivec whole[MOST_INPUTS / LANES];
  for (long k = 0; k < spans; k++) read_span(row, s, first + k * BYTES_SPAN, BYTES_SPAN, x + k * PARTS);
  const Scale scale = scale_of<ROW_PLANES>(x, spans * PARTS);
  scales[block * count + i] = scale.value * (float)s.unit;
  for (long k = 0; k < spans * PARTS; k++) whole[k] = nearest(x[k] * scale.inverse);
  if (Laid::has_offsets(s)) {
    const long each = list.size() / (s.inputs / block_inputs(s));
    for (long n = block * each; n < (block + 1) * each; n++) {
      ivec all = {};
      for (long k = 0; k < list[n].inputs; k += LANES) all += whole[(list[n].first - first + k) / LANES];
      sums[n * count + i] = scale.value * (float)whole_total(all);
    }
  }
  uint32_t* line = tiles(block, i) + i % HEIGHT * (STEP_INPUTS / 4);
  for (long k = 0; k < spans; k++) {
    uint32_t* out = line + k / 2 * (ROW_PLANES * TILE_WORDS) + k % 2 * QUADS;
    enter_bytes<ROW_PLANES, false>(whole + k * PARTS, out, TILE_WORDS, nullptr);
  }
}

void multiply_by_blocks(Units& units, BlockRows& rows, const Segment& s, long panel, float* c) {
  const long lines = std::min(rows.count, HEIGHT);
  units.shape(lines, lines);
  quads::with_form(s, [&](const auto& f) {
    if (s.scales.kind == SIGNED) multiply_panel<true>(f, rows, s, panel, c);
    else multiply_panel<false>(f, rows, s, panel, c);
  });
  if (!Laid::has_offsets(s)) return;
  laid.take(s, panel);
  subtract_offsets(rows, laid.offsets(), c, WIDTH);
}

#else

bool by_blocks(const Segment&) { return false; }

#endif
