#pragma once
// The keys and sections of the table, and which of them a misspelt or misplaced one was meant to be.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace longlora {

const std::vector<std::string>& all_keys();
const std::vector<std::string>& all_sections();        // "train", "tuning.lora", ...
bool is_key(std::string_view);
bool is_section(std::string_view);

/// Best guesses for an unknown `name` in `section` ("" at the top): the same name in another section, else the nearest name in this
/// section, else the nearest anywhere; Damerau distance at most 2. Full keys; empty when nothing is near.
std::vector<std::string> guesses_for(std::string_view section, std::string_view name);

}  // namespace longlora
