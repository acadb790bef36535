// Products of codes on matrix units (matrix.h). What the codes of a span mean is multiplied in bfloat16, which has all of
// it, by rows in planes, and the sum of a span meets the numbers of its group outside of the units.
//
// An instruction takes as long for one row as for HEIGHT, and what comes out has to be read and added for each span, so
// few rows are multiplied faster without the units. What decides is how many new tokens a token's sequence has, never how many rows
// there are.
#pragma once

#include <cstdint>
#include <vector>

#include "codes.h"
#include "matrix.h"

// Whether the units multiply a segment by rows of sequences that have many.
bool by_units(const Segment& s);

#if defined(MATRIX_UNITS)

// Rows as tiles of pairs of inputs, split into planes: three are a row to the bit, one is its rounding.
class UnitRows {
  const float* from_ = nullptr;
  const Segment* of_ = nullptr;
  std::vector<Line<uint32_t>> words_;
  long steps_ = 0;

 public:
  long count = 0, planes = 0;
  std::vector<Span> list;   // of all inputs
  std::vector<float> sums;  // [spans][rows] of the inputs, where they are wanted

  void forget() { from_ = nullptr; }  // what lay at these addresses
  void take(const float* from, long step, long rows, const Segment& s);

  // The first tile of a step of HEIGHT rows from `row` on, plane by plane.
  uint32_t* tile(long step, long row);
};

// c[rows][WIDTH] += rows * a panel.
void multiply_by_units(Units& units, UnitRows& rows, const Segment& s, long panel, float* c);

#else

struct UnitRows {
  void forget() {}
  void take(const float*, long, long, const Segment&) {}
};
inline void multiply_by_units(Units&, UnitRows&, const Segment&, long, float*) {}

#endif
