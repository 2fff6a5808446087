#pragma once
// One opened safetensors file behind WeightSource.

#include <map>
#include <string>
#include <vector>

#include "formats/safetensors_header.h"
#include "longlora/core/files.h"
#include "longlora/formats/weights.h"

namespace longlora {

class SafetensorsFile final : public WeightSource {
 public:
  /// Reads and checks the header; nothing of the buffer is read. ErrorKind::data names the place in `file`.
  explicit SafetensorsFile(InputFile file);
  std::span<const TensorInfo> tensors() const override { return header_.tensors; }
  void read(const TensorInfo&, uint64_t begin, std::span<std::byte> out) const override;
  std::vector<std::filesystem::path> files() const override { return {file_.path()}; }
  const std::map<std::string, std::string>& metadata() const override { return header_.metadata; }
  void check_unchanged() const override { file_.check_unchanged(); }

 private:
  InputFile file_;
  SafetensorsHeader header_;
};

/// Invariant: [begin, begin + bytes) lies in the tensor.
void check_range(const TensorInfo&, uint64_t begin, uint64_t bytes);

}  // namespace longlora
