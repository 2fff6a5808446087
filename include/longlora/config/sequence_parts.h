#pragma once
// One row on several ranks (dist.sequence_parallel): which tokens a rank holds, and which heads need keys of the rank before it.
//
//   half-groups   b = group / 2 tokens each, M = ceil(tokens / b), the last one ragged
//   rank p of P   half-groups floor(p M / P) .. floor((p + 1) M / P) - 1
//   plain segments start at even half-groups, shifted ones at odd ones and at 0 (kernels/s2_layout.h), so of the heads of a rank that
//   starts inside the row one kind begins a segment there and the other kind one half-group earlier: its halo
#include <cstdint>

namespace longlora {

enum class HaloHeads : uint8_t { none, plain, shifted };

struct SequencePart {
  int64_t begin = 0, end = 0;        // tokens of the row
  HaloHeads halo = HaloHeads::none;  // heads that also need keys and values of the half-group before `begin`
  HaloHeads next = HaloHeads::none;  // the same of the part that starts at `end`; none for the last part
  int64_t tokens() const { return end - begin; }
};

/// M: a row can be shared by at most so many ranks.
int64_t half_groups_of(int64_t tokens, int64_t group);

/// Part `index` of `parts`. ErrorKind::config when there are more parts than half-groups, naming the largest number.
SequencePart sequence_part(int64_t tokens, int64_t group, int64_t parts, int64_t index);

}  // namespace longlora
