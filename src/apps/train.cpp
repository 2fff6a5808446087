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

void add_rank_flags(CLI::App& command, TrainFlags& train) {
  dist::LaunchFlags& flags = train.launch;
  command.add_option("--rank", flags.rank, "this process among all of the run, from 0; launchers say it by themselves")
      ->group("Several ranks");
  command.add_option("--world-size", flags.world_size, "processes of the run")->group("Several ranks");
  command.add_option("--local-rank", flags.local_rank, "this process among those of its host")->group("Several ranks");
  command.add_option("--local-world-size", flags.local_world_size, "processes on this host")->group("Several ranks");
  command.add_option("--master-addr", flags.master_addr, "host of rank 0, with several hosts")->group("Several ranks");
  command.add_option("--master-port", flags.master_port, "port rank 0 listens on")->group("Several ranks");
  command.add_option("--interface", train.interface, "name or address rank 0 listens on; any: every one")->group("Several ranks");
  command.add_flag("--allow-mixed-binaries", train.allow_mixed_binaries, "do not insist on one build of the program on all ranks")
      ->group("Several ranks");
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
    p.output_dir = [&p, flags] { return load_config(sources_of(flags->config, p.app.remaining(true))).config.output_dir; };
    p.blocks_stop_signals = true;
    p.takes_unknown = true;  // LongLoRA's own flags are translated
    p.action = [&p, flags] { return train(*flags, p.app.remaining(true), p.globals); };
  });
}

}  // namespace longlora::apps
