#include <algorithm>
#include <cmath>
#include <numbers>

#include "longlora/config/model_config.h"
#include "longlora/core/error.h"

namespace longlora {

namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

/// YaRN (arXiv:2309.00071): fast dimensions keep their frequency, slow ones are interpolated, a ramp lies between.
struct YarnRamp {
  double low, high;
  YarnRamp(const RopeScaling& rope, double d) {
    const auto dimension_of = [&](double rotations) {
      return d * std::log(static_cast<double>(rope.original_max_position) / (kTwoPi * rotations)) / (2 * std::log(rope.theta));
    };
    low = dimension_of(rope.beta_fast);
    high = dimension_of(rope.beta_slow);
    if (rope.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, d - 1);
    if (low == high) high += 0.001;
  }
  double interpolated_share(double i) const { return std::clamp((i - low) / (high - low), 0.0, 1.0); }
};

double llama3_frequency(const RopeScaling& rope, double w) {
  const double wavelength = kTwoPi / w, original = static_cast<double>(rope.original_max_position);
  if (wavelength < original / rope.high_freq_factor) return w;
  if (wavelength > original / rope.low_freq_factor) return w / rope.factor;
  const double t = (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - t) * w / rope.factor + t * w;
}

double yarn_magnitude(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1; }

}  // namespace

std::vector<float> rope_frequencies(const RopeScaling& rope, int64_t head_dim, int64_t max_position, int64_t sequence_length) {
  LONGLORA_INVARIANT(head_dim >= 2 && head_dim % 2 == 0 && max_position >= 1);
  const double d = static_cast<double>(head_dim);
  double theta = rope.theta;
  if (rope.type == RopeType::dynamic && head_dim > 2) {
    const double m = static_cast<double>(max_position), s = static_cast<double>(std::max(sequence_length, max_position));
    theta *= std::pow(rope.factor * s / m - (rope.factor - 1), d / (d - 2));
  }
  const YarnRamp ramp = rope.type == RopeType::yarn ? YarnRamp(rope, d) : YarnRamp({.theta = 2, .original_max_position = 1}, d);
  std::vector<float> frequencies;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    double w = std::pow(theta, -2.0 * static_cast<double>(i) / d);
    if (rope.type == RopeType::linear) w /= rope.factor;
    if (rope.type == RopeType::llama3) w = llama3_frequency(rope, w);
    if (rope.type == RopeType::yarn) {
      const double share = ramp.interpolated_share(static_cast<double>(i));
      w = w * (1 - share) + w / rope.factor * share;
    }
    frequencies.push_back(static_cast<float>(w));
  }
  return frequencies;
}

double rope_attention_factor(const RopeScaling& rope) {
  if (rope.type != RopeType::yarn) return 1;
  if (rope.attention_factor) return *rope.attention_factor;
  if (rope.mscale.value_or(0) != 0 && rope.mscale_all_dim.value_or(0) != 0) {
    return yarn_magnitude(rope.factor, *rope.mscale) / yarn_magnitude(rope.factor, *rope.mscale_all_dim);
  }
  return yarn_magnitude(rope.factor, 1);
}

}  // namespace longlora
