// What the sources offer each other. Every part shares its work among the threads that call it together (OpenMP's
// orphaned loops): called outside of a parallel region it runs alone. All end with the threads in step.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

// What weights are of, and whether rows are rounded to bfloat16 before they are multiplied by them. `w` of CODES is a
// CodedWeight of codes.h.
enum Weights : long { FLOAT32 = 0, BFLOAT16 = 1, BFLOAT16_ROUNDS = 2, CODES = 3 };

class Change;

constexpr long FEW_TOKENS = 16;  // new tokens of one sequence that are attended, and meet codes, as decoding ones do, to the bit

// out[m][outputs] = x[m][inputs] * w' + bias + start + change; bias, start and change may be missing. Rows of `many` may be
// multiplied by other units than a few are, with sums in another order.
struct Product {
  const float* x;
  long x_step;
  const void* w;
  Weights weights;
  const float *bias, *start;
  long start_step;
  float* out;
  long out_step, m, inputs, outputs;
  bool many = false;
  const Change* change = nullptr;  // of low_rank.h, to rows of this product
};
void multiply(const Product& product);
// Whether that begins with rounding all rows to what matrix units read, the `split<1>()` of matrix.h.
bool rounds_at_once(Weights weights, long rows, long inputs);

// A row of a weight in panels that is no CodedWeight, in float32.
void read_row(const void* packed, Weights weights, int64_t row, long inputs, float* out);

// RMS norm over the last axis of x[outer][inner][dim]; out is [outer][inner * dim].
void normalise(const float* x, long outer_step, long inner_step, const float* w, float eps, float* out, long outer,
               long inner, long dim);

// out[rows][dim] = activation(gate[rows][dim]) * up[rows][dim]; the activation's number is that of pointwise.cpp
void gated(const float* gate, long gate_step, const float* up, long up_step, long activation, float* out, long rows,
           long dim);

// Rotary positions: x[tokens][heads][dim] by rotations[tokens][rotated], cosines and sines of half of it each.
void rotate(const float* x, long token_step, long head_step, const float* rotations, float* out, long tokens, long heads,
            long dim, long rotated);

// out[rows][dim] = a[rows][dim] + b[rows][dim] * scale
void add(const float* a, long a_step, const float* b, long b_step, float scale, float* out, long rows, long dim);

// out[rows][a_dim + b_dim]: a and b beside each other
void join(const float* a, long a_step, const float* b, long b_step, float* out, long rows, long a_dim, long b_dim);

// Where a layer's keys and values lie. Formats with scales have one for each head of a token beside them; where a
// checkpoint says so, a key head is divided by its factor before it is stored.
struct Store {
  char *keys, *values;
  float *key_scales, *value_scales;
  const float *key_factors, *value_factors;
};

// One call of attention; arrays are those of the Python side.
struct Attention {
  const float *q, *k, *v;
  long q_step, k_step, v_step;  // elements between tokens; the heads of a token are contiguous
  float* out;
  Store store;
  long kind, heads, kv_heads, dim, page, window, chunk;  // kind of the cache; window 0, chunk 0: none
  const int64_t *slots, *query_start, *seq_lens;
  const int32_t* tables;
  long table_step, tokens, sequences;
  float scale, cap;    // cap 0: none
  const float* sinks;  // a score a head, or nothing

  long group() const { return heads / kv_heads; }
  long bytes() const { return kind == 0 ? 4 : kind == 1 || kind == 3 ? 2 : 1; }
  long first_seen(long position) const {  // the first position that one sees
    return std::max(window ? std::max(0L, position - window + 1) : 0, chunk ? position / chunk * chunk : 0);
  }
};

struct Task {
  long sequence, head, first, end;  // new tokens of the sequence, or chunks of positions
  long part;                        // where the outcome of the first chunk is
  long token;                       // which looks at the chunks
};

// A chunk of positions, from `first` on, that some new tokens of a sequence look at, each as far as itself: those of as many
// `joins`, of which it is the chunk of that number.
struct Chunk {
  long sequence, head, first, number, join, tokens;
};

struct Tasks {
  std::vector<Chunk> decodes;
  std::vector<Task> prompts, joins;
  std::vector<float> parts;
};

Tasks divide(const Attention& call);                 // by one thread
void attend(const Attention& call, Tasks& tasks);    // by all
