// The flags of LongLoRA's scripts, as assignments to keys of ours.

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "longlora/config/config_io.h"
#include "longlora/config/scalar_text.h"
#include "longlora/core/error.h"
#include "longlora/core/json.h"
#include "longlora/core/text.h"

namespace longlora {

namespace {

enum class Kind { value, boolean, ignored };

struct LegacyFlag {
  std::string_view name;
  Kind kind;
  std::string_view key;       // of a plain translation; empty: see `Translator`
  std::string_view why = {};  // of an ignored flag
};

constexpr LegacyFlag kFlags[] = {
    {"model_name_or_path", Kind::value, "model.path"},
    {"model_max_length", Kind::value, "data.sequence_length"},
    {"use_flash_attn", Kind::ignored, "", "the attention of this program never builds a score matrix"},
    {"use_full_attn", Kind::boolean, ""},
    {"low_rank_training", Kind::boolean, ""},
    {"trainable_params", Kind::value, ""},
    {"per_device_train_batch_size", Kind::value, "train.micro_batch"},
    {"gradient_accumulation_steps", Kind::value, ""},
    {"learning_rate", Kind::value, "optimizer.learning_rate"},
    {"weight_decay", Kind::value, "optimizer.weight_decay"},
    {"warmup_steps", Kind::value, "schedule.warmup_steps"},
    {"lr_scheduler_type", Kind::value, ""},
    {"max_steps", Kind::value, ""},
    {"num_train_epochs", Kind::value, ""},
    {"save_steps", Kind::value, "checkpoint.every"},
    {"save_total_limit", Kind::value, "checkpoint.keep"},
    {"logging_steps", Kind::value, "log.every"},
    {"data_path", Kind::value, ""},
    {"output_dir", Kind::value, "output_dir"},
    {"bf16", Kind::boolean, ""},
    {"tf32", Kind::ignored, "", "precision.compute decides"},
    {"seed", Kind::value, "train.seed"},
    {"deepspeed", Kind::ignored, "", "memory.policy and the keys dist.* replace its configuration"},
};

const LegacyFlag* find_flag(std::string_view name) {
  const auto found = std::find_if(std::begin(kFlags), std::end(kFlags), [&](const LegacyFlag& flag) { return flag.name == name; });
  return found == std::end(kFlags) ? nullptr : found;
}

[[noreturn]] void fail_usage(const std::string& what, const std::string& argument, const std::string& advice) {
  fail(ErrorKind::usage, what, "argument " + argument, advice);
}

[[noreturn]] void fail_unknown(const std::string& argument) {
  std::vector<std::string> names;
  for (const LegacyFlag& flag : kFlags) names.push_back("--" + std::string(flag.name));
  const auto close = nearest(argument, names);
  fail_usage("unknown flag", argument, close ? fmt::format("did you mean {}?", *close) : "see longlora-train train --help");
}

bool parse_boolean(const std::string& flag, const std::string& text) {
  const auto meant = intended_boolean(text);
  if (!meant) fail_usage(fmt::format("got '{}', expected True or False", escape(text, 40)), "--" + flag, "write True or False");
  return *meant == "true";
}

class Translator {
 public:
  LegacyTranslation result;

  void flag(const LegacyFlag& flag, const std::string& value) {
    const std::string name(flag.name);
    given_[name] = value;
    if (flag.kind == Kind::ignored) return notice("--{} is accepted and ignored: {}", name, flag.why);
    if (!flag.key.empty()) return set(name, std::string(flag.key), value);
    if (name == "use_full_attn") return set(name, "attention.kind", parse_boolean(name, value) ? "full" : "s2");
    if (name == "low_rank_training") return set(name, "tuning.mode", parse_boolean(name, value) ? "lora" : "full");
    if (name == "bf16") return set(name, "precision.compute", parse_boolean(name, value) ? "bf16" : "fp32");
    if (name == "data_path") return set(name, "data.train", fmt::format("[{{path: {}}}]", json_quote(value)));
    if (name == "trainable_params") return trainable(name, value);
    if (name == "lr_scheduler_type") return scheduler(name, value);
  }

