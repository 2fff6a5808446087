#pragma once
// Line charts as inline SVG: readable in black and white (lines differ by dash), no script, no external file.
#include <string>
#include <vector>

namespace longlora {

struct Series {
  std::string label;
  std::vector<std::pair<double, double>> points;
};

enum class Axis { linear, log2 };

struct Chart {
  std::string title, x_label, y_label;
  std::vector<Series> series;
  Axis x_axis = Axis::linear;
  bool y_from_zero = false, markers = false;
};

/// <svg> of 640 x 300, with a legend below from two series on; series without finite points are left out; more than 1,000 points are
/// thinned by buckets (mean).
std::string svg_chart(const Chart&);
std::string html_escape(std::string_view);

}  // namespace longlora
