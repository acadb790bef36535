// Weights that are codes: small numbers of a few bits, a table of what they mean, and numbers that groups share. In
// float32, weight[row][i] = scale * (table[code] - zero) - offset, as core/interfaces/codes.py says.
#pragma once

#include <cstdint>

#include "parts.h"

// Numbers of groups or of blocks of them, [panels][so many][WIDTH]; none where `at` is nothing.
enum NumberKind { FLOAT = 0, HALF = 1, BFLOAT = 2, UNSIGNED = 3, SIGNED = 4 };
struct Numbers {
  const char* at;
  int64_t kind, count;
};

// How codes lie in panels. NIBBLES are by a table of 16; FIVES and SIXES count from the table's first value on; BYTES
// are whole numbers from -128 on, FLOATS are float8_e4m3fn without its NaN; INDICES are by a table of 256. The others count,
// too, and lie as codes_by_bytes.cpp reads them. Of PLAIN segments the values themselves lie in panels of linear.cpp.
enum Form {
  NIBBLES = 0, FIVES = 1, SIXES = 2, BYTES = 3, FLOATS = 4, INDICES = 5, QUAD_FIVES = 6, QUAD_SIXES = 7, QUAD_BYTES = 8,
  PLAIN = 9
};

// Rows `first` … of a weight. `group` inputs share numbers, `block` groups share those of a block, which are multiplied
// by the group's. `table` is by stored code. Column i stands for input order[i], if there is an order. `exact`:
// bfloat16 has all of the table; `rounds`: so it has, and rows are rounded to it. `planes`: rows are multiplied as whole numbers of so many bytes,
// 0 for none, by what codes mean in a `unit`: codes from `base` on, or, with a `lookup` of 16 for NIBBLES, what that has.
// `weights` are those of parts.h that a PLAIN segment has, whose panels `codes` is and which has no other numbers.
struct Segment {
  const char* codes;
  const float* table;
  const int64_t* order;
  const uint8_t* lookup;
  int64_t form, first, rows, inputs, group, block, exact, rounds, planes, base, weights;
  double unit;
  Numbers scales, offsets, zeros, block_scales, block_offsets;
};

// Inputs of one group, of the span of that number.
struct Span {
  long number, group, first, inputs;
};

struct CodedWeight {
  const Segment* segments;
  int64_t count;
};

// A product whose `w` is a CodedWeight.
void multiply_codes(const Product& product);

// Whether rows of sequences that have many are multiplied otherwise than others, by some of the weight's segments at least.
bool units_multiply(const CodedWeight& w);
