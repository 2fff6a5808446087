#include "train/run_data.h"

#include <cmath>

#include "longlora/config/config_io.h"
#include "longlora/train/environment.h"

namespace longlora {

RunData::RunData(const PreparedRun& run, const std::filesystem::path& output_dir) {
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
  if (config.evaluate.every > 0 && !config.data.validation.empty()) validation = std::make_unique<Dataset>(config.data.validation, options);
}

Sampler RunData::sampler(const TrainConfig& config) const {
  SamplerOptions options{.seed = static_cast<uint64_t>(config.train.seed), .shuffle = config.data.shuffle, .weights = train->weights()};
  for (uint64_t i = 0; i < train->num_sources(); ++i) options.rows.push_back(train->rows(i));
  return Sampler(options);
}

int64_t total_steps(const TrainConfig& config, const RunData& data, int64_t global_batch) {
  if (config.train.steps) return *config.train.steps;
  const double rows = *config.train.epochs * static_cast<double>(data.sampler(config).rows_per_epoch());
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(rows / static_cast<double>(global_batch) - 1e-9)));
}

Digest frozen_digest(const TrainConfig& config) { return sha256(canonical_json(config, ResumeClass::frozen)); }

}  // namespace longlora
