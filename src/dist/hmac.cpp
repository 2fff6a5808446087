#include "dist/hmac.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>

#include "longlora/core/error.h"

namespace longlora::dist {
namespace {

constexpr size_t kBlockBytes = 64;

std::string_view as_text(std::span<const uint8_t> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

}  // namespace

Digest hmac_sha256(std::span<const uint8_t> key, std::string_view message) {
  std::array<uint8_t, kBlockBytes> block{};
  if (key.size() > kBlockBytes) {
    const Digest short_key = sha256(as_text(key));
    std::copy(short_key.begin(), short_key.end(), block.begin());
  } else {
    std::copy(key.begin(), key.end(), block.begin());
  }
  std::array<uint8_t, kBlockBytes> inner = block, outer = block;
  for (uint8_t& byte : inner) byte ^= 0x36;
  for (uint8_t& byte : outer) byte ^= 0x5c;
  const Digest first = Sha256().update(as_text(inner)).update(message).finish();
  return Sha256().update(as_text(outer)).update(as_text(first)).finish();
}

bool equal_constant_time(const Digest& a, const Digest& b) {
  volatile uint8_t difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference = static_cast<uint8_t>(difference | (a[i] ^ b[i]));
  return difference == 0;
}

Digest random_digest() {
  Digest bytes{};
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t got = ::getrandom(bytes.data() + done, bytes.size() - done, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) fail_errno(got == 0 ? EIO : errno, "drawing random bytes", "getrandom");
    done += static_cast<size_t>(got);
  }
  return bytes;
}

}  // namespace longlora::dist
