// What kernels call through emu/body.h: meeting points, checked accesses, asynchronous copies.
#include "emu/runtime.h"

#include <algorithm>

#include "emu/launcher.h"
#include "emu/memory.h"
#include "emu/tsan.h"

namespace longlora::emu {
namespace {

Memory& memory() {
  static Memory m;
  return m;
}

bool in_shared(const void* p) {
  const auto* c = static_cast<const unsigned char*>(p);
  return current.shared != nullptr && c >= current.shared && c < current.shared + launcher().shared_bytes();
}

/// In words, for a report: behind the block's shared memory, or relative to a buffer, whichever is nearer.
std::string describe(const void* p) {
  const Memory::Neighbour buffer = memory().neighbour(p);
  const int64_t inside = current.shared == nullptr ? -1 : static_cast<const unsigned char*>(p) - current.shared;
  const int64_t bytes = launcher().shared_bytes();
  if (inside < bytes || inside - bytes > buffer.distance) return buffer.text;
  return "byte " + std::to_string(inside) + " of shared memory, which has " + std::to_string(bytes);
}

void check_shared(const void* p, size_t bytes, Site at) {
  const auto offset = static_cast<uintptr_t>(static_cast<const unsigned char*>(p) - current.shared);
  if (offset + bytes > static_cast<uintptr_t>(launcher().shared_bytes()))
    launcher().fault("shared memory: " + text(at) + " touches byte " + std::to_string(offset + bytes - 1) + " of " +
                     std::to_string(launcher().shared_bytes()));
  if (options().count_bank_conflicts) launcher().block().shared_accesses[text(at)].push_back({current.thread, offset, bytes});
}

void check_owner(Buffer& b, const void* p, size_t bytes, Access access, Site at) {
  if (b.writer.empty()) b.writer.resize((b.bytes + 1) / 2);
  const uint64_t mine = launcher().launch() << 32 | static_cast<uint32_t>(current.block);
  const auto offset = static_cast<size_t>(static_cast<const char*>(p) - b.begin);
  for (size_t i = offset / 2; i < (offset + bytes + 1) / 2; ++i) {
    if (b.writer[i] >> 32 == launcher().launch() && b.writer[i] != mine)
      launcher().fault(text(at) + (access == Access::read ? " reads" : " overwrites") + " byte " + std::to_string(2 * i) + " of '" +
                       b.name + "', which block " + std::to_string(static_cast<uint32_t>(b.writer[i])) + " wrote in the same launch");
    if (access == Access::write) b.writer[i] = mine;
  }
}

}  // namespace

Options& options() {
  static Options o;
  return o;
}
Statistics& statistics() {
  static Statistics s;
  return s;
}
void register_buffer(const void* begin, size_t bytes, std::string name) { memory().add(begin, bytes, std::move(name)); }
void forget_buffer(const void* begin) { memory().remove(begin); }

void meet_warp(WarpOperation operation, void* operand, Site at) {
  Unwatched unwatched;
  launcher().meet(operation, operand, at);
}
void sync_warp(Site at) {
  Unwatched unwatched;
  launcher().warp_barrier(at);
}
void sync_block(Site at) {
  Unwatched unwatched;
  launcher().barrier(kBlockBarrier, launcher().threads(), at);
}
void sync_named(int barrier, int threads, Site at) {
  Unwatched unwatched;
  if (barrier < 1 || barrier >= kNumBarriers) launcher().fault("barrier " + std::to_string(barrier) + " does not exist: " + text(at));
  launcher().barrier(barrier, threads, at);
}

void check(const void* p, size_t bytes, size_t alignment, Access access, Site at) {
  Unwatched unwatched;
  if (reinterpret_cast<uintptr_t>(p) % alignment != 0)
    launcher().fault(text(at) + " needs an address that is a multiple of " + std::to_string(alignment));
  if (in_shared(p)) return check_shared(p, bytes, at);
  (access == Access::read ? statistics().bytes_read : statistics().bytes_written) += static_cast<int64_t>(bytes);
  if (!options().check_bounds) return;
  Buffer* b = memory().find(p, bytes);
  if (b == nullptr) launcher().fault("out of bounds: " + text(at) + (access == Access::read ? " reads " : " writes ") + describe(p));
  check_owner(*b, p, bytes, access, at);
}

void count_multiplications(int64_t n) { statistics().multiplications += n; }
void count_copy() { statistics().bytes_copied_async += 16; }

bool defer_copy(Copy copy, Site at) {
  Unwatched unwatched;
  if (!in_shared(copy.to)) launcher().fault(text(at) + " must write to shared memory");
  PendingCopies& pending = launcher().lane().pending;
  pending.last_group = pending.open_group;
  if (!options().lazy_copies) return false;
  pending.copies.emplace_back(pending.open_group, copy);
  return true;
}

void commit_copies() {
  Unwatched unwatched;
  PendingCopies& pending = launcher().lane().pending;
  ++pending.open_group;
}

bool next_completed_copy(int keep, Copy& copy) {
  Unwatched unwatched;
  PendingCopies& pending = launcher().lane().pending;
  if (pending.open_group > static_cast<uint64_t>(keep))
    pending.waited_until = std::max(pending.waited_until, pending.open_group - static_cast<uint64_t>(keep));
  if (pending.copies.empty() || pending.copies.front().first + static_cast<uint64_t>(keep) >= pending.open_group) return false;
  copy = pending.copies.front().second;
  pending.copies.pop_front();
  return true;
}

void run_blocks(int64_t blocks, int threads, int64_t shared_bytes, Body body, const void* params) {
  launcher().run(blocks, threads, shared_bytes, body, params);
}

}  // namespace longlora::emu
