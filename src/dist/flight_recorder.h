#pragma once
// The last 256 calls of a rank, for the time after a hang: which call, of which communicator, how far it came.
#include <array>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace longlora::dist {

struct FlightRecord {
  const char* transport = "";  // "tcp", "nccl"; a literal like `operation`
  uint64_t communicator = 0;   // 0: the world; parts: tcp a number equal on all their ranks, nccl in the order of making
  int64_t sequence = 0;        // of the call on its communicator
  const char* operation = "";
  int peer = -1;  // or root; -1: all ranks
  uint64_t bytes = 0;
  std::string phase;
  int64_t step = 0;
  double entered_at = 0;    // monotonic seconds
  double enqueued_at = -1;  // device memory: handed to the stream; -1: not yet
  double finished_at = -1;  // -1: not yet
};

/// Thread-safe; a call costs a lock and a copy. Nothing is allocated after construction but by `records`.
class FlightRecorder {
 public:
  static constexpr size_t kRecords = 256;

  /// A number for `enqueued` and `finished`, which do nothing once the record has left the ring.
  uint64_t begin(const FlightRecord&);
  void enqueued(uint64_t number, double now);
  void finished(uint64_t number, double now);
  std::vector<FlightRecord> records() const;  // oldest first

  /// FOLDER/flight_rank_N.jsonl: one line about the end, then a line a record. Best effort: false when it could not be written.
  bool write(const std::filesystem::path& folder, int rank, std::string_view reason, double now) const noexcept;

 private:
  FlightRecord* find(uint64_t number);
  mutable std::mutex mutex_;
  std::array<FlightRecord, kRecords> ring_;
  uint64_t count_ = 0;
};

}  // namespace longlora::dist
