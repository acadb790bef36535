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
  std::vector<float> between;  // [rows][parts][rank], of the projection that is corrected, as the second half reads it

  Adapted(const int64_t* order, const int64_t* groups, long adapters);

  // Has room for the change of this projection; by one thread, before any of them is computed.
  void reserve(const LowRank& c);
};

// What adapters change in the outcome of a projection. It is made of x[row] * down for each row that has an adapter: by all
// threads, which end in step where they share the work, and then each has the same.
class Change {
  const LowRank& c_;
  const Adapted& adapted_;
  const float* made_;
  long step_;  // numbers from a row of what is made to the next

 public:
  Change(const LowRank& c, Adapted& adapted, const float* x, long x_step);

  // Whether no `width` columns, from a multiple of it on, are of two parts, so that they can be added to by themselves.
  bool by_columns(long width) const;
  // What some columns need comes nearer.
  void fetch(long column, long width) const;
  // out[row] += made[row] * up in some columns: by whoever has just made these of all rows.
  void add(long column, long width, float* out, long out_step) const;
  // The same in all columns, by all threads, which end in step.
  void add(float* out, long out_step) const;
};
