#pragma once
#include <memory>

#include "longlora/dist/join.h"

namespace longlora::apps {

/// A client of the store that torchrun's agent runs at the endpoint. Nothing in it is authenticated: whoever reaches its port may write.
/// ErrorKind::peer when nobody answers within a minute.
std::unique_ptr<dist::BootstrapStore> connect_agent_store(const dist::Endpoint&);

}  // namespace longlora::apps
