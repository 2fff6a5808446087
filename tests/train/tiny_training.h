#pragma once
// The parts of a miniature run without a folder: model, data, optimizer, and a trainer over them.
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "longlora/config/config_io.h"
#include "longlora/train/trainer.h"
#include "train/tiny_run.h"

namespace longlora {

struct TinyTraining {
  /// A new start; all layers keep everything.
  void prepare(const std::string& mode = "lora") { prepare(mode, ComputeType::fp32, *alone, 3, false); }
  /// One of several ranks; the global batch holds `rows` shards of one row.
  void prepare(const std::string& mode, ComputeType compute, dist::Communicator& ranks, int64_t rows, bool shard_state) {
    loader.reset();  // its thread reads the data
    loaded = parse_config(tiny.yaml(mode, "out", "nonfinite: {action: skip}\n"), "run.yaml");
    loaded.config.train.global_batch = rows;
    model_config = parse_model_config(tiny_config_json(), "config.json");
    plan = make_run_plan(loaded.config, model_config, ranks.size());
    plan.total_steps = 1000;
    ModelOptions options;
    options.tuning = loaded.config.tuning;
    options.compute = compute;
    model = std::make_unique<LlamaModel>(model_config, plan.rope.after, plan.rope.new_max_position, 32, options);
    model->initialise_base();
    model->initialise_lora();
    model->set_policies(std::vector<LayerPolicy>(2, KeepPolicy::save_all));
    DatasetOptions data_options{.sequence_length = 32, .vocab_size = kTinyVocab, .data = loaded.config.data};
    data = std::make_unique<Dataset>(loaded.config.data.train, data_options);
    Sampler sampler({.rows = {data->rows(0)}});
    reducer = std::make_unique<Reducer>(ranks, model->trainable(), rows, shard_state);
    loader = std::make_unique<BatchLoader>(*data, sampler, rows, 1, reducer->first_shard(), plan.accumulation, 1);
    optimizer = std::make_unique<AdamW>(model->trainable(), loaded.config.optimizer);
  }
  Trainer trainer(std::function<bool(ShortOf)> keep_less = {}) {
    return Trainer(
        {*model, *loader, *optimizer, *reducer, reducer->ranks(), loaded.config, plan, tiny.dir.path(), std::move(keep_less), memory}, {});
  }

  TinyRun tiny;
  LoadedConfig loaded;
  ModelConfig model_config;
  RunPlan plan;
  const MemoryPlan* memory = nullptr;  // of trainers
  std::unique_ptr<LlamaModel> model;
  std::unique_ptr<Dataset> data;
  std::unique_ptr<BatchLoader> loader;
  std::unique_ptr<dist::Communicator> alone = dist::single();
  std::unique_ptr<Reducer> reducer;
  std::unique_ptr<AdamW> optimizer;
};

}  // namespace longlora
