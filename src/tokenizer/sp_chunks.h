#pragma once
// Where a long text may be cut before sentencepiece sees it, without changing one id.
//
// The library keeps all pairs of the whole text in one queue: 10 MB take minutes. Under BPE a token never crosses a place whose two
// characters stand together in no piece, so a space may begin a new chunk when no piece holds it behind the character before it.

#include <cstddef>
#include <string_view>
#include <unordered_set>

#include "tokenizer/model_proto.h"

namespace longlora {

class ChunkRule {
 public:
  ChunkRule() = default;
  explicit ChunkRule(const ModelSummary&);

  /// False for unigram models and for models that rewrite the text first.
  bool cuts() const { return cuts_; }
  /// End of the chunk that starts at `begin`: the first allowed place at least `kChunkBytes` on, else the end of the text.
  size_t end_of_chunk(std::string_view text, size_t begin) const;

  static constexpr size_t kChunkBytes = 4096;

 private:
  bool cuts_ = false;
  std::unordered_set<char32_t> glued_;   // characters that some piece holds before a space
};

}  // namespace longlora
