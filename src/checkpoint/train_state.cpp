#include "longlora/checkpoint/train_state.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>

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
  const Parameter* parameter;
  at::Tensor tensor;  // this rank's elements
};
using Part = std::vector<Entry>;

std::vector<Entry> entries_of(LlamaModel& model) {
  std::vector<Entry> entries;
  for (Parameter* parameter : model.trainable()) {
    LONGLORA_INVARIANT(parameter->master.defined());
    if (!parameter->adam_m.defined()) parameter->adam_m = at::zeros_like(parameter->master);
    if (!parameter->adam_v.defined()) parameter->adam_v = at::zeros_like(parameter->master);
    entries.push_back({parameter->name, parameter, parameter->master});
    entries.push_back({parameter->name + ".adam_m", parameter, parameter->adam_m});
    entries.push_back({parameter->name + ".adam_v", parameter, parameter->adam_v});
  }
  return entries;
}

/// Cut into files in table order; inside a file in the order of writing, which every rank knows: fp32 by name.
std::vector<Part> parts_of(LlamaModel& model) {
  const std::vector<Entry> entries = entries_of(model);
  std::vector<uint64_t> bytes;
  for (const Entry& entry : entries) bytes.push_back(static_cast<uint64_t>(entry.parameter->weight.numel()) * sizeof(float));
  const std::vector<uint32_t> part_of = plan_shards(bytes, kMaxPartBytes);
  std::vector<Part> parts(part_of.empty() ? 0 : part_of.back() + 1);
  for (size_t i = 0; i < entries.size(); ++i) parts[part_of[i]].push_back(entries[i]);
  for (Part& part : parts) std::sort(part.begin(), part.end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
  return parts;
}

using TakeWhole = std::function<at::Tensor(const Entry&)>;

ManifestFile write_part(const fs::path& folder, const std::string& name, const Part& part, const TakeWhole& whole) {
  std::vector<SafetensorsWriter::Declared> declared;
  for (const Entry& entry : part) declared.push_back({entry.name, DType::f32, entry.parameter->weight.sizes().vec()});
  SafetensorsWriter writer(folder / name, std::move(declared));
  for (size_t i = 0; i < part.size(); ++i) {
    LONGLORA_INVARIANT(writer.order()[i].name == part[i].name);
    writer.write(i, bytes_of(whole(part[i])));
  }
  const SafetensorsWriter::Result result = writer.finish();
  return {name, result.bytes, result.file};
}

/// Hands out whole tensors in the order of the parts; `drain` takes what nobody asked for, so that no rank waits for ever.
class Gathering {
 public:
  Gathering(const std::vector<Part>& parts, StateShards* shards) : shards_(shards) {
    for (const Part& part : parts)
      for (const Entry& entry : part) waiting_.push_back(&entry);
  }
  at::Tensor take(const Entry& entry) {
    if (shards_ == nullptr) return on_host(entry.tensor);
    LONGLORA_INVARIANT(next_ < waiting_.size() && waiting_[next_]->name == entry.name);
    ++next_;
    return shards_->whole(*entry.parameter, entry.tensor);
  }
  void drain() {
    while (shards_ != nullptr && next_ < waiting_.size()) take(*waiting_[next_]);
  }

 private:
  StateShards* shards_;
  std::vector<const Entry*> waiting_;
  size_t next_ = 0;
};

ManifestFile write_state_json(const fs::path& folder, const TrainState& state) {
  const std::string text = print_state(state);
  OutputFile file = OutputFile::create(folder / kStateName);
  file.write_all(text);
  file.sync();
  file.close();
  return {std::string(kStateName), text.size(), sha256(text)};
}

bool is_part(const std::string& name) { return name.starts_with("state-") && name.ends_with(".safetensors"); }

void load_part(const fs::path& path, std::map<std::string, Entry>& missing) {
  const std::unique_ptr<WeightSource> source = open_safetensors(path);
  for (const TensorInfo& info : source->tensors()) {
    const std::string place = fmt::format("{}: tensor {}", path.string(), info.name);
    const auto found = missing.find(info.name);
    LONGLORA_CHECK(found != missing.end(), data, "the model has no such trainable tensor", place, "resume with the settings of the run");
    const Parameter& parameter = *found->second.parameter;
    const Shape shape = parameter.weight.sizes().vec();
    LONGLORA_CHECK(info.dtype == DType::f32 && info.shape == shape, data,
                   fmt::format("got {} {}, expected F32 {}", name_of(info.dtype), to_string(info.shape), to_string(shape)), place,
                   "resume with the settings of the run");
    const at::Tensor& tensor = found->second.tensor;
    const at::Tensor values = tensor.is_cpu() ? tensor : at::empty(tensor.sizes(), tensor.options().device(at::kCPU));
    if (values.numel() > 0) source->read(info, static_cast<uint64_t>(parameter.owned_begin) * sizeof(float), bytes_of(values));
    if (!tensor.is_cpu()) tensor.copy_(values);
    missing.erase(found);
  }
  source->check_unchanged();
}

}  // namespace

