#pragma once
// Where records stand in a text or jsonl file, and the text of one record. Bounded memory: a scan keeps one block, a read one record.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "longlora/core/files.h"

namespace longlora {

enum class RecordKind { whole_file, blank_line, separator, json_line };

struct RecordRules {
  RecordKind kind = RecordKind::whole_file;
  std::string separator;                    // RecordKind::separator: the literal line
  std::string field = "text";               // RecordKind::json_line
  uint64_t max_record_bytes = uint64_t{64} << 20;
};

/// Bytes [begin, end) of a file; `line` (from 1) is the line of `begin`.
struct RecordRange { uint64_t begin = 0, end = 0, line = 1; };

/// Lines of a file, block by block; of a line only its place and its first bytes are kept.
class LineScanner {
 public:
  struct Line {
    uint64_t begin = 0, end = 0, number = 0;   // `end` excludes "\n"
    std::string head;                          // first `head_bytes` bytes
    bool blank = true;                         // only space, tab, carriage return
    bool ends_in_cr = false;                   // "\r\n": the carriage return belongs to the line end
    bool too_long = false;                     // more than `max_line_bytes`: the scan stopped there
  };
  /// A byte order mark at byte 0 is no part of the first line.
  LineScanner(const InputFile&, size_t head_bytes, uint64_t max_line_bytes);
  bool next(Line&);

 private:
  bool refill();
  const InputFile& file_;
  size_t head_bytes_;
  uint64_t max_line_bytes_;
  std::vector<char> block_;
  uint64_t block_begin_ = 0, at_ = 0, number_ = 0;    // `at_`: next byte of the file
};

/// Records of one file in order. A text document is whole lines with their own line ends, the last line end excluded; empty documents
/// are counted, not returned. Longer than max_record_bytes: ErrorKind::data at FILE:LINE:BYTE.
class RecordScanner {
 public:
  RecordScanner(const InputFile&, const RecordRules&);
  bool next(RecordRange&);
  uint64_t empty() const { return empty_; }

 private:
  bool next_whole(RecordRange&);
  bool next_json(RecordRange&);
  bool next_document(RecordRange&);
  bool is_boundary(const LineScanner::Line&) const;
  [[noreturn]] void fail_too_long(const RecordRange&) const;
  const InputFile& file_;
  const RecordRules& rules_;
  LineScanner lines_;
  bool done_ = false;
  uint64_t empty_ = 0;
};

/// Text of the record, verbatim for text. Invalid UTF-8, NUL, bad JSON, missing or mistyped field: ErrorKind::data at FILE:LINE:BYTE (byte
/// of the line, from 1). A jsonl record of a fine-tuning format: ErrorKind::config, not in this version.
std::string read_record(const InputFile&, const RecordRange&, const RecordRules&);

}  // namespace longlora
