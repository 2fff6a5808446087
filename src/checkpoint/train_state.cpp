#include "longlora/checkpoint/train_state.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include <set>

#include "checkpoint/state_json.h"
#include "checkpoint/tensor_tools.h"
#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/formats/weights.h"

namespace longlora {
namespace {

constexpr std::string_view kStateName = "state.json";
constexpr uint64_t kMaxStateBytes = uint64_t{16} << 20;
constexpr uint64_t kMaxPartBytes = uint64_t{4} << 30;  // 4 GiB: works on every file system

struct Entry {
  std::string name;
  at::Tensor tensor;
};

std::vector<Entry> entries_of(LlamaModel& model) {
  std::vector<Entry> entries;
  for (Parameter* parameter : model.trainable()) {
    LONGLORA_INVARIANT(parameter->master.defined());
    if (!parameter->adam_m.defined()) parameter->adam_m = at::zeros_like(parameter->master);
    if (!parameter->adam_v.defined()) parameter->adam_v = at::zeros_like(parameter->master);
    entries.push_back({parameter->name, parameter->master});
    entries.push_back({parameter->name + ".adam_m", parameter->adam_m});
    entries.push_back({parameter->name + ".adam_v", parameter->adam_v});
  }
  return entries;
}

std::vector<uint32_t> parts_of(const std::vector<Entry>& entries) {
  std::vector<uint64_t> bytes;
  for (const Entry& entry : entries) bytes.push_back(static_cast<uint64_t>(entry.tensor.numel()) * sizeof(float));
  return plan_shards(bytes, kMaxPartBytes);
}

ManifestFile write_part(const fs::path& folder, const std::string& name, const std::vector<const Entry*>& entries) {
  std::vector<SafetensorsWriter::Declared> declared;
  std::map<std::string, at::Tensor> by_name;
  for (const Entry* entry : entries) {
    declared.push_back({entry->name, DType::f32, entry->tensor.sizes().vec()});
    by_name[entry->name] = entry->tensor;
  }
  SafetensorsWriter writer(folder / name, std::move(declared));
  for (size_t i = 0; i < writer.order().size(); ++i) {
    writer.write(i, bytes_of(on_host(by_name.at(writer.order()[i].name))));
  }
  const SafetensorsWriter::Result result = writer.finish();
  return {name, result.bytes, result.file};
}

ManifestFile write_state_json(const fs::path& folder, const TrainState& state) {
  const std::string text = print_state(state);
  OutputFile file = OutputFile::create(folder / kStateName);
  file.write_all(text);
  file.sync();
  file.close();
  return {std::string(kStateName), text.size(), sha256(text)};
}

bool is_part(const std::string& name) { return name.starts_with("state-") && name.ends_with(".safetensors"); }

void load_part(const fs::path& path, std::map<std::string, at::Tensor>& missing) {
  const std::unique_ptr<WeightSource> source = open_safetensors(path);
  for (const TensorInfo& info : source->tensors()) {
    const std::string place = fmt::format("{}: tensor {}", path.string(), info.name);
    const auto found = missing.find(info.name);
    LONGLORA_CHECK(found != missing.end(), data, "the model has no such trainable tensor", place, "resume with the settings of the run");
    const at::Tensor& tensor = found->second;
    LONGLORA_CHECK(info.dtype == DType::f32 && info.shape == tensor.sizes().vec(), data,
                   fmt::format("got {} {}, expected F32 {}", name_of(info.dtype), to_string(info.shape), to_string(tensor.sizes().vec())),
                   place, "resume with the settings of the run");
    const at::Tensor values = tensor.is_cpu() ? tensor : at::empty(tensor.sizes(), tensor.options().device(at::kCPU));
    source->read(info, 0, bytes_of(values));
    if (!tensor.is_cpu()) found->second.copy_(values);
    missing.erase(found);
  }
  source->check_unchanged();
}

}  // namespace

fs::path save_train_state(CheckpointFolder& folder, LlamaModel& model, const TrainState& state) {
  const std::vector<Entry> entries = entries_of(model);
  const std::vector<uint32_t> part_of = parts_of(entries);
  const uint32_t num_parts = part_of.empty() ? 0 : part_of.back() + 1;
  return folder.commit(state.step, state.chain, [&](const fs::path& pending) {
    std::vector<ManifestFile> files;
    for (uint32_t part = 0; part < num_parts; ++part) {
      std::vector<const Entry*> inside;
      for (size_t i = 0; i < entries.size(); ++i) {
        if (part_of[i] == part) inside.push_back(&entries[i]);
      }
      files.push_back(write_part(pending, fmt::format("state-{:05d}-of-{:05d}.safetensors", part + 1, num_parts), inside));
    }
    files.push_back(write_state_json(pending, state));
    return files;
  });
}

TrainState read_train_state(const CheckpointFolder::Found& found) {
  const std::string place = (found.path / kStateName).string();
  TrainState state = parse_state(read_file(found.path / kStateName, kMaxStateBytes), place);
  LONGLORA_CHECK(state.step == found.step && state.chain == found.manifest.chain, data,
                 fmt::format("it is of step {}, the manifest of step {}", state.step, found.step), place, "use an older checkpoint");
  return state;
}

void load_train_tensors(const CheckpointFolder::Found& found, LlamaModel& model) {
  std::map<std::string, at::Tensor> missing;
  for (const Entry& entry : entries_of(model)) missing[entry.name] = entry.tensor;
  for (const ManifestFile& file : found.manifest.files) {
    if (is_part(file.name)) load_part(found.path / file.name, missing);
  }
  LONGLORA_CHECK(missing.empty(), data, fmt::format("{} tensors are missing, first {}", missing.size(), missing.begin()->first),
                 found.path.string(), "resume with the settings of the run");
  for (Parameter* parameter : model.trainable()) refresh_weight(*parameter);
}

Digest state_digest(LlamaModel& model) {
  std::vector<at::Tensor> tensors;
  for (Parameter* parameter : model.trainable()) {
    for (const at::Tensor* tensor : {&parameter->master, &parameter->adam_m, &parameter->adam_v})
      tensors.push_back(tensor->defined() ? *tensor : at::zeros_like(parameter->master));
  }
  Sha256 hash;
  for (const StateLanes& lanes : lanes_of(tensors)) hash.update_value(lanes.lane);
  return hash.finish();
}

}  // namespace longlora