fs::path save_train_state(CheckpointFolder& folder, LlamaModel& model, const TrainState& state, StateShards* shards) {
  const std::vector<Part> parts = parts_of(model);
  Gathering gathering(parts, shards);
  const auto fill = [&](const fs::path& pending) {
    std::vector<ManifestFile> files;
    for (size_t i = 0; i < parts.size(); ++i) {
      const std::string name = fmt::format("state-{:05d}-of-{:05d}.safetensors", i + 1, parts.size());
      files.push_back(write_part(pending, name, parts[i], [&](const Entry& entry) { return gathering.take(entry); }));
    }
    files.push_back(write_state_json(pending, state));
    return files;
  };
  try {
    fs::path path = folder.commit(state.step, state.chain, fill);
    gathering.drain();  // nothing is asked for when the step is there already
    return path;
  } catch (const Error& error) {
    if (error.kind != ErrorKind::peer) gathering.drain();
    throw;
  }
}

void give_train_state(LlamaModel& model, StateShards& shards) {
  const std::vector<Part> parts = parts_of(model);
  Gathering(parts, &shards).drain();
}

TrainState read_train_state(const CheckpointFolder::Found& found) {
  const std::string place = (found.path / kStateName).string();
  TrainState state = parse_state(read_file(found.path / kStateName, kMaxStateBytes), place);
  LONGLORA_CHECK(state.step == found.step && state.chain == found.manifest.chain, data,
                 fmt::format("it is of step {}, the manifest of step {}", state.step, found.step), place, "use an older checkpoint");
  return state;
}

void load_train_tensors(const CheckpointFolder::Found& found, LlamaModel& model) {
  std::map<std::string, Entry> missing;
  for (const Entry& entry : entries_of(model)) missing[entry.name] = entry;
  for (const ManifestFile& file : found.manifest.files) {
    if (is_part(file.name)) load_part(found.path / file.name, missing);
  }
  LONGLORA_CHECK(missing.empty(), data, fmt::format("{} tensors are missing, first {}", missing.size(), missing.begin()->first),
                 found.path.string(), "resume with the settings of the run");
  for (Parameter* parameter : model.trainable()) refresh_weight(*parameter);
}

Digest state_digest(LlamaModel& model, StateShards* shards) {
  std::vector<at::Tensor> tensors;
  std::vector<uint64_t> first_words;
  for (Parameter* parameter : model.trainable()) {
    for (const at::Tensor* tensor : {&parameter->master, &parameter->adam_m, &parameter->adam_v}) {
      tensors.push_back(tensor->defined() ? *tensor : at::zeros_like(parameter->master));
      first_words.push_back(static_cast<uint64_t>(parameter->owned_begin));
    }
  }
  std::vector<StateLanes> all = lanes_of(tensors, first_words);
  if (shards != nullptr) shards->add(all);
  Sha256 hash;
  for (const StateLanes& lanes : all) hash.update_value(lanes.lane);
  return hash.finish();
}

}  // namespace longlora
