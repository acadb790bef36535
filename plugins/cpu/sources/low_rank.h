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

// The rows of a step that have adapters.
struct Adapted {
  struct Block {  // few rows of one adapter
    long slot, first, count;  // the slot counted from 0; entries of `order`
  };
  struct Share {  // those of an adapter among 32 neighbouring rows, and whether some are among the first or second 16
    long slot, adapter, entry, count = 0;
    bool first = false, second = false;
  };
  const int64_t* order;
  long adapters, rows = 0;
  const int64_t* groups;
  std::vector<Block> blocks;
  std::vector<std::vector<Share>> squares;  // by 32 rows
  const long number;           // of this step
  long cells = 0;              // tiles of 32 ranks of all parts, in the projection that has most of them
  std::vector<float> between;  // [rows][parts][ranks], of the projection that is corrected, as the second half reads it

  Adapted(const int64_t* order, const int64_t* groups, long adapters);

  // Has room for the change of this projection; by one thread, before any of them is computed.
  void reserve(const LowRank& c);

 private:
  void place(long adapter, long entry);
};

// What an adapter adds to the sums of 32 rows by 32 columns, whose weights are two panels.
struct Term {
  const uint16_t *one, *other;
  const uint16_t* rows;  // [32 rows][32 ranks], with nothing where rows are of others
  bool first, second;    // whether anything is in the first or second 16 rows
  long rank;             // of the adapter
};

// The same of few rows. Steps of 32 ranks are added one after another, in each those of even and of odd number by
// themselves, as matrix units do it: what a row gets does not depend on how many others there are.
struct FewRows {
  static constexpr long MOST = 3;
  const uint16_t *one, *other;
  long rank, count, rows[MOST];
  const uint16_t* made[MOST];
};

struct Terms {
  std::vector<Term> tiles;
  std::vector<FewRows> few;
  long change = 0, square, column, end;  // what they are of: columns from one on, and where those of its part end

  void clear() { tiles.clear(), few.clear(), change = 0; }
};

// What adapters change in the outcome of a projection. It is made of x[row] * down for each row that has an adapter: by all
// threads, which end in step where they share the work, and then each has the same.
class Change {
  const LowRank& c_;
  const Adapted& adapted_;
  const float* made_;
  bool some_;                     // whether there is a change
  const float* split_ = nullptr;  // the rows that this thread's split<1>() has
  long steps_ = 0;                // tiles of the highest rank
  long number_ = 0;               // among the changes that this thread adds by matrix units, from 1 on

  const uint16_t* up(long slot) const;
  const uint16_t* made(const Adapted::Share& share, long entry, long part) const;
  uint16_t* tile(const Adapted::Share& share, long part, long step) const;
  void lay_in_tiles();
  void lay(const Adapted::Share& share);
  const uint16_t* filled_end(const Adapted::Share& share, const uint16_t* from) const;
  static void move(long column, Terms& terms);

 public:
  // `rounded`: how many rows the product will multiply as split<1>() has them, which then is made here; 0: none.
  Change(const LowRank& c, Adapted& adapted, const float* x, long x_step, long rounded);

  // The rows, if this thread's split<1>() has been made of them.
  const float* split_rows() const { return split_; }

  // Whether no `width` columns, from a multiple of it on, are of two parts, so that they can be added to by themselves.
  bool by_columns(long width) const;
  // Whether products by matrix units add it to their sums: it is the same then for any rows of a projection.
  bool on_units() const;
  // What they add for rows from 32 * square on and 32 columns. `terms` may be what the same rows got in earlier columns.
  void terms(long square, long column, Terms& terms) const;
  // What some columns need comes nearer.
  void fetch(long column, long width) const;
  // out[row] += made[row] * up in some columns: by whoever has just made these of all rows.
  void add(long column, long width, float* out, long out_step) const;
  // The same in all columns, by all threads, which end in step.
  void add(float* out, long out_step) const;
};
