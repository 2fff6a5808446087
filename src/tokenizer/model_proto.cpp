#include "tokenizer/model_proto.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "longlora/core/error.h"
#include "longlora/core/text.h"
#include "tokenizer/vocabulary.h"

namespace longlora {
namespace {

constexpr size_t kMaxPieceBytes = 1024;
constexpr size_t kMaxCharacterMapBytes = size_t{1} << 20;

enum class Wire : uint32_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

struct Field {
  uint64_t number = 0;
  Wire wire = Wire::varint;
  uint64_t integer = 0;     // varint
  uint32_t word = 0;        // fixed32
  std::string_view bytes;   // length-delimited
  size_t at = 0;            // offset of the field in the file
};

/// The fields of one message that lies at `base` in the file.
class WireReader {
 public:
  WireReader(std::string_view message, size_t base, std::string_view file) : message_(message), base_(base), file_(file) {}

  bool next(Field& field) {
    if (at_ == message_.size()) return false;
    field.at = base_ + at_;
    const uint64_t tag = varint();
    field.number = tag >> 3;
    field.wire = static_cast<Wire>(tag & 7);
    if (field.number == 0 || field.number > (uint64_t{1} << 29) - 1) refuse(field.at, "field number " + std::to_string(field.number));
    switch (field.wire) {
      case Wire::varint: field.integer = varint(); break;
      case Wire::fixed64: take(8); break;
      case Wire::fixed32: std::memcpy(&field.word, take(4).data(), 4); break;
      case Wire::bytes: {
        const uint64_t length = varint();
        const size_t left = message_.size() - at_;
        if (length > left) refuse(field.at, "a field of " + std::to_string(length) + " bytes in " + std::to_string(left));
        field.bytes = take(length);
        break;
      }
      default: refuse(field.at, "wire type " + std::to_string(tag & 7));
    }
    return true;
  }

  size_t position_of(std::string_view part) const { return base_ + static_cast<size_t>(part.data() - message_.data()); }

  [[noreturn]] void refuse(size_t at, const std::string& what) const {
    fail(ErrorKind::data, "not a sentencepiece model: " + what, std::string(file_) + ": byte " + std::to_string(at),
         "give an intact tokenizer.model");
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == message_.size()) refuse(base_ + at_, "it ends inside a number");
      const uint8_t byte = static_cast<uint8_t>(message_[at_++]);
      if (shift == 63 && byte > 1) break;
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    refuse(base_ + at_, "a number of more than 64 bits");
  }
  std::string_view take(size_t bytes) {
    if (bytes > message_.size() - at_) refuse(base_ + at_, "it ends inside a field");
    at_ += bytes;
    return message_.substr(at_ - bytes, bytes);
  }

