#pragma once
// One line of a jsonl file: a strict, bounded scan that extracts one string field and remembers nothing else.
//
// Goals: exact byte of every fault; nesting at most 16; memory is the field; any line length that the caller allows.
// Non-goals: a tree of the record (core/json.h has one).
#include <cstdint>
#include <string>
#include <string_view>

namespace longlora {

inline constexpr int kMaxRecordDepth = 16;

/// What is wrong with a record; `byte` counts from 0 inside the record.
struct RecordProblem {
  size_t byte = 0;
  std::string what;        // got and expected
};

struct JsonRecord {
  bool has_field = false;
  std::string text;                    // value of the field, escapes resolved
  bool has_instruction = false, has_conversations = false, has_messages = false;   // fields of SFT records
};

/// `line` must be valid UTF-8. Throws RecordProblem: syntax, duplicate key, lone surrogate escape, NUL, depth, field of another type.
JsonRecord scan_json_record(std::string_view line, std::string_view field);

}  // namespace longlora
