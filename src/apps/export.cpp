// longlora-train export: a run or an adapter as a merged Hugging Face folder or a PEFT adapter.
#include <filesystem>

#include "apps/commands.h"
#include "apps/weight_flags.h"
#include "longlora/core/error.h"
#include "longlora/train/environment.h"
#include "longlora/train/export_run.h"
#include "longlora/train/version.h"

namespace longlora::apps {
namespace {

struct ExportFlags {
  std::string run, adapter, base, to, format = "merged", dtype;
  uint64_t max_shard_bytes = kDefaultShardBytes;
};

void check_flags(const ExportFlags& flags) {
  LONGLORA_CHECK(flags.format != "gguf", usage, "export to GGUF is not in this version", "--format", "use merged or peft");
  LONGLORA_CHECK(flags.run.empty() != flags.adapter.empty(), usage, "give either --run or --adapter", "command line",
                 "write --run DIR, or --adapter DIR --base DIR");
  LONGLORA_CHECK(flags.adapter.empty() || !flags.base.empty(), usage, "--adapter needs the base model", "--base", "add --base DIR");
  LONGLORA_CHECK(flags.dtype.empty() || flags.format == "merged", usage, "--dtype is for merged folders; adapters stay fp32", "--dtype",
                 "leave --dtype out");
}

int export_command(const ExportFlags& flags) {
  check_flags(flags);
  const ExportRequest request{.to = flags.to,
                              .format = flags.format == "peft" ? ExportFormat::peft : ExportFormat::merged,
                              .dtype = dtype_from(flags.dtype),
                              .max_shard_bytes = flags.max_shard_bytes};
  if (!flags.run.empty())
    export_run(flags.run, request);
  else
    export_adapter(flags.adapter, flags.base, request);
  print_out(flags.to + "\n");
  return 0;
}

}  // namespace

void add_export(Program& p) {
  auto flags = std::make_shared<ExportFlags>();
  CLI::App* command = add_command(p, "export", "writes a merged Hugging Face folder or a PEFT adapter, re-read before it appears",
                                  "longlora-train export --run out/run --to out/merged --dtype bf16");
  command->add_option("--run", flags->run, "output_dir of a run: its newest checkpoint");
  command->add_option("--adapter", flags->adapter, "PEFT folder");
  command->add_option("--base", flags->base, "base model of the adapter");
  command->add_option("--to", flags->to, "folder to write; must not exist")->required();
  command->add_option("--format", flags->format, "merged or peft")->check(CLI::IsMember({"merged", "peft", "gguf"}));
  command->add_option("--dtype", flags->dtype, "dtype of a merged folder (default: the base's)")
      ->check(CLI::IsMember({"bf16", "fp16", "fp32"}));
  add_shard_option(*command, flags->max_shard_bytes);
  command->callback([&p, flags] { p.action = [flags] { return export_command(*flags); }; });
}

}  // namespace longlora::apps
