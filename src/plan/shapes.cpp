#include "plan/shapes.h"

#include <algorithm>
#include <bit>

#include "longlora/config/sequence_parts.h"
#include "longlora/kernels/optimizer.h"
#include "longlora/plan/exchange.h"

namespace longlora::plan {
namespace {

constexpr int64_t kGpuRuntime = int64_t{1} << 30;  // cuBLAS, NCCL, buffers of transports: assumed

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
bool is_power_of_two(int64_t n) { return std::has_single_bit(static_cast<uint64_t>(n)); }

/// The gradients of a rank are a node of the tree: halves of it are exchanged (Reducer).
bool has_whole_subtrees(const RunPlan& run) { return is_power_of_two(run.ranks) && is_power_of_two(run.accumulation); }

int64_t weight_ranks_of(const TrainConfig& config, const RunPlan& run) {
  const bool is_shared = config.dist.shard_weights == ShardWeights::frozen && config.tuning.mode != TuningMode::full;
  return is_shared ? run.ranks * config.dist.sequence_parallel : 1;
}

int64_t most_positions(const TrainConfig& config, const RunPlan& run) {
  int64_t most = run.sequence_length;
  for (const int64_t context : evaluation_contexts(config, run)) most = std::max(most, context);
  return most;
}

/// The finished subtrees that shards [first, first + count) leave, as GradientTree joins them.
struct OpenSubtrees {
  struct Node {
    int64_t level, index;
  };
  std::vector<Node> open;  // the newest is last: in the gradient itself, the others in sets of their own
  int64_t most_stored = 0;

  void add(int64_t shard) {
    most_stored = std::max(most_stored, static_cast<int64_t>(open.size()));
    Node node{0, shard};
    while (!open.empty() && node.index % 2 == 1 && open.back().level == node.level && open.back().index == node.index - 1) {
      open.pop_back();
      node = {node.level + 1, node.index / 2};
    }
    open.push_back(node);
  }
};

}  // namespace

int64_t spare_gradient_sets(const RunPlan& run) {
  const bool whole_subtrees = has_whole_subtrees(run);
  const int64_t received = run.ranks > 1 && !whole_subtrees ? 1 : 0;
  int64_t most = 0;
  for (int64_t rank = 0; rank < run.ranks; ++rank) {
    OpenSubtrees tree;
    for (int64_t shard = 0; shard < run.accumulation; ++shard) tree.add(rank * run.accumulation + shard);
    // without whole subtrees the newest is stored too, beside one that arrives from another rank
    most = std::max({most, tree.most_stored, received * (static_cast<int64_t>(tree.open.size()) + 1)});
    if (whole_subtrees) break;  // every rank's is the same
  }
  return most;
}

std::vector<int64_t> evaluation_contexts(const TrainConfig& config, const RunPlan& run) {
  if (config.evaluate.every == 0 || config.data.validation.empty()) return {};
  if (config.evaluate.perplexity.contexts.empty()) return {run.sequence_length};
  return config.evaluate.perplexity.contexts;
}

bool trains_head(const ModelConfig& model, const TrainConfig::Tuning& tuning) {
  if (tuning.mode != TuningMode::lora) return tuning.mode == TuningMode::full;
  return model.tied ? tuning.train_embeddings : tuning.train_head.value_or(false);
}

int64_t longest_part(const RunPlan& run, int64_t sequence_ranks) {
  if (sequence_ranks == 1 || run.group <= 0) return run.sequence_length;
  const int64_t half_groups = half_groups_of(run.sequence_length, run.group);
  return std::min(run.sequence_length, (half_groups + sequence_ranks - 1) / sequence_ranks * (run.group / 2));
}

Shapes::Shapes(const ModelConfig& model, const TrainConfig& config, const RunPlan& run, const PlanTarget& target)
    : layers(model.num_layers),
      head_dim(model.head_dim),
      tokens(run.micro_batch * longest_part(run, config.dist.sequence_parallel)),
      element_bytes(target.element_bytes),
      positions(most_positions(config, run)),
      gradient_sets(spare_gradient_sets(run)),
      gpu(target.device == PlanTarget::Device::gpu),
      weight_ranks(weight_ranks_of(config, run)),
      data_ranks(run.ranks),
      state_ranks(config.dist.shard_state == AutoBool::off ? 1 : run.ranks),
      sequence_ranks(config.dist.sequence_parallel),
      halves(has_whole_subtrees(run)),
      counts(count_parameters(model, config.tuning)),
      parts(model, target.element_bytes, weight_ranks) {}

int64_t Shapes::weight_bytes() const {
  const int64_t whole = element_bytes * (counts.norms + counts.embeddings + counts.head);
  if (weight_ranks == 1) return whole + element_bytes * counts.projections;
  return whole + layers * parts.part_bytes() + std::min<int64_t>(2, layers) * parts.layer_bytes();
}

int64_t Shapes::state_share() const {
  return round_up((counts.trainable + state_ranks - 1) / state_ranks, state_ranks > 1 ? kernels::kNormBlock : 1);
}

int64_t Shapes::state_bytes() const {
  // fp32 gradient and the adapters themselves, whole; the own share of m, v and, where a bf16 copy computes, of the master (with fp32 the
  // weight itself)
  return 4 * counts.trainable + element_bytes * counts.lora + (element_bytes == 2 ? 12 : 8) * state_share();
}

int64_t Shapes::tree_bytes() const { return 4 * counts.trainable * gradient_sets; }

/// Ranks of a sequence add before data ranks do, and give their buffers back. Where whole gradients are sent (`halves` is false) they
/// arrive in a set of the tree; with whole state they are then everywhere.
int64_t Shapes::exchange_bytes() const {
  int64_t most = sequence_exchange_bytes(counts.trainable, sequence_ranks);
  if (data_ranks == 1) return most;
  const int64_t share = round_up((counts.trainable + data_ranks - 1) / data_ranks, kernels::kNormBlock);
  const bool sharded = state_ranks > 1;  // updated weights are gathered, otherwise gradients
  if (halves) most = std::max(most, halving_bytes(counts.trainable));
  if (halves || sharded) most = std::max(most, gather_bytes(share, data_ranks, sharded ? element_bytes : 4));
  return most;
}

int64_t Shapes::runtime_bytes() const { return gpu ? kGpuRuntime : 0; }
int64_t Shapes::table_bytes() const { return positions * 4 * head_dim + tokens * 16; }  // cos and sin; ids, labels, positions

}  // namespace longlora::plan
