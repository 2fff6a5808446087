#pragma once
// Monotonic seconds for every measurement and deadline; wall clock for logs only.
#include <string>
namespace longlora {
double monotonic_seconds();
std::string wall_clock_iso8601();   // UTC, "2026-01-31T12:00:00Z"
}  // namespace longlora
