// Products of codes with rows that are whole numbers: for each span of a row a scale, and numbers in so many bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "codes.h"
#include "matrix.h"

constexpr long BYTES_SPAN = 32;  // inputs that share a scale at most, a multiple of every chunk
constexpr long QUADS = BYTES_SPAN / 4;
constexpr long AHEAD_BYTES = 2048;  // of a panel that are fetched before they are read

// Rows as whole numbers of `planes` bytes: words[spans][rows][planes][QUADS], the lowest bytes first. A quad is four
// inputs: of each eight those of even numbers, then the others.
//
// Where they are `halved`, numbers of three bytes are words[spans][rows][2][2 * QUADS]: halves of 12 bits, the lower first, and of each first
// what is above its lowest 4 bits, then those. Codes of 4 bits meet them as bytes that are 16 times as large, then as they are.
class ByteRows {
  const float* from_ = nullptr;
  const Segment* of_ = nullptr;

  template <int N, bool HALVED>
  void take_planes(const float* from, long step);
  template <int N, bool HALVED, int WANTED>
  void take_spans(const float* from, long step);

 public:
  long count = 0;
  bool halved = false;
  std::vector<Span> list;       // of all inputs
  std::vector<uint32_t> words;
  std::vector<int32_t> starts;  // [spans][rows][planes], what sums begin with, where codes count from a base
  std::vector<float> scales, sums;  // [spans][rows]; sums are those of the span's inputs

  void forget() { from_ = nullptr; }  // what lay at these addresses
  void take(const float* from, long step, long rows, const Segment& s);
};

// c[rows][panels] += rows * panels of a segment.
void multiply_by_bytes(Units& units, const ByteRows& rows, const Segment& s, long panel, long panels, float* c, long ldc);
