#pragma once
// Sequential, bounded reading of little-endian values from a file.

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "longlora/core/error.h"
#include "longlora/core/files.h"

namespace longlora {

static_assert(std::endian::native == std::endian::little, "files are read as they lie");

class GgufCursor {
 public:
  explicit GgufCursor(const InputFile& file) : file_(file) {}

  uint64_t position() const { return start_ + used_; }
  uint64_t left() const { return file_.size() - position(); }

  [[noreturn]] void refuse(std::string what) const { refuse_at(position(), std::move(what)); }
  [[noreturn]] void refuse_at(uint64_t byte, std::string what) const {
    fail(ErrorKind::data, std::move(what), fmt::format("{}: byte {}", file_.path().string(), byte),
         "the file is damaged; download or write it again");
  }

  void take(std::span<std::byte> out) {
    if (out.size() > left()) refuse(fmt::format("expected {} more bytes, found {}", out.size(), left()));
    while (!out.empty()) {
      if (used_ == buffer_.size()) refill();
      const size_t bytes = std::min(out.size(), buffer_.size() - used_);
      std::memcpy(out.data(), buffer_.data() + used_, bytes);
      used_ += bytes;
      out = out.subspan(bytes);
    }
  }
  template <class T>
  T value() {
    T result;
    take(std::as_writable_bytes(std::span(&result, 1)));
    return result;
  }
  std::string string(uint64_t max_bytes, std::string_view meaning) {
    const uint64_t at = position();
    const uint64_t bytes = value<uint64_t>();
    if (bytes > max_bytes) refuse_at(at, fmt::format("expected {} of at most {} bytes, found {}", meaning, max_bytes, bytes));
    if (bytes > left())
      refuse_at(at, fmt::format("expected {} inside the file, found a length of {} with {} bytes left", meaning, bytes, left()));
    std::string text(bytes, '\0');
    take(std::as_writable_bytes(std::span(text)));
    return text;
  }

 private:
  static constexpr size_t kBufferBytes = size_t{256} << 10;
  void refill() {
    start_ += buffer_.size();
    used_ = 0;
    buffer_.resize(std::min<uint64_t>(kBufferBytes, file_.size() - start_));
    file_.read(start_, buffer_);
  }

  const InputFile& file_;
  uint64_t start_ = 0;  // file offset of buffer_[0]
  size_t used_ = 0;
  std::vector<std::byte> buffer_;
};

}  // namespace longlora
