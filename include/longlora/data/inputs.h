#pragma once
// Which files a data entry means, and what is in them.
#include <filesystem>
#include <string>
#include <vector>

#include "longlora/config/train_config.h"
#include "longlora/core/hash.h"

namespace longlora {

enum class InputFormat { text, jsonl, tokens, llmc, raw_uint16 };
std::string_view name_of(InputFormat);
inline bool is_text(InputFormat f) { return f == InputFormat::text || f == InputFormat::jsonl; }

/// Files of `path`: the file itself; all files of a folder, recursively, hidden ones left out; or the matches of a glob (* ? [...]).
/// Sorted bytewise. No file: ErrorKind::missing.
std::vector<std::filesystem::path> list_inputs(const std::string& path);

/// The format named by `format`, or for `auto` decided by extension, then by content. Formats of later versions and unknown names:
/// ErrorKind::config; content that is none of ours (raw uint16 is never guessed; Parquet): ErrorKind::data.
InputFormat input_format(const std::filesystem::path&, const std::string& format);

/// Identity of an input for caches and the resume check: SHA-256 over the whole file.
struct SourceIdentity { std::string path; uint64_t bytes = 0; Digest digest{}; };
SourceIdentity identify(const std::filesystem::path&);

}  // namespace longlora
