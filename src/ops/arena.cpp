#include "longlora/ops/arena.h"

#include <ATen/ops/empty.h>
#include <c10/util/accumulate.h>

#include <algorithm>

#include "longlora/core/error.h"
#include "longlora/ops/memory_counter.h"

namespace longlora {
namespace {

at::Tensor allocate(int64_t bytes, const at::Device& device) {
  const MemoryTag tag(Component::activations);
  return at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
}
int64_t aligned(int64_t bytes) { return (bytes + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment; }

}  // namespace

void Arena::reserve(int64_t bytes) {
  LONGLORA_INVARIANT(used_[0] == 0 && used_[1] == 0);
  peak_ = 0;
  if (aligned(bytes) == this->bytes()) return;
  block_ = at::Tensor();  // free before allocating: the two never coexist
  block_ = allocate(aligned(bytes), device_);
}

void Arena::settle() {
  const int64_t peak = peak_;
  if (peak > bytes()) reserve(peak);
  peak_ = peak;
}

void Arena::release() {
  LONGLORA_INVARIANT(used_[0] == 0 && used_[1] == 0);
  block_ = at::Tensor();
  peak_ = 0;
}

at::Tensor Arena::take(End end, int64_t bytes) {
  const int64_t before = used(end), after = before + aligned(bytes), other = used(end == End::bottom ? End::top : End::bottom);
  const bool fits = after + other <= this->bytes();
  at::Tensor taken = fits ? block_.narrow(0, end == End::bottom ? before : this->bytes() - after, bytes) : allocate(bytes, device_);
  used_[static_cast<int>(end)] = after;
  peak_ = std::max(peak_, after + other);
  return taken;
}

at::Tensor Arena::take(End end, at::IntArrayRef sizes, const at::TensorOptions& options) {
  const at::ScalarType type = c10::typeMetaToScalarType(options.dtype());
  return take(end, c10::multiply_integers(sizes) * static_cast<int64_t>(c10::elementSize(type))).view(type).view(sizes);
}

void Arena::give_back(End end, int64_t used) {
  LONGLORA_INVARIANT(used <= this->used(end));
  used_[static_cast<int>(end)] = used;
}

}  // namespace longlora
