#pragma once
// TensorBoard event files: TFRecord framing (length, masked CRC-32C, payload, masked CRC-32C) around a hand-encoded protobuf Event.
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "longlora/core/files.h"

namespace longlora {

uint32_t crc32c(std::string_view bytes);  // Castagnoli, reflected; "123456789" -> 0xe3069283
std::string tfrecord(std::string_view payload);

/// Scalars of one step as an Event message.
std::string scalar_event(double wall_seconds, int64_t step, const std::vector<std::pair<std::string, double>>& scalars);

/// events.out.tfevents.<seconds>.<host>.<nonce> in `folder`. Write errors are warnings once: a log never ends a run.
class EventsFile {
 public:
  explicit EventsFile(const std::filesystem::path& folder);
  void add(int64_t step, const std::vector<std::pair<std::string, double>>& scalars);

 private:
  void write(std::string_view record);
  std::optional<OutputFile> file_;
};

}  // namespace longlora
