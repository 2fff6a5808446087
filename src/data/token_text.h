#pragma once
// From a record's text to the ids of a document, and from files to documents in order.
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "data/records.h"
#include "longlora/data/tokenize.h"

namespace longlora {

/// Everything about documents that the options fix, checked once.
struct DocumentRules {
  RecordRules records;
  EncodeOptions encode;
  std::optional<int32_t> bos;
  int32_t eos = 0;
  int64_t vocab_size = 0;
};

/// ErrorKind::config for an unknown split, a template of a later version, no EOS or one outside the vocabulary.
DocumentRules document_rules(const TokenizeOptions&);

/// Rules for one file: jsonl files have lines, text files the split of the options.
RecordRules record_rules_for(const DocumentRules&, InputFormat);

struct DocumentStats { uint64_t empty = 0; };

/// Encodes all records of `files` (with their formats) on `threads` threads and hands every document, in order, to `add`; `done(bytes)`
/// reports input bytes finished.
DocumentStats encode_files(std::span<const std::filesystem::path> files, std::span<const InputFormat> formats, const TokenizeOptions&,
                           const std::function<void(std::span<const int32_t>)>& add, const std::function<void(uint64_t)>& done);

}  // namespace longlora
