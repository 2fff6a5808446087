#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "checkpoint/tiny_model.h"
#include "longlora/core/error.h"
#include "support/error_of.h"

namespace longlora {
namespace {

using testing::HasSubstr;

TEST(BaseModel, LoadsEveryTensorUnrounded) {
  const TempDir dir;
  const BaseModel base(make_tiny(dir, "base", {.dtype = DType::f32}));
  const auto model = make_model(base.config, full_tuning(), ComputeType::bf16);
  load_base_weights(*model, base, true);
  int64_t seen = 0;
  model->visit([&](Parameter& p) {
    const std::vector<float> expected = random_values(p.name, static_cast<uint64_t>(p.master.numel()));
    const float* master = p.master.data_ptr<float>();
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), master)) << p.name;
    const auto* weight = static_cast<const uint16_t*>(p.weight.data_ptr());
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(weight[i], float_to_bf16(expected[i])) << p.name << " " << i;
    ++seen;
  });
  EXPECT_EQ(seen, static_cast<int64_t>(tensor_table(base.config).size()));
}

TEST(BaseModel, LanesAreOfTheLoadedBytes) {
  const TempDir dir;
  const BaseModel base(make_tiny(dir, "base", {.dtype = DType::f32, .vocabulary = 41}));
  const auto model = make_model(base.config, lora_tuning(), ComputeType::bf16);
  const auto lanes = load_base_weights(*model, base, true);
  EXPECT_EQ(lanes.size(), tensor_table(base.config).size());
  const auto values = random_values("model.norm.weight", 24);
  std::vector<uint32_t> words(12);
  std::memcpy(words.data(), encoded(values, DType::bf16).data(), 48);
  StateLanes expected;
  expected.add(words, 0);
  EXPECT_EQ(lanes.at("model.norm.weight").lane, expected.lane);
}

TEST(BaseModel, NonFiniteIsNamedUnlessTurnedOff) {
  const TempDir dir;
  const auto folder = make_tiny(dir, "base", {.dtype = DType::f32});
  std::vector<NamedTensor> tensors;
  for (const TensorSpec& spec : tensor_table(read_model_config(folder))) {
    tensors.push_back({spec.name, spec.shape, random_values(spec.name, num_elements(spec.shape))});
  }
  tensors[3].values[29] = std::numeric_limits<float>::quiet_NaN();
  std::filesystem::remove(folder / "model.safetensors");
  write_tensors(folder / "model.safetensors", tensors, DType::f32);
  const BaseModel base(folder);
  const auto model = make_model(base.config, lora_tuning());
  EXPECT_EQ(error_of([&] { load_base_weights(*model, base, true); }),
            "the weight is NaN or infinite (tensor " + tensors[3].name +
                ", element 29); repair the model, or load it as it is with weights.check_finite: false");
  EXPECT_EQ(error_of([&] { load_base_weights(*model, base, false); }), "");
  tensors[3].values[29] = 3.4e38f;  // rounds to infinity in bf16
  std::filesystem::remove(folder / "model.safetensors");
  write_tensors(folder / "model.safetensors", tensors, DType::f32);
  const BaseModel large(folder);
  const auto narrow = make_model(large.config, lora_tuning(), ComputeType::bf16);
  EXPECT_THAT(error_of([&] { load_base_weights(*narrow, large, true); }), HasSubstr("a finite F32 value overflows the compute dtype"));
}

TEST(BaseModel, RefusesWhatIsNotAModel) {
  const TempDir dir;
  EXPECT_EQ(kind_of([&] { BaseModel(dir / "absent"); }), ErrorKind::missing);
  dir.write("model.bin", "\x80\x02");
  EXPECT_EQ(kind_of([&] { BaseModel(dir / "model.bin"); }), ErrorKind::data);
  dir.write("text", "hello");
  EXPECT_THAT(error_of([&] { BaseModel(dir / "text"); }), HasSubstr("does not end in .gguf"));
  const auto folder = make_tiny(dir, "base");
  std::filesystem::remove(folder / "model.safetensors");
  EXPECT_EQ(kind_of([&] { BaseModel{folder}; }), ErrorKind::missing);
  EXPECT_EQ(BaseModel(folder, false).weights, nullptr);
  write_tensors(folder / "model.safetensors", {{"model.norm.weight", {24}, random_values("n", 24)}}, DType::f32);
  EXPECT_EQ(kind_of([&] { BaseModel{folder}; }), ErrorKind::data);
}

}  // namespace
}  // namespace longlora
