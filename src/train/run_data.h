#pragma once
// What a run reads besides the model, and the numbers that follow from it.
#include <filesystem>
#include <memory>

#include "longlora/data/dataset.h"
#include "longlora/tokenizer/tokenizer.h"
#include "longlora/train/prepare.h"

namespace longlora {

/// Data of a run: tokenizer (absent when every input is already tokens), training rows, validation tokens.
struct RunData {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Dataset> train, validation;  // validation: null unless the run evaluates

  RunData(const PreparedRun&, const std::filesystem::path& output_dir);
  Sampler sampler(const TrainConfig&) const;
  Digest tokenizer_digest() const { return tokenizer ? tokenizer->digest() : Digest{}; }
};

/// train.steps, or the steps that train.epochs are.
int64_t total_steps(const TrainConfig&, const RunData&, int64_t global_batch);
/// Of the settings that may not change in a run.
Digest frozen_digest(const TrainConfig&);

}  // namespace longlora
