#pragma once
// Little-endian fields in and out of byte strings. The reader never goes past its end: a short input sets `ok` to false and reads zeros.
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace longlora::dist {

class ByteWriter {
 public:
  template <class T>
  requires std::is_integral_v<T> ByteWriter& value(T v) {
    text_.append(reinterpret_cast<const char*>(&v), sizeof v);  // little-endian host
    return *this;
  }
  ByteWriter& raw(std::span<const uint8_t> bytes) {
    text_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return *this;
  }
  /// u16 length and at most `limit` bytes of the text.
  ByteWriter& text(std::string_view t, size_t limit) {
    t = t.substr(0, limit);
    value(static_cast<uint16_t>(t.size()));
    text_.append(t);
    return *this;
  }
  const std::string& bytes() const { return text_; }

 private:
  std::string text_;
};

class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}
  template <class T>
  requires std::is_integral_v<T> T value() {
    T v{};
    const std::string_view part = take(sizeof v);
    if (ok_) std::memcpy(&v, part.data(), sizeof v);
    return v;
  }
  void raw(std::span<uint8_t> out) {
    const std::string_view part = take(out.size());
    if (ok_) std::memcpy(out.data(), part.data(), out.size());
  }
  std::string text(size_t limit) {
    const size_t length = value<uint16_t>();
    if (length > limit) ok_ = false;
    return std::string(take(length));
  }
  /// All fields were there and nothing is left.
  bool complete() const { return ok_ && bytes_.empty(); }
  bool ok() const { return ok_; }

 private:
  std::string_view take(size_t count) {
    if (count > bytes_.size()) ok_ = false;
    if (!ok_) return {};
    const std::string_view part = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return part;
  }
  std::string_view bytes_;
  bool ok_ = true;
};

}  // namespace longlora::dist
