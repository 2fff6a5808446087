// The life of a run, in order: configuration, plan, output folder, data, model, resume, loop, result.
#include "longlora/train/run.h"

#include <cmath>

#include "longlora/core/error.h"
#include "longlora/core/log.h"
#include "longlora/ops/accelerator.h"
#include "longlora/plan/plan_report.h"
#include "longlora/tokenizer/tokenizer.h"
#include "longlora/train/environment.h"
#include "longlora/train/memory_report.h"
#include "longlora/train/prepare.h"
#include "longlora/train/rates.h"
#include "longlora/train/report.h"
#include "longlora/train/run_status.h"
#include "longlora/train/stop_request.h"
#include "train/finish.h"
#include "train/resume.h"
#include "train/run_folder.h"
#include "train/together.h"
#include "train/world.h"

namespace longlora {
namespace {

/// Data of a run: tokenizer (absent when every input is already tokens), training rows, validation tokens.
struct RunData {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Dataset> train, validation;

  RunData(const PreparedRun& run, const std::filesystem::path& output_dir) {
    const TrainConfig& config = run.config();
    tokenizer = base_tokenizer(*run.base);
    DatasetOptions options{.sequence_length = config.data.sequence_length, .vocab_size = run.base->config.vocab_size, .data = config.data};
    options.tokenizer = tokenizer.get();
    options.cache_folder = output_dir / "cache";
    options.tokenize_threads = compute_threads();
    options.eos = config.data.eos;
    if (!options.eos && tokenizer && tokenizer->eos()) options.eos = *tokenizer->eos();
    if (!options.eos && !run.base->config.eos_tokens.empty()) options.eos = run.base->config.eos_tokens.front();
    train = std::make_unique<Dataset>(config.data.train, options);
    if (config.evaluate.every > 0 && !config.data.validation.empty())
      validation = std::make_unique<Dataset>(config.data.validation, options);
  }

  Sampler sampler(const TrainConfig& config) const {
    SamplerOptions options{.seed = static_cast<uint64_t>(config.train.seed), .shuffle = config.data.shuffle, .weights = train->weights()};
    for (uint64_t i = 0; i < train->num_sources(); ++i) options.rows.push_back(train->rows(i));
    return Sampler(options);
  }

  Digest tokenizer_digest() const { return tokenizer ? tokenizer->digest() : Digest{}; }
};

int64_t total_steps(const TrainConfig& config, const RunData& data, int64_t global_batch) {
  if (config.train.steps) return *config.train.steps;
  const double rows = *config.train.epochs * static_cast<double>(data.sampler(config).rows_per_epoch());
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(rows / static_cast<double>(global_batch) - 1e-9)));
}

Digest frozen_digest(const TrainConfig& config) { return sha256(canonical_json(config, ResumeClass::frozen)); }

Progress restore(const ResumeState& from, LlamaModel& model) {
  load_train_tensors(from.found, model);
  const TrainState& s = from.state;
  return {.step = s.step,
          .applied_steps = s.applied_steps,
          .cursor = {s.next_row, s.skipped_rows},
          .targets_seen = s.targets_seen,
          .chain = digest_from_hex(s.chain, "state.json: chain")};
}

TrainState train_state(const Trainer& trainer, const TrainConfig& config, uint64_t metrics_bytes,
                       const std::map<std::string, std::string>& identity, const std::map<std::string, std::string>& prints,
                       const std::vector<LineageEntry>& lineage) {
  const Progress& p = trainer.progress();
  return {.step = p.step,
          .applied_steps = p.applied_steps,
          .next_row = p.cursor.next_row,
          .skipped_rows = p.cursor.skipped,
          .targets_seen = p.targets_seen,
          .chain = digest_hex(p.chain),
          .metrics_bytes = metrics_bytes,
          .config_json = canonical_json(config),
          .frozen_digest = digest_hex(frozen_digest(config)),
          .identity = identity,
          .fingerprint = prints,
          .lineage = lineage};
}

void print_banner(const PreparedRun& run, const std::function<void(const std::string&)>& say) {
  for (const std::string& notice : run.base->config.notices) log_notice("{}", notice);
  for (const std::string& notice : run.plan.rope.notices) log_notice("{}", notice);
  for (const std::string& line : banner(run)) say(line);
}

int saved_threads(const TrainState& state) {
  const auto found = state.fingerprint.find("threads");
  return found == state.fingerprint.end() ? 0 : std::atoi(found->second.c_str());
}

/// The run after all its ranks have met.
class Run {
 public:
  Run(const TrainRequest& request, PreparedRun prepared, const World& world)
      : request_(request), run_(std::move(prepared)), world_(world), ranks_(*world.all), folder_(run_, world.launch.rank) {}

