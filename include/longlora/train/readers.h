#pragma once
// Several ranks of a command that only reads a model, as eval perplexity: they share the work and exchange numbers, never tensors.
#include <functional>
#include <memory>
#include <string>

#include "longlora/dist/join.h"

namespace longlora {

using ConnectStore = std::function<std::unique_ptr<dist::BootstrapStore>(const dist::Endpoint&)>;

/// By the launcher's environment; one rank where there is none. `what` describes the command and must be the same on all ranks
/// (ErrorKind::peer names those that differ). Selects this rank's GPU unless `device` is cpu, and divides the host's cores unless `threads`
/// is given.
std::unique_ptr<dist::Communicator> join_readers(const std::string& what, const std::string& device, int threads, const ConnectStore&);

}  // namespace longlora
