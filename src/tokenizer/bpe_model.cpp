#include "tokenizer/bpe_model.h"

#include <algorithm>
#include <limits>
#include <string>

#include "longlora/core/error.h"
#include "tokenizer/unicode.h"

namespace longlora {
namespace {

std::string byte_token(unsigned byte) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  return {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
}

std::vector<int32_t> ids_of_characters(const Vocabulary& vocabulary) {
  std::vector<int32_t> ids(kMaxCodePoint + 1, -1);
  for (int32_t id = 0; id < vocabulary.end_id(); ++id) {
    const std::string* text = vocabulary.text_of(id);
    if (!text || text->empty()) continue;
    const CodePoint c = code_point_at(*text, 0);
    if (c.bytes == text->size()) ids[c.value] = id;
  }
  return ids;
}

size_t last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0u) == 0x80u) --at;
  return at;
}

/// Heap order: the standard heap keeps the greatest in front, so "less" means merges later.
bool merges_later(const BpeScratch::Candidate& a, const BpeScratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

BpeModel::BpeModel(const Vocabulary& vocabulary, const Merges& merges, const std::vector<int32_t>& special, BpeOptions options)
    : vocabulary_(&vocabulary),
      options_(options),
      merges_(merges.size()),
      joints_(merges.size()),
      id_of_char_(ids_of_characters(vocabulary)) {
  for (const int32_t id : special) special_parts_[id] = {-1, -1};
  for (unsigned byte = 0; byte < 256; ++byte) id_of_byte_[byte] = vocabulary.id_of(byte_token(byte)).value_or(-1);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    merges_.set(merges[rank][0], merges[rank][1], {static_cast<uint32_t>(rank), merges[rank][2]});
    const auto hidden = special_parts_.find(merges[rank][2]);
    if (hidden != special_parts_.end() && hidden->second[0] < 0) hidden->second = {merges[rank][0], merges[rank][1]};
  }
  find_parts(merges);
}

// A text without spaces between its words is one word of megabytes. Merges are local, so it may be cut wherever no merge has the
// neighbouring characters at its seam (in practice before almost every space): the pieces give the same tokens, and their heaps stay in
// the cache. Only characters are looked at; where bytes or the unknown token take part in merges, nothing is cut.
void BpeModel::find_parts(const Merges& merges) {
  for (const auto& [left, right, joined] : merges) {
    for (const int32_t part : {left, right}) {
      joins_anything_ |= part == options_.unknown || std::find(id_of_byte_.begin(), id_of_byte_.end(), part) != id_of_byte_.end();
    }
    const std::string& a = *vocabulary_->text_of(left);
    const std::string& b = *vocabulary_->text_of(right);
    if (a.empty() || b.empty()) continue;
    const int32_t last = id_of_char_[code_point_at(a, last_character(a)).value];
    const int32_t first = id_of_char_[code_point_at(b, 0).value];
    if (last >= 0 && first >= 0) joints_.set(last, first, {});
  }
}

bool BpeModel::append_bytes(std::string_view character, std::vector<int32_t>& out) const {
  for (const char c : character) {
    if (id_of_byte_[static_cast<uint8_t>(c)] < 0) return false;
  }
  for (const char c : character) out.push_back(id_of_byte_[static_cast<uint8_t>(c)]);
  return true;
}

void BpeModel::first_symbols(std::string_view word, std::vector<int32_t>& out) const {
  bool unknown_waits = false;
  const auto flush = [&] {
    if (unknown_waits) out.push_back(*options_.unknown);
    unknown_waits = false;
  };
  for (size_t at = 0; at < word.size();) {
    const CodePoint c = code_point_at(word, at);
    const int32_t id = id_of_char_[c.value];
    if (id >= 0) {
      flush();
      out.push_back(id);
    } else if (!(options_.byte_fallback && append_bytes(word.substr(at, c.bytes), out)) && options_.unknown) {
      if (!options_.fuse_unk) flush();
      unknown_waits = true;
    }
    at += c.bytes;
  }
  flush();
}

void BpeModel::encode(std::string_view word, std::vector<int32_t>& out, BpeScratch& scratch) const {
  if (options_.ignore_merges) {
    const auto id = vocabulary_->id_of(word);
    if (id && !special_parts_.contains(*id)) return out.push_back(*id);
  }
  scratch.symbols.clear();
  first_symbols(word, scratch.symbols);
  const std::vector<int32_t>& symbols = scratch.symbols;
  for (size_t begin = 0, end; begin < symbols.size(); begin = end) {
    for (end = begin + 1; end < symbols.size() && may_join(symbols[end - 1], symbols[end]);) ++end;
    merge(symbols.data() + begin, end - begin, out, scratch);
  }
}

void BpeModel::emit(int32_t id, std::vector<int32_t>& out) const {
  const auto hidden = special_parts_.empty() ? special_parts_.end() : special_parts_.find(id);
  if (hidden == special_parts_.end() || hidden->second[0] < 0) return out.push_back(id);
  emit(hidden->second[0], out);   // parts are shorter texts, so this ends
  emit(hidden->second[1], out);
}

void BpeModel::merge(const int32_t* symbols, size_t count, std::vector<int32_t>& out, BpeScratch& scratch) const {
  if (count == 1) return out.push_back(symbols[0]);
  LONGLORA_CHECK(count <= std::numeric_limits<int32_t>::max(), data, "a word of " + std::to_string(count) + " characters", "text to encode",
                 "split the text into documents");
  auto& list = scratch.list;
  auto& heap = scratch.heap;
  list.resize(count);
  heap.clear();
  const auto offer = [&](int32_t position, int32_t left, int32_t right) {
    const MergeRule* rule = merges_.find(left, right);
    if (rule) heap.push_back({rule->rank, position, rule->result});
    return rule != nullptr;
  };
  for (size_t i = 0; i < count; ++i) {
    list[i] = {symbols[i], static_cast<int32_t>(i) - 1, i + 1 < count ? static_cast<int32_t>(i) + 1 : -1};
    if (i + 1 < count) offer(static_cast<int32_t>(i), symbols[i], symbols[i + 1]);
  }
  std::make_heap(heap.begin(), heap.end(), merges_later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), merges_later);
    const BpeScratch::Candidate top = heap.back();
    heap.pop_back();
    auto& left = list[static_cast<size_t>(top.position)];
    if (left.id < 0 || left.next < 0) continue;
    auto& right = list[static_cast<size_t>(left.next)];
    const MergeRule* rule = merges_.find(left.id, right.id);
    if (!rule || rule->result != top.result) continue;   // one of the two was joined with something else meanwhile
    left.id = top.result;
    left.next = right.next;
    right.id = -1;
    if (left.previous >= 0 && offer(left.previous, list[static_cast<size_t>(left.previous)].id, left.id)) {
      std::push_heap(heap.begin(), heap.end(), merges_later);
    }
    if (left.next < 0) continue;
    list[static_cast<size_t>(left.next)].previous = top.position;
    if (offer(top.position, left.id, list[static_cast<size_t>(left.next)].id)) std::push_heap(heap.begin(), heap.end(), merges_later);
  }
  for (int32_t at = 0; at >= 0; at = list[static_cast<size_t>(at)].next) emit(list[static_cast<size_t>(at)].id, out);
}

}  // namespace longlora
