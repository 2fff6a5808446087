#pragma once
// What NCCL's result numbers mean for a run. A table of our own, so that the mapping is tested where NCCL is not.
#include <string>
#include <string_view>

#include "longlora/core/error.h"

namespace longlora::dist {

constexpr int kNcclSuccess = 0;
constexpr int kNcclInProgress = 7;

struct NcclResult {
  int number;             // ncclResult_t
  std::string_view name;  // of the enumerator
  ErrorKind kind;
  std::string_view what_happened;
  std::string_view what_to_do;
};

/// The row of `number`; a number that no version we know has is an internal error of NCCL.
const NcclResult& nccl_result(int number);
/// "2.28.9" of 22809.
std::string nccl_version_text(int version);
/// `call` returned `number`; `said` is ncclGetLastError's line or empty.
Error nccl_error(int number, std::string_view call, std::string where, std::string_view said);

}  // namespace longlora::dist
