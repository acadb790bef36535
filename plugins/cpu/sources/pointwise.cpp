// What a block does to each token by itself: norms, gates, rope. Rows may lie apart; results are contiguous.
#include <algorithm>
#include <cmath>

#include "parts.h"
#include "vectors.h"

namespace {

void norm_row(const float* x, const float* w, float eps, float* out, long dim) {
  vec squares = {};
  long d = 0;
  for (; d + LANES <= dim; d += LANES) { vec v = load(x + d); squares += v * v; }
  float sum = total(squares);
  for (; d < dim; d++) sum += x[d] * x[d];
  float scale = 1.0f / std::sqrt(sum / dim + eps);
  for (d = 0; d + LANES <= dim; d += LANES) store(out + d, load(x + d) * scale * load(w + d));
  for (; d < dim; d++) out[d] = x[d] * scale * w[d];
}

enum Activation { SILU = 0, GELU_TANH = 1, RELU = 2 };

vec activated(vec x, long kind) {
  if (kind == RELU) return larger(x, (vec){});
  // tanh-gelu is x times a sigmoid too: (1 + tanh u) / 2 = 1 / (1 + e^-2u)
  vec u = kind == SILU ? x : 1.5957691216f * (x + 0.044715f * x * x * x);
  return x / (1.0f + exponential(-u));
}

void gate_row(const float* gate, const float* up, long kind, float* out, long dim) {
  long d = 0;
  for (; d + LANES <= dim; d += LANES) store(out + d, activated(load(gate + d), kind) * load(up + d));
  for (; d < dim; d++) out[d] = activated(spread(gate[d]), kind)[0] * up[d];
}

void rotate_head(const float* x, const float* rotations, float* out, long dim, long rotated) {
  const long half = rotated / 2;
  const float *cosine = rotations, *sine = rotations + half;
  long d = 0;
  for (; d + LANES <= half; d += LANES) {
    vec a = load(x + d), b = load(x + half + d), c = load(cosine + d), s = load(sine + d);
    store(out + d, a * c - b * s);
    store(out + half + d, b * c + a * s);
  }
  for (; d < half; d++) {
    float a = x[d], b = x[half + d];
    out[d] = a * cosine[d] - b * sine[d];
    out[half + d] = b * cosine[d] + a * sine[d];
  }
  for (d = rotated; d < dim; d++) out[d] = x[d];
}

}  // namespace

void normalise(const float* x, long outer_step, long inner_step, const float* w, float eps, float* out, long outer,
               long inner, long dim) {
#pragma omp for
  for (long i = 0; i < outer; i++)
    for (long j = 0; j < inner; j++)
      norm_row(x + i * outer_step + j * inner_step, w, eps, out + (i * inner + j) * dim, dim);
}

void gated(const float* gate, long gate_step, const float* up, long up_step, long activation, float* out, long rows,
           long dim) {
  if (rows == 1) {  // one row is divided by columns
    long pieces = dim / 512 + 1;
#pragma omp for
    for (long p = 0; p < pieces; p++) {
      long from = dim * p / pieces, to = dim * (p + 1) / pieces;
      gate_row(gate + from, up + from, activation, out + from, to - from);
    }
    return;
  }
#pragma omp for
  for (long i = 0; i < rows; i++) gate_row(gate + i * gate_step, up + i * up_step, activation, out + i * dim, dim);
}

void rotate(const float* x, long token_step, long head_step, const float* rotations, float* out, long tokens, long heads,
            long dim, long rotated) {
#pragma omp for
  for (long t = 0; t < tokens; t++)
    for (long h = 0; h < heads; h++)
      rotate_head(x + t * token_step + h * head_step, rotations + t * rotated, out + (t * heads + h) * dim, dim, rotated);
}

void add(const float* a, long a_step, const float* b, long b_step, float scale, float* out, long rows, long dim) {
#pragma omp for
  for (long i = 0; i < rows; i++)
    for (long d = 0; d < dim; d++) out[i * dim + d] = a[i * a_step + d] + b[i * b_step + d] * scale;
}

void join(const float* a, long a_step, const float* b, long b_step, float* out, long rows, long a_dim, long b_dim) {
#pragma omp for
  for (long i = 0; i < rows; i++) {
    std::copy(a + i * a_step, a + i * a_step + a_dim, out + i * (a_dim + b_dim));
    std::copy(b + i * b_step, b + i * b_step + b_dim, out + i * (a_dim + b_dim) + a_dim);
  }
}
