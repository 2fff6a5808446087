#pragma once
// A miniature training whose policies and bytes are a plan's, and which plans again when memory runs out, as a run does.
#include <string>

#include "longlora/train/prepare.h"
#include "train/tiny_training.h"

namespace longlora {

struct PlannedTraining : TinyTraining {
  /// `extra`: more lines of the configuration. The model has the prepared run's arena.
  PlannedTraining(dist::Communicator& ranks, int64_t rows, const std::string& extra = "") { plan_anew(ranks, rows, extra); }
  explicit PlannedTraining(const std::string& extra = "") { plan_anew(*alone, 3, extra); }

  Trainer planned_trainer() {
    return trainer([this](ShortOf what) {
      ++step_downs;
      last_short_of = what;
      return replan_with_less(prepared, what);
    });
  }

  PreparedRun prepared;
  int step_downs = 0;
  ShortOf last_short_of{};

 private:
  void plan_anew(dist::Communicator& ranks, int64_t rows, const std::string& extra) {
    prepare("lora", ComputeType::fp32, ranks, rows, false);
    std::string config = tiny_config_json();
    const std::string layers = "\"num_hidden_layers\": ";
    config.replace(config.find(layers), layers.size() + 1, layers + "8");  // what is kept outweighs what is always there
    tiny.dir.write("model/config.json", config);
    loaded = parse_config(tiny.yaml("lora", "out", extra), "run.yaml");
    loaded.config.train.global_batch = rows;
    prepared = prepare_run(loaded, PrepareFor::training, ranks.size());
    Digest weights;
    model = make_model(prepared, weights);
    reducer = std::make_unique<Reducer>(ranks, model->trainable(), rows, false);
    optimizer = std::make_unique<AdamW>(model->trainable(), loaded.config.optimizer);
    memory = &prepared.memory;
  }
};

}  // namespace longlora
