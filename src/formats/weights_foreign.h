#pragma once
// What is not safetensors, recognised by name and by at most 512 bytes before any parser sees it.

#include <string>
#include <string_view>

#include "longlora/core/files.h"

namespace longlora {

/// True for .bin .pt .pth .ckpt .npz: files that no reader of ours opens as weights.
bool has_pickle_name(std::string_view file_name);
/// consolidated.pth, consolidated.00.pth: Meta's own layout.
bool is_meta_layout(std::string_view file_name);
[[noreturn]] void refuse_pickle(const fs::path& file);
[[noreturn]] void refuse_meta_layout(const fs::path& file);
void refuse_foreign(const InputFile&);

}  // namespace longlora
