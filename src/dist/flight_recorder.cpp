#include "dist/flight_recorder.h"

#include <fmt/format.h>

#include "longlora/core/clock.h"
#include "longlora/core/files.h"
#include "longlora/core/json.h"

namespace longlora::dist {
namespace {

std::string line_of(const FlightRecord& r, double now) {
  const char* state = r.finished_at >= 0 ? "finished" : r.enqueued_at >= 0 ? "enqueued" : "entered";
  const double seconds = (r.finished_at >= 0 ? r.finished_at : now) - r.entered_at;
  return fmt::format(
      R"({{"transport": {}, "communicator": {}, "sequence": {}, "operation": {}, "peer": {}, "bytes": {}, "phase": {}, "step": {}, )"
      R"("state": "{}", "seconds": {:.3f}, "seconds_before_end": {:.3f}}})"
      "\n",
      json_quote(r.transport), r.communicator, r.sequence, json_quote(r.operation), r.peer, r.bytes, json_quote(r.phase), r.step, state,
      seconds, now - r.entered_at);
}

}  // namespace

uint64_t FlightRecorder::begin(const FlightRecord& record) {
  const std::lock_guard lock(mutex_);
  ring_[count_ % kRecords] = record;
  return count_++;
}

FlightRecord* FlightRecorder::find(uint64_t number) {
  return number < count_ && count_ - number <= kRecords ? &ring_[number % kRecords] : nullptr;
}

void FlightRecorder::enqueued(uint64_t number, double now) {
  const std::lock_guard lock(mutex_);
  if (FlightRecord* record = find(number)) record->enqueued_at = now;
}

void FlightRecorder::finished(uint64_t number, double now) {
  const std::lock_guard lock(mutex_);
  if (FlightRecord* record = find(number)) record->finished_at = now;
}

std::vector<FlightRecord> FlightRecorder::records() const {
  const std::lock_guard lock(mutex_);
  std::vector<FlightRecord> all;
  for (uint64_t n = count_ > kRecords ? count_ - kRecords : 0; n < count_; ++n) all.push_back(ring_[n % kRecords]);
  return all;
}

bool FlightRecorder::write(const std::filesystem::path& folder, int rank, std::string_view reason, double now) const noexcept try {
  std::string text = fmt::format(R"({{"rank": {}, "time": "{}", "reason": {}}})"
                                 "\n",
                                 rank, wall_clock_iso8601(), json_quote(reason));
  for (const FlightRecord& record : records()) text += line_of(record, now);
  create_folders(folder);
  write_file_atomic(folder / fmt::format("flight_rank_{}.jsonl", rank), text);
  return true;
} catch (...) {
  return false;  // the run is ending for another reason, which must not be hidden by this one
}

}  // namespace longlora::dist
