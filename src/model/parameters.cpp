#include "model/parameters.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "longlora/core/error.h"
#include "longlora/dist/communicator.h"
#include "longlora/ops/memory_counter.h"
#include "model/gathered_store.h"

namespace longlora {
namespace {

/// One fp32 master, gradient and compute copy, cut into rows for the parameters that share it.
struct Block {
  at::Tensor weight, master, grad;  // master and grad undefined when frozen

  Block() = default;
  Block(at::IntArrayRef sizes, const at::TensorOptions& compute, bool trainable, Component of_weight = Component::weights) {
    {
      const MemoryTag tag(of_weight);
      weight = at::empty(sizes, compute);
    }
    if (!trainable) return;
    const MemoryTag tag(Component::optimizer_and_gradient);
    const at::TensorOptions fp32 = compute.dtype(at::kFloat);
    master = weight.scalar_type() == at::kFloat ? weight : at::empty(sizes, fp32);
    grad = at::zeros(sizes, fp32);
  }
  Block rows(int64_t begin, int64_t count) const {
    Block part;
    part.weight = weight.narrow(0, begin, count);
    if (master.defined()) part.master = master.narrow(0, begin, count);
    if (grad.defined()) part.grad = grad.narrow(0, begin, count);
    return part;
  }
};

enum Group : size_t { kQkv, kO, kGateUp, kDown, kGroups };
struct Projection {
  std::string_view module;
  LoraTarget target;
  Group group;
};
constexpr Projection kProjections[] = {
    {"self_attn.q_proj", LoraTarget::q_proj, kQkv},    {"self_attn.k_proj", LoraTarget::k_proj, kQkv},
    {"self_attn.v_proj", LoraTarget::v_proj, kQkv},    {"self_attn.o_proj", LoraTarget::o_proj, kO},
    {"mlp.gate_proj", LoraTarget::gate_proj, kGateUp}, {"mlp.up_proj", LoraTarget::up_proj, kGateUp},
    {"mlp.down_proj", LoraTarget::down_proj, kDown},
};

const Projection& projection_of(std::string_view name) {
  for (const Projection& p : kProjections)
    if (name.find(p.module) != std::string_view::npos) return p;
  fail(ErrorKind::internal, "unknown projection " + std::string(name), "tensor table", "report this with the model's config.json");
}

bool is_trainable(Role role, const TrainConfig::Tuning& t) {
  if (t.mode == TuningMode::full) return true;
  if (t.mode == TuningMode::none) return false;
  switch (role) {
    case Role::norm:
      return t.train_norms;
    case Role::embedding:
      return t.train_embeddings;
    case Role::head:
      return t.train_head.value_or(false);
    case Role::lora:
      return true;
    case Role::projection:
      return false;
  }
  return false;
}

/// Allocates in tensor-table order and wires the layers.
class Builder {
 public:
  Builder(const ModelConfig& config, const ModelOptions& options, ParameterSet& set) : config_(config), options_(options), set_(set) {
    compute_ = at::TensorOptions().dtype(options.compute == ComputeType::bf16 ? at::kBFloat16 : at::kFloat).device(options.device);
    const bool is_shared = options.weight_ranks != nullptr && options.weight_ranks->size() > 1;
    if (is_shared && !is_trainable(Role::projection, options.tuning))
      set.layout.emplace(config, static_cast<int64_t>(compute_.dtype().itemsize()), options.weight_ranks->size());
  }

  void run() {
    for (const TensorSpec& spec : tensor_table(config_)) {
      if (spec.layer >= static_cast<int64_t>(set_.layers.size())) open_layer();
      if (spec.role == Role::projection)
        add_projection(spec);
      else
        add_single(spec);
    }
    if (set_.head == nullptr) set_.head = set_.embedding;
  }

 private:
  bool targets(LoraTarget target) const {
    const std::vector<LoraTarget>& list = options_.tuning.lora.targets;
    return options_.tuning.mode == TuningMode::lora && std::find(list.begin(), list.end(), target) != list.end();
  }

  void open_layer() {
    const int64_t hidden = config_.hidden_size, f = config_.intermediate_size;
    const std::array<std::pair<int64_t, int64_t>, kGroups> sizes = {
        {{config_.q_width() + 2 * config_.kv_width(), hidden}, {hidden, config_.q_width()}, {2 * f, hidden}, {hidden, f}}};
    Layer& layer = set_.layers.emplace_back(config_);
    const std::array<Linear*, kGroups> linears = {&layer.qkv, &layer.o, &layer.gate_up, &layer.down};
    for (size_t g = 0; g < kGroups; ++g) {
      const int64_t parts = std::count_if(std::begin(kProjections), std::end(kProjections),
                                          [&](const Projection& p) { return p.group == g && targets(p.target); });
      if (!set_.layout) weights_[g] = Block({sizes[g].first, sizes[g].second}, compute_, is_trainable(Role::projection, options_.tuning));
      adapters_[g] = parts > 0 ? adapter({parts * options_.tuning.lora.rank, sizes[g].second}) : Block();
      next_row_[g] = 0;
      linears[g]->d_weight_OI = weights_[g].grad;
      linears[g]->a_RI = adapters_[g].weight;
      linears[g]->d_a_RI = adapters_[g].grad;
      linears[g]->scale = lora_scale();
    }
    next_tensor_ = 0;
    if (set_.layout)
      set_.parts.push_back(GatheredStore::make_part(*set_.layout, compute_, *options_.weight_ranks));
    else
      set_.weights.push_back({weights_[kQkv].weight, weights_[kO].weight, weights_[kGateUp].weight, weights_[kDown].weight});
  }

