// Whole layers in one call: for each a list of operations that the Python side made of the layer's own code.
#include <memory>

#include "matrix.h"
#include "parts.h"

namespace {

enum Kind { NORM = 0, LINEAR = 1, ROPE = 2, ATTEND = 3, GATE = 4, ADD = 5, JOIN = 6 };

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

// A layer: its operations, and floats a token of its buffers.
struct Program {
  const Operation* operations;
  int64_t count;
  const int64_t *widths, *starts;
};

// What a layer is given that differs from step to step: its rope, and the arrays of the batch.
struct Frame {
  const float* rotations;
  int64_t rotated;
  const int64_t *slots, *query_start, *seq_lens;
  const int32_t* tables;
  int64_t table_step;
};

struct Step {
  Frame frame;
  long tokens, sequences;
  std::vector<Run> runs, whole;
};

Step step_of(const Frame& frame, long tokens, long sequences) {
  return {frame, tokens, sequences, runs_of(frame.query_start, sequences), {{0, tokens, false}}};
}

Attention attention_of(const Operation& o, const Buffers& b, const Step& step) {
  Attention call{};
  const Frame& frame = step.frame;
  call.slots = frame.slots, call.query_start = frame.query_start, call.seq_lens = frame.seq_lens;
  call.tables = frame.tables, call.table_step = frame.table_step;
  call.tokens = step.tokens, call.sequences = step.sequences;
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

void run(const Operation& o, const Buffers& b, const Step& step, Tasks* tasks) {
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
      for (const Run& r : wide ? step.runs : step.whole)
        multiply({x + r.first * x_step, x_step, (const void*)o.addresses[0], (Weights)o.sizes[2], (const float*)o.addresses[1],
                  adds ? start + r.first * start_step : nullptr, start_step, out + r.first * out_step, out_step,
                  r.end - r.first, o.sizes[0], o.sizes[1], r.prompts});
      return;
    }
    case ROPE:  // sizes: heads, dim, floats between heads
      return rotate(x, x_step, o.sizes[2], step.frame.rotations, out, b.tokens, o.sizes[0], o.sizes[1], step.frame.rotated);
    case ATTEND:
      return attend(attention_of(o, b, step), *tasks);
    case GATE:  // sizes: dim, activation
      return gated(x, x_step, b.at(o.in[1]) + o.offset[1], b.widths[o.in[1]], o.sizes[1], out, b.tokens, o.sizes[0]);
    case ADD:  // sizes: dim; the number multiplies the second operand
      return add(x, x_step, b.at(o.in[1]) + o.offset[1], b.widths[o.in[1]], (float)o.number, out, b.tokens, o.sizes[0]);
    case JOIN:  // sizes: dims of both
      return join(x, x_step, b.at(o.in[1]) + o.offset[1], b.widths[o.in[1]], out, b.tokens, o.sizes[0], o.sizes[1]);
  }
}

// The tasks of attention, which layers that divide it alike have in common.
class Divided {
  struct Made {
    Attention call;
    std::unique_ptr<Tasks> tasks;
  };
  std::vector<Made> made_;

  static bool alike(const Attention& a, const Attention& b) {
    return a.heads == b.heads && a.kv_heads == b.kv_heads && a.dim == b.dim && a.window == b.window &&
           a.chunk == b.chunk && a.query_start == b.query_start && a.seq_lens == b.seq_lens;
  }

 public:
  Tasks* of(const Attention& call) {
    for (Made& m : made_)
      if (alike(m.call, call)) return m.tasks.get();
    made_.push_back({call, std::make_unique<Tasks>(divide(call))});
    return made_.back().tasks.get();
  }
};

// A layer of this call, with what it reads and writes.
struct Layer {
  const Program& program;
  Buffers buffers;
  Step step;
  std::vector<Tasks*> tasks;  // by operation

  Layer(const Program& p, Buffers b, Step s, Divided& divided) : program(p), buffers(b), step(std::move(s)) {
    tasks.resize(p.count);
    for (long i = 0; i < p.count; i++)
      if (p.operations[i].kind == ATTEND) tasks[i] = divided.of(attention_of(p.operations[i], buffers, step));
  }

  void run_all() const {
    for (long i = 0; i < program.count; i++) run(program.operations[i], buffers, step, tasks[i]);
  }
};

}  // namespace

extern "C" {

// Layers one after another, x[tokens][dim] to out. `between` has room for two such values.
void ms_layers(const void* programs, const void* frames, long count, const float* x, float* out, float* between,
               float* arena, long tokens, long sequences) {
  Divided divided;
  std::vector<Layer> layers;
  layers.reserve(count);
  for (long i = 0; i < count; i++) {
    const Program& p = ((const Program*)programs)[i];
    float* after = i + 1 == count ? out : between + i % 2 * tokens * p.widths[0];
    const Buffers buffers{p.widths, p.starts, i ? layers.back().buffers.out : x, after, arena, tokens};
    layers.emplace_back(p, buffers, step_of(((const Frame*)frames)[i], tokens, sequences), divided);
  }
#pragma omp parallel
  for (const Layer& layer : layers) layer.run_all();
}
}
