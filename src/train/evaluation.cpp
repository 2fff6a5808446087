#include "longlora/train/evaluation.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <span>

#include "longlora/core/error.h"
#include "longlora/core/json.h"
#include "longlora/data/token_batch.h"
#include "train/together.h"

namespace longlora {
namespace {

uint64_t used_tokens(const TokenSource& source, uint64_t max_tokens) {
  return max_tokens == 0 ? source.num_tokens() : std::min(max_tokens, source.num_tokens());
}

/// Ids, aligned labels (only targets of this window) and document starts of one window.
struct WindowRow {
  std::vector<int32_t> ids, labels;
  std::vector<int64_t> document_starts;
  int64_t targets = 0;

  WindowRow(const TokenSource& source, const EvaluationWindow& window) {
    const size_t length = window.end - window.begin;
    ids.resize(length);
    source.read(window.begin, ids);
    labels.assign(length, TokenBatch::kIgnored);
    for (uint64_t target = window.scored_from; target < window.end; ++target)
      labels[target - 1 - window.begin] = ids[target - window.begin];
    document_starts.push_back(0);
    const std::span<const uint64_t> starts = source.document_starts();
    for (auto it = std::upper_bound(starts.begin(), starts.end(), window.begin); it != starts.end() && *it < window.end; ++it) {
      labels[*it - 1 - window.begin] = TokenBatch::kIgnored;  // nothing before it belongs to its document
      document_starts.push_back(static_cast<int64_t>(*it - window.begin));
    }
    targets = std::count_if(labels.begin(), labels.end(), [](int32_t label) { return label != TokenBatch::kIgnored; });
  }

  ModelInput input(bool document_mask) {
    const auto ints = at::TensorOptions().dtype(at::kInt);
    const int64_t length = static_cast<int64_t>(ids.size());
    ModelInput in{.ids_BT = at::from_blob(ids.data(), {1, length}, ints), .labels_BT = at::from_blob(labels.data(), {1, length}, ints)};
    if (document_mask) in.document_starts = {document_starts};
    in.global_rows = {0};
    return in;
  }
};

/// fp64 sum in position order: the same for every thread count.
double total_of(const at::Tensor& nll_BT) {
  const at::Tensor nll = nll_BT.contiguous();
  const float* values = nll.const_data_ptr<float>();
  double sum = 0;
  for (int64_t i = 0; i < nll.numel(); ++i) sum += values[i];
  return sum;
}

std::vector<EvaluationWindow> windows_of(uint64_t tokens, const PerplexityOptions& options) {
  const uint64_t context = static_cast<uint64_t>(options.context);
  if (options.rule == WindowRule::longlora) return longlora_windows(tokens, context);
  return sliding_windows(tokens, context, options.stride > 0 ? static_cast<uint64_t>(options.stride) : std::max<uint64_t>(1, context / 2));
}

void check(const PerplexityOptions& options) {
  LONGLORA_CHECK(options.context >= 2, usage, "a context of " + std::to_string(options.context) + " tokens has nothing to predict",
                 "--context", "use 2 or more");
  LONGLORA_CHECK(options.stride < options.context, usage,
                 "a stride of " + std::to_string(options.stride) + " tokens leaves tokens unscored between windows of " +
                     std::to_string(options.context),
                 "--stride", "use a stride below the context");
}

struct PlacedWindow {
  const TokenSource* source;
  EvaluationWindow window;
};
struct Score {
  double nll = 0;
  int64_t targets = 0;
};

/// `in_step`: a pass is made even when nothing counts.
Score score(LlamaModel& model, const PlacedWindow& place, bool document_mask, bool in_step) {
  WindowRow row(*place.source, place.window);
  return {row.targets > 0 || in_step ? total_of(model.negative_log_likelihood(row.input(document_mask))) : 0.0, row.targets};
}

/// Window i is rank i mod size's; nullopt when a stop was asked for.
std::optional<std::vector<Score>> score_all(LlamaModel& model, const std::vector<PlacedWindow>& windows, const PerplexityOptions& options,
                                            dist::Communicator& ranks) {
  const size_t size = static_cast<size_t>(ranks.size()), rounds = (windows.size() + size - 1) / size;
  const bool in_step = model.options().weight_ranks != nullptr;  // frozen weights are gathered in every pass, by all ranks together
  std::vector<Score> mine(rounds), all(rounds * size), in_order;
  for (size_t round = 0; round < rounds; ++round) {
    if (any_rank(ranks, options.stop_requested && options.stop_requested())) return std::nullopt;
    const size_t i = round * size + static_cast<size_t>(ranks.rank());
    if (i < windows.size())
      mine[round] = score(model, windows[i], options.document_mask, in_step);
    else if (in_step)
      score(model, windows.front(), options.document_mask, in_step);
    if (options.progress)
      options.progress(static_cast<int64_t>(std::min(windows.size(), (round + 1) * size)), static_cast<int64_t>(windows.size()));
  }
  ranks.all_gather(dist::bytes_of(std::span<const Score>(mine)), dist::writable_bytes_of(std::span(all)));
  for (size_t i = 0; i < windows.size(); ++i) in_order.push_back(all[i % size * rounds + i / size]);
  return in_order;
}

}  // namespace

PerplexityResult perplexity(LlamaModel& model, const std::vector<const TokenSource*>& sources, const PerplexityOptions& options) {
  check(options);
  model.set_attention(options.attention);
  std::vector<PlacedWindow> windows;
  for (const TokenSource* source : sources)
    for (const EvaluationWindow& window : windows_of(used_tokens(*source, options.max_tokens), options))
      windows.push_back({source, window});
  PerplexityResult result{.context = options.context};
  const std::unique_ptr<dist::Communicator> alone = dist::single();
  const auto scores = score_all(model, windows, options, options.ranks != nullptr ? *options.ranks : *alone);
  if (!scores) {
    result.interrupted = true;
    return result;
  }
  double sum_of_means = 0;
  for (const Score& s : *scores) {
    result.nll += s.nll;
    result.tokens += s.targets;
    if (s.targets > 0) sum_of_means += s.nll / static_cast<double>(s.targets);
    ++result.windows;
  }
  LONGLORA_CHECK(result.tokens > 0, data, "too few tokens for a window of " + std::to_string(options.context),
                 sources.empty() ? "no input" : sources.front()->path().string(), "use a longer text or a shorter context");
  const double mean = options.rule == WindowRule::longlora ? sum_of_means / static_cast<double>(result.windows)
                                                           : result.nll / static_cast<double>(result.tokens);
  result.perplexity = std::exp(mean);
  return result;
}

std::string to_json(const PerplexityResult& r) {
  return "{\"context\": " + std::to_string(r.context) + ", \"windows\": " + std::to_string(r.windows) +
         ", \"tokens\": " + std::to_string(r.tokens) + ", \"nll\": " + json_number(r.nll) +
         ", \"perplexity\": " + json_number(r.perplexity) + "}";
}

}  // namespace longlora
