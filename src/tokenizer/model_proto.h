#pragma once
// tokenizer.model: sentencepiece's ModelProto on the wire. A bounded walk over it before the library sees it, and a writer.
//
// Goals: nothing reaches the library that it does not check itself (lengths, scores, text encoding, the character map's trie).
// Non-goals: the whole schema; unknown fields are skipped by their wire type, as protobuf does.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace longlora {

enum class PieceType : int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct ModelPiece {
  std::string_view text;   // into the walked bytes
  float score = 0;
  PieceType type = PieceType::normal;
};

inline constexpr int64_t kUnigramKind = 1, kBpeKind = 2;

struct ModelSummary {
  std::vector<ModelPiece> pieces;   // in id order
  int64_t kind = kUnigramKind;
  // The model's normaliser changes nothing but spaces to U+2581 and puts its dummy prefix in front.
  bool keeps_text = false;
};

/// Limits: 32 MiB, 2^20 pieces of at most 1 KiB, finite scores, character maps of at most 1 MiB that stay inside themselves, known piece
/// types, unigram or BPE. Errors: ErrorKind::data "FILE: byte N".
ModelSummary walk_model_proto(std::string_view bytes, std::string_view file);

struct ModelProtoSpec {
  std::vector<ModelPiece> pieces;
  int32_t unknown = 0, bos = -1, eos = -1, padding = -1;   // -1: none
  bool adds_dummy_prefix = true;
};
/// A BPE model with byte fallback and no text normalisation (Llama-2's kind).
std::string write_model_proto(const ModelProtoSpec&);

/// Appended to a serialised model this overrides its dummy prefix: protobuf merges repeated messages, the last value wins.
std::string dummy_prefix_override(bool adds_dummy_prefix);

inline constexpr size_t kMaxModelProtoBytes = size_t{32} << 20;

}  // namespace longlora
