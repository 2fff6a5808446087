#pragma once
// From files to rows: reading (text, jsonl, token files, llm.c and raw uint16 .bin), tokenising with a cache, packing, batches ahead of
// need.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "longlora/config/train_config.h"
#include "longlora/core/hash.h"
#include "longlora/data/inputs.h"
#include "longlora/data/sampler.h"
#include "longlora/data/token_batch.h"
#include "longlora/formats/token_file.h"
#include "longlora/tokenizer/tokenizer.h"

namespace longlora {

struct DatasetOptions {
  int64_t sequence_length = 0;
  int64_t vocab_size = 0;                       // every id is checked against it on the host
  std::optional<int64_t> eos;                   // data.eos, else tokenizer's, else config.json's
  const Tokenizer* tokenizer = nullptr;         // may be null: token files and raw .bin need none
  std::filesystem::path cache_folder;           // tokenised text: <key>.tokens; empty = a temporary folder
  TrainConfig::Data data;                       // packing, mask, bad rows ...
  int tokenize_threads = 2;
};

/// All rows of data.train or data.validation: one source per entry, its files joined in order. Const and thread-safe after construction.
///
/// concat: row r of a source holds the tokens [rT, rT + T) of all its documents joined; the last row is padded on the right (id EOS, else
/// 0; label -100; a document of its own). labels[t] is the next token of the same document inside the row, else -100. A row without any
/// target (only documents of one token) is left out and counted; more than 1 % of a source, or all of it, is ErrorKind::data.
class Dataset {
 public:
  /// Opens, tokenises what is text, builds the row tables. Errors: data, missing, config (formats of later versions by name).
  Dataset(const std::vector<DataEntry>&, const DatasetOptions&);
  ~Dataset();
  uint64_t num_sources() const;
  uint64_t rows(uint64_t source) const;
  std::vector<double> weights() const;                             // empty when none
  /// Row `row` of `source` appended to `batch` (ids, labels, document starts, targets, padding; not global_rows); checks ids against the
  /// vocabulary (data, naming file, document, position).
  void append_row(uint64_t source, uint64_t row, TokenBatch& batch) const;
  const TokenSource& tokens(uint64_t source) const;                // for evaluation windows
  std::vector<SourceIdentity> identities() const;
  Digest digest() const;                                           // over identities and packing: enters the hash chain
  std::vector<std::string> summary() const;                        // lines for the start banner: files, tokens, rows, padding

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Builds the shards of a step ahead of need on one thread; only calls pure functions. Exceptions surface in `step`.
class BatchLoader {
 public:
  /// Rows [g, g + global_batch) of a step are cut into shards of micro_batch rows; `first_shard`, `num_shards` are this rank's.
  BatchLoader(const Dataset&, Sampler, int64_t global_batch, int64_t micro_batch, int64_t first_shard, int64_t num_shards,
              int64_t prefetch);
  ~BatchLoader();
  /// The shards of the step whose first row is `next_row` (prefetches the following steps). Waiting time is added to `wait_seconds`.
  std::vector<TokenBatch> step(uint64_t next_row);
  double wait_seconds() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace longlora
