#pragma once
// Owned descriptors and the few socket calls the transport makes; every socket is non-blocking and close-on-exec.
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dist/descriptor.h"

namespace longlora::dist {

/// A Unix socket's path ("/run/...") or a numeric address and port ("10.0.0.1 29500", "fe80::1 29500").
class Address {
 public:
  static Address unix_path(const std::string& path);  // ErrorKind::config when longer than the system allows
  static Address of(const sockaddr* address, socklen_t length);
  /// Inverse of text(); nullopt when it is neither form.
  static std::optional<Address> parse(const std::string& text);
  std::string text() const;
  Address with_port(uint16_t port) const;
  bool is_unix() const { return storage_.ss_family == AF_UNIX; }
  int family() const { return storage_.ss_family; }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t length() const { return length_; }

 private:
  sockaddr_storage storage_{};
  socklen_t length_ = 0;
};

/// All addresses of a host name; empty when it does not resolve.
std::vector<Address> resolve(const std::string& host, uint16_t port);
/// The first usable address of a network interface, IPv4 first; nullopt when there is no such interface or address.
std::optional<Address> address_of_interface(const std::string& name, uint16_t port);

/// Bound and listening; invalid with errno kept when bind or listen refuses.
Descriptor listen_on(const Address&);
/// Connected within `seconds`, else invalid.
Descriptor connect_to(const Address&, double seconds);
Address local_address(int socket);
/// No delay for small messages; nothing on a Unix socket.
void tune(int socket);

/// recv without waiting: bytes read, 0 at the end of the stream, nullopt when nothing is there. Errors count as the end.
std::optional<size_t> receive_some(int socket, char* out, size_t bytes);
/// send without waiting: bytes taken (0 when full), nullopt when the connection is broken.
std::optional<size_t> send_some(int socket, std::string_view bytes);
/// Waits for `events` on the socket, or until something arrives on `wake` (-1: none). False after `seconds` or a wake-up.
bool wait_for(int socket, short events, double seconds, int wake = -1);

}  // namespace longlora::dist
