#pragma once
// A Llama in fp64 by loops, written from the definitions: the oracle of the model's loss, logits and (by differences) gradients.
// Shares no code with the product but Philox, whose counters are part of the definition of dropout.
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "longlora/config/model_config.h"
#include "longlora/model/llama.h"

namespace longlora::test {

using Values = std::map<std::string, std::vector<double>>;  // parameters by name, row-major

struct Reference {
  ModelConfig config;
  TrainConfig::Tuning tuning;
  AttentionSettings attention;
  std::vector<std::vector<int64_t>> document_starts;  // empty: one document a row
  /// mask / (1 - p) of a LoRA input element; 1 when undefined
  std::function<double(LoraTarget, int64_t layer, int64_t row, int64_t element)> dropout;

  /// [rows * tokens * vocabulary]
  std::vector<double> logits(const Values&, const std::vector<int32_t>& ids, int64_t rows) const;
  double loss_sum(const Values&, const std::vector<int32_t>& ids, const std::vector<int32_t>& labels, int64_t rows) const;
  /// May query t of `head` see key u in a row of `tokens` tokens?
  bool visible(int64_t layer, int64_t head, int64_t row, int64_t tokens, int64_t t, int64_t u) const;
};

}  // namespace longlora::test
