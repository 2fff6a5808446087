#include "model/reference_model.h"

#include <cmath>

namespace longlora::test {
namespace {

using Matrix = std::vector<double>;  // rows x width

Matrix times_transposed(const Matrix& x, const Matrix& w, int64_t in) {
  const auto rows = static_cast<int64_t>(x.size()) / in, out = static_cast<int64_t>(w.size()) / in;
  Matrix y(static_cast<size_t>(rows * out));
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t o = 0; o < out; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < in; ++i) sum += x[static_cast<size_t>(n * in + i)] * w[static_cast<size_t>(o * in + i)];
      y[static_cast<size_t>(n * out + o)] = sum;
    }
  return y;
}

Matrix normalised(const Matrix& x, const Matrix& w, double eps) {
  const size_t width = w.size();
  Matrix y(x.size());
  for (size_t n = 0; n < x.size() / width; ++n) {
    double sum = 0;
    for (size_t i = 0; i < width; ++i) sum += x[n * width + i] * x[n * width + i];
    for (size_t i = 0; i < width; ++i) y[n * width + i] = w[i] * x[n * width + i] / std::sqrt(sum / static_cast<double>(width) + eps);
  }
  return y;
}

/// Start of the interval that holds t, for the boundaries {0, first, first + g, ...} of a document of any length.
int64_t interval_start(int64_t t, int64_t first, int64_t group) {
  int64_t start = 0;
  for (int64_t boundary = first; boundary <= t; boundary += group) start = boundary;
  return start;
}

struct Document {
  int64_t begin = 0;
};
Document document_of(const std::vector<std::vector<int64_t>>& starts, int64_t row, int64_t t) {
  Document d;
  if (!starts.empty())
    for (int64_t s : starts[static_cast<size_t>(row)])
      if (s <= t) d.begin = s;
  return d;
}

constexpr const char* kModules[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

/// x W' + s drop(x) A' B'
struct Projector {
  const Reference& model;
  const Values& values;
  int64_t layer, rows;

  Matrix operator()(LoraTarget target, const Matrix& x, int64_t in) const {
    const std::string stem = "model.layers." + std::to_string(layer) + "." + kModules[static_cast<size_t>(target)] + ".";
    Matrix y = times_transposed(x, values.at(stem + "weight"), in);
    if (!values.contains(stem + "lora_A.weight")) return y;
    Matrix dropped = x;
    if (model.dropout) {
      const size_t per_row = x.size() / static_cast<size_t>(rows);
      for (size_t e = 0; e < x.size(); ++e)
        dropped[e] *= model.dropout(target, layer, static_cast<int64_t>(e / per_row), static_cast<int64_t>(e % per_row));
    }
    const TrainConfig::Tuning::Lora& lora = model.tuning.lora;
    const double scale = lora.alpha / (lora.rslora ? std::sqrt(static_cast<double>(lora.rank)) : static_cast<double>(lora.rank));
    const Matrix delta =
        times_transposed(times_transposed(dropped, values.at(stem + "lora_A.weight"), in), values.at(stem + "lora_B.weight"), lora.rank);
    for (size_t i = 0; i < y.size(); ++i) y[i] += scale * delta[i];
    return y;
  }
};

void rotate(Matrix& x, const Reference& m, int64_t heads, int64_t rows) {
  const int64_t d = m.config.head_dim, tokens = static_cast<int64_t>(x.size()) / (rows * heads * d);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t i = 0; i < d / 2; ++i) {
          const double position = static_cast<double>(t - document_of(m.document_starts, row, t).begin);
          const double angle =
              position * std::pow(m.config.rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(d)) / m.config.rope.factor;
          const auto a = static_cast<size_t>(((row * tokens + t) * heads + h) * d + i), b = a + static_cast<size_t>(d / 2);
          const double xa = x[a], xb = x[b];
          x[a] = xa * std::cos(angle) - xb * std::sin(angle);
          x[b] = xb * std::cos(angle) + xa * std::sin(angle);
        }
}

