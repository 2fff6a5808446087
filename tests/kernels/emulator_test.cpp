// The emulator itself: every word of the vocabulary against the definition of its instruction, and planted faults that it must find.
#if defined(LONGLORA_EMU)
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>

#include "device/vocabulary.h"
#include "emu/runtime.h"
#include "kernels/support/device_memory.h"
#include "kernels/support/elements.h"

namespace longlora::testing {
namespace {

using device::bf16;
using device::fp16;
using ::testing::AllOf;
using ::testing::HasSubstr;

#if defined(__SANITIZE_THREAD__)
constexpr bool kRaceChecks = true;
#else
constexpr bool kRaceChecks = false;
#endif

/// Restores the options after a test.
class Emulator : public ::testing::Test {
 protected:
  void SetUp() override { emu::options() = {}; }
  void TearDown() override { emu::options() = {}; }
};

template <class K>
void launch(int64_t blocks, int64_t shared_bytes, const typename K::Params& params) {
  if (const kernels::Launch l = device::launch<K>(blocks, shared_bytes, params, nullptr); !l.ok()) throw std::runtime_error(l.argument);
}

std::string fault_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const emu::Fault& f) {
    return f.what();
  }
  return "no fault";
}

// --- words
// --------------------------------------------------------------------------------------------------------------------------------

struct LoadMatrices {
  struct Params {
    const uint16_t* rows;  // 32 rows of 8: four 8 x 8 matrices
    uint32_t* out;         // [lane][4]
    bool transposed;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    auto* tile = device::shared_memory<uint16_t>();
    const int lane = device::lane_index();
    device::store_128(tile + 8 * lane, device::load_128(p.rows + 8 * lane));
    device::sync_warp();
    uint32_t r[1][4];
    const void* rows[1] = {tile + 8 * lane};
    if (p.transposed)
      device::load_matrices_transposed(r, rows);
    else
      device::load_matrices(r, rows);
    for (int i = 0; i < 4; ++i) device::store(p.out + 4 * lane + i, r[0][i]);
  }
};

TEST_F(Emulator, LoadMatricesGivesEachLaneTwoNeighboursOfItsRow) {
  std::vector<uint16_t> cells(256);
  for (size_t i = 0; i < cells.size(); ++i) cells[i] = static_cast<uint16_t>(1000 + i);
  DeviceArray<uint16_t> rows("rows", cells);
  for (const bool transposed : {false, true}) {
    DeviceArray<uint32_t> out("out", 128);
    launch<LoadMatrices>(1, 512, {rows.data(), out.data(), transposed});
    const std::vector<uint32_t> got = out.read();
    for (size_t lane = 0; lane < 32; ++lane)
      for (size_t matrix = 0; matrix < 4; ++matrix)
        for (size_t half = 0; half < 2; ++half) {
          const size_t major = lane / 4, minor = 2 * (lane % 4) + half;  // PTX ISA, ldmatrix: thread t holds row t/4, columns 2(t%4), +1
          const size_t row = transposed ? minor : major, column = transposed ? major : minor;
          EXPECT_EQ(got[4 * lane + matrix] >> (16 * half) & 0xffffu, cells[64 * matrix + 8 * row + column]);
        }
  }
}

template <class E>
struct Multiply {
  struct Params {
    const uint32_t *a, *b;  // [lane][4], [lane][4]: two tiles of 8 columns
    float* c;               // [lane][2][4]
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    const int lane = device::lane_index();
    uint32_t a[4], b[1][4];
    float c[2][4];
    for (int i = 0; i < 4; ++i) a[i] = device::load(p.a + 4 * lane + i);
    for (int i = 0; i < 4; ++i) b[0][i] = device::load(p.b + 4 * lane + i);
    for (int i = 0; i < 8; ++i) c[i / 4][i % 4] = device::load(p.c + 8 * lane + i);
    device::multiply_accumulate<E, 2>(c, a, b);
    for (int i = 0; i < 8; ++i) device::store(p.c + 8 * lane + i, c[i / 4][i % 4]);
  }
};

