#pragma once
// From a node to a typed value and back, for every type of the field table. read_value reports what is wrong and returns false;
// write_value gives JSON (absent optional values are null); describe says what is allowed.

#include <fmt/format.h>

#include <type_traits>

#include "config/fields.h"
#include "config/node.h"
#include "longlora/config/names.h"
#include "longlora/config/scalar_text.h"
#include "longlora/core/error.h"
#include "longlora/core/json.h"
#include "longlora/core/text.h"

namespace longlora {

struct ReadContext {
  std::string key;
  std::string_view absent;
  Issues& issues;

  /// Always false, so that readers can `return refuse(...)`.
  bool refuse(const Node& node, std::string what, std::string advice) const {
    issues.push_back({node.place, key, std::move(what), std::move(advice)});
    return false;
  }
  bool refuse_type(const Node& node, const std::string& expected, std::string advice = {}) const {
    return refuse(node, fmt::format("got {}, expected {}", node.shown(), expected),
                  !advice.empty()  ? std::move(advice)
                  : node.is_null() ? "give a value or remove the line"
                                   : "give " + expected);
  }
};

template <class T>
struct is_optional : std::false_type {};
template <class T>
struct is_optional<std::optional<T>> : std::true_type {};
template <class T>
struct is_vector : std::false_type {};
template <class T>
struct is_vector<std::vector<T>> : std::true_type {};

// ---- what is allowed -------------------------------------------------------------------------------------------------------------

inline std::string describe(const int64_t*, const Integers& allowed) { return allowed.text(); }
inline std::string describe(const double*, const Reals& allowed) { return allowed.text(); }
inline std::string describe(const std::string*, const Text& allowed) {
  return allowed.choices.empty() ? "text" : "one of " + std::string(allowed.choices);
}
inline std::string describe(const bool*, const Words&) { return "true or false"; }
template <class E>
requires std::is_enum_v<E> std::string describe(const E*, const Words&) { return "one of " + all_names<E>(); }
inline std::string describe(const std::vector<DataEntry>*, const Entries&) { return "a list of {path: ...}"; }
template <class T, class A>
std::string describe(const std::optional<T>*, const A& allowed) {
  return describe(static_cast<const T*>(nullptr), allowed);
}
template <class T, class A>
std::string describe(const std::vector<T>*, const A& allowed) {
  return "a list, each " + describe(static_cast<const T*>(nullptr), allowed);
}

// ---- reading ---------------------------------------------------------------------------------------------------------------------

bool read_value(const Node&, int64_t&, const Integers&, const ReadContext&);
bool read_value(const Node&, double&, const Reals&, const ReadContext&);
bool read_value(const Node&, bool&, const Words&, const ReadContext&);
bool read_value(const Node&, std::string&, const Text&, const ReadContext&);
bool read_value(const Node&, std::vector<DataEntry>&, const Entries&, const ReadContext&);
/// "did you mean 's2'?" or the list of choices; for words outside a table.
std::string advice_for_word(std::string_view word, const std::vector<std::string>& choices);

template <class E>
requires std::is_enum_v<E>
bool read_value(const Node& node, E& value, const Words& allowed, const ReadContext& context) {
  const std::string expected = describe(&value, allowed);
  const bool is_word = node.kind == Node::Kind::plain || node.kind == Node::Kind::quoted;
  if (!is_word || node.is_null()) return context.refuse_type(node, expected);
  if (const std::optional<E> found = value_of_name<E>(node.text)) return value = *found, true;
  std::vector<std::string> choices;
  for (const auto& name : names_of(E{})) choices.emplace_back(name.text);
  return context.refuse_type(node, expected, advice_for_word(node.text, choices));
}

template <class T, class A>
bool read_value(const Node& node, std::optional<T>& value, const A& allowed, const ReadContext& context) {
  if (node.is_null() || (node.is_scalar() && node.text == context.absent)) return value.reset(), true;
  T content{};
  if (!read_value(node, content, allowed, context)) return false;
  value = content;
  return true;
}

template <class T, class A>
requires(!std::is_same_v<T, DataEntry>) bool read_value(const Node& node, std::vector<T>& value, const A& allowed,
                                                        const ReadContext& context) {
  if (node.kind != Node::Kind::list) return context.refuse_type(node, describe(&value, allowed), "write [a, b, ...]");
  std::vector<T> items;
  bool good = true;
  for (const Node& item : node.items) {
    T content{};
    if (!read_value(item, content, allowed, context))
      good = false;
    else
      items.push_back(content);
  }
  if constexpr (std::is_same_v<A, Reals>)
    if (good && allowed.count != 0 && items.size() != allowed.count)
      return context.refuse(node, fmt::format("got {} numbers, expected {}", items.size(), allowed.count), "write that many");
  if (good) value = std::move(items);
  return good;
}

// ---- writing ---------------------------------------------------------------------------------------------------------------------

inline JsonValue json_of(auto content) {
  JsonValue value;
  value.value = std::move(content);
  return value;
}
inline JsonValue write_value(const int64_t& v) { return v >= 0 ? json_of(static_cast<uint64_t>(v)) : json_of(v); }
inline JsonValue write_value(const double& v) { return json_of(v); }
inline JsonValue write_value(const bool& v) { return json_of(v); }
inline JsonValue write_value(const std::string& v) { return json_of(v); }
template <class E>
requires std::is_enum_v<E> JsonValue write_value(const E& v) { return json_of(std::string(name_of_value(v))); }
template <class T>
JsonValue write_value(const std::optional<T>& v) {
  return v ? write_value(*v) : JsonValue{};
}
JsonValue write_value(const DataEntry&);
template <class T>
JsonValue write_value(const std::vector<T>& v) {
  JsonValue::Array items;
  for (const T& item : v) items.push_back(write_value(item));
  return json_of(std::move(items));
}

}  // namespace longlora
