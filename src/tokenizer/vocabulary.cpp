#include "tokenizer/vocabulary.h"

namespace longlora {

bool Vocabulary::add(std::string text, int32_t id) {
  if (text_of(id)) return false;
  const auto [entry, is_new] = ids_.emplace(std::move(text), id);
  if (!is_new) return false;
  if (static_cast<size_t>(id) >= texts_.size()) texts_.resize(static_cast<size_t>(id) + 1);
  texts_[static_cast<size_t>(id)] = &entry->first;
  return true;
}

std::optional<int32_t> Vocabulary::id_of(std::string_view text) const {
  const auto found = ids_.find(text);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const std::string* Vocabulary::text_of(int32_t id) const {
  return id >= 0 && id < end_id() ? texts_[static_cast<size_t>(id)] : nullptr;
}

}  // namespace longlora
