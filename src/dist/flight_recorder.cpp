#include "dist/flight_recorder.h"

#include <fmt/format.h>

#include <algorithm>

#include "longlora/core/files.h"
#include "longlora/core/json.h"
#include "longlora/core/log.h"

namespace longlora::dist {

std::string FlightRecorder::json_lines() const {
  std::string text;
  for (uint64_t i = count_ - std::min<uint64_t>(count_, kRecords); i < count_; ++i) {
    const FlightRecord& record = ring_[i % kRecords];
    const std::string ended = record.ended_seconds > 0 ? json_number(record.ended_seconds) : "null";
    text += fmt::format(
        "{{\"operation\": \"{}\", \"sequence\": {}, \"channel\": \"{:016x}\", \"bytes\": {}, \"peer\": {}, \"phase\": {}, \"step\": {}, "
        "\"begun_seconds\": {}, \"ended_seconds\": {}}}\n",
        name_of(record.operation), record.sequence, record.channel, record.bytes, record.peer < 0 ? "null" : std::to_string(record.peer),
        json_quote(record.phase), record.step, json_number(record.begun_seconds), ended);
  }
  return text;
}

void FlightRecorder::write(const std::filesystem::path& folder, int rank, const std::string& reason) const noexcept {
  if (folder.empty()) return;
  try {
    create_folders(folder);
    const std::string last = fmt::format("{{\"rank\": {}, \"reason\": {}}}\n", rank, json_quote(reason));
    write_file_atomic(folder / fmt::format("flight_rank_{}.jsonl", rank), json_lines() + last);
  } catch (const std::exception& error) {
    log_warning("the flight record was not written: {}", error.what());
  }
}

}  // namespace longlora::dist
