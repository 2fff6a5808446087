#include "train/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

namespace longlora {
namespace {

using Points = std::vector<std::pair<double, double>>;

constexpr double kWidth = 640, kHeight = 300, kLeft = 64, kRight = 16, kTop = 32, kBottom = 44;
constexpr const char* kColours[] = {"#1f5f8b", "#b5452c", "#3b7d3b", "#7a4b9a", "#8a6d1d", "#444444"};
constexpr const char* kDashes[] = {"none", "8 4", "3 3", "10 3 3 3", "1 4", "14 4"};

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void add(double value) { low = std::min(low, value), high = std::max(high, value); }
  bool empty() const { return low > high; }
  void widen() {
    if (high - low > 1e-12 * std::max(std::abs(high), std::abs(low))) return;
    const double margin = std::max(0.5 * std::abs(low), 1e-3);
    low -= margin, high += margin;
  }
};

Points finite_points(const Points& points) {
  Points kept;
  std::copy_if(points.begin(), points.end(), std::back_inserter(kept),
               [](const auto& p) { return std::isfinite(p.first) && std::isfinite(p.second); });
  return kept;
}

Points thinned(const Points& points) {
  constexpr size_t kMost = 1000;
  if (points.size() <= kMost) return points;
  Points result;
  for (size_t bucket = 0; bucket < kMost; ++bucket) {
    const size_t begin = bucket * points.size() / kMost, end = (bucket + 1) * points.size() / kMost;
    double x = 0, y = 0;
    for (size_t i = begin; i < end; ++i) x += points[i].first, y += points[i].second;
    result.emplace_back(x / static_cast<double>(end - begin), y / static_cast<double>(end - begin));
  }
  return result;
}

/// Steps of 1, 2 or 5 times a power of ten, about `count` of them.
std::vector<double> ticks(const Range& range, int count) {
  const double raw = (range.high - range.low) / count, power = std::pow(10.0, std::floor(std::log10(raw)));
  const double scaled = raw / power;
  const double step = power * (scaled < 1.5 ? 1 : scaled < 3.5 ? 2 : scaled < 7.5 ? 5 : 10);
  std::vector<double> result;
  for (double k = std::ceil(range.low / step); k * step <= range.high + 1e-9 * step; ++k) result.push_back(k * step);
  return result;
}

std::string number(double value) {
  if (std::abs(value) >= 1e6 || (value != 0 && std::abs(value) < 1e-3)) return fmt::format("{:.1e}", value);
  return fmt::format("{:.6g}", value);
}

struct Frame {
  Range x, y;
  double px(double value) const { return kLeft + (value - x.low) / (x.high - x.low) * (kWidth - kLeft - kRight); }
  double py(double value) const { return kHeight - kBottom - (value - y.low) / (y.high - y.low) * (kHeight - kTop - kBottom); }
};

std::string grid(const Frame& f, const Chart& chart, const std::vector<double>& x_ticks) {
  std::string out;
  for (double y : ticks(f.y, 5)) {
    out += fmt::format(
        "<line x1='{}' x2='{}' y1='{:.1f}' y2='{:.1f}' class='grid'/><text x='{}' y='{:.1f}' class='tick' text-anchor='end'>{}</text>\n",
        kLeft, kWidth - kRight, f.py(y), f.py(y), kLeft - 6, f.py(y) + 4, number(y));
  }
  for (double x : x_ticks) {
    const std::string label = chart.x_axis == Axis::log2 ? number(std::round(std::exp2(x))) : number(x);
    out += fmt::format(
        "<line x1='{:.1f}' x2='{:.1f}' y1='{}' y2='{}' class='grid'/><text x='{:.1f}' y='{}' class='tick' text-anchor='middle'>{}</text>\n",
        f.px(x), f.px(x), kTop, kHeight - kBottom, f.px(x), kHeight - kBottom + 16, label);
  }
  return out;
}

std::string line(const Frame& f, const Points& points, size_t index, bool markers) {
  std::string path, dots;
  const char* colour = kColours[index % std::size(kColours)];
  for (const auto& [x, y] : points) {
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", f.px(x), f.py(y));
    if (markers) dots += fmt::format("<circle cx='{:.1f}' cy='{:.1f}' r='3' fill='{}'/>", f.px(x), f.py(y), colour);
  }
  return fmt::format("<path d='{}' fill='none' stroke='{}' stroke-width='1.6' stroke-dasharray='{}'/>{}\n", path, colour,
                     kDashes[index % std::size(kDashes)], dots);
}

constexpr double kLegendLine = 16;
double legend_height(const std::vector<Series>& series) { return series.size() < 2 ? 0 : kLegendLine * static_cast<double>(series.size()); }

/// Below the chart, where no curve can cross it.
std::string legend(const std::vector<Series>& series) {
  if (series.size() < 2) return "";
  std::string out;
  for (size_t i = 0; i < series.size(); ++i) {
    const double y = kHeight + kLegendLine * static_cast<double>(i) + 8;
    out += fmt::format(
        "<line x1='{}' x2='{}' y1='{}' y2='{}' stroke='{}' stroke-width='1.6' stroke-dasharray='{}'/><text x='{}' y='{}' "
        "class='tick'>{}</text>\n",
        kLeft, kLeft + 30, y - 4, y - 4, kColours[i % std::size(kColours)], kDashes[i % std::size(kDashes)], kLeft + 36, y,
        html_escape(series[i].label));
  }
  return out;
}

}  // namespace

std::string html_escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string svg_chart(const Chart& chart) {
  Frame frame;
  std::vector<Series> series;
  std::vector<double> x_ticks;
  for (const Series& s : chart.series) {
    Points points = thinned(finite_points(s.points));
    if (points.empty()) continue;
    for (auto& [x, y] : points) {
      if (chart.x_axis == Axis::log2) x_ticks.push_back(x = std::log2(x));
      frame.x.add(x), frame.y.add(y);
    }
    series.push_back({s.label, std::move(points)});
  }
  if (frame.x.empty()) return "<p>no data for " + html_escape(chart.title) + "</p>\n";
  if (chart.y_from_zero) frame.y.add(0);
  frame.x.widen(), frame.y.widen();
  if (chart.x_axis == Axis::linear) x_ticks = ticks(frame.x, 6);
  std::sort(x_ticks.begin(), x_ticks.end());
  x_ticks.erase(std::unique(x_ticks.begin(), x_ticks.end()), x_ticks.end());
  std::string out = fmt::format("<svg viewBox='0 0 {} {}' role='img' aria-label='{}'>\n<text x='{}' y='18' class='title'>{}</text>\n",
                                kWidth, kHeight + legend_height(series), html_escape(chart.title), kLeft, html_escape(chart.title));
  out += grid(frame, chart, x_ticks);
  for (size_t i = 0; i < series.size(); ++i) out += line(frame, series[i].points, i, chart.markers);
  out += legend(series);
  out += fmt::format("<text x='{}' y='{}' class='tick' text-anchor='middle'>{}</text>\n", (kLeft + kWidth - kRight) / 2, kHeight - 8,
                     html_escape(chart.x_label));
  out += fmt::format("<text transform='translate(14 {}) rotate(-90)' class='tick' text-anchor='middle'>{}</text>\n</svg>\n", kHeight / 2,
                     html_escape(chart.y_label));
  return out;
}

}  // namespace longlora
