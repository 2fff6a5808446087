#pragma once
// Changing single members of a JSON object's text: everything that is not changed keeps its bytes, its order and its white space.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace longlora {

class JsonTextEdit {
 public:
  /// `text` must be a valid JSON object (checked before by parse_json) without duplicate keys.
  explicit JsonTextEdit(std::string_view text);
  /// Replaces the member's value text, or appends a member. A value equal to the present one leaves the bytes alone.
  void set(std::string_view key, std::string value);
  void remove(std::string_view key);
  bool has(std::string_view key) const { return find(key) != nullptr; }
  std::string text() const;

 private:
  struct Member {
    std::string key;                    // decoded
    std::string lead, key_text, value;  // white space before the key; the key up to the value; the value's text
  };
  const Member* find(std::string_view key) const;

  std::string before_, after_;  // up to and including '{'; from the white space before '}'
  std::vector<Member> members_;
};

}  // namespace longlora
