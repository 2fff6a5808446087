#pragma once
// The spelling of scalars: strict decimal numbers with optional size units, true/false; and what to write instead of a near miss.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "config/bounds.h"

namespace longlora {

/// "4096", "32k" (tokens), "5GB", "2GiB", "1.5GiB" (bytes); nullopt when it is anything else or does not fit in 63 bits.
std::optional<int64_t> integer_of(std::string_view text, Unit unit);
/// "1", "-0.5", "2e-5"; nullopt when it is anything else, infinite, or underflows.
std::optional<double> real_of(std::string_view text);

/// What the writer probably meant by a text that is no number (boolean): "10" for "010", "1000" for "1_000", "true" for "yes"; or nullopt.
std::optional<std::string> intended_number(std::string_view text, Unit unit, bool integer);
std::optional<std::string> intended_boolean(std::string_view text);

/// Shortest text that reads back as `value`: "4.0" stays "4.0", 2e-05 becomes "2e-05".
std::string real_text(double value);

}  // namespace longlora
