// A base model on disk and its way into a LlamaModel.
#include <fmt/format.h>

#include <cmath>

#include "checkpoint/row_stream.h"
#include "checkpoint/tensor_tools.h"
#include "longlora/checkpoint/model_io.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/log.h"
#include "longlora/formats/gguf.h"

namespace longlora {
namespace {

void check_block(const at::Tensor& stored, const at::Tensor& loaded, const TensorInfo& info, int64_t first_element) {
  const auto bad = first_non_finite(loaded);
  if (!bad) return;
  const auto stored_bad = first_non_finite(stored);
  const std::string place = fmt::format("tensor {}, element {}", info.name, first_element + stored_bad.value_or(*bad));
  LONGLORA_CHECK(stored_bad.has_value(), data, fmt::format("a finite {} value overflows the compute dtype", name_of(info.dtype)), place,
                 "use model.dtype: fp32");
  fail(ErrorKind::data, "the weight is NaN or infinite", place, "repair the model, or load it as it is with weights.check_finite: false");
}

void load_tensor(const WeightSource& source, const TensorInfo& info, Parameter& parameter, bool check_finite) {
  const int64_t width = row_shape(info.shape).width;
  const bool own_master = parameter.master.defined() && parameter.master.data_ptr() != parameter.weight.data_ptr();
  const at::Tensor weight = parameter.weight.view({-1, width});
  for_each_block(source, info, [&](int64_t first, const at::Tensor& block) {
    const at::Tensor target = weight.narrow(0, first, block.size(0));
    target.copy_(block);  // rounds to nearest even
    if (own_master) parameter.master.view({-1, width}).narrow(0, first, block.size(0)).copy_(block);
    if (check_finite) check_block(block, target, info, first * width);
  });
}

/// This rank's elements of a tensor that ranks share.
void load_part(const BaseModel& base, const TensorInfo& info, Parameter& parameter, bool check_finite) {
  const int64_t begin = parameter.first_element;
  for_each_piece(*base.weights, info, begin, parameter.weight.numel(), base.is_gguf, [&](int64_t first, const at::Tensor& block) {
    const at::Tensor target = parameter.weight.narrow(0, first - begin, block.numel());
    target.copy_(block);
    if (check_finite) check_block(block, target, info, first);
  });
}

/// Sums over ranks are of signed values that may not overflow; lanes are sums modulo 2^64: they go in halves.
void add_lanes_over_ranks(LlamaModel& model, std::span<StateLanes* const> lanes) {
  std::vector<int64_t> halves;
  for (const StateLanes* tensor : lanes)
    for (const uint64_t lane : tensor->lane) {
      halves.push_back(static_cast<int64_t>(lane & 0xffffffffu));
      halves.push_back(static_cast<int64_t>(lane >> 32));
    }
  model.sum_over_weight_ranks(halves);
  auto next = halves.begin();
  for (StateLanes* tensor : lanes)
    for (uint64_t& lane : tensor->lane) {
      lane = static_cast<uint64_t>(*next++);
      lane += static_cast<uint64_t>(*next++) << 32;
    }
}

}  // namespace

BaseModel::BaseModel(const fs::path& model_path, bool weights_needed) : path(model_path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  LONGLORA_CHECK(fs::exists(status), missing, "the model is not there", path.string(),
                 "set model.path to a Hugging Face folder or a .gguf file");
  if (fs::is_directory(status)) {
    config = read_model_config(path);
    if (weights_needed) weights = open_weight_folder(path);
  } else {
    is_gguf = path.extension() == ".gguf";
    if (!is_gguf) refuse_foreign(path);
    LONGLORA_CHECK(is_gguf, data, "the model is a file that does not end in .gguf", path.string(),
                   "name the folder with config.json, or a .gguf file");
    const GgufFile file(path);
    config = file.config();
    if (config.json.empty()) config.json = make_model_config(config, "float32");
    if (weights_needed) weights = file.weights();
  }
  for (const std::string& notice : config.notices) log_notice("{}", notice);
  if (weights) check_against_table(*weights, config, path.string());
}

std::map<std::string, StateLanes> load_base_weights(LlamaModel& model, const BaseModel& base, bool check_finite) {
  LONGLORA_INVARIANT(base.weights != nullptr);
  std::map<std::string, StateLanes> lanes;
  std::vector<StateLanes*> shared;
  model.visit([&](Parameter& parameter) {
    if (parameter.role == Role::lora) return;
    const TensorInfo* info = base.weights->find(parameter.name);
    LONGLORA_INVARIANT(info != nullptr && info->shape == parameter.shape);
    StateLanes& lane = lanes[parameter.name];
    if (!parameter.is_shared) {
      load_tensor(*base.weights, *info, parameter, check_finite);
      lane = lanes_of(parameter.weight);
    } else {
      load_part(base, *info, parameter, check_finite);
      const int64_t first_byte = parameter.first_element * static_cast<int64_t>(parameter.weight.element_size());
      lane = lanes_of(parameter.weight, static_cast<uint64_t>(first_byte / 4));
      shared.push_back(&lane);
    }
  });
  if (!shared.empty()) add_lanes_over_ranks(model, shared);
  base.weights->check_unchanged();
  return lanes;
}

}  // namespace longlora
