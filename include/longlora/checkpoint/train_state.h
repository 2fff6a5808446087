#pragma once
// Everything a bit-equal resume needs, inside the commit protocol (docs/checkpoint.md): fp32 masters and moments by name, state.json.
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "longlora/checkpoint/commit.h"
#include "longlora/core/hash.h"
#include "longlora/model/llama.h"

namespace longlora {

struct LineageEntry {
  int64_t step;
  std::string key, old_value, new_value;
};

struct TrainState {
  int64_t step = 0;           // optimizer steps taken or skipped (next step number)
  int64_t applied_steps = 0;  // AdamW's t
  uint64_t next_row = 0;
  std::vector<std::pair<uint64_t, uint64_t>> skipped_rows;
  int64_t targets_seen = 0;
  std::string chain;                               // hex of H_t
  uint64_t metrics_bytes = 0;                      // metrics.jsonl is cut to this on resume
  std::string config_json;                         // canonical resolved configuration
  std::string frozen_digest;                       // of its frozen part
  std::map<std::string, std::string> identity;     // weights, tokenizer, data: name -> digest
  std::map<std::string, std::string> fingerprint;  // program, libtorch, cpu capability, threads ...
  std::vector<LineageEntry> lineage;
};

/// How state that several ranks hold in parts comes together (Parameter::sharded). Both calls are made by all ranks in the same order.
class StateShards {
 public:
  virtual ~StateShards() = default;
  virtual bool is_root() const = 0;
  /// The whole of a master or moment, fp32 on the host at the root; undefined elsewhere.
  virtual at::Tensor whole(const Parameter&, const at::Tensor& mine) = 0;
  /// Every rank's lanes added, modulo 2^64, on every rank.
  virtual void add(std::vector<StateLanes>&) = 0;
};

/// Commits step state.step. Files: state-%05d-of-%05d.safetensors (a new part before 4 GiB), state.json. With `shards` the root calls it
/// and every other rank calls `give_train_state`; a failing root takes what the others send before it throws.
std::filesystem::path save_train_state(CheckpointFolder&, LlamaModel&, const TrainState&, StateShards* shards = nullptr);
void give_train_state(LlamaModel&, StateShards&);
/// state.json of a verified checkpoint (unknown format version: ErrorKind::mismatch naming both).
TrainState read_train_state(const CheckpointFolder::Found&);
/// Masters and moments into the model, where state is sharded this rank's elements; compute copies of these refreshed. Missing, unknown or
/// misshaped tensors: ErrorKind::data.
void load_train_tensors(const CheckpointFolder::Found&, LlamaModel&);

/// One SHA-256 over the two lanes of master, m and v of every trainable in table order (docs/determinism, hash chain).
Digest state_digest(LlamaModel&, StateShards* shards = nullptr);

}  // namespace longlora
