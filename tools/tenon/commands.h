// The subcommands. Each declares its options on its part of the parser and returns what runs it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace tenon::cli {

using Command = std::function<int()>;

// `arguments` are those behind "--": the program's own.
Command declare_run(CLI::App& parser, const std::vector<std::string>& arguments);
Command declare_live(CLI::App& parser, const std::vector<std::string>& arguments);
Command declare_link(CLI::App& parser);
Command declare_inspect(CLI::App& parser);

} // namespace tenon::cli
