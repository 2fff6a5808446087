#pragma once
// Token texts and ids, both ways. Ids may have gaps; texts and ids are unique.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace longlora {

inline constexpr size_t kMaxTokens = size_t{1} << 20;   // also the bound of ids

class Vocabulary {
 public:
  /// False when the text or the id is taken already (nothing is changed then). 0 <= id < kMaxTokens.
  bool add(std::string text, int32_t id);
  std::optional<int32_t> id_of(std::string_view text) const;
  /// nullptr when no token has this id.
  const std::string* text_of(int32_t id) const;
  size_t count() const { return ids_.size(); }
  int32_t end_id() const { return static_cast<int32_t>(texts_.size()); }   // greatest id + 1

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::vector<const std::string*> texts_;   // the map's keys, which never move
};

}  // namespace longlora
