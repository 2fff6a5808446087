#pragma once
// From a data entry to one stream of tokens: lists the files, tokenises what is text into the cache, opens and checks token files.
#include <memory>
#include <string>
#include <vector>

#include "data/joined_source.h"
#include "longlora/data/dataset.h"

namespace longlora {

struct OpenedSource {
  std::unique_ptr<JoinedSource> tokens;
  std::vector<SourceIdentity> identities;      // of all files, in order
  Digest content{};                            // of the stream: keys of what was tokenised, digests of token files; names are no part of it
  std::string formats;                         // "text", "text+tokens"
  uint64_t empty_records = 0;
  bool tokenised_now = false, from_cache = false;
};

/// `cache_folder` exists already. Errors as of Dataset.
OpenedSource open_source(const DataEntry&, const DatasetOptions&, const std::filesystem::path& cache_folder);

}  // namespace longlora
