// Encodes lines for tokenizer_parity.py.
//   tokenizer_probe encode FOLDER plain|parsed < LINES   each line a JSON string; prints its ids, a tab, and their text as a JSON string
//   tokenizer_probe convert PARTS.json FOLDER            writes the files made from GGUF metadata into FOLDER
#include <fstream>
#include <iostream>
#include <string>

#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/json.h"
#include "longlora/tokenizer/tokenizer.h"

namespace longlora {
namespace {

constexpr JsonLimits kLimits{.max_bytes = size_t{64} << 20, .max_depth = 4, .max_values = 4'000'000};

int encode(const char* folder, const EncodeOptions& options) {
  const auto tokenizer = load_tokenizer(folder);
  for (std::string line; std::getline(std::cin, line);) {
    const auto ids = tokenizer->encode(*parse_json(line, "stdin", kLimits).string(), options);
    for (const int32_t id : ids) std::cout << id << ' ';
    std::cout << '\t' << json_quote(tokenizer->decode(ids, false)) << '\n';
  }
  return 0;
}

std::vector<std::string> strings(const JsonValue& parts, std::string_view key) {
  std::vector<std::string> out;
  if (const JsonValue* list = parts.find(key)) {
    for (const JsonValue& item : *list->array()) out.push_back(*item.string());
  }
  return out;
}

std::optional<int64_t> integer(const JsonValue& parts, std::string_view key) {
  const JsonValue* value = parts.find(key);
  return value ? std::optional<int64_t>(*value->unsigned_integer()) : std::nullopt;
}

std::optional<bool> boolean(const JsonValue& parts, std::string_view key) {
  const JsonValue* value = parts.find(key);
  return value ? std::optional<bool>(*value->boolean()) : std::nullopt;
}

int convert(const char* parts_file, const char* folder) {
  const JsonValue json = parse_json(read_file(parts_file, kLimits.max_bytes), parts_file, kLimits);
  TokenizerParts parts;
  parts.model = *json.find("model")->string();
  if (const JsonValue* pre = json.find("pre")) parts.pre = *pre->string();
  parts.tokens = strings(json, "tokens");
  parts.merges = strings(json, "merges");
  for (const JsonValue& type : *json.find("types")->array()) parts.types.push_back(static_cast<int32_t>(*type.unsigned_integer()));
  if (const JsonValue* scores = json.find("scores")) {
    for (const JsonValue& score : *scores->array()) parts.scores.push_back(static_cast<float>(*score.number()));
  }
  parts.bos = integer(json, "bos");
  parts.eos = integer(json, "eos");
  parts.unknown = integer(json, "unknown");
  parts.add_bos = boolean(json, "add_bos");
  for (const NamedFile& file : tokenizer_files_from_gguf(parts, static_cast<int64_t>(parts.tokens.size()), 4096)) {
    write_file_atomic(fs::path(folder) / file.name, file.bytes);
  }
  return 0;
}

int run(int argc, char** argv) {
  const std::string_view command = argc == 4 ? argv[1] : "";
  if (command == "encode") return encode(argv[2], {.parse_special = std::string_view(argv[3]) == "parsed"});
  if (command == "convert") return convert(argv[2], argv[3]);
  fail(ErrorKind::usage, "expected encode FOLDER plain|parsed, or convert PARTS FOLDER", "command line", "see tokenizer_probe.cpp");
}

}  // namespace
}  // namespace longlora

int main(int argc, char** argv) {
  return longlora::run_guarded([&] { return longlora::run(argc, argv); });
}
