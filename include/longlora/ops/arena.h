#pragma once
// One allocation that everything a pass needs besides parameters is cut out of, from both ends: what is kept from the bottom, workspace
// from the top. Reserved once, reused by every pass: no fragmentation, no allocation after the first step.
#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>
#include <c10/util/ArrayRef.h>

#include <cstdint>

namespace longlora {

class Arena {
 public:
  enum class End : uint8_t { bottom, top };
  static constexpr int64_t kAlignment = 256;  // bytes

  explicit Arena(const at::Device& device) : device_(device) {}
  Arena(const Arena&) = delete;

  /// Holds `bytes` from now on; contents are lost. Nothing may be in use. Fails as an allocation fails.
  void reserve(int64_t bytes);
  /// With nothing in use: as large as all that was ever in use at the same time.
  void settle();
  void release();

  /// Undefined contents, valid until given back. Begins at a multiple of kAlignment from the begin of the arena. Where the arena is too
  /// small the tensor is an allocation of its own, and `settle` makes up for it.
  at::Tensor take(End, int64_t bytes);
  at::Tensor take(End, at::IntArrayRef sizes, const at::TensorOptions&);  // of their dtype
  /// In use at one end; `give_back` returns what was taken since it had this value.
  int64_t used(End end) const { return used_[static_cast<int>(end)]; }
  void give_back(End end, int64_t used);

  int64_t bytes() const { return block_.defined() ? block_.numel() : 0; }
  int64_t peak_bytes() const { return peak_; }  // most in use at the same time since `reserve` or `release`

 private:
  at::Device device_;
  at::Tensor block_;  // bytes
  int64_t used_[2] = {0, 0}, peak_ = 0;
};

/// Gives back at its end what was taken from one end of the arena since its begin.
class ArenaScope {
 public:
  ArenaScope(Arena& arena, Arena::End end) : arena_(arena), end_(end), used_(arena.used(end)) {}
  ~ArenaScope() { arena_.give_back(end_, used_); }
  ArenaScope(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::End end_;
  int64_t used_;
};

}  // namespace longlora
