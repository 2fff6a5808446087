// longlora-train launch: several ranks of a command on this host.
#include <fmt/format.h>

#include <filesystem>

#include "apps/commands.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/host_memory.h"
#include "longlora/core/json.h"
#include "longlora/core/text.h"
#include "longlora/dist/launcher.h"
#include "longlora/ops/accelerator.h"

namespace longlora::apps {
namespace {

struct LaunchCommandFlags {
  std::string ranks_per_node = "gpu", shown = "0", master_addr, log_dir;
  int nodes = 1, node_rank = 0, master_port = 29'500, max_restarts = 3;
  double grace_seconds = 90;
};

int number_of_ranks(const std::string& text) {
  if (text == "gpu") {
    const std::optional<std::string> why = accelerator::why_unusable();
    LONGLORA_CHECK(!why, config, "no GPU can be counted: " + *why, "--nproc-per-node gpu", "give a number: --nproc-per-node 2");
    return static_cast<int>(accelerator::devices().size());
  }
  const bool number = !text.empty() && text.size() <= 4 && text.find_first_not_of("0123456789") == std::string::npos && text != "0";
  LONGLORA_CHECK(number, usage, "'" + escape(text) + "' is neither a number of ranks nor gpu", "--nproc-per-node",
                 "write for example --nproc-per-node 2");
  return std::stoi(text);
}

/// Where behind -- our own arguments begin: after the program's name, or at once (`launch -- train ...`). nullopt: another program.
std::optional<size_t> own_arguments(const std::vector<std::string>& command, const CLI::App& app) {
  const auto named = [&](const CLI::App* sub) { return sub->get_name() == command.front(); };
  if (!app.get_subcommands(named).empty()) return 0;
  return std::filesystem::path(command.front()).filename() == "longlora-train" ? std::optional<size_t>(1) : std::nullopt;
}

/// The folder a train command will write to; empty for other commands. A wrong command line or configuration is refused here, once,
/// before any rank starts.
std::string output_dir_of(const std::vector<std::string>& arguments) {
  std::vector<std::string> words = {"longlora-train"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  Program inner;
  parse_command(inner, static_cast<int>(argv.size()), argv.data());
  return inner.output_dir ? inner.output_dir() : "";
}

/// A restarted run goes on from its own newest checkpoint, whatever the first start was told.
std::vector<std::string> without_resume(std::vector<std::string> command) {
  for (size_t i = 0; i < command.size();) {
    const bool pair = command[i] == "--resume";
    if (pair || command[i].starts_with("--resume="))
      command.erase(command.begin() + static_cast<ptrdiff_t>(i),
                    command.begin() + static_cast<ptrdiff_t>(std::min(command.size(), i + 1 + pair)));
    else
      ++i;
  }
  return command;
}

/// A whole number in a file of the run folder, by the keys that lead to it; nullopt where there is none.
std::optional<uint64_t> number_in(const std::filesystem::path& file, std::initializer_list<std::string_view> keys) {
  constexpr uint64_t kMaxFileBytes = 16 << 20;
  try {
    if (!std::filesystem::exists(file)) return std::nullopt;
    const JsonValue root = parse_json(read_file(file, kMaxFileBytes), file.string(), {.max_bytes = kMaxFileBytes});
    const JsonValue* value = &root;
    for (const std::string_view key : keys)
      if (value != nullptr) value = value->find(key);
    return value == nullptr ? std::nullopt : value->unsigned_integer();
  } catch (const Error&) {  // an explanation that cannot be given changes nothing
    return std::nullopt;
  }
}

/// Host bytes of a killed run's plan, from what it wrote at its start, beside what this host allows.
std::string planned_memory(const std::filesystem::path& output_dir, int ranks) {
  std::optional<uint64_t> bytes = number_in(output_dir / "plan.json", {"host_bytes", "total"});
  if (!bytes) bytes = number_in(output_dir / "environment.json", {"memory_plan_bytes"});
  if (!bytes) return "";
  const int64_t limit = host_memory_limit();
  const std::string allowed = limit > 0 ? ", this host allows " + human_bytes(static_cast<uint64_t>(limit)) + " in all" : "";
  return fmt::format("the plan was {} a rank of {}{}: lower memory.host_budget, data.sequence_length or the number of ranks",
                     human_bytes(*bytes), ranks, allowed);
}

dist::LauncherOptions options_of(const LaunchCommandFlags& flags, const Program& p) {
  dist::LauncherOptions options{.command = p.after_dashes,
                                .ranks_per_node = number_of_ranks(flags.ranks_per_node),
                                .nodes = flags.nodes,
                                .node_rank = flags.node_rank,
                                .max_restarts = flags.max_restarts,
                                .grace_seconds = flags.grace_seconds,
                                .shown = flags.shown == "all" ? dist::ShownRanks::all : dist::ShownRanks::first,
                                .log_folder = flags.log_dir,
                                .create_log_folder = !flags.log_dir.empty(),
                                .environment = dist::process_environment()};
  if (!flags.master_addr.empty()) options.endpoint = dist::Endpoint{flags.master_addr, static_cast<uint16_t>(flags.master_port)};
  // fewer GPUs than ranks: train refuses two ranks on one GPU by name, which a rank that sees none could not
  options.pin_gpus = std::ssize(accelerator::devices()) >= options.ranks_per_node;
  const std::optional<size_t> own = own_arguments(p.after_dashes, p.app);
  if (!own) return options;
  if (*own == 0) options.command.insert(options.command.begin(), std::filesystem::read_symlink("/proc/self/exe").string());
  const std::string output_dir = output_dir_of({options.command.begin() + 1, options.command.end()});
  if (output_dir.empty()) return options;
  options.restart_command = without_resume(options.command);
  if (flags.log_dir.empty()) options.log_folder = std::filesystem::path(output_dir) / "logs";
  options.explain_kill = [output_dir, ranks = options.ranks_per_node] { return planned_memory(output_dir, ranks); };
  return options;
}

}  // namespace

void add_launch(Program& p) {
  auto flags = std::make_shared<LaunchCommandFlags>();
  CLI::App* command = add_command(p, "launch", "starts several ranks of a command on this host, ends and restarts them together",
                                  "longlora-train launch --nproc-per-node 2 -- train -c configs/quickstart.yaml");
  command->add_option("--nproc-per-node", flags->ranks_per_node, "ranks on this host, or gpu: as many as there are GPUs")->required();
  command->add_option("--nnodes", flags->nodes, "hosts; each runs this command with its own --node-rank")->check(CLI::Range(1, 65'536));
  command->add_option("--node-rank", flags->node_rank, "this host, from 0")->check(CLI::Range(0, 65'535));
  command->add_option("--master-addr", flags->master_addr, "host of rank 0, the same on all hosts; needed with several");
  command->add_option("--master-port", flags->master_port, "port of rank 0")->check(CLI::Range(1, 65'535));
  command->add_option("--max-restarts", flags->max_restarts, "restarts in any hour after a lost rank")->check(CLI::Range(0, 1'000'000));
  command->add_option("--grace", flags->grace_seconds, "seconds between a stop signal and killing the ranks")
      ->check(CLI::Range(0.0, 86'400.0));
  command->add_option("--show-ranks", flags->shown, "whose lines are shown: 0 (and warnings and errors of all) or all")
      ->check(CLI::IsMember({"0", "all"}));
  command->add_option("--log-dir", flags->log_dir, "folder for launch_rank_N.log (default: logs in the output folder of train)");
  command->callback([&p, flags] {
    LONGLORA_CHECK(!p.after_dashes.empty(), usage, "no command to launch", "command line",
                   "write it behind --: longlora-train launch --nproc-per-node 2 -- train -c FILE");
    p.action = [&p, flags] { return dist::launch(options_of(*flags, p)); };
  });
}

}  // namespace longlora::apps
