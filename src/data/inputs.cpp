#include "longlora/data/inputs.h"

#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <array>

#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/text.h"
#include "longlora/formats/token_file.h"

namespace longlora {
namespace {

struct FormatName { std::string_view name; InputFormat format; };
constexpr std::array<FormatName, 5> kFormats{{{"text", InputFormat::text}, {"jsonl", InputFormat::jsonl}, {"tokens", InputFormat::tokens},
                                              {"llmc", InputFormat::llmc}, {"raw_uint16", InputFormat::raw_uint16}}};

void append_folder(const fs::path& folder, std::vector<fs::path>& out) {
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error)) {
    const bool hidden = it->path().filename().native().starts_with('.');
    if (hidden && it->is_directory()) it.disable_recursion_pending();
    if (!hidden && it->is_regular_file()) out.push_back(it->path());
  }
  if (error) fail_errno(error.value(), "read folder", folder.string());
}

void append_path(const fs::path& path, std::vector<fs::path>& out) {
  std::error_code ignored;                       // what cannot be looked at is named when it is opened
  fs::is_directory(path, ignored) ? append_folder(path, out) : out.push_back(path);
}

void append_glob(const std::string& pattern, std::vector<fs::path>& out) {
  glob_t matches{};
  const int rc = ::glob(pattern.c_str(), GLOB_NOSORT | GLOB_ERR, nullptr, &matches);
  std::vector<std::string> found(matches.gl_pathv, matches.gl_pathv + (rc == 0 ? matches.gl_pathc : 0));
  ::globfree(&matches);
  LONGLORA_CHECK(rc == 0 || rc == GLOB_NOMATCH, io, "cannot read the folders of the pattern", pattern, "check the rights of the folders");
  for (const std::string& path : found) append_path(path, out);
}

std::string read_head(const fs::path& path) {
  constexpr uint64_t kHeadBytes = 4096;
  const InputFile file(path);
  return file.read_text(0, std::min(file.size(), kHeadBytes));
}

[[noreturn]] void fail_parquet(const fs::path& path) {
  fail(ErrorKind::data, "Parquet files are not in this version", path.string(),
       "convert: python -c \"import sys,pyarrow.parquet as p; p.read_table(sys.argv[1]).to_pandas()"
       ".to_json(sys.argv[2],orient='records',lines=True,force_ascii=False)\" IN OUT");
}

/// Text whose last character may be cut by the end of the head.
bool is_text_head(std::string_view head) {
  if (head.find('\0') != std::string_view::npos) return false;
  const auto bad = invalid_utf8_at(head);
  return !bad || (head.size() == 4096 && *bad + 4 > head.size());
}

InputFormat format_by_content(const fs::path& path) {
  const std::string head = read_head(path);
  const auto bytes = std::as_bytes(std::span(head));
  if (looks_like_token_file(bytes)) return InputFormat::tokens;
  if (looks_like_llmc(bytes)) return InputFormat::llmc;
  if (head.starts_with("PAR1")) fail_parquet(path);
  LONGLORA_CHECK(path.extension() != ".bin" && is_text_head(head), data,
                 "content is neither text nor a token file; headerless uint16 ids are never guessed", path.string(),
                 "set `format: raw_uint16` on the data entry if that is what it is");
  const size_t first = head.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && head[first] == '{') return InputFormat::jsonl;
  LONGLORA_CHECK(path.extension() != ".json", config, "a JSON array (alpaca, sharegpt, messages) is not in this version", path.string(),
                 "give one object a line with the document in field 'text' (format: jsonl)");
  return InputFormat::text;
}

InputFormat format_by_extension(const fs::path& path) {
  const std::string extension = path.extension().string();
  if (extension == ".txt" || extension == ".md") return InputFormat::text;
  if (extension == ".jsonl") return InputFormat::jsonl;
  if (extension == ".tokens") return InputFormat::tokens;
  if (extension == ".parquet") fail_parquet(path);
  return format_by_content(path);
}

}  // namespace

std::string_view name_of(InputFormat format) {
  for (const FormatName& row : kFormats)
    if (row.format == format) return row.name;
  return "unknown";
}

std::vector<fs::path> list_inputs(const std::string& path) {
  std::vector<fs::path> files;
  std::error_code error;
  if (fs::exists(path, error) || error == std::errc::permission_denied) {
    append_path(path, files);
  } else if (path.find_first_of("*?[") != std::string::npos) {
    append_glob(path, files);
  }
  LONGLORA_CHECK(!files.empty(), missing, "no input file", path, "check the path; folders are read recursively, * ? [...] are matched");
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
  return files;
}

InputFormat input_format(const fs::path& path, const std::string& format) {
  if (format == "auto") return format_by_extension(path);
  if (format == "parquet") fail_parquet(path);
  for (const FormatName& row : kFormats)
    if (row.name == format) return row.format;
  const bool later = format == "alpaca" || format == "sharegpt" || format == "messages";
  fail(ErrorKind::config, fmt::format("format '{}' is {}", escape(format, 40), later ? "not in this version" : "unknown"), path.string(),
       "use auto, text, jsonl, tokens, llmc or raw_uint16");
}

SourceIdentity identify(const fs::path& path) {
  constexpr uint64_t kBlockBytes = uint64_t{1} << 20;
  const InputFile file(path);
  Sha256 hash;
  std::vector<std::byte> block(std::min(kBlockBytes, file.size()));
  for (uint64_t at = 0; at < file.size(); at += block.size()) {
    const auto piece = std::span(block).first(std::min<uint64_t>(block.size(), file.size() - at));
    file.read(at, piece);
    hash.update(piece);
  }
  file.check_unchanged();
  return {.path = path.string(), .bytes = file.size(), .digest = hash.finish()};
}

}  // namespace longlora
