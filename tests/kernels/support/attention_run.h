#pragma once
// One attention problem on a device: inputs as strided views of one packed buffer, outputs with gaps between their rows.
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/support/attention_oracle.h"
#include "kernels/support/device_memory.h"
#include "kernels/support/elements.h"
#include "longlora/kernels/s2_attention.h"

namespace longlora::testing {

struct AttentionInputs {
  std::vector<float> q, k, v, d_o;  // contiguous [B, T, heads, D], already rounded to the type
};
/// N(0, 1), q and k times `spread`.
AttentionInputs random_inputs(const AttentionCase&, ElementType, uint64_t seed, float spread = 1.0f);

/// What came back, as raw bytes widened to float: equal floats are equal bits (no NaN among them).
struct AttentionOutputs {
  std::vector<float> o, lse, d_q, d_k, d_v;
  bool operator==(const AttentionOutputs&) const = default;
};

struct Placement {
  int64_t gap = 8;          // elements between the rows of outputs and behind those of inputs
  bool o_over_q = false;    // forward writes o where q is
  bool d_q_over_q = false;  // backward writes dQ where q is
};

/// The shape of a whole call on device memory; documents live as long as the run.
class AttentionRun {
 public:
  AttentionRun(const AttentionCase&, ElementType, const AttentionInputs&, Placement = {},
               kernels::AttentionVariant = kernels::AttentionVariant::automatic);

  void forward();
  void backward();
  /// Queries in windows [cut_i, cut_i+1) and keys likewise, later windows first, dK and dV through fp32 carries.
  void forward_in_windows(const std::vector<int64_t>& cuts);
  void backward_in_windows(const std::vector<int64_t>& cuts);
  /// Throws if a gap between rows was written.
  AttentionOutputs outputs();
  const kernels::S2Shape& shape() const { return shape_; }
  void replace(const AttentionInputs&);

 private:
  kernels::HeadView view(DeviceArray<unsigned char>& array, int64_t heads, int64_t first_head, int64_t line, int64_t position = 0) const;
  kernels::StatisticsView statistics(DeviceArray<float>& array, int64_t position = 0) const;
  kernels::S2Shape window(int64_t q_begin, int64_t q_end, int64_t k_begin, int64_t k_end) const;
  kernels::HeadView carry_view(DeviceArray<float>& array) const;
  int64_t lowest_key(int64_t query) const;
  std::vector<unsigned char> packed(const AttentionInputs&) const;
  std::vector<float> unpacked(DeviceArray<unsigned char>& array, int64_t heads, int64_t first_head, int64_t line, bool check_gap);

  AttentionCase case_;
  ElementType type_;
  Placement placement_;
  kernels::S2Shape shape_;
  int64_t bytes_, qkv_line_, o_line_, kv_line_;
  std::unique_ptr<DeviceArray<int32_t>> document_begin_, document_end_;
  DeviceArray<unsigned char> qkv_, d_o_, o_, d_q_, d_k_, d_v_;
  DeviceArray<float> lse_, delta_;
};

}  // namespace longlora::testing
