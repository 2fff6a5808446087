#pragma once
// The chain of hashes in metrics.jsonl: two runs did the same thing if and only if their last hashes agree (docs/determinism.md).
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "longlora/core/hash.h"

namespace longlora {

enum class Outcome : uint8_t { applied = 0, skipped = 1 };

/// H_0 = SHA-256("longlora-chain-1" | frozen-configuration digest | weight, tokenizer and data digests), all as 32 raw bytes.
Digest chain_start(const Digest& frozen_config, const Digest& weights, const Digest& tokenizer, const Digest& data);

/// What one step adds to the chain.
struct ChainLink {
  uint64_t step = 0;  // completed steps, this one included
  double loss = 0, grad_norm = 0;
  Digest state{};  // state_digest() after the step
  Outcome outcome = Outcome::applied;
  uint64_t first_row = 0, rows = 0;
  const std::vector<std::pair<uint64_t, uint64_t>>* skipped = nullptr;
};
/// H_t = SHA-256(H_{t-1} | step | loss bits | norm bits | state | outcome | first row | rows | SHA-256 of skipped ranges), little-endian.
Digest chain_next(const Digest& previous, const ChainLink&);

std::string digest_hex(const Digest&);
/// ErrorKind::data naming `where` when `hex` is not 64 hexadecimal digits.
Digest digest_from_hex(const std::string& hex, const std::string& where);

}  // namespace longlora
