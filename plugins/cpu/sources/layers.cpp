// Whole layers in one call: for each a list of operations that the Python side made of the layer's own code.
#if defined(_OPENMP)
#include <omp.h>
#endif

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "codes.h"
#include "low_rank.h"
#include "matrix.h"
#include "parts.h"

extern "C" void ms_rows(const void* packed, long weights, const int64_t* ids, long count, long inputs, void* out);

namespace {

constexpr long TOGETHER = 128;  // rows of prompts that a thread takes through operations

long threads() {
#if defined(_OPENMP)
  return omp_get_num_threads();
#else
  return 1;
#endif
}

enum Kind { NORM = 0, LINEAR = 1, ROPE = 2, ATTEND = 3, GATE = 4, ADD = 5, JOIN = 6 };

// Operands are buffer and offset; what the numbers in `sizes` and `addresses` are is read off `run`.
struct Operation {
  int64_t kind, in[3], offset[3], out, sizes[7], addresses[3];
  double number, cap;
};

// Buffers hold `width` floats a token: 0 is the layer's input, 1 its output, the others lie in one arena. Of some rows
// alone those that are `near` lie in memory that is used for the next rows again.
struct Buffers {
  const int64_t *widths, *starts;
  const float* x;
  float *out, *arena;
  long tokens;  // in the arena
  long first = 0;
  float* own = nullptr;
  const std::vector<bool>* near = nullptr;

