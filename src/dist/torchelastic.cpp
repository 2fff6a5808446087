#include "longlora/dist/torchelastic.h"

#include "longlora/core/files.h"
#include "longlora/core/json.h"

namespace longlora::dist {

std::string torchelastic_error(std::string_view message, int64_t unix_seconds) {
  return "{\"message\": {\"message\": " + json_quote(message) + ", \"extraInfo\": {\"py_callstack\": \"\", \"timestamp\": \"" +
         std::to_string(unix_seconds) + "\"}}}\n";
}

void write_torchelastic_error(const std::filesystem::path& file, std::string_view message, int64_t unix_seconds) {
  write_file_atomic(file, torchelastic_error(message, unix_seconds));
}

}  // namespace longlora::dist
