#pragma once
// Where and with which secret the ranks of a run meet, from what the launcher said.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dist/run_folder.h"
#include "dist/secret.h"
#include "dist/socket.h"
#include "longlora/dist/join.h"

namespace longlora::dist {

/// Rank 0's side: listening, with the secret that the others will find.
struct Listening {
  std::unique_ptr<RunFolder> folder;  // on one host
  Descriptor socket;
  Secret secret{};
};
Listening listen_as_rank_0(const LaunchInfo&, const JoinOptions&);

/// The others' side. An attempt may fail because rank 0 is not there yet.
class Route {
 public:
  Route(const LaunchInfo&, const JoinOptions&);
  /// A connection to what listens there, within `seconds`; invalid when nothing does.
  Descriptor connect(double seconds);
  /// Of the run that was listening at the last connect.
  Secret secret() const;
  std::string where() const;
  std::unique_ptr<RunFolder> take_folder() { return std::move(folder_); }
  bool is_one_host() const { return one_host_; }

 private:
  bool one_host_;
  std::unique_ptr<RunFolder> folder_;
  std::string host_;
  uint16_t port_ = 0;
  std::optional<Secret> secret_;
};

}  // namespace longlora::dist
