// Frozen weights that ranks share, loaded from files: each rank reads its part, the identity is that of the whole, exports are the same.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "checkpoint/tiny_model.h"
#include "formats/gguf_builder.h"
#include "longlora/core/error.h"
#include "support/error_of.h"
#include "support/thread_ranks.h"

namespace longlora {
namespace {

constexpr uint64_t kOneShard = uint64_t{1} << 30;

std::unique_ptr<LlamaModel> model_of(const ModelConfig& config, ComputeType compute, dist::Communicator* ranks,
                                     const TrainConfig::Tuning& tuning = lora_tuning()) {
  const ModelOptions options{.compute = compute, .tuning = tuning, .row_tile = 16, .weight_ranks = ranks};
  auto model = std::make_unique<LlamaModel>(config, config.rope, config.max_position, config.max_position, options);
  model->initialise_lora();
  return model;
}

std::vector<std::byte> bytes_of(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous();
  const auto* data = static_cast<const std::byte*>(flat.const_data_ptr());
  return {data, data + flat.nbytes()};
}

/// Counts bytes of projections that are read.
class Counting final : public WeightSource {
 public:
  explicit Counting(std::unique_ptr<WeightSource> inner) : inner_(std::move(inner)) {}
  std::span<const TensorInfo> tensors() const override { return inner_->tensors(); }
  void read(const TensorInfo& info, uint64_t begin, std::span<std::byte> out) const override {
    if (info.name.find("_proj.") != info.name.npos) bytes += static_cast<int64_t>(out.size());
    inner_->read(info, begin, out);
  }
  std::vector<std::filesystem::path> files() const override { return inner_->files(); }
  const std::map<std::string, std::string>& metadata() const override { return inner_->metadata(); }
  void check_unchanged() const override { inner_->check_unchanged(); }
  mutable std::atomic<int64_t> bytes = 0;

 private:
  std::unique_ptr<WeightSource> inner_;
};

/// Every rank opens the model as a process would. `row_bytes`: read at most beyond the range at each end of a tensor.
void expect_same_load(const std::filesystem::path& path, ComputeType compute, int64_t stored_bytes, int64_t row_bytes) {
  const BaseModel base(path);
  const auto whole = model_of(base.config, compute, nullptr);
  const auto expected = load_base_weights(*whole, base, true);
  std::map<std::string, std::vector<std::byte>> weights;
  whole->visit([&](Parameter& p) { weights[p.name] = bytes_of(p.weight); });
  for (const int ranks : {2, 3, 4}) {
    test::run_ranks(ranks, [&](dist::Communicator& group) {
      BaseModel mine(path);
      auto counting = std::make_unique<Counting>(std::move(mine.weights));
      const Counting& counter = *counting;
      mine.weights = std::move(counting);
      const auto model = model_of(mine.config, compute, &group);
      const auto lanes = load_base_weights(*model, mine, true);
      ASSERT_EQ(lanes.size(), expected.size());
      for (const auto& [name, lane] : expected) EXPECT_EQ(lanes.at(name).lane, lane.lane) << name << ", " << ranks << " ranks";
      int64_t own = 0, cut = 0;
      model->visit([&](Parameter& p) {
        const std::vector<std::byte>& all = weights.at(p.name);
        const size_t first = static_cast<size_t>(p.first_element) * p.weight.element_size();
        const std::vector<std::byte> part = bytes_of(p.weight);
        EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + static_cast<std::ptrdiff_t>(first))) << p.name;
        if (p.is_shared) own += p.weight.numel() * stored_bytes, cut += p.weight.numel() > 0 ? 1 : 0;
      });
      EXPECT_GE(counter.bytes, own);
      EXPECT_LE(counter.bytes, own + 2 * cut * row_bytes);
    });
  }
}

TEST(SharedWeights, EachRankReadsItsPartAndTheIdentityIsTheWholes) {
  const TempDir dir;
  for (const DType stored : {DType::f32, DType::bf16})
    for (const ComputeType compute : {ComputeType::fp32, ComputeType::bf16}) {
      const std::string name = std::string(name_of(stored)) + (compute == ComputeType::bf16 ? "b" : "f");
      expect_same_load(make_tiny(dir, name, {.dtype = stored}), compute, static_cast<int64_t>(size_of(stored)), 0);
    }
}

TEST(SharedWeights, GgufFilesAreReadByRows) {
  const TempDir dir;
  dir.write("tiny.gguf", tiny_gguf().file());
  for (const ComputeType compute : {ComputeType::fp32, ComputeType::bf16}) expect_same_load(dir / "tiny.gguf", compute, 4, 96 * 4);
}

TEST(SharedWeights, TheRankThatReadsANonFiniteValueNamesItsPlaceInTheTensor) {
  const TempDir dir;
  const auto folder = make_tiny(dir, "base", {.dtype = DType::f32});
  std::vector<NamedTensor> tensors;
  for (const TensorSpec& spec : tensor_table(read_model_config(folder)))
    tensors.push_back({spec.name, spec.shape, random_values(spec.name, num_elements(spec.shape))});
  const auto gate =
      std::find_if(tensors.begin(), tensors.end(), [](const NamedTensor& t) { return t.name.find("1.mlp.gate") != t.name.npos; });
  gate->values[901] = std::numeric_limits<float>::infinity();
  std::filesystem::remove(folder / "model.safetensors");
  write_tensors(folder / "model.safetensors", tensors, DType::f32);
  const std::string message = error_of([&] {
    test::run_ranks(3, [&](dist::Communicator& group) {
      const BaseModel base(folder);
      const auto weights = group.split(0, group.rank());
      const auto model = model_of(base.config, ComputeType::fp32, weights.get());
      load_base_weights(*model, base, true);
    });
  });
  EXPECT_THAT(message, testing::HasSubstr("tensor " + gate->name + ", element 901"));
}

TEST(SharedWeights, ExportsAreTheSameFiles) {
  const TempDir dir;
  const auto folder = make_tiny(dir, "base");
  for (const bool random_start : {false, true}) {
    const std::string kind = random_start ? "random" : "loaded";
    const auto export_from = [&](dist::Communicator* ranks, const std::string& to) {
      const BaseModel base(folder, !random_start);
      const auto model = model_of(base.config, ComputeType::bf16, ranks);
      if (random_start)
        model->initialise_base();
      else
        load_base_weights(*model, base, true);
      disturb(*model);
      if (ranks != nullptr && ranks->rank() != 0) return;
      export_merged(*model, context_of(base), dir / to, std::nullopt, kOneShard);
      export_peft(*model, context_of(base), dir / (to + "_peft"));
    };
    export_from(nullptr, kind + "1");
    test::run_ranks(3, [&](dist::Communicator& group) { export_from(&group, kind + "3"); });
    EXPECT_FALSE(dir.read(kind + "1/model.safetensors").empty());
    EXPECT_EQ(dir.read(kind + "1/model.safetensors"), dir.read(kind + "3/model.safetensors")) << kind;
    EXPECT_EQ(dir.read(kind + "1_peft/adapter_model.safetensors"), dir.read(kind + "3_peft/adapter_model.safetensors")) << kind;
  }
}

}  // namespace
}  // namespace longlora
