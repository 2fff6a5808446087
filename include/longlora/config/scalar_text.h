#pragma once
// The spelling of scalars: strict decimal numbers with optional size units, true/false; and what to write instead of a near miss.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace longlora {

enum class Unit { none, tokens, bytes };

/// "4096", "32k" = 32768 (tokens), "5GB", "2GiB", "1.1GiB" (bytes, rounded down); nullopt when it is anything else or does not fit in 63
/// bits.
std::optional<int64_t> integer_of(std::string_view text, Unit unit);
/// "1", "-0.5", "2e-5"; nullopt when it is anything else, infinite, or underflows.
std::optional<double> real_of(std::string_view text);

/// A positive size on the command line. A bare number, also with a fraction, counts `bare_unit` where one is given ("GiB"). Any other text:
/// ErrorKind::usage that names `flag` and what is accepted.
int64_t size_of_flag(std::string_view text, Unit unit, std::string_view flag, std::string_view bare_unit = {});

/// What the writer probably meant by a text that is no number (boolean): "10" for "010", "1000" for "1_000", "true" for "yes"; or nullopt.
std::optional<std::string> intended_number(std::string_view text, Unit unit, bool integer);
std::optional<std::string> intended_boolean(std::string_view text);

}  // namespace longlora
