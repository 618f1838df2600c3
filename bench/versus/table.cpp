// Formats rows. Names of cases and figures are our own and need no escaping in JSON.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "table.h"

#include <algorithm>

namespace versus {
namespace {

const Figure* find(const Row& row, const std::string& name) {
  for (const Figure& figure : row.figures)
    if (figure.name == name) return &figure;
  return nullptr;
}

std::string number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// Three significant digits, without an exponent, for columns that people compare.
std::string rounded(double value) {
  double size = value < 0 ? -value : value;
  return number(size < 1 ? "%.3f" : size < 10 ? "%.2f" : size < 100 ? "%.1f" : "%.0f", value);
}

struct Ratio {
  const char* title;
  const char* of;
  const char* to;
};

constexpr Ratio ratios[] = {
    {"tenon/floor", "tenon", "floor"},     {"tenon/floor_warm", "tenon", "floor_warm"},
    {"jitlink/tenon", "jitlink", "tenon"}, {"orc/tenon", "orc", "tenon"},
    {"rtdyld/tenon", "rtdyld", "tenon"},   {"orc_rtdyld/tenon", "orc_rtdyld", "tenon"},
    {"jitlink/floor", "jitlink", "floor"}, {"orc/floor", "orc", "floor"},
};

using Lines = std::vector<std::vector<std::string>>;

// The first column to the left, the others to the right.
void print_aligned(std::FILE* out, const Lines& lines) {
  std::vector<std::size_t> width;
  for (const auto& line : lines) {
    width.resize(std::max(width.size(), line.size()), 0);
    for (std::size_t i = 0; i < line.size(); ++i) width[i] = std::max(width[i], line[i].size());
  }
  for (const auto& line : lines) {
    for (std::size_t i = 0; i < line.size(); ++i)
      std::fprintf(out, i == 0 ? "%-*s" : "  %*s", static_cast<int>(width[i]), line[i].c_str());
    std::fputc('\n', out);
  }
}

void print_medians(std::FILE* out, const std::vector<const Row*>& rows) {
  std::vector<std::string> names;
  for (const Row* row : rows)
    for (const Figure& figure : row->figures)
      if (figure.unit.empty() && std::find(names.begin(), names.end(), figure.name) == names.end())
        names.push_back(figure.name);
  Lines lines{{"median " + rows.front()->unit}};
  lines[0].insert(lines[0].end(), names.begin(), names.end());
  for (const Row* row : rows) {
    lines.push_back({row->case_name});
    for (const std::string& name : names) {
      const Figure* figure = find(*row, name);
      lines.back().push_back(figure != nullptr ? rounded(figure->samples.median()) : "-");
    }
  }
  print_aligned(out, lines);
  std::fputc('\n', out);
}

void print_ratios(std::FILE* out, const std::vector<const Row*>& rows) {
  Lines lines{{"ratio"}};
  for (const Row* row : rows) lines.push_back({row->case_name});
  for (const Ratio& ratio : ratios) {
    std::vector<std::string> column;
    bool any = false;
    for (const Row* row : rows) {
      const Figure* of = find(*row, ratio.of);
      const Figure* to = find(*row, ratio.to);
      bool both = of != nullptr && to != nullptr && to->samples.median() > 0;
      any = any || both;
      column.push_back(both ? rounded(of->samples.median() / to->samples.median()) : "-");
    }
    if (!any) continue;
    lines[0].push_back(ratio.title);
    for (std::size_t i = 0; i < column.size(); ++i) lines[i + 1].push_back(column[i]);
  }
  if (lines[0].size() == 1) return;
  print_aligned(out, lines);
  std::fputc('\n', out);
}

void print_spread(std::FILE* out, const Row& row) {
  if (!row.note.empty()) std::fprintf(out, "%s: %s\n", row.case_name.c_str(), row.note.c_str());
  Lines lines{{"  " + row.unit, "rounds", "min", "p25", "median", "p75", "max", "removal"}};
  for (const Figure& figure : row.figures) {
    const Samples& samples = figure.samples;
    const std::string unit = figure.unit.empty() ? "" : " (" + figure.unit + ")";
    lines.push_back({"  " + figure.name + unit, std::to_string(samples.size())});
    for (double q : {0.0, 0.25, 0.5, 0.75, 1.0}) lines.back().push_back(rounded(samples.quantile(q)));
    lines.back().push_back(figure.removal.empty() ? "-" : rounded(figure.removal.median()));
  }
  print_aligned(out, lines);
  std::fputc('\n', out);
}

} // namespace

std::string json_line(const Row& row) {
  std::string line = "{\"case\":\"" + row.case_name + "\",\"unit\":\"" + row.unit + "\"";
  for (const Figure& figure : row.figures) line += ",\"" + figure.name + "\":" + number("%.6g", figure.samples.median());
  return line + "}";
}

void print_tables(std::FILE* out, const std::vector<Row>& rows) {
  std::vector<std::string> units;
  for (const Row& row : rows)
    if (!row.figures.empty() && std::find(units.begin(), units.end(), row.unit) == units.end()) units.push_back(row.unit);
  for (const std::string& unit : units) {
    std::vector<const Row*> group;
    for (const Row& row : rows)
      if (row.unit == unit && !row.figures.empty()) group.push_back(&row);
    print_medians(out, group);
    print_ratios(out, group);
  }
  for (const Row& row : rows)
    if (!row.figures.empty()) print_spread(out, row);
}

} // namespace versus
