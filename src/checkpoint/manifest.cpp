// MANIFEST.json to the byte. The own digest is checked on the text before anything is parsed, so damage never looks like a new format.
#include <fmt/format.h>

#include <set>

#include "longlora/checkpoint/commit.h"
#include "longlora/core/error.h"
#include "longlora/core/json.h"

namespace longlora {
namespace {

constexpr uint64_t kFormat = 1;
constexpr size_t kMaxBytes = size_t{16} << 20;
constexpr size_t kMaxFiles = 65'536;
constexpr std::string_view kOwnDigestKey = "  \"sha256\": \"";
constexpr std::string_view kEnd = "\"\n}\n";
constexpr size_t kHexDigits = 64;

[[noreturn]] void damaged(std::string what, std::string_view source) {
  fail(ErrorKind::data, "damaged manifest: " + std::move(what), std::string(source), "use an older checkpoint (--resume auto does)");
}

std::string text_with_digest(const Manifest& manifest, const std::string& hex) {
  std::string text = fmt::format("{{\n  \"format\": {},\n  \"step\": {},\n  \"chain\": {},\n  \"files\": [", kFormat, manifest.step,
                                 json_quote(manifest.chain));
  const char* separator = "\n";
  for (const ManifestFile& file : manifest.files) {
    text += fmt::format("{}    {{\"name\": {}, \"bytes\": {}, \"sha256\": \"{}\"}}", separator, json_quote(file.name), file.bytes,
                        to_hex(file.digest));
    separator = ",\n";
  }
  return text + fmt::format("\n  ],\n{}{}{}", kOwnDigestKey, hex, kEnd);
}

void check_own_digest(std::string_view text, std::string_view source) {
  const size_t tail = kOwnDigestKey.size() + kHexDigits + kEnd.size();
  if (text.size() < tail || !text.ends_with(kEnd) || text.substr(text.size() - tail, kOwnDigestKey.size()) != kOwnDigestKey) {
    damaged("it does not end with its own SHA-256", source);
  }
  std::string zeroed(text);
  const size_t begin = text.size() - kEnd.size() - kHexDigits;
  zeroed.replace(begin, kHexDigits, kHexDigits, '0');
  if (to_hex(sha256(zeroed)) != text.substr(begin, kHexDigits)) damaged("its own SHA-256 does not match", source);
}

uint64_t unsigned_at(const JsonValue& object, std::string_view key, std::string_view source) {
  const JsonValue* value = object.find(key);
  const auto number = value ? value->unsigned_integer() : std::nullopt;
  if (!number) damaged(fmt::format("'{}' is not an unsigned integer", key), source);
  return *number;
}

std::string string_at(const JsonValue& object, std::string_view key, std::string_view source) {
  const JsonValue* value = object.find(key);
  if (!value || !value->string()) damaged(fmt::format("'{}' is not a string", key), source);
  return *value->string();
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." && name != "MANIFEST.json" &&
         name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
}

ManifestFile file_entry(const JsonValue& entry, std::string_view source) {
  ManifestFile file{.name = string_at(entry, "name", source), .bytes = unsigned_at(entry, "bytes", source)};
  if (!is_plain_name(file.name)) damaged("a file name is not one path component", source);
  if (!from_hex(string_at(entry, "sha256", source), file.digest)) damaged("a file's SHA-256 is malformed", source);
  return file;
}

}  // namespace

std::string print_manifest(const Manifest& manifest) {
  return text_with_digest(manifest, to_hex(sha256(text_with_digest(manifest, std::string(kHexDigits, '0')))));
}

Manifest parse_manifest(std::string_view text, std::string_view source) {
  check_own_digest(text, source);
  const JsonValue root = parse_json(text, source, {.max_bytes = kMaxBytes, .max_depth = 4});
  const uint64_t format = unsigned_at(root, "format", source);
  LONGLORA_CHECK(format == kFormat, mismatch, fmt::format("checkpoint format {}, this program reads format {}", format, kFormat),
                 std::string(source), "resume with the program version that wrote it");
  Manifest manifest{.step = static_cast<int64_t>(unsigned_at(root, "step", source)), .chain = string_at(root, "chain", source)};
  const JsonValue* files = root.find("files");
  if (!files || !files->array() || files->array()->size() > kMaxFiles) damaged("'files' is not a list of at most 65536 entries", source);
  std::set<std::string> names;
  for (const JsonValue& entry : *files->array()) {
    manifest.files.push_back(file_entry(entry, source));
    if (!names.insert(manifest.files.back().name).second) damaged("a file is listed twice", source);
  }
  // One manifest has one text: unknown keys, other spacing or number spellings cannot hide behind a valid digest.
  if (print_manifest(manifest) != text) damaged("it has unknown keys or another spelling", source);
  return manifest;
}

}  // namespace longlora
