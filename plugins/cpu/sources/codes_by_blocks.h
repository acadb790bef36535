// Products of codes with rows of sequences that have many, block by block on matrix units: where the scales of groups are whole
// numbers of a byte and a block of groups has one more, what the codes of a block mean is whole numbers of two bytes times the
// latter. So the units add up whole blocks, of rows that have a scale for each, and what they leave meets scales once a block. A
// few rows are multiplied faster without the units.
#pragma once

#include "codes_by_bytes.h"

// Whether a segment is multiplied so by rows of sequences that have many.
bool by_blocks(const Segment& s);

#if defined(MATRIX_UNITS) && defined(__AMX_INT8__)
#define BLOCK_UNITS

// Rows as whole numbers of three bytes, in tiles of HEIGHT rows by 64 inputs: words[blocks][tiles of rows][steps][3][HEIGHT][16], the
// lowest bytes first, and inputs as ByteRows have them.
class BlockRows {
  const float* from_ = nullptr;
  const Segment* of_ = nullptr;
  std::vector<Line<uint32_t>> words_;

  void take_block(const float* row, long block, long i);

 public:
  long count = 0, steps = 0;        // of 64 inputs a block
  std::vector<Span> list;           // of all inputs
  std::vector<float> scales, sums;  // [blocks][rows], [spans][rows]; sums are those of the span's inputs

  void forget() { from_ = nullptr; }  // what lay at these addresses
  void take(const float* from, long step, long rows, const Segment& s);

  // The first of a block's tiles of the HEIGHT rows from `row` on.
  uint32_t* tiles(long block, long row);
};

// c[rows][WIDTH] += rows * a panel.
void multiply_by_blocks(Units& units, BlockRows& rows, const Segment& s, long panel, float* c);

#else

struct BlockRows {
  void forget() {}
  void take(const float*, long, long, const Segment&) {}
};
inline void multiply_by_blocks(Units&, BlockRows&, const Segment&, long, float*) {}

#endif
