#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/merged_weights.h"
#include "checkpoint/tiny_model.h"
#include "longlora/core/error.h"
#include "support/error_of.h"

namespace longlora {
namespace {

using testing::HasSubstr;
using testing::UnorderedElementsAre;
namespace fs = std::filesystem;

constexpr uint64_t kOneShard = uint64_t{5} << 30;

std::vector<std::string> names(const fs::path& folder) {
  std::vector<std::string> result;
  for (const auto& entry : fs::directory_iterator(folder)) result.push_back(entry.path().filename());
  return result;
}

struct Export : testing::Test {
  TempDir dir;

  std::unique_ptr<LlamaModel> trained(const BaseModel& base, const TrainConfig::Tuning& tuning, ComputeType compute = ComputeType::fp32) {
    auto model = make_model(base.config, tuning, compute);
    load_base_weights(*model, base, true);
    disturb(*model);
    return model;
  }
  void expect_same_folder(const std::string& a, const std::string& b, const std::vector<std::string>& files) {
    for (const std::string& file : files) {
      EXPECT_FALSE(dir.read(a + "/" + file).empty()) << file;
      EXPECT_EQ(dir.read(a + "/" + file), dir.read(b + "/" + file)) << file;
    }
  }
};

/// fp64 from the definition, independent of the product's code.
double merged_value(LlamaModel& model, const std::string& projection, float base, int64_t row, int64_t column) {
  const auto masters = masters_of(model);
  const std::string stem = projection.substr(0, projection.size() - 7);
  const auto a = masters.find(stem + ".lora_A.weight"), b = masters.find(stem + ".lora_B.weight");
  if (a == masters.end()) return base;
  const int64_t rank = model.options().tuning.lora.rank, width = static_cast<int64_t>(a->second.size()) / rank;
  double sum = 0;
  for (int64_t r = 0; r < rank; ++r) sum += double(b->second[row * rank + r]) * double(a->second[r * width + column]);
  return base + model.options().tuning.lora.alpha / double(rank) * sum;
}

TEST_F(Export, MergedIsBasePlusAdapterToRounding) {
  for (const DType stored : {DType::f32, DType::bf16}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const std::string name = std::string(name_of(stored)) + std::string(name_of(dtype));
      const BaseModel base(make_tiny(dir, "base" + name, {.dtype = stored}));
      const auto model = trained(base, lora_tuning(), ComputeType::bf16);  // the compute copy must not matter
      export_merged(*model, context_of(base), dir / name, dtype, kOneShard);
      const BaseModel written(dir / name);
      const auto masters = masters_of(*model);
      for (const TensorSpec& spec : tensor_table(base.config)) {
        const TensorInfo& info = *written.weights->find(spec.name);
        EXPECT_EQ(info.dtype, dtype);
        const auto got = read_floats(*written.weights, info), before = read_floats(*base.weights, *base.weights->find(spec.name));
        const int64_t width = spec.shape.size() == 2 ? spec.shape[1] : 1;
        const auto trained_values = masters.find(spec.name);
        for (size_t i = 0; i < got.size(); ++i) {
          const int64_t row = int64_t(i) / width, column = int64_t(i) % width;
          const double exact =
              trained_values != masters.end() ? trained_values->second[i] : merged_value(*model, spec.name, before[i], row, column);
          ASSERT_LE(std::abs(got[i] - exact), ulp_at(exact, dtype)) << spec.name << " " << i;
        }
      }
    }
  }
}

TEST_F(Export, UlpIsTheDistanceToTheNextValue) {
  EXPECT_EQ(ulp_at(1.0, DType::f32), std::nextafter(1.0f, 2.0f) - 1.0);
  EXPECT_EQ(ulp_at(-1.5, DType::bf16), bf16_to_float(float_to_bf16(1.5f) + 1) - 1.5);
  EXPECT_EQ(ulp_at(3.0, DType::f16), f16_to_float(float_to_f16(3.0f) + 1) - 3.0);
  EXPECT_EQ(ulp_at(0.0, DType::f32), std::numeric_limits<float>::denorm_min());
  EXPECT_EQ(ulp_at(1e-300, DType::f16), f16_to_float(1));
}

TEST_F(Export, CheckAfterWritingFindsAWrongValue) {
  const BaseModel base(make_tiny(dir, "base", {.dtype = DType::f32}));
  const auto model = trained(base, lora_tuning());
  export_merged(*model, context_of(base), dir / "merged", std::nullopt, kOneShard);
  const MergedWeights merged(*model, base);
  merged.check_written(*open_weight_folder(dir / "merged"));
  const std::string name = "model.layers.1.self_attn.o_proj.weight";
  std::string bytes = dir.read("merged/model.safetensors");
  const TensorInfo info = *open_weight_folder(dir / "merged")->find(name);
  bytes[info.offset + 4 * 100 + 1] ^= 1;  // 256 ulp in one element
  dir.write("merged/model.safetensors", bytes);
  EXPECT_THAT(error_of([&] { merged.check_written(*open_weight_folder(dir / "merged")); }),
              HasSubstr("tensor " + name + ", row 4, column 4"));
}

TEST_F(Export, FullTuningWritesTheMasters) {
  const BaseModel base(make_tiny(dir, "base", {.tied = true, .dtype = DType::f32}));
  const auto model = trained(base, full_tuning(), ComputeType::bf16);
  export_merged(*model, context_of(base), dir / "full", std::nullopt, kOneShard);
  const BaseModel written(dir / "full");
  for (const auto& [name, values] : masters_of(*model))
    EXPECT_EQ(read_floats(*written.weights, *written.weights->find(name)), values) << name;
  EXPECT_EQ(written.weights->find("lm_head.weight"), nullptr);
  EXPECT_TRUE(written.config.tied);
}

TEST_F(Export, FolderHoldsTheNewContext) {
  const BaseModel base(make_tiny(dir, "base"));
  dir.write("base/generation_config.json", "{\"temperature\": 0.6, \"max_length\": 64}");
  dir.write("base/README.md", "---\nlicense: apache-2.0\n---\n");
  dir.write("base/tokenizer.model", "not read");
  export_merged(*trained(base, lora_tuning()), context_of(base), dir / "merged", std::nullopt, kOneShard);
  EXPECT_THAT(names(dir / "merged"), UnorderedElementsAre("model.safetensors", "config.json", "generation_config.json",
                                                          "tokenizer_config.json", "tokenizer.model", "README.md"));
  const ModelConfig config = read_model_config(dir / "merged");
  EXPECT_EQ(config.rope.type, RopeType::linear);
  EXPECT_EQ(config.rope.factor, 4);
  EXPECT_EQ(config.declared_context, 256);
  EXPECT_THAT(dir.read("merged/config.json"), HasSubstr("\"torch_dtype\": \"bfloat16\""));
  EXPECT_EQ(dir.read("merged/tokenizer_config.json"), "{\n  \"model_max_length\": 256,\n  \"bos_token\": \"<s>\"\n}\n");
  EXPECT_EQ(dir.read("merged/generation_config.json"), "{\n  \"temperature\": 0.6,\n  \"do_sample\": true\n}\n");
  const std::string card = dir.read("merged/README.md");
  for (const char* part : {"license: apache-2.0", "full attention", "- steps: 7", "context 64 -> 256"}) EXPECT_THAT(card, HasSubstr(part));
}

TEST_F(Export, ShardsAndIndexGiveTheSameTensors) {
  const BaseModel base(make_tiny(dir, "base"));
  const auto model = trained(base, lora_tuning());
  export_merged(*model, context_of(base), dir / "one", std::nullopt, kOneShard);
  export_merged(*model, context_of(base), dir / "many", std::nullopt, 5000);
  EXPECT_TRUE(fs::exists(dir / "many/model.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(dir / "one/model.safetensors.index.json"));
  const BaseModel one(dir / "one"), many(dir / "many");
  EXPECT_GT(many.weights->files().size(), 3u);
  for (const TensorInfo& info : one.weights->tensors()) {
    EXPECT_EQ(read_floats(*one.weights, info), read_floats(*many.weights, *many.weights->find(info.name))) << info.name;
  }
}

TEST_F(Export, ExportImportExportGivesTheSameBytes) {
  const BaseModel base(make_tiny(dir, "base"));
  dir.write("base/generation_config.json", "{\"top_p\": 0.9}");
  export_merged(*trained(base, lora_tuning()), context_of(base), dir / "first", std::nullopt, kOneShard);
  const BaseModel first(dir / "first");
  import_model(first, dir / "imported", std::nullopt, kOneShard);
  expect_same_folder("first", "imported", {"model.safetensors", "config.json", "tokenizer_config.json", "generation_config.json"});
  const BaseModel imported(dir / "imported");
  const auto model = make_model(imported.config, {.mode = TuningMode::none});
  load_base_weights(*model, imported, true);
  export_merged(*model, context_of(imported), dir / "second", std::nullopt, kOneShard);
  expect_same_folder("first", "second", {"model.safetensors", "config.json", "tokenizer_config.json", "generation_config.json"});
}

TEST_F(Export, ImportConvertsTheDtype) {
  const BaseModel base(make_tiny(dir, "base", {.dtype = DType::f32}));
  import_model(base, dir / "half", DType::bf16, kOneShard);
  EXPECT_THAT(dir.read("half/config.json"), HasSubstr("\"torch_dtype\": \"bfloat16\""));
  const BaseModel half(dir / "half");
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const auto got = read_floats(*half.weights, *half.weights->find(name));
  const auto before = random_values(name, got.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], bf16_to_float(float_to_bf16(before[i])));
}

TEST_F(Export, ExistingTargetIsBusyAndKept) {
  const BaseModel base(make_tiny(dir, "base"));
  const auto model = trained(base, lora_tuning());
  dir.write("taken/config.json", "mine");
  EXPECT_EQ(kind_of([&] { export_merged(*model, context_of(base), dir / "taken", std::nullopt, kOneShard); }), ErrorKind::busy);
  EXPECT_EQ(kind_of([&] { import_model(base, dir / "taken", std::nullopt, kOneShard); }), ErrorKind::busy);
  EXPECT_EQ(dir.read("taken/config.json"), "mine");
  EXPECT_THAT(names(dir / "taken"), UnorderedElementsAre("config.json"));
}

TEST_F(Export, OverflowOfFp16LeavesNoTargetAndNamesTheRest) {
  const BaseModel base(make_tiny(dir, "base", {.dtype = DType::f32}));
  const auto model = trained(base, full_tuning());
  model->trainable().front()->master.data_ptr<float>()[5] = 70000;
  const std::string message = error_of([&] { export_merged(*model, context_of(base), dir / "out", DType::f16, kOneShard); });
  EXPECT_THAT(message, HasSubstr("a finite value overflows F16 (tensor model.embed_tokens.weight, element 5; unfinished output in "));
  EXPECT_THAT(message, HasSubstr("out.tmp-"));
  EXPECT_THAT(message, HasSubstr("use --dtype bf16"));
  EXPECT_FALSE(fs::exists(dir / "out"));
}

}  // namespace
}  // namespace longlora