  /// A plan counts adapters as state.
  Block adapter(at::IntArrayRef sizes) const { return Block(sizes, compute_, true, Component::optimizer_and_gradient); }

  double lora_scale() const {
    const TrainConfig::Tuning::Lora& lora = options_.tuning.lora;
    return lora.alpha / (lora.rslora ? std::sqrt(static_cast<double>(lora.rank)) : static_cast<double>(lora.rank));
  }

  Parameter& add(std::string name, Role role, int64_t layer, const Block& block, Shape shape) {
    return set_.list.emplace_back(Parameter{.name = std::move(name),
                                            .role = role,
                                            .layer = layer,
                                            .trainable = block.grad.defined(),
                                            .weight = block.weight,
                                            .master = block.master,
                                            .grad = block.grad,
                                            .shape = std::move(shape)});
  }

  /// This rank's elements of the tensor.
  void add_shared(const TensorSpec& spec) {
    const WeightParts::Own own = set_.layout->own(options_.weight_ranks->rank(), next_tensor_++);
    Block block;
    block.weight = set_.parts.back().narrow(0, own.place, own.count);
    Parameter& p = add(spec.name, spec.role, spec.layer, block, spec.shape);
    p.is_shared = true;
    p.first_element = own.first;
  }

  void add_projection(const TensorSpec& spec) {
    const Projection& projection = projection_of(spec.name);
    const Group g = projection.group;
    const int64_t begin = next_row_[g], out = spec.shape[0];
    next_row_[g] += out;
    if (set_.layout)
      add_shared(spec);
    else
      add(spec.name, spec.role, spec.layer, weights_[g].rows(begin, out), spec.shape);
    if (!targets(projection.target)) return;

    Layer& layer = set_.layers.back();
    Linear& linear = *std::array<Linear*, kGroups>{&layer.qkv, &layer.o, &layer.gate_up, &layer.down}[g];
    const int64_t rank = options_.tuning.lora.rank;
    const std::string stem = spec.name.substr(0, spec.name.size() - std::string_view("weight").size());
    const Block b = adapter({out, rank});
    const Block a = adapters_[g].rows(static_cast<int64_t>(linear.parts.size()) * rank, rank);
    add(stem + "lora_A.weight", Role::lora, spec.layer, a, a.weight.sizes().vec());
    add(stem + "lora_B.weight", Role::lora, spec.layer, b, {out, rank});
    linear.parts.push_back({begin, begin + out, b.weight, b.grad, static_cast<uint8_t>(projection.target)});
  }

  void add_single(const TensorSpec& spec) {
    Parameter& p = add(spec.name, spec.role, spec.layer, Block(spec.shape, compute_, is_trainable(spec.role, options_.tuning)), spec.shape);
    if (spec.role == Role::embedding) set_.embedding = &p;
    if (spec.role == Role::head) set_.head = &p;
    if (spec.role != Role::norm) return;
    if (spec.layer < 0) {
      set_.final_norm = &p;
      return;
    }
    Layer& layer = set_.layers.back();
    (layer.norm1.weight_C.defined() ? layer.norm2 : layer.norm1) = {p.weight, p.grad};  // table order: input norm first
  }

  const ModelConfig& config_;
  const ModelOptions& options_;
  ParameterSet& set_;
  at::TensorOptions compute_;
  std::array<Block, kGroups> weights_, adapters_;  // of the open layer
  std::array<int64_t, kGroups> next_row_{};
  size_t next_tensor_ = 0;
};

}  // namespace

ParameterSet::ParameterSet(const ModelConfig& config, const ModelOptions& options) {
  LONGLORA_INVARIANT(options.compute == ComputeType::fp32 || options.compute == ComputeType::bf16);
  layers.reserve(static_cast<size_t>(config.num_layers));
  Builder(config, options, *this).run();
}

std::unique_ptr<LayerStore> ParameterSet::make_store(const ModelConfig& config, const ModelOptions& options) const {
  if (!layout) return std::make_unique<ResidentStore>(weights);
  return std::make_unique<GatheredStore>(config, *layout, parts, options.device, *options.weight_ranks);
}

}  // namespace longlora
