// Final norm, head and loss in chunks of rows: [tokens, vocabulary] never exists. Rows without a target are not computed at all.
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "longlora/core/error.h"
#include "longlora/ops/accelerator.h"
#include "longlora/ops/cross_entropy.h"
#include "longlora/ops/linear.h"
#include "longlora/ops/rms_norm.h"
#include "longlora/ops/rows.h"
#include "model/state.h"

namespace longlora {
namespace {

std::span<const int32_t> labels_of(const at::Tensor& labels_BT, int64_t rows) {
  LONGLORA_INVARIANT(labels_BT.scalar_type() == at::kInt && labels_BT.is_contiguous() && labels_BT.numel() == rows);
  return {labels_BT.const_data_ptr<int32_t>(), static_cast<size_t>(rows)};
}

std::vector<int64_t> rows_with_target(std::span<const int32_t> labels) {
  std::vector<int64_t> rows;
  for (size_t n = 0; n < labels.size(); ++n)
    if (labels[n] != kIgnoredLabel) rows.push_back(static_cast<int64_t>(n));
  return rows;
}

std::vector<int64_t> rows_without_target(std::span<const int32_t> labels) {
  std::vector<int64_t> rows;
  for (size_t n = 0; n < labels.size(); ++n)
    if (labels[n] == kIgnoredLabel) rows.push_back(static_cast<int64_t>(n));
  return rows;
}

std::vector<int32_t> at_rows(std::span<const int32_t> values, std::span<const int64_t> rows) {
  std::vector<int32_t> result;
  for (const int64_t n : rows) result.push_back(values[static_cast<size_t>(n)]);
  return result;
}

/// The rows that have a target, and their labels, both also on the device: staged once for all chunks.
struct Targets {
  Targets(std::span<const int32_t> all, const at::Device& device) : rows(rows_with_target(all)), labels(at_rows(all, rows)) {
    row_list = rows;
    label_list = labels;
    row_list.stage(device);
    label_list.stage(device);
  }
  int64_t count() const { return row_list.size(); }
  std::vector<int64_t> rows;
  std::vector<int32_t> labels;
  RowList row_list;
  IntList label_list;
};

/// One pass over `count` rows in chunks: body(first row, number of rows).
template <class Body>
void for_chunks(int64_t count, int64_t chunk_rows, Body&& body) {
  for (int64_t first = 0; first < count; first += chunk_rows) body(first, std::min(count - first, chunk_rows));
}

}  // namespace

int64_t LlamaModel::State::loss_chunk_rows() const { return std::min(options.row_tile, options.loss_chunk_rows); }

HeadWorkspace::HeadWorkspace(Arena& arena, const LossBytes& bytes) : scope(arena, Arena::End::top) {
  const std::pair<Buffer*, int64_t> places[] = {
      {&hidden, bytes.hidden}, {&norm, bytes.norm}, {&logits, bytes.logits}, {&product, bytes.product}, {&nll, bytes.nll}};
  for (const auto& [buffer, size] : places) *buffer = Buffer(size > 0 ? arena.take(Arena::End::top, size) : at::Tensor());
}

HeadWorkspace LlamaModel::State::head_workspace(int64_t rows) {
  const LossShape loss{.chunk_rows = loss_chunk_rows(), .vocabulary = config.vocab_size, .head_trained = parameters.head->trainable};
  return {arena, loss_bytes(base_shape(1, rows), loss)};
}

at::Tensor LlamaModel::State::logits_of(const at::Tensor& hidden_NC, const RowList& index, HeadWorkspace& work) {
  const int64_t count = index.size();
  at::Tensor x_RC = work.hidden.view({count, config.hidden_size}, tensors), n_RC = work.norm.view({count, config.hidden_size}, tensors);
  gather_rows(hidden_NC, index, x_RC);
  rms_norm_forward(x_RC, parameters.final_norm->weight, config.rms_norm_eps, n_RC);
  const at::TensorOptions logits_options = options.device.is_cpu() ? tensors : tensors.dtype(at::kFloat);
  at::Tensor logits_RV = work.logits.view({count, config.vocab_size}, logits_options);
  wide_product(logits_RV, n_RC, parameters.head->weight.t());
  return logits_RV;
}

LossSum LlamaModel::loss_backward(at::Tensor& hidden_BTC, const at::Tensor& labels_BT, float scale) {
  const accelerator::Range range("loss");
  State& s = *state_;
  at::Tensor hidden_NC = hidden_BTC.view({-1, s.config.hidden_size});
  const std::span<const int32_t> labels = labels_of(labels_BT, hidden_NC.size(0));
  const Targets targets(labels, s.options.device);
  HeadWorkspace work = s.head_workspace(hidden_NC.size(0));
  at::Tensor nll_N = work.nll.view({targets.count()}, s.tensors.dtype(at::kFloat));
  Parameter &head = *s.parameters.head, &norm = *s.parameters.final_norm;
  for_chunks(targets.count(), s.loss_chunk_rows(), [&](int64_t first, int64_t count) {
    const RowList rows = targets.row_list.part(first, count);
    at::Tensor logits_RV = s.logits_of(hidden_NC, rows, work), nll_R = nll_N.narrow(0, first, count);
    const at::Tensor d_logits_RV =
        cross_entropy_forward_backward(logits_RV, targets.label_list.part(first, count), scale, s.compute_type(), nll_R);
    at::Tensor x_RC = work.hidden.view({count, s.config.hidden_size}, s.tensors);
    at::Tensor n_RC = work.norm.view(x_RC.sizes(), s.tensors);
    if (head.trainable) accumulate_product(head.grad, d_logits_RV, n_RC, 1.0, work.product);
    at::mm_out(n_RC, d_logits_RV, head.weight);  // d_norm over norm
    at::Tensor d_norm_C = norm.grad;
    rms_norm_backward(x_RC, norm.weight, s.config.rms_norm_eps, n_RC, n_RC, d_norm_C, Accumulate::no);
    scatter_rows(n_RC, rows, hidden_NC);
  });
  zero_rows(hidden_NC, rows_without_target(labels));
  return sum_of(nll_N);
}

at::Tensor LlamaModel::negative_log_likelihood(const ModelInput& input) {
  State& s = *state_;
  Pass pass;
  s.open(input, State::Dropout::off, pass);
  const Targets targets(labels_of(input.labels_BT, pass.rows * pass.tokens), s.options.device);
  const at::Tensor hidden_NC = s.run_without_gradients(pass);
  HeadWorkspace work = s.head_workspace(targets.count());
  at::Tensor nll_N = work.nll.view({targets.count()}, s.tensors.dtype(at::kFloat));
  for_chunks(targets.count(), s.loss_chunk_rows(), [&](int64_t first, int64_t count) {
    at::Tensor nll_R = nll_N.narrow(0, first, count);
    cross_entropy_forward(s.logits_of(hidden_NC, targets.row_list.part(first, count), work), targets.label_list.part(first, count), nll_R);
  });
  const at::Tensor on_host_N = nll_N.cpu();
  at::Tensor result_BT = at::zeros({pass.rows, pass.tokens}, at::TensorOptions().dtype(at::kFloat));
  for (int64_t i = 0; i < targets.count(); ++i)
    result_BT.data_ptr<float>()[targets.rows[static_cast<size_t>(i)]] = on_host_N.const_data_ptr<float>()[i];
  return result_BT;
}

at::Tensor LlamaModel::logits(const ModelInput& input, std::span<const int64_t> positions) {
  State& s = *state_;
  Pass pass;
  s.open(input, State::Dropout::off, pass);
  const at::Tensor hidden_NC = s.run_without_gradients(pass);
  std::vector<int64_t> index;
  const int64_t count = positions.empty() ? pass.tokens : static_cast<int64_t>(positions.size());
  for (int64_t row = 0; row < pass.rows; ++row)
    for (int64_t i = 0; i < count; ++i) {
      const int64_t position = positions.empty() ? i : positions[static_cast<size_t>(i)];
      LONGLORA_INVARIANT(position >= 0 && position < pass.tokens);
      index.push_back(row * pass.tokens + position);
    }
  HeadWorkspace work = s.head_workspace(pass.rows * count);
  at::Tensor result_NV = at::empty({pass.rows * count, s.config.vocab_size}, at::TensorOptions().dtype(at::kFloat));
  for_chunks(pass.rows * count, s.loss_chunk_rows(), [&](int64_t first, int64_t rows) {
    result_NV.narrow(0, first, rows).copy_(s.logits_of(hidden_NC, RowList(index).part(first, rows), work));
  });
  return result_NV.view({pass.rows, count, s.config.vocab_size});
}

}  // namespace longlora
