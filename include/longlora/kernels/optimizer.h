#pragma once
// Gradient norm, clipping and AdamW (Loshchilov & Hutter 2019) on a GPU, without a word to the host. CPU: longlora/optim/optimizer.h.
//
//   for every parameter: sum_of_squares      blocks of kNormBlock elements, each parameter starts a new one
//   gradient_norm                            the blocks' tree -> double norm on the device
//   clip_control                             -> UpdateControl on the device
//   for every parameter: adamw               reads UpdateControl
//
// The blocks and the tree are those of the CPU (src/optim/gradient_norm.cpp): squares and sums in fp64, node(l, i) = node(l-1, 2i) +
// node(l-1, 2i+1), whatever the grid.
// Arrays  contiguous, any alignment of the element; 16-byte accesses when all bases are multiples of 16 bytes
// Cost    norm 4 bytes a parameter; adamw 28 (+ 2 for the copy, + 4 for zeroing the gradient)
// Errors  a Launch that names the argument; nothing is enqueued then
#include <cstdint>

#include "longlora/kernels/types.h"

namespace longlora::kernels {

inline constexpr int64_t kNormBlock = 16384;  // elements; part of the definition of the norm, and ranks own whole blocks
constexpr int64_t norm_blocks(int64_t count) { return (count + kNormBlock - 1) / kNormBlock; }

/// Writes norm_blocks(count) doubles to `blocks`: the caller gives each parameter its own piece of one array, in a fixed order.
Launch sum_of_squares(const float* gradient, int64_t count, double* blocks, Stream);

/// *norm = sqrt(tree sum of blocks[0 .. num_blocks)). Destroys `blocks`. num_blocks 0: norm 0.
Launch gradient_norm(double* blocks, int64_t num_blocks, double* norm, Stream);

/// What the update reads on the device.
struct UpdateControl {
  float clip = 1;
  int32_t finite = 1;  // 0: the norm is infinite or no number, the update is left out
};
/// clip = min(1, max_norm / norm); max_norm 0: no clipping
Launch clip_control(const double* norm, double max_norm, UpdateControl*, Stream);

/// The same for all elements of a parameter: computed on the host in double, rounded once (`Update` in src/optim/adamw.cpp).
struct Adamw {
  float beta1 = 0, beta2 = 0;
  float keep = 1;             // 1 - rate * decay
  float step_size = 0;        // rate / (1 - beta1^t)
  float root_correction = 1;  // 1 / sqrt(1 - beta2^t)
  float eps = 0;
};

///   g = clip grad,  m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
///   master = keep master - step_size m / (sqrt(v) root_correction + eps),  copy = round(master)
/// copy       what the model computes with, of copy_type; null: the master itself
/// zero_grad  grad = 0 in the same pass
/// control    not finite: nothing is written, the gradient is not zeroed either
Launch adamw(const Adamw&, int64_t count, float* master, float* grad, float* m, float* v, void* copy, ElementType copy_type, bool zero_grad,
             const UpdateControl* control, Stream);

}  // namespace longlora::kernels
