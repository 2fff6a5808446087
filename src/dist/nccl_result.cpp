#include "dist/nccl_result.h"

#include <fmt/format.h>

#include <array>

#include "longlora/core/text.h"

namespace longlora::dist {
namespace {

constexpr std::string_view kReport = "report this with the command and its output";
constexpr std::string_view kLookAtGpu = "look at nvidia-smi and at the kernel log of this host, then run the same command again";
constexpr std::string_view kLookAtNetwork = "look at the first rank that failed; NCCL_DEBUG=INFO names interface and peer";

// A device or a peer that fails is 76: the launcher starts the run again. A call that NCCL refuses is ours.
constexpr std::array<NcclResult, 9> kResults = {{
    {0, "ncclSuccess", ErrorKind::internal, "success was reported as an error", kReport},
    {1, "ncclUnhandledCudaError", ErrorKind::peer, "a CUDA call failed", kLookAtGpu},
    {2, "ncclSystemError", ErrorKind::peer, "a call of the operating system failed", kLookAtNetwork},
    {3, "ncclInternalError", ErrorKind::internal, "an internal check failed", kReport},
    {4, "ncclInvalidArgument", ErrorKind::internal, "an argument was refused", kReport},
    {5, "ncclInvalidUsage", ErrorKind::config, "the call was refused",
     "give each rank a GPU of its own and all ranks the same NCCL; NCCL_DEBUG=WARN says more"},
    {6, "ncclRemoteError", ErrorKind::peer, "another rank was lost", kLookAtNetwork},
    {7, "ncclInProgress", ErrorKind::internal, "the call did not come to an end", kReport},
    {-1, "an unknown result", ErrorKind::internal, "the result has no name", kReport},
}};

}  // namespace

const NcclResult& nccl_result(int number) {
  return number >= 0 && number < static_cast<int>(kResults.size()) - 1 ? kResults[static_cast<size_t>(number)] : kResults.back();
}

std::string nccl_version_text(int version) {
  const int base = version < 10000 ? 1000 : 10000;  // NCCL_VERSION changed its base with 2.9
  return fmt::format("{}.{}.{}", version / base, version % base / 100, version % 100);
}

Error nccl_error(int number, std::string_view call, std::string where, std::string_view said) {
  const NcclResult& result = nccl_result(number);
  std::string what = fmt::format("{}: {} ({}, {})", call, result.what_happened, result.name, number);
  if (const std::string_view line = trim(said); !line.empty()) what += fmt::format(": {}", line);
  return Error(result.kind, std::move(what), std::move(where), std::string(result.what_to_do));
}

}  // namespace longlora::dist