/// Fragments by the tables of PTX ISA, mma.m16n8k16 with 16-bit floats.
template <class E>
void check_multiply(ElementType type) {
  const auto value = [](size_t i) { return static_cast<float>(static_cast<int>(i * 37 % 17) - 8) / 4.0f; };  // exact in both types
  const auto bits = [&](float x) { return static_cast<uint32_t>(type == ElementType::bf16 ? to_bf16(x) : to_fp16(x)); };
  float a[16][16], b[16][16], c[16][16];
  for (size_t i = 0; i < 256; ++i) a[i / 16][i % 16] = value(i), b[i / 16][i % 16] = value(3 * i + 1), c[i / 16][i % 16] = value(5 * i + 2);
  std::vector<uint32_t> fa(128), fb(128);
  std::vector<float> fc(256);
  for (size_t lane = 0; lane < 32; ++lane) {
    const size_t group = lane / 4, t = lane % 4;
    for (size_t i = 0; i < 4; ++i) {
      const size_t row = group + (i == 1 || i == 3 ? 8 : 0), k = 2 * t + (i >= 2 ? 8 : 0);
      fa[4 * lane + i] = bits(a[row][k]) | bits(a[row][k + 1]) << 16;
      const size_t tile = i / 2, kb = 2 * t + (i % 2 ? 8 : 0);
      fb[4 * lane + i] = bits(b[kb][8 * tile + group]) | bits(b[kb + 1][8 * tile + group]) << 16;
    }
    for (size_t i = 0; i < 8; ++i) fc[8 * lane + i] = c[group + (i % 4 >= 2 ? 8 : 0)][8 * (i / 4) + 2 * t + i % 2];
  }
  DeviceArray<uint32_t> da("a", fa), db("b", fb);
  DeviceArray<float> dc("c", fc);
  const int64_t before = emu::statistics().multiplications;
  launch<Multiply<E>>(1, 0, {da.data(), db.data(), dc.data()});
  EXPECT_EQ(emu::statistics().multiplications - before, 2);
  const std::vector<float> got = dc.read();
  for (size_t lane = 0; lane < 32; ++lane)
    for (size_t i = 0; i < 8; ++i) {
      const size_t row = lane / 4 + (i % 4 >= 2 ? 8 : 0), column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
      float want = c[row][column];
      for (size_t k = 0; k < 16; ++k) want += a[row][k] * b[k][column];
      EXPECT_EQ(got[8 * lane + i], want) << row << " " << column;
    }
}
TEST_F(Emulator, MultiplyAccumulateFollowsTheFragmentTables) {
  check_multiply<bf16>(ElementType::bf16);
  check_multiply<fp16>(ElementType::fp16);
}

struct Shuffles {
  struct Params {
    float* out;  // [5][32]
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    const int lane = device::lane_index();
    const float x = 1.0f / static_cast<float>(1 + lane);
    device::store(p.out + lane, device::shuffle(x, (lane + 5) % 32));
    device::store(p.out + 32 + lane, device::shuffle_xor(x, 9));
    device::store(p.out + 64 + lane, device::warp_sum(x));
    device::store(p.out + 96 + lane, device::warp_max(static_cast<float>(lane * 7 % 32)));
    device::store(p.out + 128 + lane, static_cast<float>(device::warp_sum(lane)));
  }
};
TEST_F(Emulator, ShufflesAndReductionsFollowTheirLanes) {
  DeviceArray<float> out("out", 160);
  launch<Shuffles>(1, 0, {out.data()});
  const std::vector<float> got = out.read();
  std::array<float, 32> sum;
  for (size_t l = 0; l < 32; ++l) sum[l] = 1.0f / static_cast<float>(1 + l);
  for (size_t mask = 16; mask > 0; mask /= 2) {  // the butterfly, in its order
    std::array<float, 32> next;
    for (size_t l = 0; l < 32; ++l) next[l] = sum[l] + sum[l ^ mask];
    sum = next;
  }
  for (size_t l = 0; l < 32; ++l) {
    EXPECT_EQ(got[l], 1.0f / static_cast<float>(1 + (l + 5) % 32));
    EXPECT_EQ(got[32 + l], 1.0f / static_cast<float>(1 + (l ^ 9)));
    EXPECT_EQ(got[64 + l], sum[l]);
    EXPECT_EQ(got[96 + l], 31.0f);
    EXPECT_EQ(got[128 + l], 496.0f);
  }
}

