#include "dist/launch_claims.h"

#include <algorithm>
#include <initializer_list>

#include "dist/slurm.h"
#include "longlora/core/error.h"

namespace longlora::dist {
namespace {

void check_rank(const Claim& claim) {
  if (claim.size.value < 1) refuse_launch(claim.size.text() + " is not a number of ranks", "correct it, or start without a launcher");
  if (claim.rank.value < 0 || claim.rank.value >= claim.size.value)
    refuse_launch(claim.rank.text() + " is not in [0, " + std::to_string(claim.size.value) + ") (" + claim.size.text() + ")",
                  "correct it, or start without a launcher");
}

/// All or none of `names`: true when all are there.
bool whole_set(const Variables& v, std::initializer_list<const char*> names) {
  const auto present = std::count_if(names.begin(), names.end(), [&](const char* name) { return v.has(name); });
  if (present == 0 || present == std::ssize(names)) return present != 0;
  std::string shown;
  for (const char* name : names) shown += (shown.empty() ? "" : ", ") + v.show(name);
  refuse_launch("half a set of variables: " + shown, "unset what is left of another launcher, or set all of them");
}

std::optional<Named> flag(const char* name, const std::optional<int>& value) {
  if (!value) return std::nullopt;
  if (*value < 0 || *value > kMaxRanks)
    refuse_launch(Named{name, *value}.text() + " is not in [0, " + std::to_string(kMaxRanks) + "]", "correct the flag");
  return Named{name, *value};
}

}  // namespace

void refuse_launch(std::string what, std::string what_to_do) {
  fail(ErrorKind::config, std::move(what), "launch detection", std::move(what_to_do));
}

std::optional<std::string> Variables::text(const std::string& name) const {
  const auto found = environment_.find(name);
  return found == environment_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<Named> Variables::number(const std::string& name, int largest) const {
  const std::optional<std::string> digits = text(name);
  if (!digits) return std::nullopt;
  const bool numeric = !digits->empty() && digits->size() <= 9 && digits->find_first_not_of("0123456789") == std::string::npos;
  const int value = numeric ? std::stoi(*digits) : -1;
  if (value < 0 || value > largest)
    refuse_launch(show(name) + " is not a whole number in [0, " + std::to_string(largest) + "]", "correct or unset " + name);
  return Named{name, value};
}

std::string Variables::show(const std::string& name) const {
  const std::optional<std::string> value = text(name);
  return value ? name + "='" + escape(*value, 40) + "'" : name + " (absent)";
}

std::optional<Claim> claim_of_flags(const LaunchFlags& f) {
  const bool other = f.local_rank || f.local_world_size || f.master_addr || f.master_port;
  if (!f.rank && !f.world_size && !other) return std::nullopt;
  if (!f.rank || !f.world_size)
    refuse_launch(std::string(f.rank ? "--world-size" : "--rank") + " is missing beside " +
                      (f.rank         ? Named{"--rank", *f.rank}.text()
                       : f.world_size ? Named{"--world-size", *f.world_size}.text()
                                      : "the other launch flags"),
                  "give --rank and --world-size together");
  if (f.master_addr.has_value() != f.master_port.has_value())
    refuse_launch(
        std::string(f.master_addr ? "--master-port is missing beside --master-addr" : "--master-addr is missing beside --master-port"),
        "give --master-addr and --master-port together");
  Claim claim{.source = LaunchSource::flags,
              .rank = *flag("--rank", f.rank),
              .size = *flag("--world-size", f.world_size),
              .local_rank = flag("--local-rank", f.local_rank),
              .local_size = flag("--local-world-size", f.local_world_size),
              .local_names = "--local-rank and --local-world-size"};
  check_rank(claim);
  return claim;
}

std::optional<Claim> claim_of_torch(const Variables& v) {
  if (!v.has("RANK") && !v.has("WORLD_SIZE") && !v.has("LOCAL_RANK") && !v.has("LOCAL_WORLD_SIZE")) return std::nullopt;
  if (!v.has("RANK") || !v.has("WORLD_SIZE") || !(v.has("LOCAL_RANK") || v.has("MASTER_ADDR")))
    refuse_launch("half a set of variables: " + v.show("RANK") + ", " + v.show("WORLD_SIZE") + ", " + v.show("LOCAL_RANK") + ", " +
                      v.show("MASTER_ADDR"),
                  "unset RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, or start with longlora-train launch");
  const bool own = v.has(kOwnLauncherVariable) && !v.has("TORCHELASTIC_RUN_ID");
  Claim claim{.source = own ? LaunchSource::own_launcher : LaunchSource::torchrun,
              .rank = *v.number("RANK"),
              .size = *v.number("WORLD_SIZE"),
              .local_rank = v.number("LOCAL_RANK"),
              .local_size = v.number("LOCAL_WORLD_SIZE"),
              .node_rank = v.number("GROUP_RANK"),
              .local_names = "LOCAL_RANK and LOCAL_WORLD_SIZE"};
  check_rank(claim);
  return claim;
}

std::optional<Claim> claim_of_open_mpi(const Variables& v) {
  if (!whole_set(v, {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"})) return std::nullopt;
  whole_set(v, {"OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"});
  // OMPI_COMM_WORLD_NODE_RANK is a rank inside the node over all jobs there, not the number of the node: not read
  Claim claim{.source = LaunchSource::open_mpi,
              .rank = *v.number("OMPI_COMM_WORLD_RANK"),
              .size = *v.number("OMPI_COMM_WORLD_SIZE"),
              .local_rank = v.number("OMPI_COMM_WORLD_LOCAL_RANK"),
              .local_size = v.number("OMPI_COMM_WORLD_LOCAL_SIZE"),
              .local_names = "OMPI_COMM_WORLD_LOCAL_RANK and OMPI_COMM_WORLD_LOCAL_SIZE"};
  check_rank(claim);
  return claim;
}

std::optional<Claim> claim_of_pmi(const Variables& v) {
  if (!whole_set(v, {"PMI_RANK", "PMI_SIZE"})) return std::nullopt;
  const bool hydra = whole_set(v, {"MPI_LOCALRANKID", "MPI_LOCALNRANKS"});
  Claim claim{.source = LaunchSource::mpich,
              .rank = *v.number("PMI_RANK"),
              .size = *v.number("PMI_SIZE"),
              .local_rank = v.number(hydra ? "MPI_LOCALRANKID" : "PMI_LOCAL_RANK"),
              .local_size = v.number(hydra ? "MPI_LOCALNRANKS" : "PMI_LOCAL_SIZE"),
              .local_names = "MPI_LOCALRANKID and MPI_LOCALNRANKS, or PMI_LOCAL_RANK and PMI_LOCAL_SIZE"};
  check_rank(claim);
  return claim;
}

std::optional<Claim> claim_of_slurm(const Variables& v) {
  if (!is_slurm_task(v)) return std::nullopt;
  if (!v.has("SLURM_PROCID") || !v.has("SLURM_NTASKS"))
    refuse_launch("half a set of variables: " + v.show("SLURM_PROCID") + ", " + v.show("SLURM_NTASKS") + ", " + v.show("SLURM_STEP_ID"),
                  "start with srun, or unset SLURM_STEP_ID");
  Claim claim{.source = LaunchSource::slurm,
              .rank = *v.number("SLURM_PROCID"),
              .size = *v.number("SLURM_NTASKS"),
              .local_rank = v.number("SLURM_LOCALID"),
              .node_rank = v.number("SLURM_NODEID"),
              .local_names = "SLURM_LOCALID and SLURM_STEP_TASKS_PER_NODE"};
  check_rank(claim);
  claim.local_size = slurm_local_size(v, claim.size.value, claim.node_rank ? claim.node_rank->value : 0);
  return claim;
}

}  // namespace longlora::dist
