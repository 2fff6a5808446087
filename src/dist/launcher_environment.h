#pragma once
// What a rank of our launcher finds in its environment.
#include <string>

#include "longlora/dist/launcher.h"

namespace longlora::dist {

/// Equal for all ranks of one start.
struct StartIdentity {
  std::string run_id, secret;  // secret: 64 hex digits; empty: the user's LONGLORA_SECRET or LONGLORA_SECRET_FILE is passed on
};
/// One host: a new identity for every start. Several: the same on all of them without a word between the launchers, for all starts.
StartIdentity make_identity(const LauncherOptions&, int attempt);

/// The launcher's environment without what describes another world, with this rank's variables.
Environment rank_environment(const LauncherOptions&, const StartIdentity&, int local_rank);

}  // namespace longlora::dist
