#include "checkpoint/merged_weights.h"

#include <ATen/ops/mm.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "checkpoint/adapter_names.h"
#include "checkpoint/row_stream.h"
#include "checkpoint/tensor_tools.h"
#include "longlora/core/error.h"
#include "longlora/core/philox.h"

namespace longlora {
namespace {

constexpr int64_t kCheckedRows = 64;

std::string projection_of(const std::string& lora_name) { return lora_name.substr(0, lora_name.rfind(".lora_")) + ".weight"; }

const at::Tensor& values_of(const Parameter& parameter) { return parameter.master.defined() ? parameter.master : parameter.weight; }

double lora_scale(const TrainConfig::Tuning::Lora& lora) {
  const double rank = static_cast<double>(lora.rank);
  return lora.alpha / (lora.rslora ? std::sqrt(rank) : rank);
}

std::vector<int64_t> rows_to_check(const std::string& name, int64_t rows) {
  std::vector<int64_t> chosen;
  if (rows <= kCheckedRows) {
    for (int64_t row = 0; row < rows; ++row) chosen.push_back(row);
    return chosen;
  }
  const Digest digest = sha256(name);
  PhiloxStream stream{.seed = 0, .purpose = Purpose::export_check};
  std::memcpy(&stream.seed, digest.data(), sizeof stream.seed);
  for (uint32_t block = 0; block < kCheckedRows / 4; ++block) {
    for (const uint32_t word : stream.words(block)) chosen.push_back(static_cast<int64_t>(word % static_cast<uint64_t>(rows)));
  }
  return chosen;
}

}  // namespace

double ulp_at(double value, DType dtype) {
  const auto [digits, smallest_exponent] = [&]() -> std::pair<int, int> {
    switch (dtype) {
      case DType::f16:
        return {10, -14};
      case DType::bf16:
        return {7, -126};
      case DType::f64:
        return {52, -1022};
      default:
        return {23, -126};
    }
  }();
  const int exponent = value == 0 ? smallest_exponent : std::max(smallest_exponent, std::ilogb(value));
  return std::ldexp(1.0, exponent - digits);
}

MergedWeights::MergedWeights(LlamaModel& model, const BaseModel& base) : model_(model), base_(base) {
  const TrainConfig::Tuning& tuning = model.options().tuning;
  if (tuning.mode == TuningMode::lora) scale_ = lora_scale(tuning.lora);
  model.visit([&](Parameter& parameter) {
    if (parameter.role != Role::lora) {
      parameters_[parameter.name] = &parameter;
      return;
    }
    Lora& lora = lora_[projection_of(parameter.name)];
    const at::Tensor values = on_host(values_of(parameter)).to(at::kDouble);
    (parameter.name.ends_with(".lora_A.weight") ? lora.a_RC : lora.b_OR) = values;
  });
}

std::vector<PlannedTensor> MergedWeights::plan(std::optional<DType> dtype) const {
  std::vector<PlannedTensor> planned;
  for (const TensorSpec& spec : tensor_table(base_.config)) {
    const TensorInfo* stored = base_.weights ? base_.weights->find(spec.name) : nullptr;
    planned.push_back({spec, dtype.value_or(stored ? stored->dtype : DType::f32)});
  }
  return planned;
}

at::Tensor MergedWeights::base_rows(const TensorSpec& spec, int64_t first, int64_t rows) const {
  const TensorInfo* stored = base_.weights ? base_.weights->find(spec.name) : nullptr;
  if (stored) return read_rows(*base_.weights, *stored, first, rows);
  const Parameter& own = *parameters_.at(spec.name);
  if (own.is_shared) {
    const at::Tensor values = model_.initial_values(own, first * spec.shape[1], rows * spec.shape[1]);
    return values.to(own.weight.scalar_type()).view({rows, spec.shape[1]});
  }
  return on_host(own.weight.view({spec.shape[0], -1}).narrow(0, first, rows));
}

void MergedWeights::feed(const PlannedTensor& tensor, const std::function<void(const at::Tensor&)>& use) const {
  const Parameter& parameter = *parameters_.at(tensor.spec.name);
  const auto lora = lora_.find(tensor.spec.name);
  const RowShape shape = row_shape(tensor.spec.shape);
  const int64_t step = block_rows(shape, sizeof(double));
  for (int64_t first = 0; first < shape.rows; first += step) {
    const int64_t rows = std::min(step, shape.rows - first);
    at::Tensor block;
    if (parameter.trainable)
      block = on_host(values_of(parameter).view({shape.rows, shape.width}).narrow(0, first, rows));
    else
      block = base_rows(tensor.spec, first, rows);
    if (lora != lora_.end()) {
      block = block.to(at::kDouble).add_(at::mm(lora->second.b_OR.narrow(0, first, rows), lora->second.a_RC), scale_);
    }
    use(round_block(block, tensor, first));
  }
}

void MergedWeights::check_written(const WeightSource& written) const {
  for (const auto& [name, lora] : lora_) {
    const TensorInfo* info = written.find(name);
    LONGLORA_INVARIANT(info != nullptr);
    for (const int64_t row : rows_to_check(name, info->shape[0])) check_row(written, *info, lora, row);
  }
}

void MergedWeights::check_row(const WeightSource& written, const TensorInfo& info, const Lora& lora, int64_t row) const {
  const int64_t width = info.shape[1], rank = lora.b_OR.size(1);
  const at::Tensor got = read_rows(written, info, row, 1).to(at::kDouble);
  const at::Tensor base =
      base_rows({.name = info.name, .role = Role::projection, .shape = info.shape}, row, 1).to(at::kDouble).contiguous();
  const double *g = got.const_data_ptr<double>(), *w = base.const_data_ptr<double>();
  const double *a = lora.a_RC.const_data_ptr<double>(), *b = lora.b_OR.const_data_ptr<double>() + row * rank;
  for (int64_t column = 0; column < width; ++column) {
    double sum = 0;
    for (int64_t r = 0; r < rank; ++r) sum += b[r] * a[r * width + column];
    const double exact = w[column] + scale_ * sum;
    LONGLORA_CHECK(std::abs(g[column] - exact) <= ulp_at(exact, info.dtype), internal,
                   fmt::format("the merged weight is {}, recomputed {}", g[column], exact),
                   fmt::format("tensor {}, row {}, column {}", info.name, row, column), "export again; if it stays, report it");
  }
}

}  // namespace longlora
