#include "longlora/train/prepare.h"

#include <filesystem>

#include "longlora/core/error.h"
#include "longlora/core/log.h"
#include "longlora/core/text.h"
#include "longlora/ops/attention.h"
#include "longlora/train/environment.h"

namespace longlora {
namespace {

/// Plain paths are looked up before anything is opened; globs are expanded later by the data set.
void check_data_paths(const TrainConfig& config) {
  std::vector<std::string> absent;
  const auto look = [&](const std::vector<DataEntry>& entries, const char* key) {
    for (size_t i = 0; i < entries.size(); ++i) {
      const std::string& path = entries[i].path;
      std::error_code error;
      if (path.find_first_of("*?[") != std::string::npos || std::filesystem::exists(path, error)) continue;
      absent.push_back(std::string(key) + "[" + std::to_string(i) + "].path: " + escape(path));
    }
  };
  look(config.data.train, "data.train");
  look(config.data.validation, "data.validation");
  if (absent.empty()) return;
  fail(ErrorKind::missing, std::to_string(absent.size()) + (absent.size() == 1 ? " data file is" : " data files are") + " not there",
       absent.front(), "correct the path in the configuration", absent);
}

std::string counts_text(const ParameterCounts& c) {
  std::string text = human_count(static_cast<uint64_t>(c.trainable)) + " of " + human_count(static_cast<uint64_t>(c.total)) + " parameters";
  return text;
}

std::string trained_roles(const TrainConfig::Tuning& tuning, const ParameterCounts& c, bool tied) {
  const auto number = [](int64_t count) { return human_count(static_cast<uint64_t>(count)); };
  if (tuning.mode == TuningMode::full) {
    return "projections " + number(c.projections) + ", norms " + number(c.norms) + ", embedding " + number(c.embeddings) +
           (tied ? " (tied head)" : ", head " + number(c.head));
  }
  if (tuning.mode == TuningMode::none) return "nothing";
  std::string text = "LoRA " + number(c.lora) + " (rank " + std::to_string(tuning.lora.rank) + ")";
  if (tuning.train_norms) text += ", norms " + number(c.norms);
  if (tuning.train_embeddings) text += ", embedding " + number(c.embeddings) + (tied ? " (tied head)" : "");
  if (tuning.train_head.value_or(false) && !tied) text += ", head " + number(c.head);
  return text;
}

std::string attention_text(const TrainConfig::Attention& attention, const RunPlan& plan) {
  if (attention.kind == AttentionKind::full) return "full";
  std::string text =
      std::string(attention.kind == AttentionKind::s2 ? "s2" : "s2_wrap") + ", group " + std::to_string(plan.group) + " tokens";
  if (attention.full_steps > 0) text += ", full in the last " + std::to_string(attention.full_steps) + " steps";
  return text;
}

std::string memory_text(const MemoryPlan& memory) {
  std::string text = human_bytes(static_cast<uint64_t>(memory.peak_bytes())) + " of " +
                     human_bytes(static_cast<uint64_t>(memory.budget_bytes)) + " (" + memory.peak_name() + "):";
  for (const auto& [name, bytes] : memory.on_gpu() ? memory.device_bytes : memory.host_bytes) {
    if (name != "total" && bytes > 0) text += " " + name + " " + human_bytes(static_cast<uint64_t>(bytes));
  }
  return text;
}

std::string device_text(const PreparedRun& run) {
  if (!run.device.is_gpu()) return run.device.cpu_reason.empty() ? "cpu" : "cpu: " + run.device.cpu_reason;
  const at::ScalarType type = run.compute == ComputeType::bf16 ? at::kBFloat16 : at::kFloat;
  return run.device.name + "; attention kernel " + attention_variant(run.device.where, type, run.base->config.head_dim);
}

Digest lanes_digest(const std::map<std::string, StateLanes>& lanes) {
  Sha256 hash;
  for (const auto& [name, lane] : lanes) hash.update(name).update_value(lane.lane);
  return hash.finish();
}

}  // namespace

PreparedRun prepare_run(LoadedConfig loaded, PrepareFor purpose, int64_t ranks, int64_t local_ranks) {
  PreparedRun run{.loaded = std::move(loaded)};
  const TrainConfig& config = run.loaded.config;
  if (purpose == PrepareFor::training) run.device = choose_device(config.device);
  run.compute = resolve_compute(config, run.device);
  check_data_paths(config);
  run.base = std::make_unique<BaseModel>(config.model.path, config.model.init == InitKind::load);
  run.plan = make_run_plan(config, run.base->config, ranks);
  if (config.train.steps) run.plan.total_steps = *config.train.steps;
  run.counts = count_parameters(run.base->config, config.tuning);
  if (purpose == PrepareFor::exporting) return run;
  run.within = plan_target(run.device, config, run.compute, local_ranks);
  run.memory = make_memory_plan(run.base->config, config, run.plan, run.within);
  return run;
}

bool replan_with_less(PreparedRun& run, ShortOf what) {
  const auto five_percent_less = [](int64_t bytes) { return bytes / 20 * 19; };
  const MemoryPlan& failed = run.memory;
  const int64_t on_host = failed.offload_host_bytes;
  PlanTarget less = run.within;
  const bool of_host = what == ShortOf::host_memory && failed.on_gpu();
  if (of_host)
    less.host_budget_bytes = run.held_host_bytes && *run.held_host_bytes < on_host ? *run.held_host_bytes : five_percent_less(on_host);
  if (!of_host || on_host == 0) less.budget_bytes = five_percent_less(failed.peak_bytes());
  try {
    MemoryPlan cheaper = make_memory_plan(run.base->config, run.config(), run.plan, less);
    cheaper.budget_bytes = failed.budget_bytes;
    cheaper.host_budget_bytes = failed.host_budget_bytes;
    if (!of_host) run.held_host_bytes = on_host;
    run.within = less;
    run.memory = std::move(cheaper);
    return true;
  } catch (const Error& error) {
    if (error.kind != ErrorKind::memory) throw;
    return false;  // nothing fits into less
  }
}

std::vector<std::string> banner(const PreparedRun& run) {
  const TrainConfig& config = run.config();
  const RunPlan& plan = run.plan;
  const int64_t ranks = plan.ranks * config.dist.sequence_parallel;
  return {
      "model      " + config.model.path + (config.model.init == InitKind::random ? " (random start)" : "") + ", " +
          std::string(name_of(run.compute)),
      "training   " + counts_text(run.counts) + ": " + trained_roles(config.tuning, run.counts, run.base->config.tied),
      "batch      " + std::to_string(plan.global_batch) + " rows of " + std::to_string(plan.sequence_length) + " tokens a step (" +
          std::to_string(plan.canonical_shards) + " x " + std::to_string(plan.micro_batch) + "), " + std::to_string(plan.tokens_per_step) +
          " tokens",
      "attention  " + attention_text(config.attention, plan),
      "rope       " + plan.rope.summary(),
      "memory     " + memory_text(run.memory),
      "policy     " + run.memory.policy_summary(),
      "device     " + device_text(run),
      "world      " + std::to_string(ranks) + (ranks == 1 ? " rank, " : " ranks, each ") + std::to_string(compute_threads()) +
          " threads, " + cpu_info().model + " (" + cpu_info().capability + ")",
      "output     " + config.output_dir,
  };
}

std::unique_ptr<LlamaModel> make_model(const PreparedRun& run, Digest& weights_digest, dist::Communicator* weight_ranks) {
  const TrainConfig& config = run.config();
  const ModelOptions options{.compute = run.compute,
                             .tuning = config.tuning,
                             .seed = static_cast<uint64_t>(config.train.seed),
                             .device = run.device.where,
                             .loss_chunk_rows = run.memory.loss_chunk,
                             .weight_ranks = run.memory.weight_ranks > 1 ? weight_ranks : nullptr};
  auto model = std::make_unique<LlamaModel>(run.base->config, run.plan.rope.after, run.plan.rope.new_max_position, run.plan.sequence_length,
                                            options);
  model->reserve(run.memory.arena_bytes, run.memory.offload_host_bytes);  // before weights are read: the first to hear that it is not there
  if (config.model.init == InitKind::random) {
    model->initialise_base();
    weights_digest = Sha256().update("random").update(run.base->config.json).finish();
  } else {
    weights_digest = lanes_digest(load_base_weights(*model, *run.base, config.weights_check_finite));
  }
  if (config.tuning.mode == TuningMode::lora) model->initialise_lora();
  return model;
}

}  // namespace longlora