Matrix attend(const Reference& m, int64_t layer, const Matrix& q, const Matrix& k, const Matrix& v, int64_t rows) {
  const int64_t heads = m.config.num_heads, kv = m.config.num_kv_heads, d = m.config.head_dim;
  const int64_t tokens = static_cast<int64_t>(q.size()) / (rows * heads * d);
  Matrix o(q.size());
  const auto at = [&](const Matrix& x, int64_t row, int64_t t, int64_t n, int64_t h) {
    return x.data() + ((row * tokens + t) * n + h) * d;
  };
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t t = 0; t < tokens; ++t) {
        std::vector<double> p(static_cast<size_t>(tokens));
        double total = 0;
        for (int64_t u = 0; u < tokens; ++u) {
          if (!m.visible(layer, h, row, tokens, t, u)) continue;
          double score = 0;
          for (int64_t i = 0; i < d; ++i) score += at(q, row, t, heads, h)[i] * at(k, row, u, kv, h / (heads / kv))[i];
          total += p[static_cast<size_t>(u)] = std::exp(score / std::sqrt(static_cast<double>(d)));
        }
        for (int64_t u = 0; u < tokens; ++u)
          for (int64_t i = 0; i < d; ++i)
            o[static_cast<size_t>(((row * tokens + t) * heads + h) * d + i)] +=
                p[static_cast<size_t>(u)] / total * at(v, row, u, kv, h / (heads / kv))[i];
      }
  return o;
}

}  // namespace

bool Reference::visible(int64_t layer, int64_t head, int64_t row, int64_t tokens, int64_t t, int64_t u) const {
  const int64_t begin = document_of(document_starts, row, t).begin, g = attention.group;
  if (attention.kind == AttentionKind::full) return u >= begin && u <= t;
  const int64_t heads = config.num_heads;
  int64_t num_plain = heads / 2;
  if (attention.pattern == AttentionPattern::cross_layers) num_plain = layer % 2 == 0 ? heads : 0;
  if (attention.pattern == AttentionPattern::plain_only) num_plain = heads;
  if (attention.pattern == AttentionPattern::shifted_only) num_plain = 0;
  const bool shifted = head >= num_plain;
  if (attention.kind == AttentionKind::s2_wrap && shifted) {  // the roll of the paper's algorithm 1
    const int64_t rolled_t = (t + tokens - g / 2) % tokens, rolled_u = (u + tokens - g / 2) % tokens;
    return rolled_t / g == rolled_u / g && rolled_u <= rolled_t;
  }
  return u <= t && u >= begin + interval_start(t - begin, shifted ? g / 2 : g, g);
}

std::vector<double> Reference::logits(const Values& values, const std::vector<int32_t>& ids, int64_t rows) const {
  const int64_t hidden = config.hidden_size;
  const Matrix& embedding = values.at("model.embed_tokens.weight");
  Matrix x;
  for (int32_t id : ids) x.insert(x.end(), embedding.begin() + id * hidden, embedding.begin() + (id + 1) * hidden);
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const Projector project{*this, values, l, rows};
    const std::string stem = "model.layers." + std::to_string(l) + ".";
    Matrix n = normalised(x, values.at(stem + "input_layernorm.weight"), config.rms_norm_eps);
    Matrix q = project(LoraTarget::q_proj, n, hidden), k = project(LoraTarget::k_proj, n, hidden);
    rotate(q, *this, config.num_heads, rows);
    rotate(k, *this, config.num_kv_heads, rows);
    const Matrix o = attend(*this, l, q, k, project(LoraTarget::v_proj, n, hidden), rows);
    const Matrix branch = project(LoraTarget::o_proj, o, config.q_width());
    for (size_t i = 0; i < x.size(); ++i) x[i] += branch[i];
    n = normalised(x, values.at(stem + "post_attention_layernorm.weight"), config.rms_norm_eps);
    Matrix m = project(LoraTarget::gate_proj, n, hidden);
    const Matrix up = project(LoraTarget::up_proj, n, hidden);
    for (size_t i = 0; i < m.size(); ++i) m[i] = m[i] / (1 + std::exp(-m[i])) * up[i];
    const Matrix mlp = project(LoraTarget::down_proj, m, config.intermediate_size);
    for (size_t i = 0; i < x.size(); ++i) x[i] += mlp[i];
  }
  const Matrix n = normalised(x, values.at("model.norm.weight"), config.rms_norm_eps);
  return times_transposed(n, config.tied ? embedding : values.at("lm_head.weight"), hidden);
}

double Reference::loss_sum(const Values& values, const std::vector<int32_t>& ids, const std::vector<int32_t>& labels, int64_t rows) const {
  const std::vector<double> all = logits(values, ids, rows);
  const auto vocabulary = static_cast<size_t>(config.vocab_size);
  double sum = 0;
  for (size_t n = 0; n < labels.size(); ++n) {
    if (labels[n] < 0) continue;
    double total = 0;
    for (size_t v = 0; v < vocabulary; ++v) total += std::exp(all[n * vocabulary + v]);
    sum += std::log(total) - all[n * vocabulary + static_cast<size_t>(labels[n])];
  }
  return sum;
}

}  // namespace longlora::test
