// Products of low rank that adapters add to the outcomes of projections, each to the rows that have it.
#pragma once

#include <cstdint>
#include <vector>

constexpr long MOST_PARTS = 8;

// Of each slot, from the first on, panels of 16 columns of two matrices: down[inputs][parts][rank] with inputs filled up to a
// multiple of 32, and of each part up[rank][its outputs] filled up to a multiple of 16. `rank` is the slot's, a multiple of 16;
// 0: no change. In bfloat16, two numbers of a column lie beside each other, and what they are multiplied by is rounded, too.
struct LowRank {
  const void *down, *up;
  const int64_t* ranks;
  int64_t down_step, up_step, inputs, outputs, parts, in_bfloat16, sizes[MOST_PARTS];
};

// The rows of a step that have adapters, in blocks of few rows of one adapter.
struct Adapted {
  struct Block {
    long slot, first, count;  // the slot counted from 0; entries of `order`
  };
  const int64_t* order;
  std::vector<Block> blocks;
  long rows = 0;
  std::vector<float> between;  // [rows][parts][rank], of the projection that is corrected

  Adapted(const int64_t* order, const int64_t* groups, long adapters);

  // Has room for the change of this projection; by one thread, before any of them is computed.
  void reserve(const LowRank& c);
};

// The first half of a change, x[row] * down for each row that has an adapter. Threads do not end in step: what comes before
// the second half has to bring them there.
void shrink(const LowRank& c, Adapted& adapted, const float* x, long x_step);

// out[row] += what the first half made * up. By all threads, which end in step.
void expand(const LowRank& c, const Adapted& adapted, float* out, long out_step);
