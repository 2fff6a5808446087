#include "longlora/ops/linear.h"

#include <ATen/Parallel.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include "longlora/core/philox.h"
#include "longlora/ops/vector_math.h"
#include "ops/dispatch.h"

namespace longlora {
namespace {

using namespace vec;

bool drops(const LinearCall& call) { return call.dropout != nullptr && call.dropout->drop_probability > 0; }

/// out = scale * left right, or out += ...
void product(at::Tensor& out, const at::Tensor& left, const at::Tensor& right, Accumulate accumulate, double scale = 1.0) {
  if (accumulate == Accumulate::no && scale == 1.0) {
    at::mm_out(out, left, right);
  } else {
    at::addmm_out(out, out, left, right, accumulate == Accumulate::yes ? 1.0 : 0.0, scale);  // beta 0: `out` is not read
  }
}

/// Of a product that is added to an fp32 gradient: only a device can leave it in fp32.
at::TensorOptions gradient_options(const at::Tensor& factor) {
  return factor.is_cpu() ? factor.options() : factor.options().dtype(at::kFloat);
}

/// One Philox block gives the fate of four neighbouring elements.
class KeepMask {
 public:
  KeepMask(const LoraDropout& d, uint8_t site, uint32_t row)
      : stream_{.seed = d.seed, .purpose = Purpose::lora_dropout, .site = site, .layer = d.layer, .step = d.step, .row = row},
        drop_below_(static_cast<float>(d.drop_probability)) {}
  bool keeps(int64_t element) {
    if (element / 4 != block_) {
      block_ = element / 4;
      words_ = stream_.words(static_cast<uint32_t>(block_));
    }
    return uniform_from(words_[static_cast<size_t>(element % 4)]) >= drop_below_;
  }

