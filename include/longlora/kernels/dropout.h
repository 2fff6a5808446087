#pragma once
// Dropout of LoRA inputs on a GPU, by counters (docs/determinism.md): nothing is stored, backward computes the same mask again. CPU:
// apply_dropout in longlora/ops/linear.h, whose bits these are.
//
//   out[n, i] = (or +=) x[n, i] / (1 - p)  if uniform >= p, else 0,    uniform = word (e % 4) of Philox4x32-10 / 2^32, to 24 bits
//   key = seed; counter = {e / 4, place, step, global_rows[r]},  r = (first_row + n) / tokens,  e = (first_row + n) % tokens * width + i
//
// Rows     any row stride, any alignment of the element; out may be x
// Maths    fp32, one rounding at the end
// Cost     one read and one write a value, ten rounds of Philox for four values
// Errors   a Launch that names the argument; nothing is enqueued then
#include <cstdint>

#include "longlora/kernels/types.h"

namespace longlora::kernels {

/// Rows of the micro-batch that one launch may touch: their numbers travel in the launch itself.
inline constexpr int64_t kDropoutRows = 64;

struct Dropout {
  ElementType type = ElementType::bf16;
  int64_t rows = 0, width = 0, tokens = 0;  // `tokens` consecutive rows have one global row
  int64_t first_row = 0;                    // of the micro-batch
  float drop_probability = 0, keep_scale = 1;
  uint64_t seed = 0;
  uint32_t place = 0, step = 0;  // second and third word of the counter
  bool accumulate = false;
};

/// global_rows  host memory, num_global_rows of them, for micro-batch rows 0, 1, ...: covers first_row .. first_row + rows - 1
Launch dropout(const Dropout&, ConstRows x, Rows out, const uint32_t* global_rows, int64_t num_global_rows, Stream);

}  // namespace longlora::kernels