  /// Flags whose meaning depends on another one.
  void finish() {
    const bool steps = given_.contains("max_steps") && integer("max_steps", given_["max_steps"]) > 0;
    if (steps) set("max_steps", "train.steps", given_["max_steps"]);
    if (given_.contains("num_train_epochs")) {
      if (steps)
        notice("--num_train_epochs is ignored: --max_steps is given");
      else
        set("num_train_epochs", "train.epochs", given_["num_train_epochs"]);
    }
    batch();
  }

 private:
  template <class... A>
  void notice(fmt::format_string<A...> format, A&&... arguments) {
    result.notices.push_back(fmt::format(format, std::forward<A>(arguments)...));
  }

  void set(const std::string& flag, const std::string& key, const std::string& value) {
    result.assignments.push_back({key, value, "--" + flag});
    notice("--{} is LongLoRA's spelling of {}: {}", flag, key, escape(value, 80));
  }

  int64_t integer(const std::string& flag, const std::string& text) {
    const auto value = integer_of(text, Unit::none);
    if (!value) fail_usage(fmt::format("got '{}', expected an integer", escape(text, 40)), "--" + flag, "write a decimal number");
    return *value;
  }

  void trainable(const std::string& name, const std::string& value) {
    std::set<std::string> parts;
    for (const std::string& part : split(value, ',')) parts.emplace(trim(part));
    parts.erase("");
    for (const std::string& part : parts)
      if (part != "embed" && part != "norm")
        fail_usage(fmt::format("'{}' is unknown", escape(part, 40)), "--" + name, "name embed, norm or both");
    set(name, "tuning.train_embeddings", parts.contains("embed") ? "true" : "false");
    set(name, "tuning.train_norms", parts.contains("norm") ? "true" : "false");
  }

  void scheduler(const std::string& name, const std::string& value) {
    if (value == "constant") {
      set(name, "schedule.kind", "constant_with_warmup");
      return set(name, "schedule.warmup_steps", "0");
    }
    if (value != "constant_with_warmup" && value != "linear" && value != "cosine")
      fail_usage(fmt::format("'{}' is unknown", escape(value, 40)), "--" + name, "choose constant, constant_with_warmup, linear or cosine");
    set(name, "schedule.kind", value);
  }

  /// The original counts micro-batches of a rank, we count sequences of a step. Its defaults are 8 and 1.
  void batch() {
    const bool accumulation_given = given_.contains("gradient_accumulation_steps"),
               micro_given = given_.contains("per_device_train_batch_size");
    if (!accumulation_given && !micro_given) return;
    const int64_t micro = micro_given ? integer("per_device_train_batch_size", given_["per_device_train_batch_size"]) : 8;
    const int64_t accumulation = accumulation_given ? integer("gradient_accumulation_steps", given_["gradient_accumulation_steps"]) : 1;
    if (!micro_given) set("gradient_accumulation_steps", "train.micro_batch", std::to_string(micro));
    int64_t global = 0;
    if (__builtin_mul_overflow(micro, accumulation, &global))
      fail_usage("the batch does not fit in 64 bits", "--gradient_accumulation_steps", "give a smaller number");
    set(accumulation_given ? "gradient_accumulation_steps" : "per_device_train_batch_size", "train.global_batch", std::to_string(global));
    notice("train.global_batch counts the sequences of all ranks: multiply by the number of ranks the original used");
  }

  std::map<std::string, std::string> given_;
};

}  // namespace

LegacyTranslation translate_legacy_flags(const std::vector<std::string>& arguments) {
  Translator translator;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const size_t equals = argument.find('=');
    const std::string head = argument.substr(0, equals);
    const LegacyFlag* const flag = head.starts_with("--") ? find_flag(head.substr(2)) : nullptr;
    if (!flag) fail_unknown(head);
    const bool value_follows = i + 1 < arguments.size() && !arguments[i + 1].starts_with("--");
    if (equals != std::string::npos)
      translator.flag(*flag, argument.substr(equals + 1));
    else if (value_follows)
      translator.flag(*flag, arguments[++i]);
    else if (flag->kind != Kind::value)
      translator.flag(*flag, "true");  // a bare flag, as the original's parser allows
    else
      fail_usage("a value is missing", argument, fmt::format("write {} VALUE", argument));
  }
  translator.finish();
  return std::move(translator.result);
}

}  // namespace longlora
