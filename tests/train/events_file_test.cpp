#include "longlora/train/events_file.h"

#include <gtest/gtest.h>

#include <cstring>

#include "support/temp_dir.h"

namespace longlora {
namespace {

template <class T>
T value_at(const std::string& bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/// Bit by bit, without a table.
uint32_t slow_crc32c(const std::string& bytes) {
  uint32_t crc = 0xffffffffu;
  for (unsigned char c : bytes) {
    crc ^= c;
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
  }
  return ~crc;
}
uint32_t masked(uint32_t crc) { return (crc >> 15 | crc << 17) + 0xa282ead8u; }

TEST(Crc32c, HasThePublishedCheckValues) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c(""), 0u);
}

TEST(TfRecord, FramesThePayloadWithMaskedChecksums) {
  const std::string record = tfrecord("hello");
  ASSERT_EQ(record.size(), 8 + 4 + 5 + 4u);
  EXPECT_EQ(value_at<uint64_t>(record, 0), 5u);
  EXPECT_EQ(value_at<uint32_t>(record, 8), masked(slow_crc32c(record.substr(0, 8))));
  EXPECT_EQ(record.substr(12, 5), "hello");
  EXPECT_EQ(value_at<uint32_t>(record, 17), masked(slow_crc32c("hello")));
}

TEST(ScalarEvent, IsTheProtobufOfTheEventMessage) {
  const std::string event = scalar_event(1.5, 300, {{"loss", 2.0}});
  std::string want("\x09", 1);
  want.append(8, '\0');
  const double seconds = 1.5;
  std::memcpy(want.data() + 1, &seconds, 8);
  want += std::string("\x10\xac\x02", 3);                       // step 300 as a varint
  want += std::string("\x2a\x0d\x0a\x0b\x0a\x04loss\x15", 11);  // summary 13 bytes { value 11 bytes { tag, simple_value
  const float loss = 2.0f;
  want.append(reinterpret_cast<const char*>(&loss), 4);
  EXPECT_EQ(event, want);
}

TEST(EventsFile, StartsWithItsVersionAndHoldsWholeRecords) {
  TempDir dir;
  EventsFile file(dir.path());
  file.add(1, {{"a", 1.0}});
  file.add(2, {{"a", 2.0}, {"b", 3.0}});
  size_t files = 0, records = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
    ++files;
    const std::string name = entry.path().filename().string();
    EXPECT_EQ(name.rfind("events.out.tfevents.", 0), 0u);
    const std::string bytes = dir.read(name);
    for (size_t at = 0; at < bytes.size(); ++records) {
      const uint64_t length = value_at<uint64_t>(bytes, at);
      ASSERT_LE(at + 16 + length, bytes.size());
      const std::string payload = bytes.substr(at + 12, length);
      EXPECT_EQ(value_at<uint32_t>(bytes, at + 12 + length), masked(slow_crc32c(payload)));
      if (records == 0) EXPECT_NE(payload.find("brain.Event:2"), std::string::npos);
      at += 16 + length;
    }
  }
  EXPECT_EQ(files, 1u);
  EXPECT_EQ(records, 3u);
}

}  // namespace
}  // namespace longlora
