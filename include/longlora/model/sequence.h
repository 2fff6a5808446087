#pragma once
// Gradients and losses of rows that several ranks share: each rank has those of its part (LlamaModel::set_sequence_group).
#include <span>

#include "longlora/dist/communicator.h"
#include "longlora/model/parameter.h"
#include "longlora/ops/cross_entropy.h"

namespace longlora {

/// Parameter::grad and the loss become the sums over the ranks of the group, added in ascending rank order, the gradients in fp32 and the
/// loss in fp64: the same bits on every rank. Collective, once for every shard, before gradients of other shards are added.
///
/// traffic  2 (P - 1) / P x 4 bytes a trainable value, sent and received, by P ranks (a power of two)
/// memory   two buffers of at most 16 MiB
/// cost     the host waits for the other ranks' target counts; a loss that is pending on a device stays pending
void add_over_sequence_ranks(std::span<Parameter* const> trainable, LossSum& loss, dist::Communicator& group);

}  // namespace longlora
