// Whole numbers that are sums over spans, and how they meet the numbers of groups.
#pragma once

#include "code_panels.h"
#include "codes_by_bytes.h"

namespace {

// What the sums of a span by the planes of a row are, as a multiple of the row's scale. Three are more than a whole number of
// 32 bits has; the highest is exact as a float, and of codes of 4 bits the other two together, so their sum is rounded once.
template <int N>
inline vec joined(const ivec* planes) {
  if (N == 1) return __builtin_convertvector(planes[0], vec);
  const vec low = __builtin_convertvector((planes[1] << 8) + planes[0], vec);
  return N == 2 ? low : __builtin_convertvector(planes[N - 1], vec) * 65536.0f + low;
}

// The same of rows that are halved, and the same number: both halves are exact as floats, so their sum is rounded once, too.
inline vec joined_halves(const ivec* halves) {
  return __builtin_convertvector(halves[1], vec) * 4096.0f + __builtin_convertvector(halves[0], vec);
}

// Scales of a panel's groups, and what is subtracted for each of their inputs, as floats: [groups][WIDTH] each.
class Laid {
  std::vector<float> scales_, offsets_, zeros_;

 public:
  void take(const Segment& s, long panel) {
    floats_of(s.scales, s.block_scales, s.block, panel, 1, scales_);
    if (s.offsets.at) floats_of(s.offsets, s.block_offsets, s.block, panel, 1, offsets_);
    if (!s.zeros.at) return;
    if (!s.offsets.at) offsets_.assign(scales_.size(), 0.0f);
    floats_of(s.zeros, {}, 1, panel, 1, zeros_);
    for (size_t i = 0; i < scales_.size(); i++) offsets_[i] += scales_[i] * zeros_[i];
  }
  static bool has_offsets(const Segment& s) { return s.zeros.at || s.offsets.at; }
  const float* scales() const { return scales_.data(); }
  const float* offsets() const { return offsets_.data(); }
};

// c[M][WIDTH] -= what groups have of each input, times the sums of these. Rows have `list`, `count` and `sums`, as ByteRows do.
template <int M, class Rows>
inline void subtract_some(const Rows& rows, long row, const float* offsets, float* c, long ldc) {
  vec totals[M][VECTORS];
  for (int i = 0; i < M; i++)
    for (int v = 0; v < VECTORS; v++) totals[i][v] = load(c + i * ldc + v * LANES);
  for (const Span& span : rows.list) {
    const float* sums = rows.sums.data() + span.number * rows.count + row;
    for (int v = 0; v < VECTORS; v++) {
      const vec offset = load(offsets + span.group * WIDTH + v * LANES);
      for (int i = 0; i < M; i++) totals[i][v] -= offset * sums[i];
    }
  }
  for (int i = 0; i < M; i++)
    for (int v = 0; v < VECTORS; v++) store(c + i * ldc + v * LANES, totals[i][v]);
}

template <class Rows>
inline void subtract_offsets(const Rows& rows, const float* offsets, float* c, long ldc) {
  long row = 0;
  for (; row + 4 <= rows.count; row += 4) subtract_some<4>(rows, row, offsets, c + row * ldc, ldc);
  for (; row < rows.count; row++) subtract_some<1>(rows, row, offsets, c + row * ldc, ldc);
}

}  // namespace
