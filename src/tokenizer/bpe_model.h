#pragma once
// Byte-pair encoding of one word (Sennrich et al., arXiv:1508.07909): join the adjacent pair of lowest rank, leftmost first, until none
// is left.

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/pair_table.h"
#include "tokenizer/vocabulary.h"

namespace longlora {

struct BpeOptions {
  bool byte_fallback = false;             // a character outside the vocabulary becomes its bytes' tokens <0x00> .. <0xFF>
  bool fuse_unk = false;                  // neighbouring unknown characters become one unknown token
  bool ignore_merges = false;             // a word that is a token is that token
  std::optional<int32_t> unknown;         // without it unknown characters vanish, as in the reference
};

/// Memory reused from word to word by one thread.
struct BpeScratch {
  struct Symbol { int32_t id, previous, next; };
  struct Candidate { uint32_t rank; int32_t position; int32_t result; };
  std::vector<int32_t> symbols;
  std::vector<Symbol> list;
  std::vector<Candidate> heap;
};

class BpeModel {
 public:
  using Merges = std::vector<std::array<int32_t, 3>>;   // {left, right, joined} in rank order

  /// `vocabulary` must outlive the model. `special` ids never come out of plain text: a merge that would end in one is taken back into
  /// its two parts, so that a document cannot forge a marker.
  BpeModel(const Vocabulary& vocabulary, const Merges& merges, const std::vector<int32_t>& special, BpeOptions);

  /// Appends the word's ids to `out`. Time O(n log n) in its length, and O(n) where no merge can cross most neighbours.
  void encode(std::string_view word, std::vector<int32_t>& out, BpeScratch&) const;

 private:
  void find_parts(const Merges&);
  void first_symbols(std::string_view word, std::vector<int32_t>& out) const;
  bool append_bytes(std::string_view character, std::vector<int32_t>& out) const;
  void emit(int32_t id, std::vector<int32_t>& out) const;
  void merge(const int32_t* symbols, size_t count, std::vector<int32_t>& out, BpeScratch&) const;
  bool may_join(int32_t left, int32_t right) const { return joins_anything_ || joints_.contains(left, right); }

  const Vocabulary* vocabulary_;
  BpeOptions options_;
  PairTable merges_;
  PairTable joints_;                      // pairs of characters that stand left and right of the seam of some merge
  bool joins_anything_ = false;
  std::unordered_map<int32_t, std::array<int32_t, 2>> special_parts_;   // special id to its parts, {-1, -1} when no merge makes it
  std::vector<int32_t> id_of_char_;       // by code point; -1 when the character is no token
  std::array<int32_t, 256> id_of_byte_{};
};

}  // namespace longlora
