// What the bodies of COMDAT groups are like, for telling clients of replaceable modules that theirs is not what is called.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

namespace tenon {
struct Group;
}
namespace tenon::link {
struct Module;
}

namespace tenon::engine {

struct ChangeState;

// A module's own copy of a group that another one provides, and that one's: as they were when they were taken to agree.
struct SharedBody {
  std::uint64_t own = 0, provided = 0;
};
using SharedBodies = std::unordered_map<std::string, SharedBody>;

// A hash of the group's sections, with what they refer to by name.
std::uint64_t content_of_group(const link::Module& module, const Group& group);
// Once the groups of a module are chosen: Replacement::shared_bodies of published groups; ChangeState::warnings. Takes
// EngineState::commit_mutex and tables.
void compare_groups(ChangeState& change, std::uint32_t module);
// Before the commit: those of groups that another module of the change provides.
void note_shared_bodies(ChangeState& change);

} // namespace tenon::engine
