// How codes get into panels, and what rows of them mean.
#include <algorithm>
#include <vector>

#include "code_panels.h"

namespace {

// Where in the words of one output's chunk codes lie that take parts of bytes, or bytes of words.
struct Bits {
  long form;

  // Calls with the word, the shift in it and the mask of each piece of code j, and the shift of the piece in the code.
  template <class F>
  void pieces(long j, F&& call) const {
    const long quad = j / 8 * 2 + j % 2, byte = j % 8 / 2;  // of codes_by_bytes.h
    switch (form) {
      case FIVES:
      case SIXES: return fields(j, call);
      case QUAD_FIVES: return call(j / 8, j % 8 * 4, 15u, 0), call(4, 8 * byte + quad, 1u, 4);
      case QUAD_SIXES: return call(j / 8, j % 8 * 4, 15u, 0), call(2, 8 * byte + 2 * quad, 3u, 4);
      case QUAD_BYTES: return call(quad, 8 * byte, 255u, 0);
      default: return call(0, j * 4, 15u, 0);
    }
  }

  // Code j is in word j / PER_WORD, the last ones in the top two bits of all words.
  template <class F>
  void fields(long j, F&& call) const {
    const long bits = form == FIVES ? 5 : 6, per_word = 32 / bits;
    if (j < SHAPES[form].bytes / 4 * per_word) return call(j / per_word, j % per_word * bits, (1u << bits) - 1, 0);
    if (form == SIXES) for (long i = 0; i < 3; i++) call(i, 30, 3u, 2 * i);
    else {
      const long first = j == 30 ? 0 : 3;
      call(first, 30, 3u, 0), call(first + 1, 30, 3u, 2), call(2, j, 1u, 4);
    }
  }
};

// Whether codes are bytes that lie one after another, those of an input side by side.
bool is_single(long form) { return form == BYTES || form == FLOATS || form == INDICES; }

char* chunk_at(const char* codes, long form, long inputs, long panel, long chunk) {
  return (char*)codes + panel * panel_bytes(form, inputs) + chunk * SHAPES[form].bytes * WIDTH;
}

void pack(const uint8_t* codes, long ldc, long form, char* packed, long rows, long inputs) {
  const Bits bits{form};
  const long chunk = SHAPES[form].chunk;
#pragma omp parallel for schedule(dynamic, 1)
  for (long p = 0; p < (rows + WIDTH - 1) / WIDTH; p++)
    for (long lane = 0; lane < std::min<long>(WIDTH, rows - p * WIDTH); lane++) {
      const uint8_t* row = codes + (p * WIDTH + lane) * ldc;
      for (long k = 0; k < inputs; k++) {
        char* at = chunk_at(packed, form, inputs, p, k / chunk);
        if (is_single(form)) at[k % chunk * WIDTH + lane] = row[k];
        else bits.pieces(k % chunk, [&](long word, long shift, uint32_t mask, long from) {
          ((uint32_t*)at)[word * WIDTH + lane] |= ((uint32_t)row[k] >> from & mask) << shift;
        });
      }
    }
}

uint8_t code_of(const Segment& s, const Bits& bits, long row, long k) {
  const long chunk = SHAPES[s.form].chunk, lane = row % WIDTH;
  const char* at = chunk_at(s.codes, s.form, s.inputs, row / WIDTH, k / chunk);
  if (is_single(s.form)) return at[k % chunk * WIDTH + lane];
  uint32_t code = 0;
  bits.pieces(k % chunk, [&](long word, long shift, uint32_t mask, long from) {
    code |= (((const uint32_t*)at)[word * WIDTH + lane] >> shift & mask) << from;
  });
  return code;
}

float number_of(const Numbers& n, long row, long index) {
  const long v = row % WIDTH / LANES;
  return number(n, row / WIDTH * n.count + index, v)[row % LANES];
}

// The numbers of a row's groups, each rounded as it is made, which `noinline` sees to.
__attribute__((noinline)) void group_numbers(const Segment& s, const Numbers& own, const Numbers& of_blocks, long row,
                                             float* out) {
  for (long g = 0; g < own.count; g++) {
    out[g] = number_of(own, row, g);
    if (of_blocks.at) out[g] = number_of(of_blocks, row, g / s.block) * out[g];
  }
}

__attribute__((noinline)) void subtract(const Segment& s, const float* offsets, float* values) {
  for (long k = 0; k < s.inputs; k++) values[k] -= offsets[k / s.group];
}

// A row's values, in the order of operations that codes.py has.
void decode(const Segment& s, long row, float* out) {
  const Bits bits{s.form};
  std::vector<float> numbers(s.scales.count), values(s.inputs);
  group_numbers(s, s.scales, s.block_scales, row, numbers.data());
  for (long k = 0; k < s.inputs; k++) {
    const float zero = s.zeros.at ? number_of(s.zeros, row, k / s.group) : 0.0f;
    values[k] = numbers[k / s.group] * (s.table[code_of(s, bits, row, k)] - zero);
  }
  if (s.offsets.at) {
    group_numbers(s, s.offsets, s.block_offsets, row, numbers.data());
    subtract(s, numbers.data(), values.data());
  }
  if (s.order) for (long k = 0; k < s.inputs; k++) out[s.order[k]] = values[k];
  else std::copy(values.begin(), values.end(), out);
}

const Segment& segment_of(const CodedWeight& w, long row) {
  long i = w.count - 1;
  while (i && w.segments[i].first > row) i--;
  return w.segments[i];
}

}  // namespace

extern "C" {

// Inputs that the codes of a form come in: a group is a multiple of it.
long ms_codes_chunk(long form) { return SHAPES[form].chunk; }

// Bytes of the panels of codes[rows][inputs].
long ms_codes_bytes(long form, long rows, long inputs) {
  return (rows + WIDTH - 1) / WIDTH * panel_bytes(form, inputs);
}

// Codes[rows][inputs] into panels, which are 0 before.
void ms_codes_pack(const uint8_t* codes, long step, long form, void* packed, long rows, long inputs) {
  pack(codes, step, form, (char*)packed, rows, inputs);
}

// Rows `ids` of a weight: out[count][inputs].
void ms_codes_rows(const void* weight, const int64_t* ids, long count, long inputs, float* out) {
  const CodedWeight& w = *(const CodedWeight*)weight;
#pragma omp parallel for schedule(dynamic, 4) if (count > 4)
  for (long i = 0; i < count; i++) {
    const Segment& s = segment_of(w, ids[i]);
    if (s.form == PLAIN) read_row(s.codes, (Weights)s.weights, ids[i] - s.first, inputs, out + i * inputs);
    else decode(s, ids[i] - s.first, out + i * inputs);
  }
}
}
