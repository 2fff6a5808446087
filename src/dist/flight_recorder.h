#pragma once
// The last 256 calls of a rank, written as JSON lines when a peer is lost, so that the ranks' files can be laid side by side.
#include <array>
#include <cstdint>
#include <filesystem>
#include <string>

#include "dist/operation.h"

namespace longlora::dist {

struct FlightRecord {
  Operation operation = Operation::none;
  uint64_t sequence = 0, channel = 0, bytes = 0;
  int peer = -1;  // rank in the world; -1: all of the communicator
  std::string phase;
  int64_t step = 0;
  double begun_seconds = 0, ended_seconds = 0;  // monotonic; ended 0: never
};

class FlightRecorder {
 public:
  static constexpr size_t kRecords = 256;
  void begin(FlightRecord record) { ring_[count_++ % kRecords] = std::move(record); }
  void end(double now) { ring_[(count_ - 1) % kRecords].ended_seconds = now; }
  std::string json_lines() const;
  /// `folder`/flight_rank_N.jsonl with the reason as its last line; an empty folder: nothing. Never throws: the failure comes first.
  void write(const std::filesystem::path& folder, int rank, const std::string& reason) const noexcept;

 private:
  std::array<FlightRecord, kRecords> ring_;
  uint64_t count_ = 0;
};

}  // namespace longlora::dist
