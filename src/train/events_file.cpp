#include "longlora/train/events_file.h"

#include <array>
#include <bit>
#include <chrono>

#include "longlora/core/error.h"
#include "longlora/core/host.h"
#include "longlora/core/log.h"

namespace longlora {
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78u : 0u);
    table[i] = value;
  }
  return table;
}
constexpr auto kCrcTable = make_crc_table();

/// The mask of the TFRecord format keeps a CRC stored beside its own data from being a CRC of itself.
uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8u; }

template <class T>
void append_little_endian(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>((value & 0x7f) | 0x80));
  out.push_back(static_cast<char>(value));
}

enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
void append_key(std::string& out, uint32_t field, WireType type) { append_varint(out, field << 3 | type); }

void append_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  append_key(out, field, kBytes);
  append_varint(out, bytes.size());
  out.append(bytes);
}

std::string event_start(double wall_seconds) {
  std::string event;
  append_key(event, 1, kFixed64);  // Event.wall_time
  append_little_endian(event, wall_seconds);
  return event;
}

double wall_seconds() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string file_name() {
  return "events.out.tfevents." + std::to_string(static_cast<int64_t>(wall_seconds())) + "." + host_name() + "." + process_nonce();
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = 0xffffffffu;
  for (const char c : bytes) crc = kCrcTable[(crc ^ static_cast<uint8_t>(c)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

std::string tfrecord(std::string_view payload) {
  std::string record;
  append_little_endian(record, static_cast<uint64_t>(payload.size()));
  append_little_endian(record, masked_crc(record));
  record.append(payload);
  append_little_endian(record, masked_crc(payload));
  return record;
}

std::string scalar_event(double seconds, int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  std::string summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;
    append_bytes(value, 1, tag);     // Summary.Value.tag
    append_key(value, 2, kFixed32);  // Summary.Value.simple_value
    append_little_endian(value, static_cast<float>(number));
    append_bytes(summary, 1, value);
  }
  std::string event = event_start(seconds);
  append_key(event, 2, kVarint);  // Event.step
  append_varint(event, static_cast<uint64_t>(step));
  append_bytes(event, 5, summary);
  return event;
}

EventsFile::EventsFile(const std::filesystem::path& folder) {
  try {
    file_ = OutputFile::create(folder / file_name());
  } catch (const Error& error) {
    log_warning("no TensorBoard file: {}", error.what());
    return;
  }
  std::string event = event_start(wall_seconds());
  append_bytes(event, 3, "brain.Event:2");
  write(tfrecord(event));
}

void EventsFile::write(std::string_view record) {
  if (!file_) return;
  try {
    file_->write_all(record);
  } catch (const Error& error) {
    log_warning("TensorBoard file ends here: {}", error.what());
    file_.reset();
  }
}

void EventsFile::add(int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  write(tfrecord(scalar_event(wall_seconds(), step, scalars)));
}

}  // namespace longlora
