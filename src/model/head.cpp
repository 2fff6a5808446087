// Final norm, head and loss in chunks of rows: [tokens, vocabulary] never exists. Rows without a target are not computed at all.
#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

#include "longlora/core/error.h"
#include "longlora/ops/cross_entropy.h"
#include "longlora/ops/linear.h"
#include "longlora/ops/rms_norm.h"
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

std::vector<int32_t> at_rows(std::span<const int32_t> values, std::span<const int64_t> rows) {
  std::vector<int32_t> result;
  for (const int64_t n : rows) result.push_back(values[static_cast<size_t>(n)]);
  return result;
}

/// to[i] = from[rows[i]], or to[rows[i]] = from[i]
enum class Direction { gather, scatter };
void move_rows(const at::Tensor& from, at::Tensor& to, std::span<const int64_t> rows, Direction direction) {
  const size_t bytes = static_cast<size_t>(from.size(1)) * from.element_size();
  const char* source = static_cast<const char*>(from.const_data_ptr());
  char* target = static_cast<char*>(to.data_ptr());
  at::parallel_for(0, static_cast<int64_t>(rows.size()), 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto packed = static_cast<size_t>(i), whole = static_cast<size_t>(rows[packed]);
      const auto [s, t] = direction == Direction::gather ? std::pair(whole, packed) : std::pair(packed, whole);
      std::memcpy(target + t * bytes, source + s * bytes, bytes);
    }
  });
}

/// One pass over the chunks of `index`: body(rows of the chunk, position of its first row in `index`).
template <class Body>
void for_chunks(std::span<const int64_t> index, int64_t chunk_rows, Body&& body) {
  for (size_t begin = 0; begin < index.size(); begin += static_cast<size_t>(chunk_rows))
    body(index.subspan(begin, std::min(index.size() - begin, static_cast<size_t>(chunk_rows))), begin);
}

}  // namespace

int64_t LlamaModel::State::loss_chunk_rows() const {
  const int64_t fit = options.loss_chunk_bytes / (4 * config.vocab_size);
  return std::min(options.row_tile, fit >= 128 ? fit / 128 * 128 : std::max<int64_t>(1, fit));
}

at::Tensor LlamaModel::State::logits_of(const at::Tensor& hidden_NC, std::span<const int64_t> index) {
  const auto count = static_cast<int64_t>(index.size());
  at::Tensor x_RC = head_hidden.view({count, config.hidden_size}, dtype), n_RC = head_norm.view({count, config.hidden_size}, dtype);
  move_rows(hidden_NC, x_RC, index, Direction::gather);
  rms_norm_forward(x_RC, parameters.final_norm->weight, config.rms_norm_eps, n_RC);
  at::Tensor logits_RV = head_logits.view({count, config.vocab_size}, dtype);
  at::mm_out(logits_RV, n_RC, parameters.head->weight.t());
  return logits_RV;
}

LossSum LlamaModel::loss_backward(at::Tensor& hidden_BTC, const at::Tensor& labels_BT, float scale) {
  State& s = *state_;
  at::Tensor hidden_NC = hidden_BTC.view({-1, s.config.hidden_size});
  const std::span<const int32_t> labels = labels_of(labels_BT, hidden_NC.size(0));
  const std::vector<int64_t> index = rows_with_target(labels);
  std::vector<float> nll(index.size());
  Parameter &head = *s.parameters.head, &norm = *s.parameters.final_norm;
  for_chunks(index, s.loss_chunk_rows(), [&](std::span<const int64_t> rows, size_t first) {
    at::Tensor logits_RV = s.logits_of(hidden_NC, rows);
    cross_entropy_forward_backward(logits_RV, at_rows(labels, rows), scale, std::span(nll).subspan(first, rows.size()));
    at::Tensor x_RC = s.head_hidden.view({static_cast<int64_t>(rows.size()), s.config.hidden_size}, s.dtype);
    at::Tensor n_RC = s.head_norm.view(x_RC.sizes(), s.dtype);
    if (head.trainable) accumulate_product(head.grad, logits_RV, n_RC, 1.0, s.head_product);
    at::mm_out(n_RC, logits_RV, head.weight);  // d_norm over norm
    at::Tensor d_norm_C = norm.grad;
    rms_norm_backward(x_RC, norm.weight, s.config.rms_norm_eps, n_RC, n_RC, d_norm_C, Accumulate::no);
    move_rows(n_RC, hidden_NC, rows, Direction::scatter);
  });
  for (size_t n = 0; n < labels.size(); ++n)
    if (labels[n] == kIgnoredLabel) hidden_NC.select(0, static_cast<int64_t>(n)).zero_();
  LossSum sum{.targets = static_cast<int64_t>(index.size())};
  for (const float value : nll) sum.nll_sum += static_cast<double>(value);
  return sum;
}

at::Tensor LlamaModel::negative_log_likelihood(const ModelInput& input) {
  State& s = *state_;
  Pass pass;
  s.open(input, State::Dropout::off, pass);
  const std::span<const int32_t> labels = labels_of(input.labels_BT, pass.rows * pass.tokens);
  const at::Tensor hidden_NC = s.run_without_gradients(pass);
  at::Tensor result_BT = at::zeros({pass.rows, pass.tokens}, at::TensorOptions().dtype(at::kFloat));
  const std::vector<int64_t> index = rows_with_target(labels);
  std::vector<float> nll(index.size());
  for_chunks(index, s.loss_chunk_rows(), [&](std::span<const int64_t> rows, size_t first) {
    cross_entropy_forward(s.logits_of(hidden_NC, rows), at_rows(labels, rows), std::span(nll).subspan(first, rows.size()));
  });
  for (size_t i = 0; i < index.size(); ++i) result_BT.data_ptr<float>()[index[i]] = nll[i];
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
  at::Tensor result_NV = at::empty({pass.rows * count, s.config.vocab_size}, at::TensorOptions().dtype(at::kFloat));
  for_chunks(index, s.loss_chunk_rows(), [&](std::span<const int64_t> rows, size_t first) {
    result_NV.narrow(0, static_cast<int64_t>(first), static_cast<int64_t>(rows.size())).copy_(s.logits_of(hidden_NC, rows));
  });
  return result_NV.view({pass.rows, count, s.config.vocab_size});
}

}  // namespace longlora