TEST_F(Emulator, RoundsToNearestEvenLikeTheDefinition) {
  std::vector<float> values{0.0f, -0.0f, 1.0f, 65504.0f, 65520.0f, 1e30f, 3.4e38f, 1e-8f, 6e-8f, 1e-40f, INFINITY, -INFINITY};
  for (const uint32_t high : {0x3f80u, 0x3f81u, 0xc000u, 0x0001u, 0x7f7fu})
    for (const uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      values.push_back(std::bit_cast<float>(high << 16 | low));
  for (const float x : values) {
    EXPECT_EQ(device::from_float<bf16>(x).bits, to_bf16(x)) << x;
    EXPECT_EQ(device::from_float<fp16>(x).bits, to_fp16(x)) << x;
    EXPECT_EQ(device::to_float(device::from_float<bf16>(x)), from_bf16(to_bf16(x))) << x;
    EXPECT_EQ(device::to_float(device::from_float<fp16>(x)), from_fp16(to_fp16(x))) << x;
  }
  EXPECT_TRUE(std::isnan(device::to_float(device::from_float<bf16>(std::nanf("")))));
  EXPECT_TRUE(std::isnan(device::to_float(device::from_float<fp16>(std::nanf("")))));
  EXPECT_EQ(device::pack2<bf16>(1.0f, -2.0f), 0xc0003f80u);
}

// --- asynchronous copies
// ------------------------------------------------------------------------------------------------------------------

/// Two copies in two groups; the second source may be invalid. `fault` plants one error.
enum class CopyFault { none, waits_for_one_too_few, overwrites_the_source, never_waits };
struct Copies {
  struct Params {
    uint32_t* source;  // [32][8]
    uint32_t* out;     // [32][8]
    CopyFault fault;
    bool second_is_valid;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    auto* tile = device::shared_memory<uint32_t>() + 8 * device::lane_index();
    uint32_t* source = p.source + 8 * device::lane_index();
    device::copy_async_16(tile, source, true);
    device::commit_copies();
    device::copy_async_16(tile + 4, source + 4, p.second_is_valid);
    device::commit_copies();
    if (p.fault == CopyFault::never_waits) return;
    if (p.fault == CopyFault::overwrites_the_source) device::store(source, 7u);
    if (p.fault == CopyFault::waits_for_one_too_few)
      device::wait_copies<1>();
    else
      device::wait_copies<0>();
    for (int i = 0; i < 8; ++i) device::store(p.out + 8 * device::lane_index() + i, device::load(tile + i));
    device::wait_copies<0>();
  }
};

std::vector<uint32_t> copied(CopyFault fault, bool lazy, bool second_is_valid = true) {
  std::vector<uint32_t> numbers(256);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<uint32_t>(100 + i);
  DeviceArray<uint32_t> source("source", numbers), out("out", 256);
  emu::options().lazy_copies = lazy;
  launch<Copies>(1, 1024, {source.data(), out.data(), fault, second_is_valid});
  return out.read();
}

TEST_F(Emulator, LazyAndEagerCopiesAgreeInACorrectKernel) {
  EXPECT_EQ(copied(CopyFault::none, true), copied(CopyFault::none, false));
  EXPECT_EQ(copied(CopyFault::none, true)[13], 113u);
  const std::vector<uint32_t> zero_filled = copied(CopyFault::none, true, false);
  EXPECT_EQ(zero_filled, copied(CopyFault::none, false, false));
  EXPECT_EQ(zero_filled[3], 103u);
  EXPECT_EQ(zero_filled[4], 0u);
}
TEST_F(Emulator, AWaitForTooFewCopiesReadsPoison) {
  EXPECT_EQ(copied(CopyFault::waits_for_one_too_few, false), copied(CopyFault::none, false));  // by luck, as on a fast device
  const std::vector<uint32_t> lazy = copied(CopyFault::waits_for_one_too_few, true);
  EXPECT_EQ(lazy[3], 103u);
  EXPECT_EQ(lazy[4], 0xffffffffu);
}
TEST_F(Emulator, ASourceThatIsOverwrittenTooEarlyShowsInLazyMode) {
  EXPECT_EQ(copied(CopyFault::overwrites_the_source, false)[0], 100u);
  EXPECT_EQ(copied(CopyFault::overwrites_the_source, true)[0], 7u);
}
TEST_F(Emulator, CopiesThatNobodyWaitsForAreAFault) {
  for (const bool lazy : {false, true}) EXPECT_THAT(fault_of([&] { copied(CopyFault::never_waits, lazy); }), HasSubstr("never waited for"));
}

// --- planted faults
// -----------------------------------------------------------------------------------------------------------------------

enum class Plant {
  none,
  no_barrier,
  reads_behind_the_end,
  writes_before_the_begin,
  reads_behind_shared,
  misaligned,
  half_waits,
  one_leaves,
  different_places,
  different_counts,
  overwrites_another_block,
  reads_another_block,
  forgets_an_element,
};
/// Reverses each block of 64 numbers through shared memory.
struct Reverse {
  struct Params {
    const float* x;
    float* y;
    Plant plant;
  };
  static constexpr int kThreads = 64, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    auto* s = device::shared_memory<float>();
    const int t = device::thread_index(), at = device::block_index() * kThreads + t;
    const bool first_warp = t < 32;
    if (p.plant == Plant::reads_behind_the_end && at == 127) device::load(p.x + 128);
    if (p.plant == Plant::writes_before_the_begin && at == 3) device::store(p.y - 1, 0.0f);
    if (p.plant == Plant::reads_behind_shared && t == 5) device::load(s + 64);
    if (p.plant == Plant::misaligned && t == 6) device::load_128(p.x + 1);
    if (p.plant == Plant::one_leaves && t == 40) return;
    if (p.plant == Plant::different_places) {
      if (t % 32 < 7)
        device::shuffle(t, 0);
      else
        device::shuffle(t, 1);
    }
    device::store(s + t, device::load(p.x + at));
    if (p.plant == Plant::half_waits && first_warp) device::sync_named(3, kThreads);
    if (p.plant == Plant::different_counts) device::sync_named(2, first_warp ? 64 : 32);
    if (p.plant != Plant::no_barrier) device::sync_block();
    const float value = device::load(s + (kThreads - 1 - t));
    if (p.plant == Plant::forgets_an_element && at == 100) return;
    if (p.plant == Plant::overwrites_another_block && t == 0) device::store(p.y + 9, 1.0f);
    device::store(p.y + at, value);
    if (p.plant == Plant::reads_another_block && device::block_index() == 1) device::load(p.y + t);
  }
};

