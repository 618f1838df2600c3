// Options on input files, which `run` and `link` share.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "inputs.h"

namespace CLI {
class App;
}

namespace tenon::cli {

void declare_input_options(CLI::App& parser, InputOptions& inputs, const char* file_help);

} // namespace tenon::cli
