#pragma once
// Token embedding, forward and backward. On a device the matrices have no gaps between rows.
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "longlora/ops/host_list.h"

namespace longlora {

/// x[n] = weight[ids[n]]. errors: an id outside [0, V) is ErrorKind::data naming the position and the id
void embedding_forward(const at::Tensor& weight_VC, const IntList& ids, at::Tensor& x_NC);

/// d_weight[ids[n]] += d_x[n] in ascending n, fp32. Threads own columns, so bits do not depend on their number.
void embedding_backward(const IntList& ids, const at::Tensor& d_x_NC, at::Tensor& d_weight_VC);

}  // namespace longlora
