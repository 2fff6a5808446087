#pragma once
// Small text helpers: UTF-8, nearest name, sizes for people.
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>
namespace longlora {
/// Byte offset of the first invalid UTF-8 sequence (overlong, surrogate, > U+10FFFF, truncated), or nullopt when valid.
std::optional<size_t> invalid_utf8_at(std::string_view);
void append_utf8(std::string& out, char32_t code_point);
/// Damerau-Levenshtein (optimal string alignment) distance.
size_t edit_distance(std::string_view, std::string_view);
/// The candidate with the least distance <= max_distance, or nullopt.
std::optional<std::string> nearest(std::string_view word, std::span<const std::string> candidates, size_t max_distance = 2);
std::string human_bytes(uint64_t);  // "1.9 GiB"
std::string human_count(uint64_t);  // "139.7 M"
std::vector<std::string> split(std::string_view, char separator);
std::string_view trim(std::string_view);
}  // namespace longlora
