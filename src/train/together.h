#pragma once
// Parts of a run that one rank does for all, or that must succeed on all.
#include <functional>
#include <string>

#include "longlora/core/error.h"
#include "longlora/dist/communicator.h"

namespace longlora {

/// Every rank runs `f`; when it fails anywhere, all ranks fail: with their own error, or with the kind and the sentence of the lowest rank
/// that failed. Collective.
void together(dist::Communicator&, const std::function<void()>& f);
/// Rank 0 runs `f` while the others wait for it.
void on_root(dist::Communicator&, const std::function<void()>& f);
/// Whether any rank says so; the same answer on all.
bool any_rank(dist::Communicator&, bool mine);
/// The root's text on every rank.
std::string root_text(dist::Communicator&, std::string text);

}  // namespace longlora
