#include "tokenizer/model_proto.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "support/error_of.h"
#include "tokenizer/support.h"

namespace longlora {
namespace {

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string field(uint64_t number, const std::string& bytes) { return varint(number << 3 | 2) + varint(bytes.size()) + bytes; }
std::string number_field(uint64_t number, uint64_t value) { return varint(number << 3) + varint(value); }
std::string score_field(float score) {
  const uint32_t bits = std::bit_cast<uint32_t>(score);
  return varint(2 << 3 | 5) + std::string(reinterpret_cast<const char*>(&bits), 4);
}
std::string piece(const std::string& text) { return field(1, field(1, text)); }

/// A character map: trie units, then texts.
std::string character_map(const std::vector<uint32_t>& units, const std::string& texts) {
  const uint32_t bytes = static_cast<uint32_t>(units.size() * 4);
  std::string out(reinterpret_cast<const char*>(&bytes), 4);
  return out.append(reinterpret_cast<const char*>(units.data()), bytes) + texts;
}

TEST(ModelProto, WhatIsWrittenIsWalked) {
  SmallModel model({"▁", "a", "▁a"});
  model.types[260] = PieceType::user_defined;
  const std::string bytes = model.bytes();
  const ModelSummary summary = walk_model_proto(bytes, "m");
  ASSERT_EQ(summary.pieces.size(), 262u);
  EXPECT_EQ(summary.kind, kBpeKind);
  EXPECT_TRUE(summary.keeps_text);
  for (size_t i = 0; i < 262; ++i) {
    EXPECT_EQ(summary.pieces[i].text, model.texts[i]);
    EXPECT_EQ(summary.pieces[i].type, model.types[i]);
    EXPECT_EQ(summary.pieces[i].score, i < 259 ? 0.0f : 259.0f - static_cast<float>(i));
  }
}

TEST(ModelProto, DefaultsAreProtobufs) {
  const ModelSummary summary = walk_model_proto(piece("a"), "m");
  EXPECT_EQ(summary.kind, kUnigramKind);
  EXPECT_FALSE(summary.keeps_text);   // white space is trimmed unless the model says otherwise
  EXPECT_EQ(summary.pieces[0].type, PieceType::normal);
}

TEST(ModelProto, RefusesWhatTheLibraryWouldNotCheck) {
  const std::vector<uint32_t> calm(256, 0);
  std::vector<uint32_t> far = calm, leaf = calm;
  far[3] = 300u << 10;                     // child beyond the 256 units
  leaf[0] = 1u << 10 | 1u << 8;            // leaf at unit 1
  leaf[1] = 1u << 31 | 5;                  // value 5 of 3 text bytes
  const struct { std::string bytes, message; } table[] = {
      {"", "no pieces (m: byte 0)"},
      {"\x0A", "it ends inside a number (m: byte 1)"},
      {"\x0A\x05" "ab", "a field of 5 bytes in 2 (m: byte 0)"},
      {std::string(1, '\0'), "field number 0"},
      {std::string("\x00\x01", 2), "field number 0"},
      {"\x0B", "wire type 3"},
      {"\x0C", "wire type 4"},
      {"\x0E", "wire type 6"},
      {std::string("\x08") + std::string(11, '\xFF'), "a number of more than 64 bits"},
      {"\x0D\x01\x02", "it ends inside a field"},
      {"\x09\x01\x02", "it ends inside a field"},
      {number_field(1, 7), "pieces has wire type 0"},
      {number_field(2, 7), "trainer_spec has wire type 0"},
      {number_field(3, 7), "normalizer_spec has wire type 0"},
      {field(1, number_field(1, 7)), "piece has wire type 0"},
      {field(1, field(1, "a") + field(2, "abcd")), "score has wire type 2"},
      {field(1, field(1, "a") + field(3, "x")), "piece type has wire type 2"},
      {field(1, field(1, "a") + number_field(3, 0)), "piece type 0"},
      {field(1, field(1, "a") + number_field(3, 7)), "piece type 7"},
      {field(1, field(1, "a") + number_field(3, UINT64_MAX)), "piece type 18446744073709551615"},
      {field(1, ""), "an empty piece"},
      {field(1, field(1, std::string(1025, 'a'))), "a piece of 1025 bytes, limit 1024"},
      {piece("\xFF"), "is not valid text"},
      {piece(std::string("a\0b", 3)), "is not valid text"},
      {field(1, field(1, "a") + score_field(std::numeric_limits<float>::quiet_NaN())), "the score of piece a is not finite"},
      {field(1, field(1, "a") + score_field(std::numeric_limits<float>::infinity())), "the score of piece a is not finite"},
      {piece("a") + field(2, number_field(3, 3)), "model type 3 (word and char models)"},
      {piece("a") + field(2, number_field(3, 4)), "model type 4 (word and char models)"},
      {piece("a") + field(2, field(3, "x")), "model_type has wire type 2"},
      {piece("a") + field(3, number_field(2, 1)), "precompiled_charsmap has wire type 0"},
      {piece("a") + field(3, field(2, "abc")), "a character map whose parts do not fit"},
      {piece("a") + field(3, field(2, std::string((1 << 20) + 1, 'x'))), "a character map of 1048577 bytes, limit 1 MiB"},
      {piece("a") + field(3, field(2, character_map(calm, ""))), "a character map whose parts do not fit"},
      {piece("a") + field(3, field(2, character_map(calm, "ab"))), "a character map whose parts do not fit"},
      {piece("a") + field(3, field(2, character_map(far, std::string("ab\0", 3)))), "leads outside itself"},
      {piece("a") + field(5, field(2, character_map(leaf, std::string("ab\0", 3)))), "leads outside itself"},
  };
  for (const auto& row : table) {
    const std::string error = error_of([&] { walk_model_proto(row.bytes, "m"); });
    EXPECT_NE(error.find(row.message), std::string::npos) << row.message << " / got: " << error;
    EXPECT_EQ(kind_of([&] { walk_model_proto(row.bytes, "m"); }), ErrorKind::data);
  }
  EXPECT_NO_THROW(walk_model_proto(piece("a") + field(3, field(2, character_map(calm, std::string("ab\0", 3)))), "m"));
}

TEST(ModelProto, EveryTruncationAndManyFlipsEndInAnErrorOrAModel) {
  const std::string good = SmallModel({"▁", "a", "b", "▁a", "ab", "▁ab"}).bytes();
  size_t refused = 0;
  for (size_t length = 0; length < good.size(); length += length < 64 || length + 200 > good.size() ? 1 : 37) {
    refused += thrown_by([&] { load_model(good.substr(0, length)); }).has_value();
  }
  EXPECT_GT(refused, 200u);
  std::mt19937 random(5);
  for (int i = 0; i < 200; ++i) {
    std::string bad = good;
    for (int flips = 1 + i % 3; flips > 0; --flips) bad[random() % bad.size()] ^= static_cast<char>(1 << random() % 8);
    if (i % 2) bad[good.size() - 1 - random() % 120] = static_cast<char>(random());   // the specs stand at the end
    const auto error = thrown_by([&] { load_model(bad)->encode("ab a <s> \u00e9"); });
    if (error) EXPECT_EQ(error->kind, ErrorKind::data) << error->what();
  }
}

}  // namespace
}  // namespace longlora
