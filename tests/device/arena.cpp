#include "device/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

#include "emu/runtime.h"

namespace longlora::fake {
namespace {

constexpr size_t kAlignment = 256;

struct Arena {
  char* base;
  std::mutex mutex;
  int open = 0;
  std::map<size_t, size_t> pieces;  // offset -> bytes
  Use use;

  Arena() : base(static_cast<char*>(::mmap(nullptr, kArenaBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
    if (base == MAP_FAILED) std::abort();
  }
  void protect(int protection) {
    if (::mprotect(base, kArenaBytes, protection) != 0) std::abort();
  }
  /// First gap that fits, with one unit of distance on both sides.
  size_t place(size_t bytes) const {
    size_t at = kAlignment;
    for (const auto& [offset, length] : pieces) {
      if (at + bytes + kAlignment <= offset) return at;
      at = offset + length + kAlignment;
    }
    if (at + bytes > kArenaBytes) throw std::bad_alloc();
    return at;
  }
};

Arena& arena() {
  static auto* const one = new Arena;  // outlives every tensor
  return *one;
}

}  // namespace

void* allocate(size_t bytes) {
  Arena& a = arena();
  const size_t rounded = std::max<size_t>(1, (bytes + kAlignment - 1) / kAlignment) * kAlignment;
  size_t offset = 0;
  {
    const std::lock_guard lock(a.mutex);
    offset = a.place(rounded);
    a.pieces[offset] = rounded;
    a.use.allocated += rounded;
    a.use.peak = std::max(a.use.peak, a.use.allocated);
  }
  const Access access;
  std::memset(a.base + offset, 0xff, rounded);
  emu::register_buffer(a.base + offset, std::max<size_t>(1, bytes), "tensor of " + std::to_string(bytes) + " bytes");
  return a.base + offset;
}

void release(void* data) {
  Arena& a = arena();
  emu::forget_buffer(data);
  const std::lock_guard lock(a.mutex);
  const auto piece = a.pieces.find(static_cast<size_t>(static_cast<char*>(data) - a.base));
  if (piece == a.pieces.end()) std::abort();
  a.use.allocated -= piece->second;
  a.pieces.erase(piece);
}

bool inside(const void* data) { return data >= arena().base && data < arena().base + kArenaBytes; }
Use use() { return arena().use; }
void reset_peak() {
  Arena& a = arena();
  const std::lock_guard lock(a.mutex);
  a.use.peak = a.use.allocated;
}

Access::Access() {
  Arena& a = arena();
  const std::lock_guard lock(a.mutex);
  if (a.open++ == 0) a.protect(PROT_READ | PROT_WRITE);
}
Access::~Access() {
  Arena& a = arena();
  const std::lock_guard lock(a.mutex);
  if (--a.open == 0) a.protect(PROT_NONE);
}

}  // namespace longlora::fake