 private:
  PhiloxStream stream_;
  float drop_below_;
  int64_t block_ = -1;
  std::array<uint32_t, 4> words_{};
};

at::Tensor part_rows(const at::Tensor& stacked_RI, const Linear& linear, size_t part) {
  return stacked_RI.narrow(0, static_cast<int64_t>(part) * linear.rank(), linear.rank());
}
at::Tensor part_columns(const at::Tensor& stacked_NR, const Linear& linear, size_t part) {
  return stacked_NR.narrow(1, static_cast<int64_t>(part) * linear.rank(), linear.rank());
}

/// drop(x) of one part, or x itself
at::Tensor lora_input(const LinearCall& call, const LoraPart& part, const at::Tensor& x_NI) {
  if (!drops(call)) return x_NI;
  at::Tensor dropped = call.scratch.dropped.view(x_NI.sizes(), x_NI.options());
  apply_dropout(*call.dropout, part.site, call.first_row, x_NI, dropped, Accumulate::no);
  return dropped;
}

/// [rows, parts * r]: drop(x) A^T. Without dropout all parts share x and are one product.
at::Tensor low_rank_forward(const Linear& linear, const LinearCall& call, const at::Tensor& x_NI) {
  at::Tensor u_NR = call.scratch.low_rank.view({x_NI.size(0), linear.a_RI.size(0)}, x_NI.options());
  if (!drops(call)) {
    at::mm_out(u_NR, x_NI, linear.a_RI.t());
    return u_NR;
  }
  for (size_t i = 0; i < linear.parts.size(); ++i) {
    at::Tensor u = part_columns(u_NR, linear, i);
    at::mm_out(u, lora_input(call, linear.parts[i], x_NI), part_rows(linear.a_RI, linear, i).t());
  }
  return u_NR;
}

void add_b_gradients(const Linear& linear, const LinearCall& call, const at::Tensor& u_NR, const at::Tensor& d_y_NO) {
  for (size_t i = 0; i < linear.parts.size(); ++i) {
    const LoraPart& part = linear.parts[i];
    // [r, O] and its transpose: a product with O columns is several times faster than one with r columns.
    at::Tensor d_bt_RO = call.scratch.product.view({linear.rank(), part.end - part.begin}, gradient_options(d_y_NO));
    wide_product(d_bt_RO, part_columns(u_NR, linear, i).t(), d_y_NO.narrow(1, part.begin, part.end - part.begin));
    at::Tensor d_b = part.d_b_OR;
    d_b.add_(d_bt_RO.t(), linear.scale);
  }
}

void add_a_gradients(const Linear& linear, const LinearCall& call, const at::Tensor& t_NR, const at::Tensor& x_NI) {
  at::Tensor d_a_RI = linear.d_a_RI;
  if (!drops(call)) return accumulate_product(d_a_RI, t_NR, x_NI, 1.0, call.scratch.product);
  for (size_t i = 0; i < linear.parts.size(); ++i) {
    at::Tensor d_a = part_rows(d_a_RI, linear, i);
    accumulate_product(d_a, part_columns(t_NR, linear, i), lora_input(call, linear.parts[i], x_NI), 1.0, call.scratch.product);
  }
}

/// Adds both adapters' gradients; returns s d_y B, [rows, parts * r].
at::Tensor lora_gradients(const Linear& linear, const LinearCall& call, const at::Tensor& x_NI, const at::Tensor& d_y_NO) {
  const at::Tensor u_NR = low_rank_forward(linear, call, x_NI);
  at::Tensor t_NR = call.scratch.d_low_rank.view(u_NR.sizes(), u_NR.options());
  for (size_t i = 0; i < linear.parts.size(); ++i) {
    const LoraPart& part = linear.parts[i];
    at::Tensor t = part_columns(t_NR, linear, i);
    product(t, d_y_NO.narrow(1, part.begin, part.end - part.begin), part.b_OR, Accumulate::no, linear.scale);
  }
  add_b_gradients(linear, call, u_NR, d_y_NO);
  add_a_gradients(linear, call, t_NR, x_NI);
  return t_NR;
}

void add_low_rank_input_gradient(const Linear& linear, const LinearCall& call, const at::Tensor& t_NR, at::Tensor& d_x_NI) {
  if (!drops(call)) return product(d_x_NI, t_NR, linear.a_RI, Accumulate::yes);
  at::Tensor d_dropped = call.scratch.dropped.view(d_x_NI.sizes(), d_x_NI.options());
  for (size_t i = 0; i < linear.parts.size(); ++i) {
    at::mm_out(d_dropped, part_columns(t_NR, linear, i), part_rows(linear.a_RI, linear, i));
    apply_dropout(*call.dropout, linear.parts[i].site, call.first_row, d_dropped, d_x_NI, Accumulate::yes);
  }
}

/// Rows first_row .. of a micro-batch of whole rows.
void drop_whole_rows(const LoraDropout& dropout, uint8_t site, int64_t first_row, const at::Tensor& x_NI, at::Tensor& out_NI,
                     Accumulate accumulate) {
  const int64_t rows = x_NI.size(0), width = x_NI.size(1);
  LONGLORA_INVARIANT(dropout.tokens > 0 && (first_row + rows - 1) / dropout.tokens < static_cast<int64_t>(dropout.global_rows.size()));
  LONGLORA_INVARIANT(dropout.tokens <= (int64_t{1} << 34) / width);  // the element's block number has 32 bits
  if (!x_NI.is_cpu()) {
    require_kernels(x_NI, "dropout");
    if constexpr (kWithKernels) device::apply_dropout(dropout, site, first_row, x_NI, out_NI, accumulate);
    return;
  }
  const float keep_scale = static_cast<float>(1.0 / (1.0 - dropout.drop_probability));
  with_element_type(x_NI, [&]<class T>(T) {
    at::parallel_for(0, rows, row_grain(8 * width), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t row = (first_row + n) / dropout.tokens, first = (first_row + n) % dropout.tokens * width;
        KeepMask mask(dropout, site, dropout.global_rows[static_cast<size_t>(row)]);
        const T* x = x_NI.const_data_ptr<T>() + n * x_NI.stride(0);
        T* out = out_NI.data_ptr<T>() + n * out_NI.stride(0);
        for (int64_t i = 0; i < width; ++i) {
          const float kept = mask.keeps(first + i) ? static_cast<float>(x[i]) * keep_scale : 0.0f;
          out[i] = static_cast<T>(accumulate == Accumulate::yes ? static_cast<float>(out[i]) + kept : kept);
        }
      }
    });
  });
}

}  // namespace

