#pragma once
// Where rank 0 listens, as users and launchers write it.
#include "dist/launch_claims.h"

namespace longlora::dist {

/// A host name or address of at most 255 characters; else ErrorKind::config naming the variable or flag.
std::string checked_host(const std::string& name, const std::string& host);
uint16_t checked_port(const Named&);
/// localhost, 127.x.y.z, ::1
bool is_loopback(const std::string& host);

}  // namespace longlora::dist
