#include "longlora/train/export_run.h"

#include "longlora/checkpoint/train_state.h"
#include "longlora/core/error.h"
#include "longlora/train/environment.h"
#include "longlora/train/prepare.h"
#include "longlora/train/version.h"
#include "train/finish.h"

namespace longlora {
namespace {

void refuse_existing(const std::filesystem::path& to) {
  LONGLORA_CHECK(!std::filesystem::exists(to), busy, "the target exists", to.string(), "choose another --to, or remove it");
}

void write(LlamaModel& model, const ExportContext& context, const ExportRequest& request) {
  if (request.format == ExportFormat::peft)
    export_peft(model, context, request.to);
  else
    export_merged(model, context, request.to, request.dtype, request.max_shard_bytes);
}

/// Nothing is renamed or removed: the run may be writing others.
CheckpointFolder::Found newest_checkpoint(const std::filesystem::path& folder) {
  const auto found = std::filesystem::exists(folder) ? CheckpointFolder::latest(folder) : std::nullopt;
  LONGLORA_CHECK(found.has_value(), missing, "no checkpoint", folder.string(), "train at least until the first checkpoint");
  return *found;
}

}  // namespace

void export_run(const std::filesystem::path& run, const ExportRequest& request) {
  refuse_existing(request.to);
  ConfigSources sources;
  sources.file = run / "config.yaml";
  LoadedConfig loaded = load_config(sources);
  const std::string dir = loaded.config.checkpoint.dir;
  const CheckpointFolder::Found found = newest_checkpoint(dir.empty() ? run / "checkpoints" : std::filesystem::path(dir));
  const TuningMode mode = loaded.config.tuning.mode;
  LONGLORA_CHECK(request.format != ExportFormat::peft || mode == TuningMode::lora, config, "full tuning has no adapter", run.string(),
                 "use --format merged");
  PreparedRun prepared = prepare_run(std::move(loaded), PrepareFor::exporting);
  prepared.plan.total_steps = read_train_state(found).step;
  Digest weights{};
  const std::unique_ptr<LlamaModel> model = make_model(prepared, weights);
  load_train_tensors(found, *model);
  ExportRequest with_dtype = request;
  if (!with_dtype.dtype) with_dtype.dtype = export_dtype(*prepared.base);
  write(*model, export_context(prepared), with_dtype);
}

void export_adapter(const std::filesystem::path& adapter, const std::filesystem::path& base_path, const ExportRequest& request) {
  refuse_existing(request.to);
  const BaseModel base(base_path);
  const AdapterInfo info = read_adapter_info(adapter, base.config);
  ExportContext context{.base = &base,
                        .version = std::string(kVersion),
                        .group = info.group.value_or(0),
                        .attention = info.attention.value_or(AttentionKind::full)};
  context.rope = {.old_context = info.base_context.value_or(base.config.max_position),
                  .new_context = info.context.value_or(base.config.max_position),
                  .before = base.config.rope,
                  .after = info.rope.value_or(base.config.rope),
                  .new_max_position = info.max_position.value_or(base.config.max_position)};
  context.rope.changed = !(context.rope.after == context.rope.before);
  ModelOptions options{.compute = resolve_compute(TrainConfig{}, ComputeDevice{}), .tuning = info.tuning};
  LlamaModel model(base.config, context.rope.after, context.rope.new_max_position, context.rope.new_context, options);
  load_base_weights(model, base, true);
  load_adapter(model, adapter);
  write(model, context, request);
}

}  // namespace longlora
