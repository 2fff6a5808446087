#include <fmt/format.h>

#include <iterator>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "longlora/core/error.h"
#include "longlora/core/json.h"
#include "longlora/core/text.h"

namespace longlora {

namespace {

/// Tells how far the parser has read: every copy counts into the same integer.
struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;
  const char* at = nullptr;
  size_t* bytes_read = nullptr;
  reference operator*() const { return *at; }
  CountingIterator& operator++() { return ++at, ++*bytes_read, *this; }
  CountingIterator operator++(int) { CountingIterator before = *this; ++*this; return before; }
  bool operator==(const CountingIterator& other) const { return at == other.at; }
  bool operator!=(const CountingIterator& other) const { return at != other.at; }
};

struct Place { uint32_t line = 1, column = 1; };

Place place_of(std::string_view text, size_t offset) {
  Place place;
  for (size_t i = 0; i < std::min(offset, text.size()); ++i) {
    const bool continuation = (static_cast<uint8_t>(text[i]) & 0xc0) == 0x80;
    if (text[i] == '\n') ++place.line, place.column = 1;
    else if (!continuation) ++place.column;
  }
  return place;
}

[[noreturn]] void fail_at(std::string_view text, std::string_view source, size_t offset, std::string what) {
  const Place place = place_of(text, offset);
  fail(ErrorKind::data, std::move(what), fmt::format("{}:{}:{}", source, place.line, place.column), "correct the JSON text");
}

/// Builds the tree. Throws from inside the callbacks: the parser holds no resource that a throw could leak.
class TreeBuilder {
 public:
  TreeBuilder(std::string_view text, std::string_view source, const JsonLimits& limits)
      : text_(text), source_(source), limits_(limits) {}

  size_t bytes_read = 0;
  JsonValue root;

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(int64_t value) { return add_number(value); }
  bool number_unsigned(uint64_t value) { return add_number(value); }
  bool number_float(double value, const std::string&) { return add_number(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(nlohmann::json::binary_t&) { return false; }   // never called for text
  bool start_object(size_t) { return open(JsonValue::Object{}); }
  bool start_array(size_t) { return open(JsonValue::Array{}); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    const size_t start = next_token();
    count(start);
    Frame& frame = open_.back();
    if (!frame.insert(name)) fail_at(text_, source_, start, fmt::format("duplicate key \"{}\"", escape(name, 60)));
    const JsonValue at_key = located(start);
    JsonValue& member = std::get<JsonValue::Object>(frame.value.value).emplace_back(std::move(name), JsonValue{}).second;
    member.key_line = at_key.line;
    member.key_column = at_key.column;
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& error) {
    std::string_view message = error.what();
    if (const size_t dash = message.rfind(" - "); dash != std::string_view::npos) message.remove_prefix(dash + 3);
    else if (const size_t bracket = message.find("] "); bracket != std::string_view::npos) message.remove_prefix(bracket + 2);
    const size_t last_read = bytes_read > 0 ? bytes_read - 1 : 0, start = next_token();
    const bool in_string = start < text_.size() && text_[start] == '"';   // then the wrong character counts, not where the string began
    fail_at(text_, source_, in_string ? last_read : start, "not valid JSON: " + escape(message, 120));
  }

 private:
  struct Frame {
    JsonValue value;
    std::unordered_set<std::string> names;   // filled once the object is too large for a linear search

    bool insert(const std::string& name) {
      const JsonValue::Object& members = std::get<JsonValue::Object>(value.value);
      constexpr size_t kLinear = 16;
      if (members.size() < kLinear) return value.find(name) == nullptr;
      if (names.empty()) for (const auto& member : members) names.insert(member.first);
      return names.insert(name).second;
    }
  };

  /// Offset of the token that was just read: the parser calls back before it reads on.
  size_t next_token() {
    size_t start = text_.find_first_not_of(" \t\r\n,:", token_end_);
    start = std::min(start, text_.size());
    token_end_ = bytes_read;
    return start;
  }

  void count(size_t offset) {
    if (++values_ > limits_.max_values) fail_at(text_, source_, offset, fmt::format("more than {} values", limits_.max_values));
  }

  /// Moves the running place forward; asking for every value costs one pass over the text in all.
  JsonValue located(size_t offset) {
    for (; located_until_ < offset; ++located_until_) {
      const char c = text_[located_until_];
      if (c == '\n') ++place_.line, place_.column = 1;
      else if ((static_cast<uint8_t>(c) & 0xc0) != 0x80) ++place_.column;
    }
    JsonValue value;
    value.line = place_.line;
    value.column = place_.column;
    return value;
  }

  template <class T>
  bool add(T&& content) {
    const size_t start = next_token();
    count(start);
    JsonValue value = located(start);
    value.value = std::forward<T>(content);
    attach(std::move(value));
    return true;
  }

  /// The parser sees the end of a number in the character after it.
  template <class T>
  bool add_number(T value) {
    add(value);
    const bool ends_text = bytes_read == text_.size() && text_.back() >= '0' && text_.back() <= '9';
    if (!ends_text) --token_end_;
    return true;
  }

  template <class T>
  bool open(T&& container) {
    const size_t start = next_token();
    count(start);
    if (open_.size() >= limits_.max_depth)
      fail_at(text_, source_, start, fmt::format("nested deeper than {} levels", limits_.max_depth));
    Frame frame;
    frame.value = located(start);
    frame.value.value = std::forward<T>(container);
    open_.push_back(std::move(frame));
    return true;
  }

  bool close() {
    token_end_ = bytes_read;
    JsonValue finished = std::move(open_.back().value);
    open_.pop_back();
    attach(std::move(finished));
    return true;
  }

  void attach(JsonValue&& value) {
    if (open_.empty()) {
      root = std::move(value);
      return;
    }
    JsonValue& parent = open_.back().value;
    if (auto* const array = std::get_if<JsonValue::Array>(&parent.value)) array->push_back(std::move(value));
    else attach_to_key(std::get<JsonValue::Object>(parent.value).back().second, std::move(value));
  }

  static void attach_to_key(JsonValue& member, JsonValue&& value) {
    value.key_line = member.key_line;
    value.key_column = member.key_column;
    member = std::move(value);
  }

  std::string_view text_, source_;
  JsonLimits limits_;
  std::vector<Frame> open_;
  size_t values_ = 0, token_end_ = 0, located_until_ = 0;
  Place place_;
};

void check_text(std::string_view text, std::string_view source, const JsonLimits& limits) {
  LONGLORA_CHECK(text.size() <= limits.max_bytes, data, fmt::format("{} bytes of JSON, at most {} allowed", text.size(), limits.max_bytes),
                 std::string(source), "give the right file");
  if (text.starts_with("\xef\xbb\xbf")) fail_at(text, source, 0, "begins with a byte order mark");
  if (const auto bad = invalid_utf8_at(text)) fail_at(text, source, *bad, fmt::format("invalid UTF-8 at byte {}", *bad));
  // the library takes NUL for the end of the text
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) fail_at(text, source, nul, "NUL byte in the text");
}

}  // namespace

JsonValue parse_json(std::string_view text, std::string_view source, const JsonLimits& limits) {
  check_text(text, source, limits);
  TreeBuilder builder(text, source, limits);
  const CountingIterator first{text.data(), &builder.bytes_read}, last{text.data() + text.size(), &builder.bytes_read};
  const bool complete = nlohmann::json::sax_parse(first, last, &builder);
  LONGLORA_INVARIANT(complete);
  return std::move(builder.root);
}

}  // namespace longlora