  float* at(int64_t buffer) const {
    if (near && (*near)[buffer]) return own + starts[buffer] * TOGETHER;
    float* all = buffer == 0 ? (float*)x : buffer == 1 ? out : arena + starts[buffer] * tokens;
    return all + first * widths[buffer];
  }
};

// Neighbouring tokens that are all of sequences that have many new ones, or all of others.
struct Run {
  long first, end;
  bool many;
};

// A token's numbers shall not depend on who is beside it. So what multiplies it depends on its sequence alone: whether
// that has more new tokens than `few`.
std::vector<Run> runs_of(const int64_t* query_start, long sequences, long few) {
  std::vector<Run> runs;
  for (long s = 0; s < sequences; s++) {
    long first = query_start[s], end = query_start[s + 1];
    bool many = matrix_units() && end > first + few;
    if (runs.empty() || runs.back().many != many) runs.push_back({first, end, many});
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

// What a layer is given that differs from step to step: its rope, the arrays of the batch, and rows by adapter.
struct Frame {
  const float* rotations;
  int64_t rotated;
  const int64_t *slots, *query_start, *seq_lens;
  const int32_t* tables;
  int64_t table_step;
  const int64_t *adapted, *groups;
  int64_t adapters;
};

// Codes are multiplied by drafts that are verified as by the tokens that they may become, to the bit. With weights of float32 that would
// take too long.
struct Step {
  Frame frame;
  long tokens, sequences;
  std::vector<Run> by_floats, by_codes, whole;
  Adapted* adapted;
};

Step step_of(const Frame& frame, long tokens, long sequences, Adapted* adapted) {
  const auto runs = [&](long few) { return runs_of(frame.query_start, sequences, few); };
  return {frame, tokens, sequences, runs(1), runs(FEW_TOKENS), {{0, tokens, false}}, adapted};
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
  call.store = *(const Store*)o.addresses[0];
  call.heads = o.sizes[0], call.kv_heads = o.sizes[1], call.dim = o.sizes[2], call.page = o.sizes[3];
  call.window = o.sizes[4], call.kind = o.sizes[5], call.chunk = o.sizes[6];
  call.scale = (float)o.number, call.cap = (float)o.cap;
  return call;
}

// What is computed for each row by itself, everything but attention, of `count` rows.
void run(const Operation& o, const Buffers& b, const Step& step, long count) {
  const long x_step = b.widths[o.in[0]], out_step = b.widths[o.out];
  const float* x = b.at(o.in[0]) + o.offset[0];
  float* out = b.at(o.out);
  const auto second = [&] { return b.at(o.in[1]) + o.offset[1]; };
  switch (o.kind) {
    case NORM:  // sizes: rows a token, dim, floats between rows
      return normalise(x, x_step, o.sizes[2], (const float*)o.addresses[0], (float)o.number, out, count, o.sizes[0],
                       o.sizes[1]);
    // sizes: inputs, outputs, kind of the weights; the second operand, if there is one, is added, and so is what adapters
    // change for the rows that have one
    case LINEAR: {
      const float* start = o.in[1] >= 0 ? second() : nullptr;
      const long start_step = start ? b.widths[o.in[1]] : 0;
      const LowRank* low_rank = step.adapted ? (const LowRank*)o.addresses[2] : nullptr;
      std::optional<Change> change;
      const bool rounds = rounds_at_once((Weights)o.sizes[2], count, o.sizes[0]);
      if (low_rank) change.emplace(*low_rank, *step.adapted, x, x_step, rounds ? count : 0);
      // Weights that all rows are multiplied by in one way are read once.
      const bool codes = o.sizes[2] == CODES && units_multiply(*(const CodedWeight*)o.addresses[0]);
      const std::vector<Run>& runs = codes ? step.by_codes : o.sizes[2] == FLOAT32 ? step.by_floats : step.whole;
      const bool alone = change && runs.size() == 1;  // one product makes all rows, and adds what is changed
      for (const Run& r : runs) {
        const long first = std::max(r.first - b.first, 0L), end = std::min(r.end - b.first, count);
        if (first >= end) continue;
        multiply({x + first * x_step, x_step, (const void*)o.addresses[0], (Weights)o.sizes[2], (const float*)o.addresses[1],
                  start ? start + first * start_step : nullptr, start_step, out + first * out_step, out_step, end - first,
                  o.sizes[0], o.sizes[1], r.many, alone ? &*change : nullptr});
      }
      if (change && !alone) change->add(out, out_step);
      return;
    }
    case ROPE:  // sizes: heads, dim, floats between heads
      return rotate(x, x_step, o.sizes[2], step.frame.rotations + b.first * step.frame.rotated, out, count, o.sizes[0],
                    o.sizes[1], step.frame.rotated);
    case GATE:  // sizes: dim, activation
      return gated(x, x_step, second(), b.widths[o.in[1]], o.sizes[1], out, count, o.sizes[0]);
    case ADD:  // sizes: dim; the number multiplies the second operand
      return add(x, x_step, second(), b.widths[o.in[1]], (float)o.number, out, count, o.sizes[0]);
    case JOIN:  // sizes: dims of both
      return join(x, x_step, second(), b.widths[o.in[1]], out, count, o.sizes[0], o.sizes[1]);
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

// Operations one after another that take each row by itself, or attention.
struct Stretch {
  long begin, end;
  std::vector<bool> near{};  // by buffer: what no other stretch touches
  bool apart = true;         // whether the other buffers that it touches lie apart: those of one place follow one another
};

// Whether buffers that are not near share memory: what is made of some rows would lie where others are yet to be read.
bool lie_apart(const Program& p, const Stretch& stretch, const std::vector<bool>& touched) {
  const long count = touched.size();
  for (long a = 2; a < count; a++)
    for (long b = a + 1; b < count; b++) {
      const bool both = touched[a] && touched[b] && !stretch.near[a] && !stretch.near[b];
      if (both && p.starts[a] < p.starts[b] + p.widths[b] && p.starts[b] < p.starts[a] + p.widths[a]) return false;
    }
  return true;
}

std::vector<Stretch> stretches_of(const Program& p) {
  std::vector<Stretch> made;
  long count = 0;
  const auto buffers_of = [&](long i) {
    const Operation& o = p.operations[i];
    return std::array<int64_t, 4>{o.in[0], o.in[1], o.in[2], o.out};
  };
  for (long i = 0; i < p.count; i++) {
    const bool goes_on = i && p.operations[i].kind != ATTEND && p.operations[i - 1].kind != ATTEND;
    if (goes_on) made.back().end = i + 1;
    else made.push_back({i, i + 1});
    for (int64_t buffer : buffers_of(i)) count = std::max(count, (long)buffer + 1);
  }
  std::vector<std::vector<bool>> touched(made.size(), std::vector<bool>(count));
  std::vector<long> users(count);  // how many stretches touch a buffer
  for (long s = 0; s < (long)made.size(); s++) {
    for (long i = made[s].begin; i < made[s].end; i++)
      for (int64_t buffer : buffers_of(i))
        if (buffer >= 0) touched[s][buffer] = true;
    for (long buffer = 0; buffer < count; buffer++) users[buffer] += touched[s][buffer];
  }
  for (long s = 0; s < (long)made.size(); s++) {
    for (long buffer = 0; buffer < count; buffer++)
      made[s].near.push_back(buffer > 1 && touched[s][buffer] && users[buffer] == 1);
    made[s].apart = lie_apart(p, made[s], touched[s]);
  }
  return made;
}

thread_local std::unique_ptr<float[]> own;  // of so many floats; what is not touched takes no memory
thread_local long own_size = 0;

// A layer of this call, with what it reads and writes.
class Layer {
  const Program& program_;
  Buffers buffers_;
  Step step_;
  std::vector<Stretch> stretches_;  // of long prompts; other steps do without
  std::vector<Tasks*> tasks_;  // by operation
  long width_ = 0;             // of the arena

  void run_whole(long begin, long end) const {
    for (long i = begin; i < end; i++) {
      const Operation& o = program_.operations[i];
      if (o.kind == ATTEND) attend(attention_of(o, buffers_, step_), *tasks_[i]);
      else run(o, buffers_, step_, buffers_.tokens);
    }
  }

  // The rows of long prompts go through all operations of a stretch some at a time, by one thread, whose cache keeps what
  // one leaves for the next.
  void run_rows(const Stretch& stretch) const {
    const long tokens = buffers_.tokens;
    if (!stretch.apart || tokens < TOGETHER * 2 * threads()) return run_whole(stretch.begin, stretch.end);
    if (own_size < width_ * TOGETHER) own.reset(new float[own_size = width_ * TOGETHER]);
    Buffers some = buffers_;
    some.own = own.get(), some.near = &stretch.near;
#pragma omp for schedule(dynamic, 1)
    for (long first = 0; first < tokens; first += TOGETHER) {
      some.first = first;
      const long count = std::min(TOGETHER, tokens - first);
#pragma omp parallel num_threads(1)  // the loops of operations are this thread's alone
      for (long i = stretch.begin; i < stretch.end; i++) run(program_.operations[i], some, step_, count);
    }
  }

 public:
  Layer(const Program& p, Buffers b, Step s, Divided& divided)
      : program_(p), buffers_(b), step_(std::move(s)) {
    if (!step_.adapted && b.tokens >= 2 * TOGETHER) stretches_ = stretches_of(p);
    tasks_.resize(p.count);
    for (long i = 0; i < p.count; i++) {
      if (p.operations[i].kind == ATTEND) tasks_[i] = divided.of(attention_of(p.operations[i], buffers_, step_));
      if (p.operations[i].out > 1)
        width_ = std::max(width_, (long)(b.starts[p.operations[i].out] + b.widths[p.operations[i].out]));
    }
  }

  float* out() const { return buffers_.out; }

  void run_all() const { run_some(0, program_.count); }

  // The operations from one to before another, each the first, or the one behind an attention.
  void run_some(long begin, long end) const {
    if (stretches_.empty()) return run_whole(begin, end);
    for (const Stretch& stretch : stretches_) {
      if (stretch.begin < begin || stretch.begin >= end) continue;
      if (program_.operations[stretch.begin].kind == ATTEND) run_whole(stretch.begin, stretch.end);
      else run_rows(stretch);
    }
  }

  // Takes these rows of some buffers of another call of this layer, one for each of its own.
  void take(const Layer& other, const std::vector<int64_t>& buffers, const int64_t* rows) const {
#pragma omp for schedule(static)
    for (long i = 0; i < buffers_.tokens; i++)
      for (int64_t buffer : buffers) {
        const long width = buffers_.widths[buffer];
        std::copy_n(other.buffers_.at(buffer) + rows[i] * width, width, buffers_.at(buffer) + i * width);
      }
  }
};

// What a draft head is called with, for all its drafts of a step; `Drafting` of drafts.py.
struct Drafting {
  const Program* program;  // embedding and state side by side to state and logits side by side
  int64_t behind;          // the first operation behind the attention: what is drafted by alone goes on there
  const Frame* frames;     // of the rows that the target has computed, and of those where drafts are read
  const float* x;          // [tokens]
  int64_t tokens, sequences;
  const int64_t* lasts;  // [count], the rows of x whose results are drafted by
  int64_t count;
  const int64_t* on;  // [continuing], which of the count the sequences of the second frame are
  int64_t continuing;
  const void* table;  // of embeddings: in rows, or packed
  int64_t packed, kind, dim;
  const int64_t* ids;  // of the tokens that there are logits of; may be missing
  float *out, *next, *rotations, *arena, *arena_behind;
  int64_t* drafts;

  long state() const { return program->widths[0] - dim; }
  long width() const { return program->widths[1]; }
};

constexpr long ALONE = 1 << 22;  // products of numbers that are not worth the threads' waiting for each other

// Products of numbers of a row in the operations from one to before another.
long products(const Program& p, long begin, long end) {
  long found = 0;
  for (long i = begin; i < end; i++)
    if (p.operations[i].kind == LINEAR) found += p.operations[i].sizes[0] * p.operations[i].sizes[1];
  return found;
}

// All of some rows, that each are a sequence's only one.
void run_rows(const Drafting& d, const Frame& frame, const float* x, long rows) {
  const Program& p = *d.program;
  Divided divided;
  const Layer layer(p, {p.widths, p.starts, x, d.out, d.arena, rows}, step_of(frame, rows, rows, nullptr), divided);
#pragma omp parallel if (products(p, 0, p.count) * rows > ALONE)
  layer.run_all();
}

// The runs of the rows that are drafted by.
std::vector<Run> runs_of_lasts(const Drafting& d, const std::vector<Run>& all) {
  std::vector<Run> found;
  auto run = all.begin();
  for (long i = 0; i < d.count; i++) {
    while (run->end <= d.lasts[i]) run++;
    if (found.empty() || found.back().many != run->many) found.push_back({i, i + 1, run->many});
    else found.back().end = i + 1;
  }
  return found;
}

// The step of these rows, each multiplied as it would be among all.
Step step_of_lasts(const Drafting& d, const Step& all) {
  return {all.frame, d.count, d.count, runs_of_lasts(d, all.by_floats), runs_of_lasts(d, all.by_codes), {{0, d.count, false}}, nullptr};
}

// The buffers that operations from one on read, and those before, or whoever calls, have made.
std::vector<int64_t> handed_on(const Program& p, long begin) {
  std::vector<int64_t> found, made;
  const auto among = [](const std::vector<int64_t>& all, int64_t one) {
    return std::find(all.begin(), all.end(), one) != all.end();
  };
  for (long i = begin; i < p.count; i++) {
    for (int64_t buffer : p.operations[i].in)
      if (buffer >= 0 && !among(made, buffer) && !among(found, buffer)) found.push_back(buffer);
    made.push_back(p.operations[i].out);
  }
  return found;
}

// All that the target has computed goes as far as the attention, which needs its keys and values; the last row of each that
// is drafted by goes on, to `out`.
void follow(const Drafting& d) {
  const Program& p = *d.program;
  Divided divided;
  const Step step = step_of(d.frames[0], d.tokens, d.sequences, nullptr);
  const Layer all(p, {p.widths, p.starts, d.x, nullptr, d.arena, d.tokens}, step, divided);
  const Layer lasts(p, {p.widths, p.starts, d.next, d.out, d.arena_behind, d.count}, step_of_lasts(d, step), divided);
  const std::vector<int64_t> buffers = handed_on(p, d.behind);
#pragma omp parallel if (products(p, 0, d.behind) * d.tokens + products(p, d.behind, p.count) * d.count > ALONE)
  {
    all.run_some(0, d.behind);
    lasts.take(all, buffers, d.lasts);
    lasts.run_some(d.behind, p.count);
  }
}

// The token of highest logit in a row of results.
int64_t likeliest(const Drafting& d, long row) {
  const float* logits = d.out + row * d.width() + d.state();
  const long count = d.width() - d.state();
  float best = -INFINITY;
#pragma omp simd reduction(max : best)
  for (long i = 0; i < count; i++) best = std::max(best, logits[i]);
  const long found = std::find(logits, logits + count, best) - logits;
  return found == count ? 0 : d.ids ? d.ids[found] : found;
}

void embed(const Drafting& d, int64_t id, float* out) {
  if (!d.packed && d.kind == FLOAT32) {
    const float* row = (const float*)d.table + id * d.dim;
    std::copy(row, row + d.dim, out);
    return;
  }
  if (d.packed && d.kind == FLOAT32) return ms_rows(d.table, d.kind, &id, 1, d.dim, out);
  std::vector<uint16_t> halves;
  const uint16_t* row = (const uint16_t*)d.table + id * d.dim;
  if (d.packed) {
    halves.resize(d.dim);
    ms_rows(d.table, d.kind, &id, 1, d.dim, halves.data());
    row = halves.data();
  }
  for (long i = 0; i < d.dim; i++) {
    const uint32_t bits = (uint32_t)row[i] << 16;
    std::memcpy(out + i, &bits, sizeof bits);
  }
}

// The sequences that go on at a draft, a row each.
struct Further {
  std::vector<int64_t> slots, starts, lengths, of;  // `of`: which of the second frame's they are
  std::vector<int32_t> tables;

  Frame frame(const Drafting& d) {
    const Frame& f = d.frames[1];
    return {d.rotations, f.rotated, slots.data(), starts.data(), lengths.data(), tables.data(), f.table_step};
  }

  // Those that have a draft behind the one of that number.
  void gather(const Drafting& d, long number) {
    const Frame& f = d.frames[1];
    slots.clear(), lengths.clear(), of.clear(), tables.clear(), starts.assign(1, 0);
    for (long k = 0; k < d.continuing; k++) {
      const long row = f.query_start[k] + number;
      if (row >= f.query_start[k + 1]) continue;
      std::copy_n(f.rotations + row * f.rotated, f.rotated, d.rotations + of.size() * f.rotated);
      slots.push_back(f.slots[row]);
      lengths.push_back(f.seq_lens[k] - (f.query_start[k + 1] - row) + 1);
      tables.insert(tables.end(), f.tables + k * f.table_step, f.tables + (k + 1) * f.table_step);
      of.push_back(k);
      starts.push_back(of.size());
    }
  }
};

}  // namespace

extern "C" {

// Drafts, those of a sequence one after another: the likeliest token after the last row of each, and, where there are
// rows of the second frame, after each draft that is read there.
void ms_drafts(const void* call) {
  const Drafting& d = *(const Drafting*)call;
  std::vector<int64_t> at(d.count, 1), row(d.count);  // the next draft's place; where its state is
  std::iota(row.begin(), row.end(), 0);
  for (long k = 0; k < d.continuing; k++)
    at[d.on[k]] += d.frames[1].query_start[k + 1] - d.frames[1].query_start[k];
  for (int64_t i = 0, place = 0; i < d.count; i++) place += std::exchange(at[i], place);
  follow(d);
  for (long i = 0; i < d.count; i++) d.drafts[at[i]++] = likeliest(d, row[i]);
  Further further;
  for (long number = 0; number == 0 || !further.of.empty(); number++) {
    further.gather(d, number);
    const long rows = further.of.size(), inputs = d.program->widths[0];
    if (!rows) break;
    for (long r = 0; r < rows; r++) {
      const int64_t i = d.on[further.of[r]];
      embed(d, d.drafts[at[i] - 1], d.next + r * inputs);
      std::copy_n(d.out + row[i] * d.width(), d.state(), d.next + r * inputs + d.dim);
      row[i] = r;
    }
    run_rows(d, further.frame(d), d.next, rows);
    for (long r = 0; r < rows; r++) d.drafts[at[d.on[further.of[r]]]++] = likeliest(d, r);
  }
}

// Layers one after another, x[tokens][dim] to out. `between` has room for two such values; `kept` [count] says where the
// output of a layer goes that is wanted as well, 0 for others.
void ms_layers(const void* programs, const void* frames, long count, const float* x, float* out, float* between,
               float* arena, const int64_t* kept, long tokens, long sequences) {
  Divided divided;
  std::vector<Layer> layers;
  layers.reserve(count);
  const Frame& first = *(const Frame*)frames;
  Adapted adapted(first.adapted, first.groups, first.adapters);
  Adapted* some = first.adapters ? &adapted : nullptr;
  for (long i = 0; i < count; i++) {
    const Program& p = ((const Program*)programs)[i];
    float* after = i + 1 == count ? out : kept[i] ? (float*)kept[i] : between + i % 2 * tokens * p.widths[0];
    const Buffers buffers{p.widths, p.starts, i ? layers.back().out() : x, after, arena, tokens};
    layers.emplace_back(p, buffers, step_of(((const Frame*)frames)[i], tokens, sequences, some), divided);
    for (long k = 0; some && k < p.count; k++)
      if (p.operations[k].kind == LINEAR && p.operations[k].addresses[2])
        some->reserve(*(const LowRank*)p.operations[k].addresses[2]);
  }
#pragma omp parallel
  for (const Layer& layer : layers) layer.run_all();
}
}
