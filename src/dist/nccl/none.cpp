// The preset cpu: NCCL is refused by name.
#include "longlora/core/error.h"
#include "longlora/dist/nccl.h"

namespace longlora::dist {

std::unique_ptr<Communicator> make_nccl(std::unique_ptr<Communicator>, int, const NcclOptions&) {
  fail(ErrorKind::config, "nccl was asked for, and this program was built without it", "dist.backend",
       "set dist.backend: tcp, or build the preset cuda (scripts/build.sh cuda)");
}

std::optional<std::string> nccl_version() { return std::nullopt; }

}  // namespace longlora::dist