  int execute() {
    on_root(ranks_, [&] { folder_.open(run_, request_.resume); });
    if (!is_root()) run_status().rank_file = folder_.path() / "logs" / fmt::format("exit_rank_{}.json", ranks_.rank());
    stop_.emplace(run_.config().output_dir);  // not before the folder is this run's: it takes away an old STOP file
    resume_ = choose_resume(folder_.checkpoints(), request_, ranks_);
    if (resume_) take_saved_config();
    const std::unique_ptr<RunData> data = open_data();
    run_.plan.total_steps = total_steps(run_.config(), *data, run_.plan.global_batch);
    print_banner(run_, [&](const std::string& line) { folder_.say(line); });
    if (ranks_.size() > 1) folder_.say(dist::describe(world_.launch));
    for (const std::string& line : data->train->summary()) folder_.say("data       " + line);
    Digest weights{};
    std::unique_ptr<LlamaModel> model;
    together(ranks_, [&] { model = make_model(run_, weights, world_.weights.get()); });
    identity_ = {
        {"weights", digest_hex(weights)}, {"tokenizer", digest_hex(data->tokenizer_digest())}, {"data", digest_hex(data->train->digest())}};
    prints_ = fingerprint(run_.compute, run_.device, run_.base->config.head_dim);
    if (resume_) check_identity(resume_->state, identity_, prints_, run_.config().deterministic);
    on_root(ranks_, [&] { folder_.describe(run_, identity_); });
    Progress start{.chain = chain_start(frozen_digest(run_.config()), weights, data->tokenizer_digest(), data->train->digest())};
    Reducer reducer(world_.rows(), model->trainable(), run_.plan.canonical_shards, run_.config().dist.shard_state != AutoBool::off);
    AdamW optimizer(model->trainable(), run_.config().optimizer);
    model->set_sequence_group(world_.sequence.get());
    if (resume_) {
      together(ranks_, [&] { start = restore(*resume_, *model); });
      reducer.refresh_weights();
      folder_.say("resume     step " + std::to_string(start.step) + " from " + resume_->found.path.string());
    }
    return train(*model, optimizer, reducer, *data, std::move(start));
  }

 private:
  /// Text is tokenised once: by the root, whose cache the others find.
  std::unique_ptr<RunData> open_data() {
    std::unique_ptr<RunData> data;
    ranks_.set_place("data", 0);
    on_root(ranks_, [&] { data = std::make_unique<RunData>(run_, folder_.path()); });
    together(ranks_, [&] {
      if (!data) data = std::make_unique<RunData>(run_, folder_.path());
    });
    return data;
  }

  void take_saved_config() {
    MergedConfig merged = merge_config(run_.loaded, request_.sources, resume_->state);
    for (const std::string& notice : merged.notices) log_notice("resume: {}", notice);
    lineage_ = std::move(merged.lineage);
    take_threads(request_, saved_threads(resume_->state), world_.launch);
    merged.loaded.config.dist.shard_weights = run_.config().dist.shard_weights;  // agreed on by all ranks
    run_ = prepare_run(std::move(merged.loaded), PrepareFor::training, run_.plan.ranks, world_.launch.local_world_size);
    run_status().step = resume_->state.step;
    run_status().checkpoint = resume_->found.path.string();
  }

  int train(LlamaModel& model, AdamW& optimizer, Reducer& reducer, const RunData& data, Progress start) {
    const TrainConfig& config = run_.config();
    const std::filesystem::path& out = folder_.path();
    BatchLoader loader(*data.train, data.sampler(config), run_.plan.global_batch, run_.plan.micro_batch, reducer.first_shard(),
                       run_.plan.accumulation, config.data.prefetch);
    const int64_t first_step = start.step;
    const auto keep_less = [&](ShortOf what) {
      if (!replan_with_less(run_, what)) return false;
      if (run_.device.is_gpu()) accelerator::release_unused();
      folder_.say("policy     " + run_.memory.policy_summary());
      folder_.describe_plan(report_of(run_, rates_));
      return true;
    };
    Trainer trainer({model, loader, optimizer, reducer, ranks_, config, run_.plan, out / "logs", keep_less, &run_.memory,
                     world_.sequence.get(), world_.weights != nullptr},
                    std::move(start));
    if (!request_.dump_gradients.empty()) {
      const LossSum loss = trainer.accumulate_gradients();
      on_root(ranks_, [&] { dump_gradients(model, loss, request_.dump_gradients, config.tuning.mode); });
      folder_.say("gradients  of the first step in " + request_.dump_gradients.string());
      return 0;
    }
    const SpeedScale scale{run_.memory.flops, run_.memory.full_attention_flops, measure_product_rate(run_.compute, run_.device.where)};
    folder_.say(fmt::format("peak       {:.0f} GFLOP/s in one large product, the base of MFU and HFU", scale.peak_flops_per_second / 1e9));
    rates_ = rates_of_run(run_.device, scale.peak_flops_per_second);
    folder_.describe_plan(report_of(run_, rates_));
    const auto stop_requested = [this] { return stop_->requested(); };

    std::optional<MetricsObserver> metrics;  // the root's
    std::vector<Observer*> observers;
    std::optional<MemoryObserver> memory;
    std::optional<ProgressObserver> progress;
    if (is_root()) {
      observers.push_back(&metrics.emplace(out / "metrics.jsonl", resume_ ? resume_->state.metrics_bytes : 0, scale));
      observers.push_back(&memory.emplace(out / "memory.json", run_.memory, run_.device.is_gpu()));
      observers.push_back(&progress.emplace(request_.progress, config.log.every, run_.plan.total_steps, folder_.log_file()));
    }
    const auto state = [&] {
      if (metrics) metrics->sync();  // the recorded length must never exceed the file
      return train_state(trainer, config, metrics ? metrics->bytes() : 0, identity_, prints_, lineage_);
    };
    CheckpointObserver checkpoints({folder_.checkpoints(), model, reducer, ranks_, config.checkpoint.every, config.checkpoint.keep, state},
                                   resume_ ? first_step : -1);
    observers.push_back(&checkpoints);
    std::unique_ptr<EventsObserver> events;
    if (is_root() && config.log.tensorboard && !trainer.done()) observers.push_back((events = std::make_unique<EventsObserver>(out)).get());
    std::unique_ptr<EvaluationObserver> evaluation;
    if (data.validation) {
      evaluation = std::make_unique<EvaluationObserver>(
          EvaluationObserver::Parts{model, *data.validation, config, run_.plan, out / "evaluation.jsonl",
                                    events ? &events->file() : nullptr, stop_requested, ranks_},
          first_step);
      observers.push_back(evaluation.get());
    }
    const bool finished = trainer.run(observers, stop_requested);
    if (!finished) stopped(trainer.progress().step);
    return finish(model, reducer);
  }

