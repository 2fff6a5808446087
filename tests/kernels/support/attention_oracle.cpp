#include "kernels/support/attention_oracle.h"

#include <algorithm>
#include <cmath>

namespace longlora::testing {

std::vector<int64_t> group_numbers(int64_t tokens, int64_t group, bool shifted, const std::vector<int64_t>& document_starts) {
  std::vector<int64_t> numbers(static_cast<size_t>(tokens));
  int64_t number = -1, left = 0;  // tokens left in the current group
  for (int64_t t = 0; t < tokens; ++t) {
    const bool new_document = t == 0 || std::find(document_starts.begin(), document_starts.end(), t) != document_starts.end();
    if (new_document || left == 0) {
      ++number;
      left = new_document && shifted ? group / 2 : group;
    }
    --left;
    numbers[static_cast<size_t>(t)] = number;
  }
  return numbers;
}

namespace {

bool sees(const AttentionCase& c, const std::vector<int64_t>& numbers, bool shifted, int64_t query, int64_t key) {
  if (numbers[static_cast<size_t>(query)] == numbers[static_cast<size_t>(key)] && key <= query) return true;
  return c.wraps && shifted && query < c.group / 2 && key >= c.tokens - c.group / 2;  // Algorithm 1: rolled together with the end
}

}  // namespace

AttentionResult attention_oracle(const AttentionCase& c, const std::vector<float>& q, const std::vector<float>& k,
                                 const std::vector<float>& v, const std::vector<float>& d_o) {
  const int64_t D = c.head_size, H = c.heads, K = c.kv_heads, T = c.tokens;
  AttentionResult r;
  r.o.assign(q.size(), 0.0);
  r.d_q.assign(q.size(), 0.0);
  r.d_k.assign(k.size(), 0.0);
  r.d_v.assign(k.size(), 0.0);
  r.lse.assign(static_cast<size_t>(c.rows * H * T), 0.0);
  const double scale = 1.0 / std::sqrt(static_cast<double>(D));
  double d_q_square = 0, d_k_square = 0;
  std::vector<double> p(static_cast<size_t>(T)), dp(static_cast<size_t>(T));
  std::vector<int64_t> seen;
  for (int64_t b = 0; b < c.rows; ++b)
    for (int64_t h = 0; h < H; ++h) {
      const bool shifted = h >= c.num_plain;
      const std::vector<int64_t> starts = c.document_starts.empty() ? std::vector<int64_t>{} : c.document_starts[static_cast<size_t>(b)];
      const std::vector<int64_t> numbers = group_numbers(T, c.group, shifted, starts);
      const auto query = [&](int64_t t) { return static_cast<size_t>(((b * T + t) * H + h) * D); };
      const auto key = [&](int64_t t) { return static_cast<size_t>(((b * T + t) * K + h / (H / K)) * D); };
      const auto dot = [&](const std::vector<float>& x, size_t i, const std::vector<float>& y, size_t j) {
        double sum = 0;
        for (size_t d = 0; d < static_cast<size_t>(D); ++d) sum += static_cast<double>(x[i + d]) * static_cast<double>(y[j + d]);
        return sum;
      };
      for (int64_t t = 0; t < T; ++t) {
        seen.clear();
        double largest = -INFINITY, sum = 0, delta = 0;
        for (int64_t u = 0; u < T; ++u) {
          if (!sees(c, numbers, shifted, t, u)) continue;
          seen.push_back(u);
          p[static_cast<size_t>(u)] = scale * dot(q, query(t), k, key(u));
          largest = std::max(largest, p[static_cast<size_t>(u)]);
        }
        for (const int64_t u : seen) sum += std::exp(p[static_cast<size_t>(u)] - largest);
        r.lse[static_cast<size_t>((b * H + h) * T + t)] = largest + std::log(sum);
        for (const int64_t u : seen) {
          double& weight = p[static_cast<size_t>(u)];
          weight = std::exp(weight - largest) / sum;
          dp[static_cast<size_t>(u)] = dot(d_o, query(t), v, key(u));
          delta += weight * dp[static_cast<size_t>(u)];
          for (size_t d = 0; d < static_cast<size_t>(D); ++d) r.o[query(t) + d] += weight * static_cast<double>(v[key(u) + d]);
        }
        for (const int64_t u : seen) {
          const double weight = p[static_cast<size_t>(u)], ds = weight * (dp[static_cast<size_t>(u)] - delta) * scale;
          const double summands =
              weight * weight * scale * scale * (dp[static_cast<size_t>(u)] * dp[static_cast<size_t>(u)] + delta * delta);
          d_q_square += summands * dot(k, key(u), k, key(u));
          d_k_square += summands * dot(q, query(t), q, query(t));
          for (size_t d = 0; d < static_cast<size_t>(D); ++d) {
            r.d_v[key(u) + d] += weight * static_cast<double>(d_o[query(t) + d]);
            r.d_k[key(u) + d] += ds * static_cast<double>(q[query(t) + d]);
            r.d_q[query(t) + d] += ds * static_cast<double>(k[key(u) + d]);
          }
        }
      }
    }
  r.d_q_summands = std::sqrt(d_q_square / static_cast<double>(r.d_q.size()));
  r.d_k_summands = std::sqrt(d_k_square / static_cast<double>(r.d_k.size()));
  return r;
}

}  // namespace longlora::testing
