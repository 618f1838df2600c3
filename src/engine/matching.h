// Which variable of the version before a variable is, where names don't tell: a compiler has numbered it, or there are
// several of its name. Then debug information does, which says in which function each is declared. And what debug
// information says of functions: callers that are not replaced pass what the version before took.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::engine {

struct ChangeState;
struct Definition;
struct ModuleDraft;
enum class DefinitionKind : std::uint8_t;

// A local variable of a version, by its debug information; see object::DebugVariable.
struct KnownVariable {
  const Definition* definition = nullptr;
  std::string symbol; // its name in this version, where the definition has another
  std::string path, place;
  std::uint64_t piece = 0, piece_size = 0;
  bool alone = false;
};

// What is kept of a version's debug information.
struct DebugNames {
  struct Signature {
    const Definition* function = nullptr;
    std::uint32_t begin = 0, size = 0; // in `texts`
  };

  bool several_units = false;
  std::vector<KnownVariable> variables; // by definition
  std::vector<Signature> signatures;    // by definition
  std::string texts;                    // each signature once

  const KnownVariable* variable(const Definition* definition) const noexcept;
  std::string_view signature(const Definition* function) const noexcept; // empty: not known
};

// Once its sections are selected: reads the debug information of a module that can be replaced.
void read_debug_info(ChangeState& change, std::uint32_t module);
// Under EngineState::commit_mutex: fills Replacement::matched. Errors: needs_flag (a variable can't be told from others).
Result<void> match_variables(ChangeState& change, std::uint32_t module);
// Under EngineState::commit_mutex: ChangeState::warnings.
void compare_signatures(ChangeState& change, std::uint32_t module);
// Likewise: of lambdas that modules may share, which go by name and so by number.
void compare_shared_closures(ChangeState& change, std::uint32_t module);
// What the version before has for a variable or constant of the module, or null. `vanished_too`: or one before that had.
// Under EngineState::commit_mutex.
Definition* earlier_variable(const ChangeState& change, std::uint32_t module, std::uint32_t symbol, DefinitionKind kind,
                             bool vanished_too = false);
// What a later version will want to know.
void note_debug_names(ChangeState& change, std::uint32_t module);

} // namespace tenon::engine
