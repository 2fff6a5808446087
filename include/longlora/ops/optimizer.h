#pragma once
// What an optimizer step does on a device, without a word to the host: gradient norm, clip factor and finite flag, AdamW that reads them.
// On the CPU the same arithmetic is in src/optim. Every function refuses CPU tensors, and any tensor in a build without kernels.
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "longlora/kernels/optimizer.h"

namespace longlora {

using kernels::kNormBlock, kernels::norm_blocks;

/// blocks fp64 [norm_blocks(numel)]: sums of squares of the fp32 gradient.
void square_sums(const at::Tensor& gradient, at::Tensor blocks);
/// norm fp64 [1] = sqrt of the tree sum of all blocks, which are destroyed.
void finish_norm(at::Tensor blocks, at::Tensor norm);
/// control [8 bytes] = {min(1, max_norm / norm), is the norm finite}; max_norm 0: no clipping.
void control_update(const at::Tensor& norm, double max_norm, at::Tensor control);

/// The same for all elements of a parameter.
struct AdamwNumbers {
  float beta1, beta2, keep;    // keep: 1 - rate * decay
  float step_size;             // rate / (1 - beta1^t)
  float root_correction, eps;  // 1 / sqrt(1 - beta2^t)
};
/// Refreshes `weight` where it is not the master itself; writes nothing when the control says that the norm is not finite.
void adamw_update(const AdamwNumbers&, at::Tensor master, at::Tensor gradient, at::Tensor m, at::Tensor v, at::Tensor weight,
                  const at::Tensor& control);

}  // namespace longlora
