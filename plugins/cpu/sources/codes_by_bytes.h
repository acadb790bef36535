// Products of codes with rows that are whole numbers: for each span of a row a scale, and numbers in so many bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "codes.h"

constexpr long BYTES_SPAN = 32;  // inputs that share a scale at most, a multiple of every chunk
constexpr long QUADS = BYTES_SPAN / 4;

// Rows as whole numbers of `planes` bytes: words[spans][rows][planes][QUADS], the lowest bytes first. A quad is four
// inputs: of each eight those of even numbers, then the others.
class ByteRows {
  const float* from_ = nullptr;
  const Segment* of_ = nullptr;

  template <int N>
  void take_planes(const float* from, long step);

 public:
  long count = 0;
  std::vector<uint32_t> words;
  std::vector<int32_t> starts;  // [spans][rows][planes], what sums begin with
  std::vector<float> scales, sums;  // [spans][rows]; sums are those of the span's inputs

  void forget() { from_ = nullptr; }  // what lay at these addresses
  void take(const float* from, long step, long rows, const Segment& s);
};

// c[rows][panels] += rows * panels of a segment.
void multiply_by_bytes(const ByteRows& rows, const Segment& s, long panel, long panels, float* c, long ldc);
