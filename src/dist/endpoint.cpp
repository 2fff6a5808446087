#include "dist/endpoint.h"

#include "longlora/core/error.h"

namespace longlora::dist {

std::string checked_host(const std::string& name, const std::string& host) {
  constexpr size_t kMaxHostBytes = 255;
  constexpr const char* kAllowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:%";
  if (host.empty() || host.size() > kMaxHostBytes || host.find_first_not_of(kAllowed) != std::string::npos || host.front() == '-')
    refuse_launch(name + "='" + escape(host, 40) + "' is not a host name or an address", "give the name of rank 0's host in " + name);
  return host;
}

uint16_t checked_port(const Named& port) {
  if (port.value < 1 || port.value > 65'535) refuse_launch(port.text() + " is not a port in [1, 65535]", "correct " + port.name);
  return static_cast<uint16_t>(port.value);
}

bool is_loopback(const std::string& host) { return host == "localhost" || host == "::1" || host.starts_with("127."); }

}  // namespace longlora::dist
