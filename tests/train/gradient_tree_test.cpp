#include "longlora/train/gradient_tree.h"

#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace longlora {
namespace {

/// The definition, level by level over scalars: no counter, no buffers.
float scalar_tree(std::vector<float> level) {
  while (level.size() > 1) {
    std::vector<float> next;
    for (size_t i = 0; i < level.size(); i += 2) next.push_back(i + 1 < level.size() ? level[i] + level[i + 1] : level[i]);
    level = next;
  }
  return level.front();
}

Parameter parameter(int64_t elements) {
  Parameter p;
  p.trainable = true;
  p.weight = p.master = at::zeros({elements}, at::TensorOptions().dtype(at::kFloat));
  p.grad = at::full({elements}, std::nanf(""), at::TensorOptions().dtype(at::kFloat));  // open() must clear it
  return p;
}

/// Sums of `shards[i][element]` by the product.
std::vector<float> sum_by_tree(GradientTree& tree, std::vector<Parameter>& parameters, const std::vector<std::vector<float>>& shards) {
  tree.begin();
  for (const auto& shard : shards) {
    tree.open();
    size_t at = 0;
    for (Parameter& p : parameters) {
      for (int64_t i = 0; i < p.grad.numel(); ++i) p.grad.mutable_data_ptr<float>()[i] += shard[at++];
    }
    tree.close();
  }
  tree.finish();
  std::vector<float> result;
  for (Parameter& p : parameters)
    result.insert(result.end(), p.grad.const_data_ptr<float>(), p.grad.const_data_ptr<float>() + p.grad.numel());
  return result;
}

TEST(GradientTree, EqualsTheDefinitionBitForBitForOneTo64Shards) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> exponent(-12, 12);
  std::vector<Parameter> parameters = {parameter(3), parameter(4)};
  GradientTree tree({&parameters[0], &parameters[1]});
  for (size_t count = 1; count <= 64; ++count) {
    std::vector<std::vector<float>> shards(count, std::vector<float>(7));
    for (auto& shard : shards) {
      for (float& value : shard) value = std::exp2(exponent(random)) * (random() % 2 ? 1.0f : -1.0f);
    }
    const std::vector<float> got = sum_by_tree(tree, parameters, shards);
    for (size_t element = 0; element < 7; ++element) {
      std::vector<float> column;
      for (const auto& shard : shards) column.push_back(shard[element]);
      EXPECT_EQ(got[element], scalar_tree(column)) << count << " shards, element " << element;
    }
  }
}

TEST(GradientTree, PublishedExampleGives16777222) {
  std::vector<Parameter> parameters = {parameter(1)};
  GradientTree tree({&parameters[0]});
  std::vector<std::vector<float>> shards(8, {1.0f});
  shards[0] = {16777216.0f};
  EXPECT_EQ(sum_by_tree(tree, parameters, shards).front(), 16777222.0f);
}

TEST(GradientTree, HoldsOneBufferALevelAndNoneForOneShard) {
  std::vector<Parameter> parameters = {parameter(1)};
  for (const auto& [count, buffers] : {std::pair<size_t, size_t>{1, 0}, {2, 1}, {3, 1}, {4, 2}, {8, 3}, {64, 6}}) {
    GradientTree tree({&parameters[0]});
    sum_by_tree(tree, parameters, std::vector<std::vector<float>>(count, {1.0f}));
    EXPECT_EQ(tree.num_buffers(), buffers) << count;
  }
}

TEST(GradientTree, ForgetsAnAbandonedStep) {
  std::vector<Parameter> parameters = {parameter(1)};
  GradientTree tree({&parameters[0]});
  tree.begin();
  tree.open();
  parameters[0].grad.fill_(100);
  tree.close();  // and then the step fails
  EXPECT_EQ(sum_by_tree(tree, parameters, {{1.0f}, {2.0f}, {3.0f}}).front(), 6.0f);
}

}  // namespace
}  // namespace longlora
