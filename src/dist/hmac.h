#pragma once
// HMAC-SHA256 (RFC 2104, test vectors of RFC 4231) over core's SHA-256, comparison without early exit, and random bytes of the kernel.
#include <span>
#include <string_view>

#include "longlora/core/hash.h"

namespace longlora::dist {

Digest hmac_sha256(std::span<const uint8_t> key, std::string_view message);
/// Takes the same time wherever the first difference is.
bool equal_constant_time(const Digest&, const Digest&);
/// 32 bytes of getrandom(2).
Digest random_digest();

}  // namespace longlora::dist
