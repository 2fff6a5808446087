#include "config/rope_read.h"

#include <array>

namespace longlora {

namespace {

constexpr int64_t kMaxPosition = int64_t{1} << 24;
constexpr double kDefaultTheta = 10'000;
constexpr RealRange kTheta{1, 1e9};
constexpr RealRange kFactor{1, 1e6};
constexpr std::array<std::pair<std::string_view, RopeType>, 5> kTypes = {{{"default", RopeType::none},
                                                                          {"linear", RopeType::linear},
                                                                          {"dynamic", RopeType::dynamic},
                                                                          {"yarn", RopeType::yarn},
                                                                          {"llama3", RopeType::llama3}}};

std::optional<RopeType> read_type(const JsonValue& object, std::string_view place, ConfigJsonReader& reader) {
  const std::string* old_name = reader.string(object, "type", place);
  const std::string* new_name = reader.string(object, "rope_type", place);
  if (old_name && new_name && *old_name != *new_name) {
    reader.problem(fmt::format("{}.rope_type", place), fmt::format("the same as type (\"{}\")", escape(*old_name, 40)),
                   fmt::format("\"{}\"", escape(*new_name, 40)));
    return std::nullopt;
  }
  const std::string* name = new_name ? new_name : old_name;
  if (!name) {
    reader.problem(fmt::format("{}.rope_type", place), "default, linear, dynamic, yarn or llama3", "no such key");
    return std::nullopt;
  }
  for (const auto& [known, type] : kTypes) {
    if (*name == known) return type;
  }
  reader.problem(fmt::format("{}.rope_type", place), "default, linear, dynamic, yarn or llama3",
                 fmt::format("\"{}\" (not supported)", escape(*name, 40)));
  return std::nullopt;
}

/// M0: a top-level key wins over the nested one; neither: M.
int64_t read_original(const JsonValue& root, const JsonValue& object, int64_t max_position, ConfigJsonReader& reader) {
  constexpr std::string_view kKey = "original_max_position_embeddings";
  const JsonValue& where = find_value(root, kKey) ? root : object;
  return reader.integer(where, kKey, 1, kMaxPosition, max_position);
}

void read_yarn(const JsonValue& object, std::string_view place, RopeScaling& rope, ConfigJsonReader& reader) {
  constexpr RealRange kBeta{0, 1e6, true};
  rope.beta_fast = reader.real(object, "beta_fast", kBeta, 32, place);
  rope.beta_slow = reader.real(object, "beta_slow", kBeta, 1, place);
  const auto optional = [&](std::string_view key) -> std::optional<double> {
    if (!find_value(object, key)) return std::nullopt;
    return reader.real(object, key, {0, 1e6}, 1.0, place);
  };
  rope.attention_factor = optional("attention_factor");
  rope.mscale = optional("mscale");
  rope.mscale_all_dim = optional("mscale_all_dim");
  rope.truncate = reader.boolean(object, "truncate", true, place);
  if (rope.theta <= 1) reader.problem(fmt::format("{}.rope_theta", place), "more than 1 with yarn", fmt::format("{}", rope.theta));
  if (rope.beta_fast < rope.beta_slow) {
    reader.problem(fmt::format("{}.beta_fast", place), fmt::format("at least beta_slow ({})", rope.beta_slow),
                   fmt::format("{}", rope.beta_fast));
  }
}

void read_llama3(const JsonValue& object, std::string_view place, RopeScaling& rope, ConfigJsonReader& reader) {
  constexpr RealRange kPositive{0, 1e6, true};
  rope.low_freq_factor = reader.real(object, "low_freq_factor", kPositive, {}, place);
  rope.high_freq_factor = reader.real(object, "high_freq_factor", kPositive, {}, place);
  if (rope.high_freq_factor < rope.low_freq_factor ||
      (rope.high_freq_factor == rope.low_freq_factor && find_value(object, "high_freq_factor") && find_value(object, "low_freq_factor"))) {
    reader.problem(fmt::format("{}.high_freq_factor", place), fmt::format("more than low_freq_factor ({})", rope.low_freq_factor),
                   fmt::format("{}", rope.high_freq_factor));
  }
}

/// One dictionary, under rope_scaling or rope_parameters. `top_theta`: rope_theta beside it, if any.
RopeScaling read_dictionary(const JsonValue& root, const JsonValue& object, std::string_view place, std::optional<double> top_theta,
                            int64_t max_position, ConfigJsonReader& reader) {
  RopeScaling rope;
  for (const auto& [key, value] : *object.object()) {
    if (value.object()) {
      reader.problem(fmt::format("{}.{}", place, escape(key, 40)), "one setting for all layers",
                     "an object (per-layer settings are not supported)");
      return rope;
    }
  }
  rope.theta = reader.real(object, "rope_theta", kTheta, top_theta.value_or(kDefaultTheta), place);
  if (top_theta && rope.theta != *top_theta) {
    reader.problem(fmt::format("{}.rope_theta", place), fmt::format("the top-level rope_theta ({})", *top_theta),
                   fmt::format("{}", rope.theta));
  }
  if (reader.real(object, "partial_rotary_factor", {-1e9, 1e9}, 1.0, place) != 1.0) {
    reader.problem(fmt::format("{}.partial_rotary_factor", place), "1", shown(*object.find("partial_rotary_factor")));
  }
  const auto type = read_type(object, place, reader);
  if (!type || *type == RopeType::none) return rope;
  rope.type = *type;
  rope.factor = reader.real(object, "factor", kFactor, {}, place);
  if (rope.type == RopeType::yarn || rope.type == RopeType::llama3)
    rope.original_max_position = read_original(root, object, max_position, reader);
  if (rope.type == RopeType::yarn) read_yarn(object, place, rope, reader);
  if (rope.type == RopeType::llama3) read_llama3(object, place, rope, reader);
  return rope;
}

}  // namespace

std::string_view name_of(RopeType type) {
  for (const auto& [name, known] : kTypes) {
    if (known == type) return name;
  }
  LONGLORA_INVARIANT(!"unknown RoPE type");
}

RopeScaling read_rope(const JsonValue& root, int64_t max_position, ConfigJsonReader& reader) {
  std::optional<double> theta;
  if (find_value(root, "rope_theta")) theta = reader.real(root, "rope_theta", kTheta, kDefaultTheta);
  if (reader.real(root, "partial_rotary_factor", {-1e9, 1e9}, 1.0) != 1.0) {
    reader.problem("partial_rotary_factor", "1", shown(*root.find("partial_rotary_factor")));
  }
  std::optional<RopeScaling> scaling, parameters;
  const auto read = [&](std::string_view key, std::optional<RopeScaling>& out) {
    const JsonValue* value = find_value(root, key);
    if (!value) return;
    if (!value->object()) {
      reader.problem(key, "an object or null", shown(*value));
      return;
    }
    out = read_dictionary(root, *value, key, theta, max_position, reader);
  };
  const size_t problems_before = reader.count();
  read("rope_scaling", scaling);
  read("rope_parameters", parameters);
  if (scaling && parameters && reader.count() == problems_before) {
    // theta may stand in one of the two dictionaries only
    if (!find_value(*root.find("rope_scaling"), "rope_theta") && !theta) scaling->theta = parameters->theta;
    if (*scaling != *parameters) reader.problem("rope_parameters", "the same as rope_scaling", "another setting");
  }
  if (parameters) return *parameters;
  if (scaling) return *scaling;
  return {.theta = theta.value_or(kDefaultTheta)};
}

}  // namespace longlora
