#pragma once
// A pass over one rank's part of rows that several ranks share: the part, and the neighbours.
#include <ATen/core/Tensor.h>

#include "longlora/config/sequence_parts.h"
#include "longlora/dist/communicator.h"

namespace longlora {

struct SequenceContext {
  dist::Communicator* group = nullptr;  // rank p holds part p
  SequencePart part;
  int64_t half_group = 0;  // tokens
};

enum class Neighbour { left, right };

/// `out` goes to one neighbour while `in` comes from the other; undefined: nothing. Contiguous tensors on one device. All ranks of the
/// group call it with the same direction; pairs (0,1) (2,3) .. talk first, then (1,2) (3,4) ..: nobody waits in a circle or a chain.
void pass_on(const SequenceContext&, Neighbour to, const at::Tensor& out, at::Tensor& in);

}  // namespace longlora
