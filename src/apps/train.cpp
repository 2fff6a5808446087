// longlora-train train: the main job.
#include <unistd.h>

#include "apps/agent_store.h"
#include "apps/commands.h"
#include "apps/sources.h"
#include "longlora/core/error.h"
#include "longlora/train/run.h"
#include "longlora/train/run_status.h"

namespace longlora::apps {
namespace {

struct TrainFlags {
  ConfigFlags config;
  std::string resume = "auto", dump_gradients;
  bool dry_run = false;
  dist::LaunchFlags launch;
  std::string interface;
  bool allow_mixed_binaries = false;
};

void add_rank_flags(CLI::App& command, TrainFlags& flags) {
  const char* group = "Ranks (several processes; other launchers say it by their environment)";
  command.add_option("--rank", flags.launch.rank, "number of this process, from 0")->group(group);
  command.add_option("--world-size", flags.launch.world_size, "number of processes")->group(group);
  command.add_option("--local-rank", flags.launch.local_rank, "number of this process on its host")->group(group);
  command.add_option("--local-world-size", flags.launch.local_world_size, "number of processes on this host")->group(group);
  command.add_option("--master-addr", flags.launch.master_addr, "address of rank 0's host, when there are several hosts")->group(group);
  command.add_option("--master-port", flags.launch.master_port, "port that rank 0 listens on")->group(group);
  command.add_option("--interface", flags.interface, "name or address of the interface to listen on; any: all of them")->group(group);
  command.add_flag("--allow-mixed-binaries", flags.allow_mixed_binaries, "do not insist on one build of the program on all ranks")
      ->group(group);
}

int train(const TrainFlags& flags, const std::vector<std::string>& legacy, const GlobalOptions& globals) {
  write_exit_file_at_end();
  TrainRequest request{.sources = sources_of(flags.config, legacy),
                       .dry_run = flags.dry_run,
                       .dump_gradients = flags.dump_gradients,
                       .progress = globals.progress_mode(),
                       .threads = globals.threads};
  request.launch = flags.launch;
  request.interface = flags.interface;
  request.allow_mixed_binaries = flags.allow_mixed_binaries;
  request.connect_store = connect_agent_store;
  if (flags.resume == "never")
    request.resume = ResumeMode::never;
  else if (flags.resume != "auto")
    request.resume = ResumeMode::path, request.resume_path = flags.resume;
  return run_training(request);
}

}  // namespace

void add_train(Program& p) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* command = add_command(p, "train", "trains; goes on where an interrupted run stopped",
                                  "longlora-train train -c configs/quickstart.yaml --set train.steps=300 --output-dir out/run");
  add_config_flags(*command, flags->config);
  command->add_option("--output-dir", flags->config.output_dir, "where checkpoints, logs and the result go (output_dir)");
  command->add_option("--device", flags->config.device, "auto, cpu or cuda: where to compute (device)");
  command->add_option("--resume", flags->resume, "auto (newest valid checkpoint of the output folder), never, or one checkpoint folder");
  command->add_flag("--dry-run", flags->dry_run, "stop after the plan; nothing is written");
  command->add_option("--dump-gradients", flags->dump_gradients, "write the gradients of the first step as safetensors and stop");
  add_rank_flags(*command, *flags);
  command->callback([&p, flags] {
    p.blocks_stop_signals = true;
    p.takes_unknown = true;  // LongLoRA's own flags are translated
    p.action = [&p, flags] { return train(*flags, p.app.remaining(true), p.globals); };
  });
}

}  // namespace longlora::apps
