#pragma once
// A GPU's execution model on the host: one fiber a thread, blocks one after another (or a few at a time), warp operations and barriers as
// meeting points. Kernels reach it through emu/body.h, tests through the declarations up to `launch`.
//
// What it finds: reads and writes outside registered buffers and shared memory, misaligned accesses, two blocks that touch one element in
// one launch, threads that wait for ever (each with its place), lanes of a warp at different places, asynchronous copies read before their
// wait (lazy mode), elements never written (poison). In a -fsanitize=thread build missing barriers are data races, reported by TSan. One
// launch at a time, in one host thread. Everything random comes from Options::seed.
#include <cstddef>
#include <cstdint>
#include <map>
#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>

namespace longlora::emu {

enum class Schedule { ascending, descending, random, run_ahead };  // run_ahead: one warp goes as far as it can, then another

struct Options {
  uint64_t seed = 1;
  Schedule schedule = Schedule::ascending;
  bool lazy_copies = false;     // asynchronous copies land at the wait that covers them; until then their target is poison
  bool shuffle_blocks = false;  // order of the blocks
  int resident_blocks = 1;      // blocks that run interleaved
  bool check_bounds = true;     // every access lies in a registered buffer or in shared memory
  bool count_bank_conflicts = false;
};

struct Statistics {
  int64_t blocks = 0, multiplications = 0 /* mma.m16n8k16 */, barriers = 0, shared_bytes = 0 /* the largest block */;
  int64_t bytes_read = 0, bytes_written = 0, bytes_copied_async = 0;  // global memory
  std::map<std::string, int> bank_conflicts;                          // by place: ways of the worst access (1 is none)
};

/// What a kernel did wrong, in one sentence with the place. After it the launch has ended; later launches work.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Of all launches from now on.
Options& options();
Statistics& statistics();

/// Makes [begin, begin + bytes) legal for kernels, under a name for reports. Ranges do not overlap.
void register_buffer(const void* begin, size_t bytes, std::string name);
void forget_buffer(const void* begin);

/// Every byte 0xff: NaN in fp32, bf16 and fp16.
inline constexpr unsigned char kPoison = 0xff;

// --- what emu/body.h is made of ---------------------------------------------------------------------------------------------------------

struct Site {
  const char* file = "";
  unsigned line = 0, column = 0;
  const char* word = "";  // of the vocabulary
};
inline Site site(const char* word, const std::source_location& at) { return {at.file_name(), at.line(), at.column(), word}; }

struct Current {
  int thread = 0, block = 0, num_blocks = 0;
  unsigned char* shared = nullptr;
};
extern Current current;

using WarpOperation = void (*)(void* const (&operands)[32]);
/// Returns when all 32 lanes are there and `operation` has run once on their operands. It orders no memory.
void meet_warp(WarpOperation operation, void* operand, Site);
void sync_warp(Site);
void sync_block(Site);
void sync_named(int barrier, int threads, Site);

enum class Access { read, write };
void check(const void* p, size_t bytes, size_t alignment, Access, Site);
void count_multiplications(int64_t);

struct Copy {
  void* to;
  const void* from;  // null: zeros
};
/// Lazy mode: remembers the copy and answers true; the caller poisons the target.
bool defer_copy(Copy, Site);
void count_copy();
void commit_copies();
/// The oldest copy that `wait_copies(keep)` completes now, or false. The caller performs it.
bool next_completed_copy(int keep, Copy&);

using Body = void (*)(const void* params);
void run_blocks(int64_t blocks, int threads, int64_t shared_bytes, Body, const void* params);

}  // namespace longlora::emu
