#pragma once
// What a call fails with, as values a test can compare.

#include <optional>
#include <string>
#include <vector>

#include "longlora/core/error.h"

namespace longlora {

/// The Error that `call` throws; nullopt when it returns. Other exceptions pass through and fail the test.
template <class F>
std::optional<Error> thrown_by(F&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

/// "WHAT (WHERE); WHAT TO DO" of the thrown Error, "" when nothing is thrown.
template <class F>
std::string error_of(F&& call) {
  const std::optional<Error> error = thrown_by(call);
  return error ? error->what() : "";
}

/// Kind of the thrown Error; nullopt when nothing is thrown.
template <class F>
std::optional<ErrorKind> kind_of(F&& call) {
  const std::optional<Error> error = thrown_by(call);
  return error ? std::optional(error->kind) : std::nullopt;
}

template <class F>
std::vector<std::string> details_of(F&& call) {
  const std::optional<Error> error = thrown_by(call);
  return error ? error->details : std::vector<std::string>{};
}

}  // namespace longlora