std::vector<float> reversed(Plant plant) {
  std::vector<float> numbers(128);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i);
  DeviceArray<float> x("x", numbers), y("y", 128);
  launch<Reverse>(2, 256, {x.data(), y.data(), plant});
  return y.read();
}
std::string fault_of(Plant plant) {
  return fault_of([&] { reversed(plant); });
}

TEST_F(Emulator, FindsAccessesOutsideOfMemory) {
  EXPECT_THAT(fault_of(Plant::reads_behind_the_end),
              AllOf(HasSubstr("out of bounds: load at emulator_test.cpp:"), HasSubstr("byte 512 of 'x'"), HasSubstr("thread 63")));
  EXPECT_THAT(fault_of(Plant::writes_before_the_begin), AllOf(HasSubstr("out of bounds: store"), HasSubstr("4 bytes before 'y'")));
  EXPECT_THAT(fault_of(Plant::reads_behind_shared), HasSubstr("byte 256 of shared memory, which has 256"));
  EXPECT_THAT(fault_of(Plant::misaligned), HasSubstr("multiple of 16"));
}
TEST_F(Emulator, ReportsADeadlockWithEveryPlace) {
  EXPECT_THAT(fault_of(Plant::half_waits),
              AllOf(HasSubstr("deadlock in block 0"), HasSubstr("32 threads (0..31) wait in barrier 3, phase 0, sync_named at"),
                    HasSubstr("32 threads (32..63) wait in barrier 0, phase 0, sync_block at")));
  EXPECT_THAT(fault_of(Plant::one_leaves), AllOf(HasSubstr("deadlock"), HasSubstr("1 threads have ended")));
}
TEST_F(Emulator, FindsLanesAtDifferentPlacesAndBarriersOfDifferentSize) {
  EXPECT_THAT(fault_of(Plant::different_places),
              AllOf(HasSubstr("lanes of one warp are at different places: shuffle at emulator_test.cpp:"),
                    HasSubstr(" and shuffle at emulator_test.cpp:")));
  EXPECT_THAT(fault_of(Plant::different_counts), HasSubstr("is for 64 threads and for 32"));
}
TEST_F(Emulator, FindsBlocksThatShareAnElement) {
  if (kRaceChecks) GTEST_SKIP() << "ThreadSanitizer would report it as well";
  EXPECT_THAT(fault_of(Plant::overwrites_another_block), AllOf(HasSubstr("overwrites byte 36 of 'y'"), HasSubstr("block 0 wrote")));
  EXPECT_THAT(fault_of(Plant::reads_another_block), AllOf(HasSubstr("reads"), HasSubstr("which block 0 wrote in the same launch")));
}
TEST_F(Emulator, LeavesWhatIsNotWrittenPoisoned) {
  EXPECT_TRUE(std::isnan(reversed(Plant::forgets_an_element)[100]));
  EXPECT_EQ(reversed(Plant::none)[100], 91.0f);
}
TEST_F(Emulator, WorksAgainAfterAFault) {
  EXPECT_NE(fault_of(Plant::half_waits), "no fault");
  EXPECT_EQ(reversed(Plant::none)[0], 63.0f);
}
TEST_F(Emulator, AMissingBarrierGivesWrongNumbersInSomeSchedule) {
  if (kRaceChecks) GTEST_SKIP() << "it is a data race, which AMissingBarrierIsADataRace asserts in a process of its own";
  bool wrong = false;
  for (const emu::Schedule s : {emu::Schedule::ascending, emu::Schedule::descending, emu::Schedule::random, emu::Schedule::run_ahead}) {
    emu::options().schedule = s;
    if (s != emu::Schedule::ascending) wrong |= std::isnan(reversed(Plant::no_barrier)[0]) || std::isnan(reversed(Plant::no_barrier)[63]);
  }
  EXPECT_TRUE(wrong);
}

