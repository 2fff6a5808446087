#pragma once
// Tensors through a Communicator: contiguous, of any dtype; device memory goes over the host where the transport takes no other.
#include <ATen/core/Tensor.h>

#include "longlora/dist/communicator.h"

namespace longlora {

/// Both directions at once; an undefined tensor is nothing.
void exchange(dist::Communicator&, int peer, const at::Tensor& out, const at::Tensor& in);
void send(dist::Communicator&, int peer, const at::Tensor&);
void receive(dist::Communicator&, int peer, const at::Tensor&);
void broadcast(dist::Communicator&, int root, const at::Tensor&);
/// all [ranks * n] = mine [n] of every rank.
void all_gather(dist::Communicator&, const at::Tensor& mine, const at::Tensor& all);

}  // namespace longlora
