#pragma once
// The NCCL transport over a CollectiveLibrary, so that all of it but the library itself is tested without a GPU.
#include <functional>
#include <memory>

#include "dist/collective_library.h"
#include "dist/watchdog.h"
#include "longlora/dist/nccl.h"

namespace longlora::dist {

struct NcclSurroundings {
  std::function<double()> now;                      // monotonic
  std::function<void(const Verdict&)> end_process;  // does not return in the program
  Watchdog::Times times;
};
NcclSurroundings process_surroundings(int rank);

/// NCCL and CUDA; in the preset cuda only. ErrorKind::config when libnccl.so.2 is not there or lacks a function.
std::unique_ptr<CollectiveLibrary> open_nccl(int device);

/// `open` loads library and device of this rank; its error ends all ranks with that rank's kind.
std::unique_ptr<Communicator> connect_nccl(std::unique_ptr<Communicator> control,
                                           const std::function<std::unique_ptr<CollectiveLibrary>()>& open, const NcclOptions&,
                                           NcclSurroundings);

}  // namespace longlora::dist