// Fixtures for the next test, in a process of their own.
TEST_F(Emulator, DISABLED_RaceWithoutABarrier) { reversed(Plant::no_barrier); }
TEST_F(Emulator, DISABLED_NoRaceWithIt) { reversed(Plant::none); }

#if defined(__SANITIZE_THREAD__)
/// Runs one disabled test of this program; its output.
std::string output_of(const std::string& test) {
  char self[4096] = {};
  if (readlink("/proc/self/exe", self, sizeof self - 1) <= 0) return "";
  const std::string command = "env -u GTEST_TOTAL_SHARDS -u GTEST_SHARD_INDEX '" + std::string(self) +
                              "' --gtest_also_run_disabled_tests --gtest_filter=Emulator.DISABLED_" + test + " 2>&1";
  std::string text;
  FILE* pipe = popen(command.c_str(), "r");
  std::array<char, 4096> buffer;
  while (pipe != nullptr && fgets(buffer.data(), buffer.size(), pipe) != nullptr) text += buffer.data();
  if (pipe != nullptr) pclose(pipe);
  return text;
}
TEST_F(Emulator, AMissingBarrierIsADataRace) {
  EXPECT_THAT(output_of("RaceWithoutABarrier"), AllOf(HasSubstr("ThreadSanitizer: data race"), HasSubstr("emulator_test.cpp")));
  EXPECT_THAT(output_of("NoRaceWithIt"), AllOf(HasSubstr("PASSED"), ::testing::Not(HasSubstr("ThreadSanitizer"))));
}
#endif