void apply_dropout(const LoraDropout& d, uint8_t site, int64_t first_row, const at::Tensor& x_NI, at::Tensor& out_NI,
                   Accumulate accumulate) {
  if (d.part_tokens == 0) return drop_whole_rows(d, site, first_row, x_NI, out_NI, accumulate);
  for (int64_t done = 0, count; done < x_NI.size(0); done += count) {  // counters are those of the whole row
    const int64_t row = (first_row + done) / d.part_tokens, token = (first_row + done) % d.part_tokens;
    count = std::min(x_NI.size(0) - done, d.part_tokens - token);
    at::Tensor out = out_NI.narrow(0, done, count);
    drop_whole_rows(d, site, row * d.tokens + d.part_begin + token, x_NI.narrow(0, done, count), out, accumulate);
  }
}

PreparedLinear prepare(const Linear& linear, const at::Tensor& weight_OI, Merge merge, Buffer& storage) {
  if (!linear.has_lora() || merge == Merge::no) return {&linear, weight_OI, false};
  at::Tensor merged_OI = storage.view(weight_OI.sizes(), weight_OI.options());
  merged_OI.copy_(weight_OI);
  for (size_t i = 0; i < linear.parts.size(); ++i) {
    const LoraPart& part = linear.parts[i];
    at::Tensor rows = merged_OI.narrow(0, part.begin, part.end - part.begin);
    product(rows, part.b_OR, part_rows(linear.a_RI, linear, i), Accumulate::yes, linear.scale);
  }
  return {&linear, merged_OI, true};
}

void linear_forward(const PreparedLinear& prepared, const LinearCall& call, const at::Tensor& x_NI, at::Tensor& y_NO,
                    Accumulate accumulate) {
  product(y_NO, x_NI, prepared.weight_OI.t(), accumulate);
  const Linear& linear = *prepared.linear;
  if (!linear.has_lora() || prepared.merged) return;
  const at::Tensor u_NR = low_rank_forward(linear, call, x_NI);
  for (size_t i = 0; i < linear.parts.size(); ++i) {
    const LoraPart& part = linear.parts[i];
    at::Tensor y = y_NO.narrow(1, part.begin, part.end - part.begin);
    product(y, part_columns(u_NR, linear, i), part.b_OR.t(), Accumulate::yes, linear.scale);
  }
}

void linear_backward(const PreparedLinear& prepared, const LinearCall& call, const at::Tensor& x_NI, const at::Tensor& d_y_NO,
                     at::Tensor& d_x_NI, Accumulate accumulate) {
  const Linear& linear = *prepared.linear;
  if (linear.d_weight_OI.defined()) {
    at::Tensor d_weight_OI = linear.d_weight_OI;
    accumulate_product(d_weight_OI, d_y_NO, x_NI, 1.0, call.scratch.product);
  }
  if (d_x_NI.defined()) product(d_x_NI, d_y_NO, prepared.weight_OI, accumulate);
  if (!linear.has_lora()) return;
  const at::Tensor t_NR = lora_gradients(linear, call, x_NI, d_y_NO);
  if (d_x_NI.defined() && !prepared.merged) add_low_rank_input_gradient(linear, call, t_NR, d_x_NI);
}

void accumulate_product(at::Tensor& g_OI, const at::Tensor& left_NO, const at::Tensor& right_NI, double scale, Buffer& product_storage) {
  if (left_NO.scalar_type() == at::kFloat) {
    at::addmm_out(g_OI, g_OI, left_NO.t(), right_NI, 1.0, scale);
    return;
  }
  at::Tensor product_OI = product_storage.view(g_OI.sizes(), gradient_options(left_NO));
  wide_product(product_OI, left_NO.t(), right_NI);
  g_OI.add_(product_OI, scale);
}

void wide_product(at::Tensor& out, const at::Tensor& left, const at::Tensor& right) {
  if (out.scalar_type() == left.scalar_type())
    at::mm_out(out, left, right);
  else
    at::mm_out(out, left, right, out.scalar_type());
}

}  // namespace longlora
