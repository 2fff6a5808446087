#include "apps/folders.h"

#include "longlora/core/error.h"

namespace longlora::apps {

std::optional<DType> dtype_from(const std::string& name) {
  if (name == "bf16") return DType::bf16;
  if (name == "fp16") return DType::f16;
  if (name == "fp32") return DType::f32;
  return std::nullopt;
}

uint64_t bytes_from(const std::string& text, const std::string& flag) {
  const size_t end = std::min(text.find_first_not_of("0123456789"), text.size());
  const std::string digits = text.substr(0, end), unit = text.substr(end);
  const std::pair<const char*, uint64_t> units[] = {{"", 1},          {"KB", 1000},     {"MB", 1'000'000}, {"GB", 1'000'000'000},
                                                    {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}};
  if (!digits.empty() && digits.size() <= 12) {
    for (const auto& [name, bytes] : units) {
      if (unit == name && std::stoull(digits) > 0) return checked_mul(std::stoull(digits), bytes, flag);
    }
  }
  fail(ErrorKind::usage, "'" + escape(text) + "' is not a size", flag, "write for example 5GB or 512MiB");
}

}  // namespace longlora::apps
