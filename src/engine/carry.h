// Between the passes that find out what a new version has in common with those before: variables (carry.cpp) and constants
// (unify.cpp), section by section.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/change_state.h"

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace tenon::engine {

// The named objects of each section, in the order of sections.
struct Member {
  std::uint32_t section = 0;
  std::uint32_t symbol = 0;
};

std::vector<Member> members_of(const link::Module& module, link::Run run);

template <class Visit> Result<void> for_each_section(std::span<const Member> members, Visit&& visit) {
  for (std::size_t begin = 0, end = 0; begin < members.size(); begin = end) {
    while (end < members.size() && members[end].section == members[begin].section) ++end;
    if (Result<void> done = visit(members.subspan(begin, end - begin)); !done) return done;
  }
  return {};
}

// Where the section of such objects may be the storage of an earlier version: where the one before had it, or, if that
// lacks it, where one before that did. Under EngineState::commit_mutex.
std::vector<Storage> earlier_storages(const ChangeState& change, std::uint32_t module, std::span<const Member> section,
                                      DefinitionKind kind);

// That storage stands for the section, which is not placed.
void carry(ChangeState& change, std::uint32_t module, std::uint32_t section, std::uint64_t address, std::uint64_t size);

// Writable sections with pointers into functions, as a table of labels has them for a computed goto (`static void* table[] =
// {&&a, &&b}`): they are of the version that they lead into, and of no use to another.
class LabelTables {
public:
  explicit LabelTables(const link::Module& module) : module_(module) {}
  bool is(std::uint32_t section); // may throw std::bad_alloc

private:
  bool begins_function(std::uint32_t section, std::uint64_t offset);

  const link::Module& module_;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> functions_; // where they begin, sorted; once it is asked for
};

} // namespace tenon::engine
