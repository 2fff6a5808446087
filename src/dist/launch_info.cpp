#include "longlora/dist/launch_info.h"

#include <unistd.h>

#include <algorithm>

#include "dist/endpoint.h"
#include "dist/launch_claims.h"
#include "dist/run_id.h"
#include "dist/slurm.h"

namespace longlora::dist {
namespace {

/// An outer launcher that started one process a node, here torchrun or ours, which then started the ranks.
bool is_outer(const Claim& inner, const Claim& other, const Variables& v) {
  if (inner.source != LaunchSource::torchrun && inner.source != LaunchSource::own_launcher) return false;
  const auto node = v.number("GROUP_RANK"), nodes = v.number("GROUP_WORLD_SIZE");
  return node && nodes && other.rank.value == node->value && other.size.value == nodes->value;
}

void check_agreement(const std::vector<Claim>& claims, const Variables& v) {
  const Claim& first = claims.front();
  const auto torch = std::find_if(claims.begin(), claims.end(), [](const Claim& c) {
    return c.source == LaunchSource::torchrun || c.source == LaunchSource::own_launcher;
  });
  for (const Claim& other : claims) {
    if (other.rank.value == first.rank.value && other.size.value == first.size.value) continue;
    if (torch != claims.end() && &other != &*torch && is_outer(*torch, other, v)) continue;
    refuse_launch(
        "two launchers disagree: " + first.rank.text() + ", " + first.size.text() + " and " + other.rank.text() + ", " + other.size.text(),
        "unset the variables of the one that did not start these processes");
  }
}

/// MASTER_ADDR and MASTER_PORT, or the flags; nullopt when neither names one.
std::optional<Endpoint> named_endpoint(const LaunchFlags& flags, const Variables& v) {
  if (flags.master_addr && flags.master_port)
    return Endpoint{checked_host("--master-addr", *flags.master_addr), checked_port({"--master-port", *flags.master_port})};
  if (!v.has("MASTER_ADDR") && !v.has("MASTER_PORT")) return std::nullopt;
  if (!v.has("MASTER_ADDR") || !v.has("MASTER_PORT"))
    refuse_launch("half an endpoint: " + v.show("MASTER_ADDR") + ", " + v.show("MASTER_PORT"), "set MASTER_ADDR and MASTER_PORT, or none");
  return Endpoint{checked_host("MASTER_ADDR", *v.text("MASTER_ADDR")), checked_port(*v.number("MASTER_PORT", 999'999))};
}

std::string endpoint_advice(LaunchSource source) {
  switch (source) {
    case LaunchSource::flags:
      return "add --master-addr HOST --master-port 29500 on every rank";
    case LaunchSource::open_mpi:
      return "mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500 ...";
    case LaunchSource::mpich:
      return "mpiexec -genv MASTER_ADDR HOST -genv MASTER_PORT 29500 ...";
    default:
      return "export MASTER_ADDR=HOST MASTER_PORT=29500";
  }
}

/// Several hosts cannot be told from one without a local size; a loopback endpoint, or flags and torch variables without any endpoint,
/// can only mean one.
bool must_be_one_host(const Claim& claim, const std::optional<Endpoint>& endpoint) {
  if (endpoint) return is_loopback(endpoint->host);
  return claim.source == LaunchSource::flags || claim.source == LaunchSource::torchrun || claim.source == LaunchSource::own_launcher;
}

void fill_local(LaunchInfo& info, const Claim& claim) {
  const bool known = claim.local_size || info.world_size == 1 || must_be_one_host(claim, info.endpoint);
  const auto missing = [&] {
    refuse_launch("the rank inside its host is unknown: " + claim.rank.text() + ", " + claim.size.text() + " without " + claim.local_names,
                  "give --rank, --world-size, --local-rank and --local-world-size, or use longlora-train launch");
  };
  if (!known) missing();
  info.local_world_size = claim.local_size ? claim.local_size->value : info.world_size;
  if (!claim.local_rank && info.local_world_size != info.world_size) missing();
  info.local_rank = claim.local_rank ? claim.local_rank->value : info.rank;
  const Named local_rank = claim.local_rank.value_or(claim.rank), local_size = claim.local_size.value_or(claim.size);
  if (info.local_world_size < 1 || info.local_world_size > info.world_size)
    refuse_launch(local_size.text() + " is not in [1, " + std::to_string(info.world_size) + "] (" + claim.size.text() + ")",
                  "correct or unset " + local_size.name);
  if (info.local_rank >= info.local_world_size)
    refuse_launch(local_rank.text() + " is not below " + local_size.text(), "correct or unset " + local_rank.name);
  if (info.one_host() && info.local_rank != info.rank)
    refuse_launch(local_rank.text() + " differs from " + claim.rank.text() + " though all ranks are on one host (" + local_size.text() +
                      ", " + claim.size.text() + ")",
                  "correct or unset " + local_rank.name);
}

void fill_node(LaunchInfo& info, const Claim& claim, const Variables& v) {
  info.node_rank = claim.node_rank ? claim.node_rank->value : info.rank / info.local_world_size;
  const auto nodes = v.number("GROUP_WORLD_SIZE");
  if (claim.node_rank && claim.node_rank->name == "GROUP_RANK" && nodes && info.node_rank >= nodes->value)
    refuse_launch(claim.node_rank->text() + " is not below " + nodes->text(), "correct or unset GROUP_RANK");
}

LaunchInfo settle(const Claim& claim, const LaunchFlags& flags, const Variables& v) {
  LaunchInfo info{.source = claim.source, .rank = claim.rank.value, .world_size = claim.size.value};
  if (claim.source != LaunchSource::slurm) info.endpoint = named_endpoint(flags, v);
  fill_local(info, claim);
  fill_node(info, claim, v);
  if (claim.source == LaunchSource::slurm && !info.one_host()) info.endpoint = slurm_endpoint(v);
  if (!info.one_host() && !info.endpoint)
    refuse_launch("ranks on several hosts (" + claim.size.text() + ", " + claim.local_size.value_or(claim.size).text() +
                      ") and no MASTER_ADDR, MASTER_PORT",
                  endpoint_advice(claim.source));
  info.agent_store = claim.source == LaunchSource::torchrun && v.text("TORCHELASTIC_USE_AGENT_STORE") == "True";
  return info;
}

}  // namespace

std::string_view name_of(LaunchSource source) {
  static constexpr std::string_view kNames[] = {"flags", "torchrun", "own launcher", "Open MPI", "MPICH", "SLURM", "single"};
  return kNames[static_cast<size_t>(source)];
}

Environment process_environment() {
  Environment environment;
  for (char** entry = ::environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string_view::npos) environment.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return environment;
}

LaunchInfo detect_launch(const LaunchFlags& flags, const Environment& environment, std::string_view output_dir,
                         const ParentProcess& parent) {
  const Variables v(environment);
  std::vector<Claim> claims;
  for (const std::optional<Claim>& claim : {claim_of_flags(flags), claim_of_torch(v), claim_of_open_mpi(v), claim_of_pmi(v)})
    if (claim) claims.push_back(*claim);
  if (!claims.empty()) {
    check_agreement(claims, v);
  } else if (const std::optional<Claim> slurm = claim_of_slurm(v)) {
    claims.push_back(*slurm);
  } else {
    return {};
  }
  LaunchInfo info = settle(claims.front(), flags, v);
  if (info.world_size > 1) info.run_id = find_run_id(info, v, output_dir, parent);
  return info;
}

std::string describe(const LaunchInfo& info) {
  const auto of = [](int part, int whole) { return std::to_string(part) + "/" + std::to_string(whole); };
  return "launch: " + std::string(name_of(info.source)) + " rank " + of(info.rank, info.world_size) + " local " +
         of(info.local_rank, info.local_world_size) + " node " + std::to_string(info.node_rank);
}

}  // namespace longlora::dist