  std::string_view message_;
  size_t base_, at_ = 0;
  std::string_view file_;
};

void expect(const WireReader& reader, const Field& field, Wire wire, const char* name) {
  const auto got = static_cast<uint32_t>(field.wire);
  if (field.wire != wire) reader.refuse(field.at, std::string(name) + " has wire type " + std::to_string(got));
}

ModelPiece read_piece(const WireReader& outer, const Field& message, std::string_view file) {
  ModelPiece piece;
  WireReader reader(message.bytes, outer.position_of(message.bytes), file);
  for (Field field; reader.next(field);) {
    if (field.number == 1) {
      expect(reader, field, Wire::bytes, "piece");
      piece.text = field.bytes;
    } else if (field.number == 2) {
      expect(reader, field, Wire::fixed32, "score");
      piece.score = std::bit_cast<float>(field.word);
    } else if (field.number == 3) {
      expect(reader, field, Wire::varint, "piece type");
      if (field.integer < 1 || field.integer > 6) reader.refuse(field.at, "piece type " + std::to_string(field.integer));
      piece.type = static_cast<PieceType>(field.integer);
    }
  }
  const std::string_view text = piece.text;
  if (text.empty()) reader.refuse(message.at, "an empty piece");
  if (text.size() > kMaxPieceBytes) reader.refuse(message.at, "a piece of " + std::to_string(text.size()) + " bytes, limit 1024");
  if (invalid_utf8_at(text) || text.find('\0') != text.npos) reader.refuse(message.at, "piece " + escape(text) + " is not valid text");
  if (!std::isfinite(piece.score)) reader.refuse(message.at, "the score of piece " + escape(text) + " is not finite");
  return piece;
}

/// The map is u32 trie bytes, the trie (a double array of 32-bit units), texts ending in NUL. The library follows the units without
/// looking at their bounds: unit i leads to i ^ offset ^ label for any byte label, and a leaf holds an offset into the texts.
void check_character_map(const WireReader& reader, const Field& field) {
  const std::string_view map = field.bytes;
  if (map.empty()) return;
  if (map.size() > kMaxCharacterMapBytes) {
    reader.refuse(field.at, "a character map of " + std::to_string(map.size()) + " bytes, limit 1 MiB");
  }
  uint32_t trie_bytes = 0;
  if (map.size() > 4) std::memcpy(&trie_bytes, map.data(), 4);
  if (trie_bytes < 1024 || trie_bytes % 1024 != 0 || trie_bytes >= map.size() - 4 || map.back() != '\0') {
    reader.refuse(field.at, "a character map whose parts do not fit");
  }
  const std::string_view trie = map.substr(4, trie_bytes);
  const size_t units = trie_bytes / 4, text_bytes = map.size() - 4 - trie_bytes;
  const auto unit_at = [&](size_t i) {
    uint32_t unit;
    std::memcpy(&unit, trie.data() + 4 * i, 4);
    return unit;
  };
  for (size_t i = 0; i < units; ++i) {
    const uint32_t unit = unit_at(i);
    if (unit >> 31) continue;   // a leaf's value, checked with its parent
    const size_t child = i ^ (size_t{unit >> 10} << ((unit & (1u << 9)) >> 6));
    const bool has_leaf = (unit >> 8) & 1;
    const bool inside = (child | 0xFF) < units && (!has_leaf || (unit_at(child) & 0x7FFFFFFFu) < text_bytes);
    if (!inside) reader.refuse(field.at, "a character map that leads outside itself");
  }
}

/// What decides whether the text reaches the model unchanged, with protobuf's defaults.
struct TextChanges {
  bool maps_characters = false, removes_spaces = true, escapes_spaces = true, space_ends_words = false;
};

void walk_normalizer(const WireReader& outer, const Field& message, std::string_view file, TextChanges& changes) {
  expect(outer, message, Wire::bytes, "normalizer_spec");
  WireReader reader(message.bytes, outer.position_of(message.bytes), file);
  for (Field field; reader.next(field);) {
    if (field.number == 2) {
      expect(reader, field, Wire::bytes, "precompiled_charsmap");
      check_character_map(reader, field);
      changes.maps_characters = !field.bytes.empty();
    } else if (field.number == 4 || field.number == 5) {
      expect(reader, field, Wire::varint, "normalizer_spec's switch");
      (field.number == 4 ? changes.removes_spaces : changes.escapes_spaces) = field.integer != 0;
    }
  }
}

void walk_trainer(const WireReader& outer, const Field& message, std::string_view file, ModelSummary& summary,
                  TextChanges& changes) {
  expect(outer, message, Wire::bytes, "trainer_spec");
  WireReader reader(message.bytes, outer.position_of(message.bytes), file);
  for (Field field; reader.next(field);) {
    if (field.number == 24) {
      expect(reader, field, Wire::varint, "treat_whitespace_as_suffix");
      changes.space_ends_words = field.integer != 0;
    }
    if (field.number != 3) continue;
    expect(reader, field, Wire::varint, "model_type");
    if (field.integer != kUnigramKind && field.integer != kBpeKind) {
      reader.refuse(field.at, "model type " + std::to_string(field.integer) + " (word and char models), supported are unigram and BPE");
    }
    summary.kind = static_cast<int64_t>(field.integer);
  }
}

}  // namespace

ModelSummary walk_model_proto(std::string_view bytes, std::string_view file) {
  ModelSummary summary;
  TextChanges changes;
  WireReader reader(bytes, 0, file);
  if (bytes.size() > kMaxModelProtoBytes) reader.refuse(0, std::to_string(bytes.size()) + " bytes, limit 32 MiB");
  for (Field field; reader.next(field);) {
    if (field.number == 1) {
      expect(reader, field, Wire::bytes, "pieces");
      if (summary.pieces.size() == kMaxTokens) reader.refuse(field.at, "more than 1048576 pieces");
      summary.pieces.push_back(read_piece(reader, field, file));
    } else if (field.number == 2) {
      walk_trainer(reader, field, file, summary, changes);
    } else if (field.number == 3) {
      walk_normalizer(reader, field, file, changes);
    } else if (field.number == 5) {   // the denormaliser changes decoded text only
      TextChanges ignored;
      walk_normalizer(reader, field, file, ignored);
    }
  }
  if (summary.pieces.empty()) reader.refuse(0, "no pieces");
  summary.keeps_text = !changes.maps_characters && !changes.removes_spaces && changes.escapes_spaces && !changes.space_ends_words;
  return summary;
}

}  // namespace longlora
