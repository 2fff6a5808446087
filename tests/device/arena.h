#pragma once
// The memory of the fake device: one arena that nobody can touch except while an `Access` lives. Host code that follows a device pointer
// dies with SIGSEGV at that instruction.
#include <cstddef>

namespace longlora::fake {

inline constexpr size_t kArenaBytes = size_t{4} << 30;  // of addresses; pages come as they are used

/// Never null; 256-byte aligned, filled with 0xff (NaN), with a gap before the next piece. Throws std::bad_alloc beyond the arena.
void* allocate(size_t bytes);
void release(void* data);
bool inside(const void* data);
struct Use {
  size_t allocated = 0, peak = 0;
};
Use use();
void reset_peak();  // to what is allocated

/// Opens the arena; nests.
class Access {
 public:
  Access();
  ~Access();
  Access(const Access&) = delete;
};

}  // namespace longlora::fake
