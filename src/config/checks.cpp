#include "config/checks.h"

#include <fmt/format.h>

#include <algorithm>

#include "longlora/config/names.h"
#include "longlora/config/run_plan.h"
#include "longlora/config/sequence_parts.h"
#include "longlora/core/error.h"

namespace longlora {

void Checks::report(std::string_view key, std::string what, std::string advice) {
  issues_.push_back({place_of_(key), std::string(key), std::move(what), std::move(advice)});
}

bool Checks::readable(std::initializer_list<std::string_view> keys) const {
  return std::none_of(keys.begin(), keys.end(), [&](std::string_view key) { return unreadable_.contains(std::string(key)); });
}

void Checks::run() {
  check_exclusive();
  check_attention();
  check_tuning();
  check_batch();
  check_evaluation();
  check_sequence_parallel();
  check_entries("data.train", c_.data.train);
  check_entries("data.validation", c_.data.validation);
  check_supported_data();
  check_supported_machine();
}

void Checks::run_for_plan() {
  check_exclusive();
  check_attention();
  if (c_.tuning.mode != TuningMode::none) check_tuning();  // none: planning and evaluation of a model that is not trained
  check_batch();
  check_sequence_parallel();
}

void Checks::check_required(const std::set<std::string>& mentioned) {
  const auto need = [&](std::string_view key, bool given, std::string_view example) {
    if (given || mentioned.contains(std::string(key))) return;
    report(key, "is required and not given", fmt::format("add {}", example));
  };
  need("model.path", !c_.model.path.empty(), "model.path: FOLDER");
  need("data.train", !c_.data.train.empty(), "data.train: [{path: FILE}]");
  need("data.sequence_length", c_.data.sequence_length > 0, "data.sequence_length: 32k");
  need("output_dir", !c_.output_dir.empty(), "output_dir: FOLDER");
  if (!mentioned.contains("train.epochs")) need("train.steps", c_.train.steps || c_.train.epochs, "train.steps: N or train.epochs: N");
}

void Checks::check_exclusive() {
  std::vector<std::string> groups;
  if (c_.attention.group_size) groups.emplace_back("attention.group_size");
  if (c_.attention.group_ratio) groups.emplace_back("attention.group_ratio");
  if (c_.attention.group_preset != GroupPreset::none) groups.emplace_back("attention.group_preset");
  for (size_t i = 1; i < groups.size(); ++i)
    report(groups[i], fmt::format("given together with {} ({})", groups[0], place_of_(groups[0]).text()), "keep one of them");
  if (c_.train.steps && c_.train.epochs)
    report("train.epochs", fmt::format("given together with train.steps ({})", place_of_("train.steps").text()), "keep one of them");
}

void Checks::check_attention() {
  const bool full = c_.attention.kind == AttentionKind::full;
  if (full && c_.attention.pattern)
    report("attention.pattern", "has no effect with attention.kind full", "remove it or choose attention.kind s2");
  if (c_.attention.group_size && *c_.attention.group_size % 2 != 0)
    report("attention.group_size", fmt::format("got {}, must be even", *c_.attention.group_size),
           fmt::format("use {} or {}", *c_.attention.group_size - 1, *c_.attention.group_size + 1));
  if (c_.attention.kind != AttentionKind::s2_wrap) return;
  if (c_.data.document_mask)
    report("attention.kind", "s2_wrap cannot keep documents apart", "set data.document_mask: false or choose attention.kind s2");
  if (!readable({"attention.group_size", "attention.group_ratio", "attention.group_preset", "data.sequence_length"})) return;
  if (c_.data.sequence_length <= 0) return;
  const int64_t group = resolve_group(c_.attention, c_.data.sequence_length);
  if (c_.data.sequence_length % group != 0)
    report(
        "attention.kind",
        fmt::format("s2_wrap needs whole groups: data.sequence_length {} is no multiple of the group {}", c_.data.sequence_length, group),
        fmt::format("set data.sequence_length to {} or choose attention.kind s2",
                    std::max(group, c_.data.sequence_length / group * group)));
}

void Checks::check_tuning() {
  std::vector<LoraTarget> targets = c_.tuning.lora.targets;
  std::sort(targets.begin(), targets.end());
  const auto twice = std::adjacent_find(targets.begin(), targets.end());
  if (twice != targets.end())
    report("tuning.lora.targets", fmt::format("names '{}' twice", name_of_value(*twice)), "name every projection once");
  const bool roles = c_.tuning.train_norms || c_.tuning.train_embeddings || c_.tuning.train_head.value_or(false);
  const bool nothing = c_.tuning.mode == TuningMode::none || (c_.tuning.mode == TuningMode::lora && targets.empty() && !roles);
  if (nothing && readable({"tuning.mode", "tuning.lora.targets", "tuning.train_norms", "tuning.train_embeddings", "tuning.train_head"}))
    report("tuning.mode", fmt::format("'{}' with these settings trains nothing", name_of_value(c_.tuning.mode)),
           "choose lora or full, or name tuning.lora.targets");
}

void Checks::check_batch() {
  if (!readable({"train.global_batch", "train.micro_batch"})) return;
  const int64_t global = c_.train.global_batch, micro = c_.train.micro_batch;
  if (micro < 1 || global % micro == 0) return;
  const int64_t above = (global + micro - 1) / micro * micro, below = global / micro * micro;
  report("train.global_batch", fmt::format("got {}, no multiple of train.micro_batch {}", global, micro),
         below > 0 ? fmt::format("use {} or {}", below, above) : fmt::format("use {} or train.micro_batch {}", above, global));
}

void Checks::check_evaluation() {
  if (c_.evaluate.every > 0 && c_.data.validation.empty() && readable({"data.validation"}))
    report("evaluate.every", fmt::format("got {}, but there is no data.validation to evaluate", c_.evaluate.every),
           "add data.validation or set evaluate.every: 0");
}

void Checks::check_sequence_parallel() {
  const int64_t parts = c_.dist.sequence_parallel;
  if (parts == 1 || !readable({"dist.sequence_parallel"})) return;
  if (parts != 2 && parts != 4 && parts != 8)
    return report("dist.sequence_parallel", fmt::format("got {}, must be 1, 2, 4 or 8", parts), "use one of them");
  const auto apart = [&](std::string_view key, std::string what, std::string advice) {
    report(key, fmt::format("{} and dist.sequence_parallel {} do not go together", what, parts),
           fmt::format("{} or set dist.sequence_parallel: 1", advice));
  };
  if (c_.attention.kind != AttentionKind::s2)
    return apart("attention.kind", fmt::format("'{}'", name_of_value(c_.attention.kind)), "choose s2");
  if (c_.attention.full_steps > 0) apart("attention.full_steps", std::to_string(c_.attention.full_steps), "set it to 0");
  if (c_.data.document_mask) apart("data.document_mask", "'true'", "set it to false");
  if (c_.evaluate.every > 0 && c_.evaluate.attention == EvaluateAttention::full)
    apart("evaluate.attention", "evaluations with 'full' during the run", "choose as_trained, set evaluate.every: 0");
  if (!readable({"attention.group_size", "attention.group_ratio", "attention.group_preset", "data.sequence_length"})) return;
  if (c_.data.sequence_length <= 0 || c_.attention.group_size.value_or(2) % 2 != 0) return;
  const int64_t half_groups = half_groups_of(c_.data.sequence_length, resolve_group(c_.attention, c_.data.sequence_length));
  if (parts > half_groups)
    report("dist.sequence_parallel", fmt::format("got {}, but a row has only {} half-groups to share", parts, half_groups),
           fmt::format("use {} or a smaller group", half_groups >= 4   ? 4
                                                    : half_groups >= 2 ? 2
                                                                       : 1));
}

void Checks::check_entries(std::string_view key, const std::vector<DataEntry>& entries) {
  for (size_t i = 0; i < entries.size(); ++i) check_entry(key, i, entries[i]);
  const auto weighted = std::count_if(entries.begin(), entries.end(), [](const DataEntry& e) { return e.weight.has_value(); });
  if (weighted == 0) return;
  if (static_cast<size_t>(weighted) != entries.size())
    report(key, fmt::format("{} of {} entries have a weight", weighted, entries.size()), "give all of them a weight or none");
  if (key == "data.train" && c_.train.epochs) report("train.epochs", "has no meaning when data.train has weights", "use train.steps");
}

void Checks::check_entry(std::string_view key, size_t index, const DataEntry& entry) {
  const std::string name = fmt::format("entry {}", index + 1);
  if (entry.format == "alpaca" || entry.format == "sharegpt" || entry.format == "messages" || entry.format == "parquet")
    report(key, fmt::format("{}: format '{}' is not in this version", name, entry.format), "use text, jsonl, tokens, llmc or raw_uint16");
  const bool text = entry.format == "auto" || entry.format == "text", jsonl = entry.format == "auto" || entry.format == "jsonl";
  if (entry.split != "file" && !text)
    report(key, fmt::format("{}: split has no effect with format '{}'", name, entry.format), "remove it or use format text");
  if (entry.field != "text" && !jsonl)
    report(key, fmt::format("{}: field has no effect with format '{}'", name, entry.format), "remove it or use format jsonl");
  if ((entry.split == "separator") == entry.separator.empty())
    report(key, fmt::format("{}: split 'separator' and the key separator belong together", name),
           entry.separator.empty() ? "add separator: LINE" : "add split: separator");
}

void raise_issues(const Issues& issues) {
  if (issues.empty()) return;
  std::vector<std::string> details;
  for (const Issue& issue : issues) details.push_back(detail_of(issue));
  const Issue& first = issues.front();
  std::string what = first.key.empty() ? first.what : first.key + ": " + first.what;
  if (issues.size() > 1) what = fmt::format("{} problems in the configuration; the first: {}", issues.size(), what);
  const std::string where = first.place.text();
  fail(ErrorKind::config, std::move(what), where.empty() ? "configuration" : where, first.advice, std::move(details));
}

Problem problem_of(const Issue& issue) { return {issue.place.file, issue.place.line, issue.place.column, issue.key, issue.message()}; }

std::string detail_of(const Issue& issue) {
  const std::string place = issue.place.text();
  return (place.empty() ? "" : place + ": ") + (issue.key.empty() ? "" : issue.key + ": ") + issue.message();
}

}  // namespace longlora
