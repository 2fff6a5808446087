// How a base's rotary scaling is extended to a longer context: the declared context C0, the multiplier F, the table of methods.

#include <fmt/format.h>

#include <cmath>

#include "config/rope_read.h"
#include "longlora/core/error.h"

namespace longlora {

namespace {

constexpr double kLongestNativeContext = 8192;
constexpr double kMaxTheta = 1e9;  // what config.json may hold

struct DeclaredContext {
  int64_t tokens;
  bool is_ambiguous = false;  // linear or dynamic, and max_position looks like the extended length already
};

int64_t times(int64_t tokens, double factor) { return static_cast<int64_t>(std::llround(static_cast<double>(tokens) * factor)); }

DeclaredContext declared_context(const ModelConfig& base) {
  const RopeScaling& rope = base.rope;
  if (base.declared_context) return {*base.declared_context};
  switch (rope.type) {
    case RopeType::none:
    case RopeType::llama3:
      return {base.max_position};
    case RopeType::yarn:
      return {base.max_position > rope.original_max_position ? base.max_position : times(base.max_position, rope.factor)};
    case RopeType::linear:
    case RopeType::dynamic:
      break;
  }
  const double native = static_cast<double>(base.max_position) / rope.factor;
  const bool is_extended_length =
      base.max_position > kLongestNativeContext && rope.factor > 1 && (native == 2048 || native == 4096 || native == 8192);
  return {times(base.max_position, rope.factor), is_extended_length};
}

std::string_view method_name(RopeMethod method) {
  switch (method) {
    case RopeMethod::none:
      return "none";
    case RopeMethod::linear:
      return "linear";
    case RopeMethod::dynamic:
      return "dynamic";
    case RopeMethod::yarn:
      return "yarn";
    case RopeMethod::llama3:
      return "llama3";
  }
  LONGLORA_INVARIANT(!"unknown method");
}

[[noreturn]] void refuse_method(const RopeScaling& before, RopeMethod method, std::string_view composing) {
  fail(ErrorKind::config,
       fmt::format("rope.scaling: got {}, which does not compose with the base's {} scaling of factor {}", method_name(method),
                   name_of(before.type), before.factor),
       "rope.scaling", fmt::format("use rope.scaling: {}", composing));
}

double raised_theta(double theta, double multiplier, int64_t head_dim) {
  LONGLORA_CHECK(head_dim > 2, config, "rope.scaling: got dynamic, which needs a head size above 2", "rope.scaling",
                 "use rope.scaling: linear");
  const double d = static_cast<double>(head_dim);
  const double raised = theta * std::pow(multiplier, d / (d - 2));
  LONGLORA_CHECK(raised <= kMaxTheta, config,
                 fmt::format("rope.scaling: dynamic raises theta to {:.3g}, at most {:.0e} is read", raised, kMaxTheta), "rope.scaling",
                 "use rope.scaling: linear or a shorter data.sequence_length");
  return raised;
}

/// theta' fixes the base at the training length: a base that moves with the length contradicts cached keys.
RopeScaling extend_dynamic(const ModelConfig& base, double multiplier, int64_t sequence_length) {
  RopeScaling after = base.rope;
  if (base.rope.type == RopeType::dynamic) {
    const double growth =
        base.rope.factor * static_cast<double>(std::max(sequence_length, base.max_position)) / static_cast<double>(base.max_position);
    after = {.type = RopeType::none, .theta = raised_theta(base.rope.theta, growth - (base.rope.factor - 1), base.head_dim)};
  } else {
    after.theta = raised_theta(base.rope.theta, multiplier, base.head_dim);
  }
  return after;
}

/// The table of methods; `multiplier` is F, so the total factor is the base's times F.
RopeScaling extended(const ModelConfig& base, RopeMethod method, double multiplier, int64_t sequence_length) {
  const RopeScaling& before = base.rope;
  RopeScaling after = before;
  after.factor = before.factor * multiplier;
  switch (before.type) {
    case RopeType::none:
      if (method == RopeMethod::dynamic) return extend_dynamic(base, multiplier, sequence_length);
      after.factor = multiplier;
      after.type = method == RopeMethod::linear ? RopeType::linear : method == RopeMethod::yarn ? RopeType::yarn : RopeType::llama3;
      if (method != RopeMethod::linear) after.original_max_position = base.max_position;
      return after;
    case RopeType::linear:
      if (method == RopeMethod::linear) return after;
      if (method == RopeMethod::dynamic) return extend_dynamic(base, multiplier, sequence_length);
      refuse_method(before, method, "linear (or dynamic)");
    case RopeType::dynamic:
      if (method == RopeMethod::dynamic) return extend_dynamic(base, multiplier, sequence_length);
      refuse_method(before, method, "dynamic");
    case RopeType::yarn:
      if (method == RopeMethod::yarn) return after;
      refuse_method(before, method, "yarn");
    case RopeType::llama3:
      if (method == RopeMethod::llama3) return after;
      refuse_method(before, method, "llama3");
  }
  LONGLORA_INVARIANT(!"unknown RoPE type");
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// F from the explicit total factor, or from the lengths.
double multiplier_of(const ModelConfig& base, const TrainConfig::Rope& wanted, int64_t context, int64_t sequence_length) {
  if (!wanted.factor) return sequence_length <= context ? 1 : static_cast<double>(ceil_div(sequence_length, context));
  const double total = *wanted.factor, existing = base.rope.factor;
  LONGLORA_CHECK(std::isfinite(total) && total >= existing, config,
                 fmt::format("rope.factor: got {}, the base has factor {} already and the total cannot be smaller", total, existing),
                 "rope.factor", fmt::format("state the total factor, at least {}", existing));
  LONGLORA_CHECK(base.rope.type != RopeType::dynamic || total == existing, config,
                 fmt::format("rope.factor: got {}, but a dynamic base is extended by its own formula at data.sequence_length", total),
                 "rope.factor", "remove rope.factor");
  return total / existing;
}

int64_t grown_max_position(const ModelConfig& base, const RopeScaling& after, int64_t sequence_length) {
  // readers derive yarn's factor from the ratio of the two lengths
  if (after.type == RopeType::yarn && after != base.rope) return times(after.original_max_position, after.factor);
  return std::max(base.max_position, sequence_length);
}

/// A longer sequence with unchanged scaling: frequencies must not move, so neither may a length that readers derive them from.
int64_t unscaled_max_position(const ModelConfig& base, int64_t sequence_length) {
  const bool is_free = base.rope.type == RopeType::none || base.rope.type == RopeType::linear;
  return is_free ? std::max(base.max_position, sequence_length) : base.max_position;
}

void note_two_readings(const ModelConfig& base, int64_t context, int64_t sequence_length, std::vector<std::string>& notices) {
  const bool has_two =
      (base.rope.type == RopeType::linear || base.rope.type == RopeType::dynamic) && !base.declared_context && base.rope.factor > 1;
  if (!has_two || sequence_length <= base.max_position) return;
  const auto total = [&](int64_t c) {
    return base.rope.factor * (sequence_length <= c ? 1.0 : static_cast<double>(ceil_div(sequence_length, c)));
  };
  notices.push_back(fmt::format(
      "{} scaling with factor {} and max_position_embeddings {}: read as context {} (total factor {}); read as context {} it "
      "would be {}: set rope.factor to choose",
      name_of(base.rope.type), base.rope.factor, base.max_position, context, total(context), base.max_position, total(base.max_position)));
}

std::string plain(double value) { return fmt::format("{}", value); }

std::string arrow(const std::string& before, const std::string& after) { return fmt::format("{} -> {}", before, after); }

}  // namespace

RopeExtension extend_rope(const ModelConfig& base, const TrainConfig::Rope& wanted, int64_t sequence_length) {
  LONGLORA_INVARIANT(sequence_length >= 1);
  const DeclaredContext declared = declared_context(base);
  const bool grows_past_file = sequence_length > base.max_position;  // below it both readings say: nothing to extend
  LONGLORA_CHECK(
      !declared.is_ambiguous || wanted.factor || !grows_past_file, config,
      fmt::format("config.json has {} scaling with factor {} and max_position_embeddings {}, which is almost surely the extended length",
                  name_of(base.rope.type), base.rope.factor, base.max_position),
      "rope.factor",
      fmt::format("set rope.factor to the total factor, {} if the model was trained to {} tokens",
                  base.rope.factor * static_cast<double>(ceil_div(sequence_length, base.max_position)), base.max_position));
  RopeExtension e;
  e.old_context = declared.is_ambiguous ? base.max_position : declared.tokens;
  e.new_context = std::max(e.old_context, sequence_length);
  e.before = e.after = base.rope;
  e.new_max_position = base.max_position;
  const double multiplier = multiplier_of(base, wanted, e.old_context, sequence_length);
  if (!wanted.factor) note_two_readings(base, e.old_context, sequence_length, e.notices);
  if (wanted.scaling == RopeMethod::none) {
    LONGLORA_CHECK(!wanted.factor || multiplier == 1, config,
                   fmt::format("rope.factor: got {} together with rope.scaling: none", *wanted.factor), "rope.factor",
                   "remove rope.factor or choose a rope.scaling");
    if (sequence_length > e.old_context) {
      e.notices.push_back(
          fmt::format("rope.scaling is none: {} tokens are used with frequencies made for {}", sequence_length, e.old_context));
      e.new_max_position = unscaled_max_position(base, sequence_length);
    }
  } else if (multiplier > 1) {
    e.after = extended(base, wanted.scaling, multiplier, sequence_length);
    e.new_max_position = grown_max_position(base, e.after, sequence_length);
  } else if (wanted.factor) {
    e.new_max_position = unscaled_max_position(base, sequence_length);
  }
  if (wanted.theta) {
    LONGLORA_CHECK(wanted.scaling != RopeMethod::dynamic || multiplier == 1, config,
                   "rope.theta together with rope.scaling: dynamic, which sets theta itself", "rope.theta",
                   "remove rope.theta or use rope.scaling: linear");
    e.after.theta = *wanted.theta;
  }
  e.changed = e.after != e.before || e.new_max_position != base.max_position;
  return e;
}

std::string RopeExtension::summary() const {
  const std::string type = before.type == after.type ? std::string(name_of(after.type))
                                                     : arrow(std::string(name_of(before.type)), std::string(name_of(after.type)));
  return fmt::format("context {}, {}, factor {}, theta {}", arrow(fmt::format("{}", old_context), fmt::format("{}", new_context)), type,
                     arrow(plain(before.factor), plain(after.factor)), arrow(plain(before.theta), plain(after.theta)));
}

}  // namespace longlora
