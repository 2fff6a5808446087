#include "tokenizer/sp_chunks.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace longlora {
namespace {

constexpr char32_t kVisibleSpace = 0x2581;
bool is_space(char32_t c) { return c == ' ' || c == kVisibleSpace; }

}  // namespace

ChunkRule::ChunkRule(const ModelSummary& model) {
  const auto is_plain_space = [](const ModelPiece& p) { return p.type == PieceType::normal && p.text == kMetaspace; };
  const bool has_space = std::any_of(model.pieces.begin(), model.pieces.end(), is_plain_space);
  cuts_ = model.kind == kBpeKind && model.keeps_text && has_space;
  if (!cuts_) return;
  for (const ModelPiece& piece : model.pieces) {
    char32_t previous = kVisibleSpace;
    for (size_t at = 0; at < piece.text.size();) {
      const CodePoint c = code_point_at(piece.text, at);
      if (is_space(c.value) && !is_space(previous)) glued_.insert(previous);
      previous = c.value;
      at += c.bytes;
    }
  }
}

size_t ChunkRule::end_of_chunk(std::string_view text, size_t begin) const {
  if (!cuts_ || text.size() - begin <= kChunkBytes) return text.size();
  for (size_t at = begin + kChunkBytes; (at = text.find(' ', at)) != std::string_view::npos; ++at) {
    size_t before = at - 1;
    while ((static_cast<uint8_t>(text[before]) & 0xC0u) == 0x80u) --before;
    const char32_t previous = code_point_at(text, before).value;
    if (!is_space(previous) && !glued_.contains(previous)) return at;
  }
  return text.size();
}

}  // namespace longlora
