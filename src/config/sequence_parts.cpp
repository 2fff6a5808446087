#include "longlora/config/sequence_parts.h"

#include <fmt/format.h>

#include <algorithm>

#include "longlora/core/error.h"

namespace longlora {
namespace {

HaloHeads halo_of(int64_t first_half_group) {
  if (first_half_group == 0) return HaloHeads::none;
  return first_half_group % 2 == 0 ? HaloHeads::shifted : HaloHeads::plain;
}

}  // namespace

int64_t half_groups_of(int64_t tokens, int64_t group) {
  LONGLORA_INVARIANT(tokens >= 1 && group >= 2 && group % 2 == 0);
  const int64_t half = group / 2;
  return tokens / half + (tokens % half > 0 ? 1 : 0);
}

SequencePart sequence_part(int64_t tokens, int64_t group, int64_t parts, int64_t index) {
  LONGLORA_INVARIANT(parts >= 1 && index >= 0 && index < parts);
  const int64_t count = half_groups_of(tokens, group);
  LONGLORA_CHECK(parts <= count, config,
                 fmt::format("{} ranks cannot share a row of {} half-groups ({} tokens, group {})", parts, count, tokens, group),
                 "dist.sequence_parallel", fmt::format("use at most {}, or a smaller attention.group_size", count));
  const int64_t first = index * count / parts, end = (index + 1) * count / parts, half = group / 2;
  return {first * half, std::min(end * half, tokens), halo_of(first), end == count ? HaloHeads::none : halo_of(end)};
}

}  // namespace longlora
