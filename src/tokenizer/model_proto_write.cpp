#include <bit>
#include <string>

#include "tokenizer/model_proto.h"

namespace longlora {
namespace {

class WireWriter {
 public:
  void integer(uint32_t field, int64_t value) {
    varint(field << 3);
    varint(static_cast<uint64_t>(value));   // negative int32 is written as ten bytes, sign-extended
  }
  void real(uint32_t field, float value) {
    varint(field << 3 | 5);
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) out_ += static_cast<char>(bits >> shift);
  }
  void bytes(uint32_t field, std::string_view value) {
    varint(field << 3 | 2);
    varint(value.size());
    out_ += value;
  }
  std::string take() { return std::move(out_); }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) out_ += static_cast<char>(value | 0x80);
    out_ += static_cast<char>(value);
  }
  std::string out_;
};

// Field numbers of sentencepiece_model.proto.
std::string trainer_spec(const ModelProtoSpec& spec) {
  WireWriter out;
  const auto special = [&](uint32_t id_field, uint32_t text_field, int32_t id) {
    out.integer(id_field, id);
    if (id >= 0) out.bytes(text_field, spec.pieces[static_cast<size_t>(id)].text);
  };
  out.integer(3, 2);                                            // model_type: BPE
  out.integer(4, static_cast<int64_t>(spec.pieces.size()));     // vocab_size
  out.integer(35, 1);                                           // byte_fallback
  special(40, 45, spec.unknown);
  special(41, 46, spec.bos);
  special(42, 47, spec.eos);
  special(43, 48, spec.padding);
  return out.take();
}

std::string normalizer_spec(bool adds_dummy_prefix) {
  WireWriter out;
  out.bytes(1, "identity");
  out.integer(3, adds_dummy_prefix);
  out.integer(4, 0);                                            // remove_extra_whitespaces
  out.integer(5, 1);                                            // escape_whitespaces
  return out.take();
}

}  // namespace

std::string write_model_proto(const ModelProtoSpec& spec) {
  WireWriter out;
  for (const ModelPiece& piece : spec.pieces) {
    WireWriter entry;
    entry.bytes(1, piece.text);
    entry.real(2, piece.score);
    if (piece.type != PieceType::normal) entry.integer(3, static_cast<int64_t>(piece.type));
    out.bytes(1, entry.take());
  }
  out.bytes(2, trainer_spec(spec));
  out.bytes(3, normalizer_spec(spec.adds_dummy_prefix));
  return out.take();
}

std::string dummy_prefix_override(bool adds_dummy_prefix) {
  WireWriter spec, out;
  spec.integer(3, adds_dummy_prefix);
  out.bytes(3, spec.take());
  return out.take();
}

}  // namespace longlora