// --- schedules and statistics
// -------------------------------------------------------------------------------------------------------------

struct Order {
  struct Params {
    int* count;
    int* turn_of_block;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    if (device::thread_index() == 0) device::store(p.turn_of_block + device::block_index(), device::atomic_add(p.count, 1));
  }
};
std::vector<int> block_order(uint64_t seed, bool shuffle) {
  emu::options() = {.seed = seed, .shuffle_blocks = shuffle};
  DeviceArray<int> count("count", std::vector<int>{0}), turn("turn", 64);
  launch<Order>(64, 0, {count.data(), turn.data()});
  return turn.read();
}
TEST_F(Emulator, SeedsRepeatAndBlocksAreShuffled) {
  EXPECT_EQ(block_order(5, true), block_order(5, true));
  EXPECT_NE(block_order(5, true), block_order(6, true));
  EXPECT_NE(block_order(5, true), block_order(5, false));
  EXPECT_EQ(block_order(5, false)[17], 17);
}
TEST_F(Emulator, EveryScheduleGivesACorrectKernelItsResult) {
  const std::vector<float> want = reversed(Plant::none);
  for (const emu::Schedule s : {emu::Schedule::ascending, emu::Schedule::descending, emu::Schedule::random, emu::Schedule::run_ahead})
    for (const int resident : {1, 2, 3}) {
      emu::options() = {.seed = 3, .schedule = s, .shuffle_blocks = true, .resident_blocks = resident};
      EXPECT_EQ(reversed(Plant::none), want);
    }
}

struct Stride {
  struct Params {
    int words;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) { device::store(device::shared_memory<int>() + device::lane_index() * p.words, 1); }
};
TEST_F(Emulator, CountsBankConflicts) {
  emu::options().count_bank_conflicts = true;
  for (const auto& [words, ways] : {std::pair{1, 1}, {2, 2}, {8, 8}, {32, 32}, {33, 1}}) {
    emu::statistics().bank_conflicts.clear();
    launch<Stride>(1, 32 * 33 * 4, {words});
    ASSERT_EQ(emu::statistics().bank_conflicts.size(), 1u);
    EXPECT_EQ(emu::statistics().bank_conflicts.begin()->second, ways) << words;
  }
}
TEST_F(Emulator, CountsBytesAndBarriers) {
  emu::statistics() = {};
  reversed(Plant::none);
  EXPECT_EQ(emu::statistics().bytes_read, 512);
  EXPECT_EQ(emu::statistics().bytes_written, 512);
  EXPECT_EQ(emu::statistics().barriers, 2);
  EXPECT_EQ(emu::statistics().blocks, 2);
  EXPECT_EQ(emu::statistics().shared_bytes, 256);
}

}  // namespace
}  // namespace longlora::testing
#endif
