// A PEFT adapter into a model, and what longlora_train.json beside it says.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "checkpoint/adapter_file.h"
#include "checkpoint/row_stream.h"
#include "checkpoint/tensor_tools.h"
#include "checkpoint/train_record.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/log.h"

namespace longlora {
namespace {

std::string_view role_name(Role role) {
  switch (role) {
    case Role::projection:
      return "projection";
    case Role::norm:
      return "norm";
    case Role::embedding:
      return "embedding";
    case Role::head:
      return "head";
    case Role::lora:
      return "lora";
  }
  LONGLORA_INVARIANT(!"unknown role");
}

/// Scripts of LongLoRA append a [PAD] row: rows beyond the base's vocabulary have no token.
void name_dropped_rows(const AdapterTensor& tensor, int64_t vocabulary) {
  for (int64_t id = vocabulary; id < tensor.info.shape[0]; ++id) {
    if (id - vocabulary == 20) return log_notice("adapter: {} more rows of {} dropped", tensor.info.shape[0] - id, tensor.info.name);
    log_notice("adapter: row {} of {} dropped, the base has no such token", id, tensor.info.name);
  }
}

void apply(const AdapterTensor& tensor, Parameter& parameter, const fs::path& folder) {
  const at::Tensor& target = parameter.master.defined() ? parameter.master : parameter.weight;
  const RowShape shape = row_shape(target.sizes().vec());
  const at::Tensor rows = target.view({shape.rows, shape.width});
  for_each_block(*tensor.source, tensor.info, [&](int64_t first, const at::Tensor& block) {
    const int64_t used = std::min(block.size(0), shape.rows - first);
    if (used <= 0) return;
    rows.narrow(0, first, used).copy_(block.narrow(0, 0, used));
    const auto bad = first_non_finite(block.narrow(0, 0, used));
    LONGLORA_CHECK(!bad, data, "the adapter's value is NaN or infinite",
                   fmt::format("{}: tensor {}, element {}", folder.string(), tensor.info.name, first * shape.width + *bad),
                   "repair the adapter");
  });
  if (parameter.master.defined()) refresh_weight(parameter);
}

}  // namespace

AdapterInfo read_adapter_info(const fs::path& folder, const ModelConfig& base) {
  const AdapterFile file(folder, base);
  AdapterInfo info{.tuning = file.tuning, .base_model = file.base_model};
  if (fs::exists(folder / kTrainRecordName)) read_train_record(folder, base, info);
  return info;
}

void load_adapter(LlamaModel& model, const fs::path& folder) {
  const AdapterFile file(folder, model.config());
  std::map<std::string, Parameter*> parameters;
  model.visit([&](Parameter& parameter) { parameters[parameter.name] = &parameter; });
  std::map<Role, int64_t> applied;
  for (const auto& [name, tensor] : file.tensors) {
    const auto found = parameters.find(name);
    LONGLORA_INVARIANT(found != parameters.end());  // the model was made with read_adapter_info's tuning
    if (tensor.role == Role::embedding || tensor.role == Role::head) name_dropped_rows(tensor, model.config().vocab_size);
    apply(tensor, *found->second, folder);
    ++applied[tensor.role];
  }
  for (const auto& source : file.sources) source->check_unchanged();
  std::string counts;
  for (const auto& [role, count] : applied) counts += fmt::format("{}{} {}", counts.empty() ? "" : ", ", count, role_name(role));
  log_info("adapter {}: tensors applied: {}", folder.string(), counts);
  if (applied.size() == 1) log_notice("adapter {}: embedding and norms are the base's", folder.string());
}

}  // namespace longlora
