#include "dist/socket.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <memory>

#include "longlora/core/clock.h"
#include "longlora/core/error.h"

namespace longlora::dist {
namespace {

constexpr int kBacklog = 4096;  // the kernel lowers it to its own limit
constexpr int kBufferBytes = 4 << 20;

std::vector<Address> look_up(const std::string& host, uint16_t port, int flags) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  std::vector<Address> addresses;
  if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return addresses;
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    if (entry->ai_family == AF_INET || entry->ai_family == AF_INET6)
      addresses.push_back(Address::of(entry->ai_addr, static_cast<socklen_t>(entry->ai_addrlen)));
  }
  return addresses;
}

Descriptor new_socket(const Address& address) {
  return Descriptor(::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

}  // namespace

Address Address::unix_path(const std::string& path) {
  sockaddr_un address{};
  LONGLORA_CHECK(path.size() < sizeof address.sun_path, config,
                 fmt::format("the socket's path has {} bytes, the system allows {}", path.size(), sizeof address.sun_path - 1), path,
                 "set XDG_RUNTIME_DIR or TMPDIR to a folder with a shorter path on all ranks");
  address.sun_family = AF_UNIX;
  std::copy(path.begin(), path.end(), address.sun_path);
  return of(reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

Address Address::of(const sockaddr* address, socklen_t length) {
  Address result;
  result.length_ = std::min<socklen_t>(length, sizeof result.storage_);
  std::memcpy(&result.storage_, address, result.length_);
  return result;
}

std::optional<Address> Address::parse(const std::string& text) {
  if (text.starts_with('/')) {
    if (text.size() >= sizeof(sockaddr_un::sun_path)) return std::nullopt;
    return unix_path(text);
  }
  const size_t space = text.find(' ');
  if (space == std::string::npos) return std::nullopt;
  uint16_t port = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + space + 1, end, port);
  if (error != std::errc() || stop != end) return std::nullopt;
  const std::vector<Address> found = look_up(text.substr(0, space), port, AI_NUMERICHOST);
  if (found.empty()) return std::nullopt;
  return found.front();
}

std::string Address::text() const {
  if (is_unix()) return reinterpret_cast<const sockaddr_un*>(&storage_)->sun_path;
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (::getnameinfo(get(), length_, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0) return "?";
  return fmt::format("{} {}", host, port);
}

Address Address::with_port(uint16_t port) const {
  Address result = *this;
  if (family() == AF_INET) reinterpret_cast<sockaddr_in*>(&result.storage_)->sin_port = htons(port);
  if (family() == AF_INET6) reinterpret_cast<sockaddr_in6*>(&result.storage_)->sin6_port = htons(port);
  return result;
}

std::vector<Address> resolve(const std::string& host, uint16_t port) { return look_up(host, port, 0); }

std::optional<Address> address_of_interface(const std::string& name, uint16_t port) {
  ifaddrs* found = nullptr;
  if (::getifaddrs(&found) != 0) return std::nullopt;
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(found, ::freeifaddrs);
  for (const int family : {AF_INET, AF_INET6}) {
    for (const ifaddrs* entry = found; entry != nullptr; entry = entry->ifa_next) {
      if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != family || name != entry->ifa_name) continue;
      const socklen_t length = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
      return Address::of(entry->ifa_addr, length).with_port(port);
    }
  }
  return std::nullopt;
}

Descriptor listen_on(const Address& address) {
  Descriptor socket = new_socket(address);
  if (!socket) return socket;
  const int yes = 1;
  if (!address.is_unix()) ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (::bind(socket.get(), address.get(), address.length()) == 0 && ::listen(socket.get(), kBacklog) == 0) return socket;
  const int error = errno;
  socket.reset();
  errno = error;
  return socket;
}

Descriptor connect_to(const Address& address, double seconds) {
  Descriptor socket = new_socket(address);
  if (!socket) return socket;
  if (::connect(socket.get(), address.get(), address.length()) != 0) {
    if (errno != EINPROGRESS || !wait_for(socket.get(), POLLOUT, seconds)) return {};
    int error = 0;
    socklen_t length = sizeof error;
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error != 0) return {};
  }
  // a port of the ephemeral range can be connected to itself while nobody listens
  if (!address.is_unix() && local_address(socket.get()).text() == address.text()) return {};
  tune(socket.get());
  return socket;
}

Address local_address(int socket) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  LONGLORA_INVARIANT(::getsockname(socket, reinterpret_cast<sockaddr*>(&storage), &length) == 0);
  return Address::of(reinterpret_cast<const sockaddr*>(&storage), length);
}

void tune(int socket) {
  const int yes = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  // a Unix socket's buffer is fixed and small; TCP's adapts itself to the path
  if (local_address(socket).is_unix()) ::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &kBufferBytes, sizeof kBufferBytes);
}

std::optional<size_t> receive_some(int socket, char* out, size_t bytes) {
  for (;;) {
    const ssize_t got = ::recv(socket, out, bytes, 0);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return std::nullopt;
    return 0;
  }
}

std::optional<size_t> send_some(int socket, std::string_view bytes) {
  for (;;) {
    const ssize_t sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) return static_cast<size_t>(sent);
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
    return std::nullopt;
  }
}

bool wait_for(int socket, short events, double seconds, int wake) {
  const double deadline = monotonic_seconds() + seconds;
  for (;;) {
    const double left = deadline - monotonic_seconds();
    if (left <= 0) return false;
    pollfd watched[2] = {{socket, events, 0}, {wake, POLLIN, 0}};
    const int ready = ::poll(watched, 2, static_cast<int>(std::ceil(std::min(left, 60.0) * 1000)));
    if (ready < 0 && errno != EINTR) return false;
    if (ready <= 0) continue;
    return watched[1].revents == 0;
  }
}

}  // namespace longlora::dist
