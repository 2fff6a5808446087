// The life of a run, in order: configuration, plan, output folder, data, model, resume, loop, result.
#include "longlora/train/run.h"

#include "longlora/core/error.h"
#include "longlora/core/log.h"
#include "longlora/ops/accelerator.h"
#include "longlora/plan/plan_report.h"
#include "longlora/train/environment.h"
#include "longlora/train/memory_report.h"
#include "longlora/train/prepare.h"
#include "longlora/train/rates.h"
#include "longlora/train/report.h"
#include "longlora/train/run_status.h"
#include "longlora/train/stop_request.h"
#include "train/finish.h"
#include "train/resume.h"
#include "train/run_data.h"
#include "train/run_folder.h"
#include "train/run_observers.h"
#include "train/together.h"
#include "train/world.h"

namespace longlora {
namespace {

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

PlannedMemory planned_memory(const PreparedRun& run) {
  return {run.memory.peak_bytes(), run.memory.budget_bytes, run.device.is_gpu() ? "memory.device_budget" : "memory.host_budget"};
}

/// The run after all its ranks have met.
class Run {
 public:
  /// `planned` follows the plan in force: for the last words.
  Run(const TrainRequest& request, PreparedRun prepared, const World& world, PlannedMemory& planned)
      : request_(request),
        run_(std::move(prepared)),
        world_(world),
        ranks_(*world.all),
        folder_(run_, world.launch.rank),
        planned_(planned) {
    planned_ = planned_memory(run_);
  }

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
    together(ranks_, [&] {
      measure_speed();
      model = make_model(run_, weights, world_.weights.get());
    });
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
    planned_ = planned_memory(run_);
    run_status().step = resume_->state.step;
    run_status().checkpoint = resume_->found.path.string();
  }

  /// Before the model takes its memory: the products need some that no plan knows.
  void measure_speed() {
    const double product_rate = measure_product_rate(run_.compute, run_.device.where);
    if (run_.device.is_gpu()) accelerator::release_unused();
    rates_ = rates_of_run(run_.device, run_.compute, product_rate);
    peak_flops_per_second_ = product_rate > 0 ? rates_.peak : 0;
  }

  int train(LlamaModel& model, AdamW& optimizer, Reducer& reducer, const RunData& data, Progress start) {
    const TrainConfig& config = run_.config();
    BatchLoader loader(*data.train, data.sampler(config), run_.plan.global_batch, run_.plan.micro_batch, reducer.first_shard(),
                       run_.plan.accumulation, config.data.prefetch);
    const int64_t first_step = start.step;
    Trainer trainer({model, loader, optimizer, reducer, ranks_, config, run_.plan, folder_.path() / "logs",
                     [this](ShortOf what) { return keep_less(what); }, &run_.memory, world_.sequence.get(), world_.weights != nullptr},
                    std::move(start));
    if (!request_.dump_gradients.empty()) return dump_first_gradients(trainer, model);
    folder_.say(fmt::format("peak       {}, the base of MFU and HFU", peak_text(rates_)));
    folder_.describe_plan(report_of(run_, rates_));
    const auto state = [&](uint64_t metrics_bytes) { return train_state(trainer, config, metrics_bytes, identity_, prints_, lineage_); };
    const auto stop_requested = [this] { return stop_->requested(); };
    const RunObservers observers(
        {run_, data, folder_, model, reducer, ranks_, request_.progress, peak_flops_per_second_, state, stop_requested},
        resume_ ? &*resume_ : nullptr, first_step);
    if (!trainer.run(observers.list(), stop_requested)) stopped(trainer.progress().step);
    return finish(model, reducer);
  }

  bool keep_less(ShortOf what) {
    if (!replan_with_less(run_, what)) return false;
    if (run_.device.is_gpu()) accelerator::release_unused();
    planned_ = planned_memory(run_);
    folder_.say("policy     " + run_.memory.policy_summary());
    folder_.describe_plan(report_of(run_, rates_));
    return true;
  }

  int dump_first_gradients(Trainer& trainer, LlamaModel& model) {
    const LossSum loss = trainer.accumulate_gradients();
    on_root(ranks_, [&] { dump_gradients(model, loss, request_.dump_gradients, run_.config().tuning.mode); });
    folder_.say("gradients  of the first step in " + request_.dump_gradients.string());
    return 0;
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
  double peak_flops_per_second_ = 0;
  Rates rates_;  // of the predicted time
  PlannedMemory& planned_;
};

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
    const PlanReport plan = report_of(prepared, rates_of_run(prepared.device, prepared.compute, 0));
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
  return Run(request, std::move(prepared), world, planned).execute();
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
