#pragma once
// How much a test run covers, from LONGLORA_SWEEP: `sample` a few cases for the race checks, `small` with memory checks, `ci` everything
// that is worth running each time, `full` on request.
#include <cstdlib>
#include <string_view>

namespace longlora::testing {

enum class Sweep { sample, small, ci, full };

inline Sweep sweep() {
  const char* text = std::getenv("LONGLORA_SWEEP");
  const std::string_view name = text == nullptr ? "ci" : text;
  if (name == "sample") return Sweep::sample;
  if (name == "small") return Sweep::small;
  if (name == "full") return Sweep::full;
  return Sweep::ci;
}

}  // namespace longlora::testing
