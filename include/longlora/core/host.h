#pragma once
// Which machine this is.
#include <string>

namespace longlora {

/// "unknown" where the system does not say.
std::string host_name();
/// Equal for all processes of one running kernel; "" in a container without /proc.
std::string boot_id();

}  // namespace longlora
