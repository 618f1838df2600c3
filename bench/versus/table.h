// Rows as a table for people, or as one JSON object per line.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "cases.h"

#include <cstdio>
#include <string>
#include <vector>

namespace versus {

// {"case":"link/sqlite","unit":"ms","tenon":0.81,"floor":0.42,...}: medians.
std::string json_line(const Row& row);

// The medians of rows with the same unit side by side, the ratios that the goals speak of, then each row's spread.
void print_tables(std::FILE* out, const std::vector<Row>& rows);

} // namespace versus
