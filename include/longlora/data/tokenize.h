#pragma once
// Text and jsonl files to one token file: the `tokenize` command and the cache of `train`.
//
// Document = [BOS if the tokenizer's own configuration adds it] + encode(text) + EOS. Same bytes for every number of threads. A killed
// call goes on where it stopped: finished groups of inputs (about 16 MiB) are kept in OUTPUT.parts/ until OUTPUT is in place.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "longlora/data/inputs.h"
#include "longlora/tokenizer/tokenizer.h"

namespace longlora {

struct TokenizeProgress { uint64_t bytes_done = 0, bytes_total = 0, documents = 0, tokens = 0; };

struct TokenizeOptions {
  const Tokenizer* tokenizer = nullptr;
  std::optional<int64_t> eos;                  // absent: the tokenizer's
  std::string format = "auto";                 // auto, text, jsonl
  std::string field = "text", split = "file", separator;     // as in DataEntry
  std::string template_name = "none";          // others are not in this version
  uint64_t max_record_bytes = uint64_t{64} << 20;
  bool parse_special = false;                  // text of special tokens becomes their id
  int threads = 2;
  bool force = false;                          // replace an output made from something else
  std::string program_version;                 // into the metadata when given
  std::function<void(const TokenizeProgress&)> progress;     // called on the calling thread, at most once a piece (about 1 MiB)
};

struct TokenizeResult {
  std::filesystem::path path;
  uint64_t documents = 0, tokens = 0;
  uint64_t empty = 0;                          // records without text, left out
  uint64_t reused_parts = 0;                   // groups of inputs taken from an interrupted call
  bool up_to_date = false;                     // the output was there, made from the same inputs by the same rules
};

/// SHA-256 of tokenizer digest, rules, and the inputs' formats, bytes and digests (not their paths).
Digest tokenize_key(const std::vector<SourceIdentity>&, const TokenizeOptions&);

/// Writes `output`. Errors: data FILE:LINE:BYTE (bad record), FILE: document, position (id outside the vocabulary); config (split,
/// template, no EOS); missing; busy (output exists and was made from something else, without `force`); io.
/// `identities` as given by `identify` when the caller has them, else empty.
TokenizeResult tokenize_files(const std::vector<std::filesystem::path>& inputs, const std::filesystem::path& output, const TokenizeOptions&,
                              std::vector<SourceIdentity> identities = {});

}  // namespace longlora
