#include "data/records.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "data/json_record.h"
#include "longlora/core/error.h"
#include "longlora/core/text.h"

namespace longlora {
namespace {

constexpr uint64_t kBlockBytes = uint64_t{1} << 18;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

uint64_t text_begin(const InputFile& file) {
  const bool marked = file.size() >= kByteOrderMark.size() && file.read_text(0, kByteOrderMark.size()) == kByteOrderMark;
  return marked ? kByteOrderMark.size() : 0;
}

/// FILE:LINE:BYTE of byte `offset` of a record.
std::string place_of(const InputFile& file, const RecordRange& range, std::string_view text, size_t offset) {
  const std::string_view before = text.substr(0, offset);
  const size_t line_begin = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
  return fmt::format("{}:{}:{}", file.path().string(), range.line + std::count(before.begin(), before.end(), '\n'),
                     offset - line_begin + 1);
}

void check_text(const InputFile& file, const RecordRange& range, std::string_view text) {
  if (const auto bad = invalid_utf8_at(text))
    fail(ErrorKind::data, fmt::format("bad record: byte {:#04x} is not valid UTF-8", static_cast<unsigned char>(text[*bad])),
         place_of(file, range, text, *bad), "convert the file to UTF-8 or correct the byte");
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos)
    fail(ErrorKind::data, "bad record: NUL byte, expected text", place_of(file, range, text, nul), "remove the byte; is this a text file?");
}

std::string json_text(const InputFile& file, const RecordRange& range, std::string_view line, const RecordRules& rules) {
  JsonRecord record;
  try {
    record = scan_json_record(line, rules.field);
  } catch (const RecordProblem& problem) {
    fail(ErrorKind::data, "bad record: " + problem.what, place_of(file, range, line, problem.byte), "correct the line");
  }
  if (record.has_field) return std::move(record.text);
  const std::string place = place_of(file, range, line, 0);
  if (record.has_instruction || record.has_conversations || record.has_messages)
    fail(ErrorKind::config, "fine-tuning records (instruction, conversations, messages) are not in this version", place,
         fmt::format("give documents in field '{}'", rules.field));
  fail(ErrorKind::data, fmt::format("bad record: no field '{}'", escape(rules.field, 40)), place,
       "add the field, or name another in `field` of the data entry");
}

}  // namespace

LineScanner::LineScanner(const InputFile& file, size_t head_bytes, uint64_t max_line_bytes)
    : file_(file), head_bytes_(head_bytes), max_line_bytes_(max_line_bytes), block_begin_(text_begin(file)), at_(block_begin_) {}

bool LineScanner::refill() {
  if (at_ < block_begin_ + block_.size()) return true;
  if (at_ >= file_.size()) return false;
  block_begin_ = at_;
  block_.resize(std::min(kBlockBytes, file_.size() - at_));
  file_.read(at_, std::as_writable_bytes(std::span(block_)));
  return true;
}

bool LineScanner::next(Line& line) {
  if (!refill()) return false;
  line = {.begin = at_, .end = at_, .number = ++number_};
  while (refill()) {
    const char* from = block_.data() + (at_ - block_begin_);
    const size_t left = block_begin_ + block_.size() - at_;
    const void* found = std::memchr(from, '\n', left);
    const size_t length = found ? static_cast<const char*>(found) - from : left;
    if (line.head.size() < head_bytes_) line.head.append(from, std::min(length, head_bytes_ - line.head.size()));
    for (size_t i = 0; i < length && line.blank; ++i) line.blank = from[i] == ' ' || from[i] == '\t' || from[i] == '\r';
    if (length > 0) line.ends_in_cr = from[length - 1] == '\r';
    at_ += length;
    line.end = at_;
    line.too_long = line.end - line.begin > max_line_bytes_;
    if (line.too_long) return true;
    if (found) {
      ++at_;
      return true;
    }
  }
  return true;
}

RecordScanner::RecordScanner(const InputFile& file, const RecordRules& rules)
    : file_(file), rules_(rules), lines_(file, rules.separator.size() + 2, rules.max_record_bytes) {}

bool RecordScanner::next(RecordRange& out) {
  if (rules_.kind == RecordKind::whole_file) return next_whole(out);
  return rules_.kind == RecordKind::json_line ? next_json(out) : next_document(out);
}

void RecordScanner::fail_too_long(const RecordRange& range) const {
  fail(ErrorKind::data, fmt::format("bad record: longer than data.max_record_bytes = {}", rules_.max_record_bytes),
       fmt::format("{}:{}:1", file_.path().string(), range.line), "cut the record into parts, or raise data.max_record_bytes");
}

bool RecordScanner::next_whole(RecordRange& out) {
  if (done_) return false;
  done_ = true;
  out = {.begin = text_begin(file_), .end = file_.size(), .line = 1};
  if (out.end - out.begin > rules_.max_record_bytes) fail_too_long(out);
  empty_ += out.begin == out.end;
  return out.begin < out.end;
}

bool RecordScanner::next_json(RecordRange& out) {
  for (LineScanner::Line line; lines_.next(line);) {
    out = {.begin = line.begin, .end = line.end, .line = line.number};
    if (line.too_long) fail_too_long(out);
    if (!line.blank) return true;
  }
  return false;
}

bool RecordScanner::is_boundary(const LineScanner::Line& line) const {
  std::string_view head = line.head;
  if (line.end - line.begin > rules_.separator.size() + 1) return false;
  if (head.ends_with('\r')) head.remove_suffix(1);
  return head == (rules_.kind == RecordKind::separator ? std::string_view(rules_.separator) : std::string_view());
}

bool RecordScanner::next_document(RecordRange& out) {
  bool open = false;
  for (LineScanner::Line line; lines_.next(line);) {
    if (!line.too_long && is_boundary(line)) {
      if (open && out.begin < out.end) return true;
      empty_ += rules_.kind == RecordKind::separator;      // several blank lines are one boundary, not empty documents
      open = false;
      continue;
    }
    if (!open) out = {.begin = line.begin, .end = line.end, .line = line.number};
    open = true;
    out.end = line.end - line.ends_in_cr;
    if (out.end - out.begin > rules_.max_record_bytes) fail_too_long(out);
  }
  return open && out.begin < out.end;
}

std::string read_record(const InputFile& file, const RecordRange& range, const RecordRules& rules) {
  std::string text = file.read_text(range.begin, range.end - range.begin);
  check_text(file, range, text);
  return rules.kind == RecordKind::json_line ? json_text(file, range, text, rules) : text;
}

}  // namespace longlora
