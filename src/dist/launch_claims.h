#pragma once
// What each possible launcher says about this process, before anything is compared or filled in.
#include <optional>
#include <string>
#include <string_view>

#include "longlora/dist/launch_info.h"

namespace longlora::dist {

constexpr int kMaxRanks = 65'536;

/// A number with the name it was found under, for messages: "RANK=3" or "--rank 3".
struct Named {
  std::string name;
  int value = 0;
  std::string text() const { return name + (name.starts_with("--") ? " " : "=") + std::to_string(value); }
};

struct Claim {
  LaunchSource source = LaunchSource::single;
  Named rank, size;
  std::optional<Named> local_rank, local_size, node_rank;
  std::string local_names;  // where the local rank and size would stand, for the message that they are missing
};

/// Variables of the environment with bounded, strict reading.
class Variables {
 public:
  explicit Variables(const Environment& environment) : environment_(environment) {}
  bool has(const std::string& name) const { return environment_.contains(name); }
  std::optional<std::string> text(const std::string& name) const;
  /// A whole number in [0, largest]; anything else is ErrorKind::config.
  std::optional<Named> number(const std::string& name, int largest = kMaxRanks) const;
  /// "RANK='7'" or "RANK (absent)".
  std::string show(const std::string& name) const;

 private:
  const Environment& environment_;
};

/// ErrorKind::config at the place "launch detection".
[[noreturn]] void refuse_launch(std::string what, std::string what_to_do);

// nullopt: this launcher did not start us. Half a set, a rank outside [0, size): ErrorKind::config.
std::optional<Claim> claim_of_flags(const LaunchFlags&);
std::optional<Claim> claim_of_torch(const Variables&);
std::optional<Claim> claim_of_open_mpi(const Variables&);
std::optional<Claim> claim_of_pmi(const Variables&);
std::optional<Claim> claim_of_slurm(const Variables&);

}  // namespace longlora::dist
