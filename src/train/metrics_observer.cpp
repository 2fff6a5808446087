#include <fmt/format.h>

#include "longlora/config/names.h"
#include "longlora/core/error.h"
#include "longlora/core/json.h"
#include "longlora/core/log.h"
#include "longlora/train/observers.h"

namespace longlora {
namespace {

std::string metrics_line(const StepReport& r, const MemoryPlan& plan, double peak_flops_per_second) {
  const FlopsPerToken& flops = r.attention == AttentionKind::full ? plan.full_attention_flops : plan.flops;
  const double rate = static_cast<double>(r.tokens) / r.seconds;
  const auto share = [&](double per_token) { return peak_flops_per_second > 0 ? per_token * rate / peak_flops_per_second : 0.0; };
  return fmt::format(
      "{{\"step\": {}, \"loss\": {}, \"grad_norm\": {}, \"lr\": {}, \"tokens\": {}, \"targets\": {}, \"padding\": {}, \"attention\": "
      "\"{}\", "
      "\"outcome\": \"{}\", \"first_row\": {}, \"hash\": \"{}\", \"seconds\": {:.4f}, \"tokens_per_second\": {:.1f}, \"mfu\": {:.4f}, "
      "\"hfu\": {:.4f}, \"data_wait_seconds\": {:.4f}, \"memory_bytes\": {}, \"memory_peak_bytes\": {}, "
      "\"tensor_bytes\": {}, \"tensor_peak_bytes\": {}, \"large_allocations\": {}}}\n",
      r.step, json_number(r.loss), json_number(r.grad_norm), json_number(r.learning_rate), r.tokens, r.targets, r.padding,
      name_of_value(r.attention), r.outcome == Outcome::applied ? "applied" : "skipped", r.first_row, r.hash, r.seconds, rate,
      share(flops.model), share(flops.hardware), r.data_wait_seconds, r.memory_bytes, r.memory_peak_bytes, r.tensors.live_bytes,
      r.tensors.peak_bytes, r.tensors.large_allocations);
}

}  // namespace

MetricsObserver::MetricsObserver(const std::filesystem::path& path, uint64_t keep_bytes, const MemoryPlan& plan,
                                 double peak_flops_per_second)
    : plan_(plan), peak_flops_per_second_(peak_flops_per_second) {
  file_ = OutputFile::append(path);
  written_ = std::min<uint64_t>(keep_bytes, file_->size());
  file_->truncate(written_);
}

void MetricsObserver::after_step(const StepReport& report) {
  const std::string line = metrics_line(report, plan_, peak_flops_per_second_);
  try {
    file_->truncate(written_);  // what a failed write left behind
    file_->write_all(line);
    written_ += line.size();
    warned_ = false;
  } catch (const Error& error) {
    if (!warned_) log_warning("a line of metrics is lost: {}", error.what());
    warned_ = true;
  }
}

void MetricsObserver::sync() { file_->sync(); }

EventsObserver::EventsObserver(const std::filesystem::path& folder) : file_(folder) {}

void EventsObserver::after_step(const StepReport& r) {
  file_.add(r.step, {{"train/loss", r.loss},
                     {"train/grad_norm", r.grad_norm},
                     {"train/learning_rate", r.learning_rate},
                     {"speed/tokens_per_second", static_cast<double>(r.tokens) / r.seconds},
                     {"memory/peak_gib", static_cast<double>(r.memory_peak_bytes) / (1 << 30)}});
}

}  // namespace longlora
