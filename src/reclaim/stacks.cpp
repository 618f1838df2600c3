// Looking at threads from outside.
//
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "reclaim/stacks.h"

#include "base/check.h"

#include <algorithm>

namespace tenon::reclaim {
namespace {

constexpr std::uint64_t red_zone = 128;

} // namespace

const char* to_string(Why why) noexcept {
  switch (why) {
  case Why::none: break;
  case Why::running: return "running, can't be looked at";
  case Why::moved: return "moved while it was looked at";
  case Why::unreadable: return "its stack can't be read";
  }
  return "";
}

bool Look::inside(std::size_t range) const noexcept {
  return std::any_of(hits.begin(), hits.end(), [range](const Hit& hit) { return hit.range == range; });
}

Stacks::Stacks() { join_forks(); }
Stacks::~Stacks() { leave_forks(); }

void Stacks::declare_stack(Addr begin, Addr end) {
  TENON_CHECK(begin < end, "a stack must not be empty");
  const std::lock_guard lock(mutex_);
  declared_.push_back({begin, end});
}

void Stacks::undeclare_stack(Addr begin) {
  const std::lock_guard lock(mutex_);
  const auto found =
      std::find_if(declared_.begin(), declared_.end(), [begin](const Range& stack) { return stack.begin == begin; });
  TENON_CHECK(found != declared_.end(), "a stack is undeclared that was not declared");
  *found = declared_.back();
  declared_.pop_back();
}

Result<Round> Round::begin(Stacks& stacks, const RangeSet& ranges) {
  Result<TaskFolder> tasks = TaskFolder::open();
  if (!tasks.ok()) return std::move(tasks).error();
  std::vector<Range> declared;
  {
    const std::lock_guard lock(stacks.mutex_);
    declared = stacks.declared_;
  }
  return Round(std::move(*tasks), ranges, std::move(declared));
}

bool Round::scan(Scan& scan, std::uint64_t sp, Home home) {
  const auto on = std::find_if(declared_.begin(), declared_.end(),
                               [sp](const Range& stack) { return sp >= stack.begin.value && sp < stack.end.value; });
  switch (scan.stack(sp, home, on == declared_.end() ? 0 : on->end.value)) {
  case Scan::Outcome::unreadable: return false;
  case Scan::Outcome::complete:
    // A thread without a known home on a declared stack: its own frames are somewhere else.
    return home.end != 0 || on == declared_.end();
  case Scan::Outcome::home_unseen: break;
  }
  // It runs on another stack. Where it left its own is not known, so that is read as a whole.
  const std::optional<Range> mapping = mapping_of(home.end - 8);
  if (!mapping) return false;
  scan.whole(mapping->begin.value, home.end);
  return true;
}

Look Round::result(pid_t tid) const {
  Look look;
  look.tid = tid;
  if (workspace_.in_transit()) {
    look.why = Why::running;
    return look;
  }
  look.hits.assign(workspace_.hits().begin(), workspace_.hits().end());
  look.state = look.hits.empty() ? State::clear : State::inside;
  return look;
}

Look Round::look_at(pid_t tid) {
  using Activity = TaskFolder::Activity;
  // 1. the count, 2. the registers, 3. the stack, 4. the count again: had it been put on a processor after 2, it would have
  // been counted. Where only departures are counted, it must in addition be seen blocked, at the same place, before 4.
  const TaskFolder::Movement before = tasks_.movement(tid);
  const TaskFolder::Standing standing = tasks_.standing(tid);
  switch (standing.activity) {
  case Activity::ended: return {tid, State::clear, Why::none, {}};
  case Activity::running: return {tid, State::unknown, Why::running, {}};
  case Activity::unreadable: return {tid, State::unknown, Why::unreadable, {}};
  case Activity::blocked: break;
  }
  if (!before.known) return {tid, State::unknown, Why::unreadable, {}};

  workspace_.clear();
  Scan scan(ranges_, workspace_);
  scan.pc(standing.registers.pc);
  for (const std::uint64_t argument : standing.arguments) scan.word(argument);
  const std::uint64_t sp = (standing.registers.sp - (standing.in_call ? 0 : red_zone)) & ~std::uint64_t(7);
  const bool whole = this->scan(scan, sp, home_of(tid));

  const bool same_place = before.arrivals || tasks_.standing(tid) == standing;
  const TaskFolder::Movement after = tasks_.movement(tid);
  if (!same_place || after != before) {
    const bool ended = !after.known && tasks_.standing(tid).activity == Activity::ended;
    return ended ? Look{tid, State::clear, Why::none, {}} : Look{tid, State::unknown, Why::moved, {}};
  }
  if (!whole) return {tid, State::unknown, Why::unreadable, {}};
  return result(tid);
}

Look Round::look_at_own(std::uint64_t from) {
  workspace_.clear();
  Scan scan(ranges_, workspace_);
  const std::uint64_t sp = from != 0 ? from : reinterpret_cast<std::uint64_t>(__builtin_frame_address(0));
  const pid_t tid = own_tid();
  if (!this->scan(scan, sp & ~std::uint64_t(7), home_of(tid))) return {tid, State::unknown, Why::unreadable, {}};
  return result(tid);
}

Look Round::look_at_declared() {
  workspace_.clear();
  Scan scan(ranges_, workspace_);
  for (const Range& stack : declared_) scan.whole(stack.begin.value, stack.end.value);
  return result(0);
}

} // namespace tenon::reclaim
