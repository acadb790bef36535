// A whole layer in one call: a list of operations that the Python side made of the layer's own code.
#include "matrix.h"
#include "parts.h"

namespace {

enum Kind { NORM = 0, LINEAR = 1, ROPE = 2, ATTEND = 3, GATE = 4, ADD = 5 };

// Operands are buffer and offset; what the numbers in `sizes` and `addresses` are is read off `run`.
struct Operation {
  int64_t kind, in[3], offset[3], out, sizes[7], addresses[2];
  double number, cap;
};

// Buffers hold `width` floats a token: 0 is the layer's input, 1 its output, the others lie in one arena.
struct Buffers {
  const int64_t *widths, *starts;
  const float* x;
  float *out, *arena;
  long tokens;

  float* at(int64_t buffer) const {
    return buffer == 0 ? (float*)x : buffer == 1 ? out : arena + starts[buffer] * tokens;
  }
};

// Neighbouring tokens that are all of prompts or all of sequences that decode.
struct Run {
  long first, end;
  bool prompts;
};

// A token's numbers shall not depend on who is beside it. So what multiplies it depends on its sequence alone: whether
// that has one new token, or more.
std::vector<Run> runs_of(const int64_t* query_start, long sequences) {
  std::vector<Run> runs;
  for (long s = 0; s < sequences; s++) {
    long first = query_start[s], end = query_start[s + 1];
    bool prompt = matrix_units() && end > first + 1;
    if (runs.empty() || runs.back().prompts != prompt) runs.push_back({first, end, prompt});
    else runs.back().end = end;
  }
  return runs;
}

// What differs from step to step.
struct Step {
  const float *cosine, *sine;
  long rotated;
  Attention attention;  // the arrays of the batch
  std::vector<Run> runs;
};

Attention attention_of(const Operation& o, const Buffers& b, const Step& step) {
  Attention call = step.attention;
  call.q = b.at(o.in[0]) + o.offset[0], call.q_step = b.widths[o.in[0]];
  call.k = b.at(o.in[1]) + o.offset[1], call.k_step = b.widths[o.in[1]];
  call.v = b.at(o.in[2]) + o.offset[2], call.v_step = b.widths[o.in[2]];
  call.out = b.at(o.out);
  call.keys = (char*)o.addresses[0], call.values = (char*)o.addresses[1];
  call.heads = o.sizes[0], call.kv_heads = o.sizes[1], call.dim = o.sizes[2], call.page = o.sizes[3];
  call.window = o.sizes[4], call.kind = o.sizes[5], call.chunk = o.sizes[6];
  call.scale = (float)o.number, call.cap = (float)o.cap;
  return call;
}

void run(const Operation& o, const Buffers& b, const Step& step, Tasks& tasks) {
  const float* x = b.at(o.in[0]) + o.offset[0];
  float* out = b.at(o.out);
  long x_step = b.widths[o.in[0]];
  switch (o.kind) {
    case NORM:  // sizes: rows a token, dim, floats between rows
      return normalise(x, x_step, o.sizes[2], (const float*)o.addresses[0], (float)o.number, out, b.tokens, o.sizes[0],
                       o.sizes[1]);
    case LINEAR: {  // sizes: inputs, outputs, kind of the weights; the second operand, if there is one, is added
      bool adds = o.in[1] >= 0;
      const float* start = adds ? b.at(o.in[1]) + o.offset[1] : nullptr;
      long start_step = adds ? b.widths[o.in[1]] : 0, out_step = b.widths[o.out];
      const bool wide = o.sizes[2] == FLOAT32;  // weights that all rows are multiplied by in one way are read once
      for (const Run& r : wide ? step.runs : std::vector<Run>{{0, b.tokens, false}})
        multiply({x + r.first * x_step, x_step, (const void*)o.addresses[0], (Weights)o.sizes[2], (const float*)o.addresses[1],
                  adds ? start + r.first * start_step : nullptr, start_step, out + r.first * out_step, out_step,
                  r.end - r.first, o.sizes[0], o.sizes[1], r.prompts});
      return;
    }
    case ROPE:  // sizes: heads, dim, floats between heads
      return rotate(x, x_step, o.sizes[2], step.cosine, step.sine, out, b.tokens, o.sizes[0], o.sizes[1], step.rotated);
    case ATTEND:
      return attend(attention_of(o, b, step), tasks);
    case GATE:  // sizes: dim, activation
      return gated(x, x_step, b.at(o.in[1]) + o.offset[1], b.widths[o.in[1]], o.sizes[1], out, b.tokens, o.sizes[0]);
    case ADD:  // sizes: dim; the number multiplies the second operand
      return add(x, x_step, b.at(o.in[1]) + o.offset[1], b.widths[o.in[1]], (float)o.number, out, b.tokens, o.sizes[0]);
  }
}

}  // namespace

extern "C" {

// `arrays` of the batch: slots, query starts, lengths, tables.
void ms_layer(const void* operations, long count, const int64_t* widths, const int64_t* starts, const float* x,
              float* out, float* arena, const float* cosine, const float* sine, long rotated, const int64_t* slots,
              const int64_t* query_start, const int64_t* seq_lens, const int32_t* tables, long table_step, long tokens,
              long sequences) {
  const Operation* list = (const Operation*)operations;
  Buffers buffers{widths, starts, x, out, arena, tokens};
  Step step{cosine, sine, rotated, {}, runs_of(query_start, sequences)};
  step.attention.slots = slots, step.attention.query_start = query_start, step.attention.seq_lens = seq_lens;
  step.attention.tables = tables, step.attention.table_step = table_step;
  step.attention.tokens = tokens, step.attention.sequences = sequences;
  std::vector<Tasks> tasks(count);
  for (long i = 0; i < count; i++)
    if (list[i].kind == ATTEND) tasks[i] = divide(attention_of(list[i], buffers, step));
#pragma omp parallel
  for (long i = 0; i < count; i++) run(list[i], buffers, step, tasks[i]);
}
}
