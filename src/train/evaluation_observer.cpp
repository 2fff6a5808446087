#include <fmt/format.h>

#include <fstream>

#include "longlora/core/error.h"
#include "longlora/core/json.h"
#include "longlora/core/log.h"
#include "longlora/train/observers.h"

namespace longlora {
namespace {

/// Lines of steps after `step` were written by a run that did not survive to save them.
void drop_later_lines(const std::filesystem::path& file, int64_t step) {
  std::error_code error;
  if (step == 0) std::filesystem::remove(file, error);
  if (!std::filesystem::exists(file, error)) return;
  std::string kept;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    try {
      const JsonValue value = parse_json(line, file.string());
      const JsonValue* at = value.find("step");
      if (at != nullptr && at->unsigned_integer().value_or(UINT64_MAX) <= static_cast<uint64_t>(step)) kept += line + "\n";
    } catch (const Error&) {
      continue;  // half a line
    }
  }
  write_file_atomic(file, kept);
}

}  // namespace

EvaluationObserver::EvaluationObserver(Parts parts, int64_t resumed_step) : parts_(std::move(parts)), step_(resumed_step) {
  if (parts_.ranks.rank() == 0) drop_later_lines(parts_.file, resumed_step);
}

void EvaluationObserver::before_first_step() {
  if (step_ == 0) evaluate();
}

void EvaluationObserver::after_step(const StepReport& report) {
  if (report.outcome == Outcome::skipped) return;
  step_ = report.step;
  if (step_ % parts_.config.evaluate.every == 0) evaluate();
}

void EvaluationObserver::after_last_step() {
  if (step_ != evaluated_step_ && step_ >= parts_.plan.total_steps) evaluate();
}

void EvaluationObserver::evaluate() {
  parts_.ranks.set_place("evaluation", step_);
  const TrainConfig::Evaluate& wanted = parts_.config.evaluate;
  std::vector<const TokenSource*> sources;
  for (uint64_t i = 0; i < parts_.validation.num_sources(); ++i) sources.push_back(&parts_.validation.tokens(i));
  std::vector<int64_t> contexts = wanted.perplexity.contexts;
  if (contexts.empty()) contexts.push_back(parts_.config.data.sequence_length);
  const bool as_trained = wanted.attention == EvaluateAttention::as_trained;
  std::string json, text;
  for (int64_t context : contexts) {
    PerplexityOptions options{.context = context, .max_tokens = static_cast<uint64_t>(wanted.perplexity.max_tokens)};
    options.document_mask = parts_.config.data.document_mask;
    if (as_trained) options.attention = attention_at(parts_.config, parts_.plan, std::max<int64_t>(0, step_ - 1));
    options.stop_requested = parts_.stop_requested;
    options.ranks = &parts_.ranks;
    const PerplexityResult result = perplexity(parts_.model, sources, options);
    if (result.interrupted) return;
    json += (json.empty() ? "" : ", ") + to_json(result);
    text += fmt::format("  {} {:.3f}", context, result.perplexity);
    if (parts_.events != nullptr) parts_.events->add(step_, {{"evaluate/perplexity_" + std::to_string(context), result.perplexity}});
  }
  evaluated_step_ = step_;
  if (parts_.ranks.rank() != 0) return;
  log_info("validation perplexity after step {}:{}", step_, text);
  std::ofstream(parts_.file, std::ios::app) << "{\"step\": " << step_ << ", \"attention\": \"" << (as_trained ? "as_trained" : "full")
                                            << "\", \"contexts\": [" << json << "]}\n";
}

}  // namespace longlora
