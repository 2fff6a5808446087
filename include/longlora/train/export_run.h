#pragma once
// From a run's newest checkpoint, or from an adapter and its base, to a folder that other tools load.
#include <cstdint>
#include <filesystem>
#include <optional>

#include "longlora/checkpoint/model_io.h"
#include "longlora/core/dtype.h"

namespace longlora {

enum class ExportFormat { merged, peft };

struct ExportRequest {
  std::filesystem::path to;  // must not exist: ErrorKind::busy
  ExportFormat format = ExportFormat::merged;
  std::optional<DType> dtype;  // merged only; nullopt: the base's stored dtype
  uint64_t max_shard_bytes = kDefaultShardBytes;
};

/// Newest verified checkpoint of `run` (its config.yaml says the rest). No checkpoint: ErrorKind::missing.
void export_run(const std::filesystem::path& run, const ExportRequest&);
void export_adapter(const std::filesystem::path& adapter, const std::filesystem::path& base, const ExportRequest&);

}  // namespace longlora
