#include "longlora/train/hash_chain.h"

#include <bit>

#include "longlora/core/error.h"

namespace longlora {
namespace {

Sha256& add(Sha256& hash, const Digest& digest) { return hash.update(std::as_bytes(std::span(digest))); }

}  // namespace

Digest chain_start(const Digest& frozen_config, const Digest& weights, const Digest& tokenizer, const Digest& data) {
  Sha256 hash;
  hash.update("longlora-chain-1");
  for (const Digest* part : {&frozen_config, &weights, &tokenizer, &data}) add(hash, *part);
  return hash.finish();
}

Digest chain_next(const Digest& previous, const ChainLink& link) {
  Sha256 skipped;
  if (link.skipped != nullptr) {
    for (const auto& [begin, end] : *link.skipped) skipped.update_value(begin).update_value(end);
  }
  Sha256 hash;
  add(hash, previous);
  hash.update_value(link.step).update_value(std::bit_cast<uint64_t>(link.loss)).update_value(std::bit_cast<uint64_t>(link.grad_norm));
  add(hash, link.state);
  hash.update_value(static_cast<uint8_t>(link.outcome)).update_value(link.first_row).update_value(link.rows);
  add(hash, skipped.finish());
  return hash.finish();
}

std::string digest_hex(const Digest& digest) { return to_hex(digest); }

Digest digest_from_hex(const std::string& hex, const std::string& where) {
  Digest digest{};
  LONGLORA_CHECK(from_hex(hex, digest), data, "'" + escape(hex) + "' is not a SHA-256 digest", where,
                 "restore the file or take an older checkpoint with --resume PATH");
  return digest;
}

}  // namespace longlora