  [[noreturn]] void stopped(int64_t step) {
    const std::string reason = stop_->reason().empty() ? "another rank" : stop_->reason();
    fail(ErrorKind::preempted, "stopped by " + reason + " after step " + std::to_string(step) + ", state saved", run_status().checkpoint,
         "run the same command again to go on");
  }

  int finish(LlamaModel& model, Reducer& reducer) {
    ranks_.set_place("export", run_.plan.total_steps);
    reducer.gather_masters();
    on_root(ranks_, [&] {
      const std::filesystem::path result = export_result(model, run_, identity_);
      if (!result.empty()) folder_.say("result     " + result.string());
      try {
        write_report(folder_.path());
        folder_.say("report     " + (folder_.path() / "report.html").string());
      } catch (const Error& error) {
        log_warning("no report: {}", error.what());  // a report never decides how a run ends
      }
    });
    return 0;
  }

  bool is_root() const { return ranks_.rank() == 0; }

  const TrainRequest& request_;
  PreparedRun run_;
  const World& world_;
  dist::Communicator& ranks_;
  RunFolder folder_;
  std::optional<StopRequest> stop_;
  std::optional<ResumeState> resume_;
  std::vector<LineageEntry> lineage_;
  std::map<std::string, std::string> identity_, prints_;
  Rates rates_;  // of the predicted time: measured once the model is ready
};

/// `planned`: for the last words.
int run(const TrainRequest& request, PlannedMemory& planned) {
  LoadedConfig loaded = load_config(request.sources);
  const dist::LaunchInfo launch = find_launch(request, loaded.config);
  const int64_t parts = loaded.config.dist.sequence_parallel;
  const auto prepare = [&] {
    return prepare_run(std::move(loaded), PrepareFor::training, launch.world_size / parts, launch.local_world_size);
  };
  PreparedRun prepared = prepare();
  if (request.dry_run) {
    print_banner(prepared, [](const std::string& line) { log_info("{}", line); });
    const PlanReport plan = report_of(prepared, rates_of_run(prepared.device, 0));
    log_info("predicted  {}", step_time_text(plan.time));
    log_info("rates      {}", plan.rates.source);
    return 0;
  }
  run_status().rank = launch.rank;
  World world = join(launch, request, prepared.config(), prepared.device.is_gpu());
  const ShardWeights weights = agree_on_weights(world, prepared.memory.weight_ranks > 1) ? ShardWeights::frozen : ShardWeights::none;
  if (launch.world_size > 1 && prepared.config().dist.shard_weights != weights) {
    loaded = std::move(prepared.loaded);
    loaded.config.dist.shard_weights = weights;
    prepared = prepare();
  }
  planned = {prepared.memory.peak_bytes(), prepared.memory.budget_bytes,
             prepared.device.is_gpu() ? "memory.device_budget" : "memory.host_budget"};
  return Run(request, std::move(prepared), world).execute();
}

}  // namespace

int run_training(const TrainRequest& request) {
  PlannedMemory planned;
  try {
    return run(request, planned);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& failure) {
    if (!is_out_of_memory(failure)) throw;
    fail_out_of_memory(failure, run_status().step, planned);
  }
}

}  // namespace longlora
