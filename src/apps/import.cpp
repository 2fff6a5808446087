// longlora-train import: a GGUF file or a Hugging Face folder as a Hugging Face folder this program trains.
#include <filesystem>

#include "apps/commands.h"
#include "apps/weight_flags.h"
#include "longlora/checkpoint/model_io.h"
#include "longlora/core/error.h"

namespace longlora::apps {
namespace {

struct ImportFlags {
  std::string from, to, dtype;
  uint64_t max_shard_bytes = kDefaultShardBytes;
};

int import_command(const ImportFlags& flags) {
  LONGLORA_CHECK(!std::filesystem::exists(flags.to), busy, "the target exists", flags.to, "choose another --to, or remove it");
  const BaseModel base(flags.from);
  import_model(base, flags.to, dtype_from(flags.dtype), flags.max_shard_bytes);
  print_out(flags.to + "\n");
  return 0;
}

}  // namespace

void add_import(Program& p) {
  auto flags = std::make_shared<ImportFlags>();
  CLI::App* command = add_command(p, "import", "turns a GGUF file or a folder into a Hugging Face folder",
                                  "longlora-train import --from SmolLM2-135M-Instruct.Q4_1.gguf --to out/smollm2");
  command->add_option("--from", flags->from, ".gguf file or Hugging Face folder")->required();
  command->add_option("--to", flags->to, "folder to write; must not exist")->required();
  command->add_option("--dtype", flags->dtype, "dtype of the weights (default: fp32 for GGUF, else as stored)")
      ->check(CLI::IsMember({"bf16", "fp16", "fp32"}));
  add_shard_option(*command, flags->max_shard_bytes);
  command->callback([&p, flags] { p.action = [flags] { return import_command(*flags); }; });
}

}  // namespace longlora::apps
