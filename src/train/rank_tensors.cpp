#include "train/rank_tensors.h"

#include "longlora/core/error.h"
#include "longlora/ops/accelerator.h"

namespace longlora {
namespace {

using dist::Buffer;
using dist::Communicator;
using dist::ConstBuffer;

bool over_host(const Communicator& ranks, const at::Tensor& t) { return t.defined() && !t.is_cpu() && !ranks.takes_device_memory(); }

/// What the transport reads or writes in place of `t`.
at::Tensor reachable(const Communicator& ranks, const at::Tensor& t, bool with_values) {
  if (!t.defined()) return t;
  LONGLORA_INVARIANT(t.is_contiguous());
  if (!over_host(ranks, t)) return t;
  const at::Tensor staged = accelerator::staging(t.sizes(), t.scalar_type());
  if (with_values) staged.copy_(t);
  return staged;
}

dist::Memory memory_of(const at::Tensor& t) { return t.is_cpu() ? dist::Memory::host : dist::Memory::device; }
ConstBuffer source(const at::Tensor& t) {
  if (!t.defined()) return {};
  return {static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes(), memory_of(t)};
}
Buffer target(const at::Tensor& t) {
  if (!t.defined()) return {};
  return {static_cast<std::byte*>(t.mutable_data_ptr()), t.nbytes(), memory_of(t)};
}
dist::Stream stream_of(const at::Tensor& t) { return !t.defined() || t.is_cpu() ? nullptr : accelerator::current_stream(t.device()); }

void take_back(const at::Tensor& reachable, const at::Tensor& t) {
  if (t.defined() && !reachable.is_same(t)) t.copy_(reachable);
}

}  // namespace

void exchange(Communicator& ranks, int peer, const at::Tensor& out, const at::Tensor& in) {
  const at::Tensor from = reachable(ranks, out, true), to = reachable(ranks, in, false);
  ranks.exchange(peer, source(from), target(to), stream_of(from.defined() ? from : to));
  take_back(to, in);
}

void send(Communicator& ranks, int peer, const at::Tensor& t) {
  const at::Tensor from = reachable(ranks, t, true);
  ranks.send(peer, source(from), stream_of(from));
}

void receive(Communicator& ranks, int peer, const at::Tensor& t) {
  const at::Tensor to = reachable(ranks, t, false);
  ranks.receive(peer, target(to), stream_of(to));
  take_back(to, t);
}

void broadcast(Communicator& ranks, int root, const at::Tensor& t) {
  const at::Tensor both = reachable(ranks, t, ranks.rank() == root);
  ranks.broadcast(target(both), root, stream_of(both));
  if (ranks.rank() != root) take_back(both, t);
}

void all_gather(Communicator& ranks, const at::Tensor& mine, const at::Tensor& all) {
  const at::Tensor from = reachable(ranks, mine, true), to = reachable(ranks, all, false);
  ranks.all_gather(source(from), target(to), stream_of(from));
  take_back(to, all);
}

}  // namespace longlora
