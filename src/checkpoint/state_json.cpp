#include "checkpoint/state_json.h"

#include <fmt/format.h>

#include <limits>
#include <set>

#include "longlora/core/error.h"
#include "longlora/core/json.h"

namespace longlora {
namespace {

constexpr uint64_t kFormat = 1;
constexpr size_t kMaxBytes = size_t{16} << 20;
constexpr uint64_t kMaxSigned = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());

/// One object whose keys are all read exactly once; `done` refuses the others.
class Reader {
 public:
  Reader(const JsonValue& object, std::string source) : object_(object), source_(std::move(source)) {
    if (!object.object()) bad("the document", "an object");
  }
  const JsonValue& at(std::string_view key) {
    const JsonValue* value = object_.find(key);
    if (!value) bad(key, "present");
    seen_.emplace(key);
    return *value;
  }
  uint64_t unsigned_at(std::string_view key) {
    const auto number = at(key).unsigned_integer();
    if (!number) bad(key, "an unsigned integer");
    return *number;
  }
  int64_t signed_at(std::string_view key) {
    const uint64_t number = unsigned_at(key);
    if (number > kMaxSigned) bad(key, "below 2^63");
    return static_cast<int64_t>(number);
  }
  std::string string_at(std::string_view key) {
    const std::string* text = at(key).string();
    if (!text) bad(key, "a string");
    return *text;
  }
  const JsonValue::Array& array_at(std::string_view key) {
    const JsonValue::Array* list = at(key).array();
    if (!list) bad(key, "a list");
    return *list;
  }
  std::map<std::string, std::string> strings_at(std::string_view key) {
    const JsonValue::Object* object = at(key).object();
    if (!object) bad(key, "an object of strings");
    std::map<std::string, std::string> result;
    for (const auto& [name, value] : *object) {
      if (!value.string()) bad(key, "an object of strings");
      result[name] = *value.string();
    }
    return result;
  }
  void done() const {
    for (const auto& [key, value] : *object_.object()) {
      if (!seen_.contains(key)) bad(key, "absent (unknown key)");
    }
  }
  [[noreturn]] void bad(std::string_view key, std::string_view expected) const {
    fail(ErrorKind::data, fmt::format("{} is not {}", key, expected), source_, "use an older checkpoint (--resume PATH)");
  }

 private:
  const JsonValue& object_;
  std::string source_;
  std::set<std::string, std::less<>> seen_;
};

template <class Range, class Print>
std::string joined(const Range& range, const Print& print) {
  std::string text;
  for (const auto& element : range) text += (text.empty() ? "" : ", ") + print(element);
  return text;
}

std::string print_strings(const std::map<std::string, std::string>& strings) {
  return "{" + joined(strings, [](const auto& pair) { return json_quote(pair.first) + ": " + json_quote(pair.second); }) + "}";
}

std::string print_lineage(const LineageEntry& entry) {
  return fmt::format("{{\"step\": {}, \"key\": {}, \"old\": {}, \"new\": {}}}", entry.step, json_quote(entry.key),
                     json_quote(entry.old_value), json_quote(entry.new_value));
}

std::vector<std::pair<uint64_t, uint64_t>> parse_ranges(Reader& root, std::string_view key) {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const JsonValue& entry : root.array_at(key)) {
    const JsonValue::Array* pair = entry.array();
    if (!pair || pair->size() != 2 || !(*pair)[0].unsigned_integer() || !(*pair)[1].unsigned_integer()) root.bad(key, "a list of pairs");
    ranges.emplace_back(*(*pair)[0].unsigned_integer(), *(*pair)[1].unsigned_integer());
  }
  return ranges;
}

std::vector<LineageEntry> parse_lineage(Reader& root, std::string_view source) {
  std::vector<LineageEntry> lineage;
  for (const JsonValue& entry : root.array_at("lineage")) {
    Reader reader(entry, fmt::format("{}: lineage", source));
    lineage.push_back({reader.signed_at("step"), reader.string_at("key"), reader.string_at("old"), reader.string_at("new")});
    reader.done();
  }
  return lineage;
}

}  // namespace

std::string print_state(const TrainState& s) {
  std::string text = fmt::format("{{\n\"format\": {},\n\"step\": {},\n\"applied_steps\": {},\n\"next_row\": {},\n", kFormat, s.step,
                                 s.applied_steps, s.next_row);
  text += "\"skipped_rows\": [" + joined(s.skipped_rows, [](const auto& r) { return fmt::format("[{}, {}]", r.first, r.second); }) + "],\n";
  text +=
      fmt::format("\"targets_seen\": {},\n\"chain\": {},\n\"metrics_bytes\": {},\n", s.targets_seen, json_quote(s.chain), s.metrics_bytes);
  text += fmt::format("\"config\": {},\n\"frozen_digest\": {},\n", json_quote(s.config_json), json_quote(s.frozen_digest));
  text += "\"identity\": " + print_strings(s.identity) + ",\n\"fingerprint\": " + print_strings(s.fingerprint) + ",\n";
  return text + "\"lineage\": [" + joined(s.lineage, print_lineage) + "]\n}\n";
}

TrainState parse_state(std::string_view text, std::string_view source) {
  const JsonValue document = parse_json(text, source, {.max_bytes = kMaxBytes, .max_depth = 4});
  Reader root(document, std::string(source));
  const uint64_t format = root.unsigned_at("format");
  LONGLORA_CHECK(format == kFormat, mismatch, fmt::format("train state format {}, this program reads format {}", format, kFormat),
                 std::string(source), "resume with the program version that wrote it");
  TrainState s;
  s.step = root.signed_at("step");
  s.applied_steps = root.signed_at("applied_steps");
  s.next_row = root.unsigned_at("next_row");
  s.skipped_rows = parse_ranges(root, "skipped_rows");
  s.targets_seen = root.signed_at("targets_seen");
  s.chain = root.string_at("chain");
  s.metrics_bytes = root.unsigned_at("metrics_bytes");
  s.config_json = root.string_at("config");
  s.frozen_digest = root.string_at("frozen_digest");
  s.identity = root.strings_at("identity");
  s.fingerprint = root.strings_at("fingerprint");
  s.lineage = parse_lineage(root, source);
  root.done();
  return s;
}

}  // namespace longlora
