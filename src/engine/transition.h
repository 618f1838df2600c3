// An atomic commit: a set of functions whose new versions become visible together.
//
// What a thread sees is decided once for each of its entries (Border::Entry): one that began before the commit sees the old
// versions of all functions of the set for as long as it lasts, one that begins after it the new ones. Nobody waits. It
// works by switches, small pieces of code that take the place of the functions while entries of both kinds are under way:
//
//     1. every slot and call site of the set leads to its function's switch, which leads to the old version
//     2. membarrier: no thread executes an instruction any more that was fetched before (1)
//     3. the new epoch's number is announced to the switches, then published: entries of this epoch see the new versions
//     4. (later) when no entry of an earlier epoch is left, slots and sites lead to the new versions; the switches are freed
//        when no thread can be inside of them
//
// Between (1) and (3) all threads see old versions, through switches or not, and from (3) on each thread sees one kind, so
// no entry ever meets both. Calls inside the old set, and inside the new one, do not go through switches.
//
// Owner: EngineState::transitions. Lock: commit_mutex; switches read Choice and Transition without one.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/border.h>

#include "engine/definition.h"
#include "reclaim/borders.h"

#include <atomic>
#include <memory>
#include <vector>

namespace tenon::engine {

struct ChangeState;
struct EngineState;
struct Retirement;
struct Transition;

// Read by tenon_choose_version, in this layout.
struct Choice {
  std::atomic<std::uint64_t> before{0};
  std::atomic<std::uint64_t> after{0};
  Transition* transition = nullptr;
  Definition* definition = nullptr;
  std::uint64_t switch_address = 0;
  Definition* led_to = nullptr; // where it was led before the set brought it back: counted in Definition::awaited
};

struct Transition {
  static constexpr std::uint64_t not_announced = ~std::uint64_t(0);

  // The first two are read by tenon_choose_version.
  std::atomic<std::uint64_t> epoch{not_announced};
  const reclaim::Borders* borders = nullptr;
  std::vector<Choice> choices;                          // never grows once switches lead to them
  std::shared_ptr<ModuleState> memory;                  // of the switches; retired when the transition is over
  std::vector<std::shared_ptr<ModuleState>> superseded; // versions that wait for the transition before they retire
  std::shared_ptr<Retirement> retirement;               // theirs: as they call each other, they retire as one
  std::vector<Definition*> vanished;                    // functions that only entries of before may still call
};

// Makes the switches for the functions that the change replaces. May throw std::bad_alloc. Errors: exhausted, system.
Result<std::unique_ptr<Transition>> make_transition(ChangeState& change);

// Steps 1 to 3, under commit_mutex, after the new versions have been exchanged for the old ones.
void begin_transition(EngineState& engine, std::unique_ptr<Transition> transition) noexcept;

// Step 4 for those that can be finished. True: some are left. The caller holds no lock.
bool finish_transitions(EngineState& engine) noexcept;
// Who is still inside by an entry of before, for each version of the old sets. Under commit_mutex. May throw std::bad_alloc.
void describe_transitions(const EngineState& engine, std::vector<Delay>& delays);

// A switch has led this thread to a trampoline, for the set that it sees has the function in no other version: the one that
// came with the first set after it, which later ones don't change for the thread. 0: the function's stub does not lead it
// back there. Under commit_mutex.
std::uint64_t version_after(const EngineState& engine, const Definition& definition, std::uint64_t trampoline) noexcept;

// Whether `from` is `to`, or a switch of a set that is being exchanged and may lead there. Under commit_mutex.
bool may_lead_to(const EngineState& engine, std::uint64_t from, std::uint64_t to) noexcept;

// The page that the switches' choice is made in is there, for threads that may not wait for it.
void touch_choose_version() noexcept;

// The borders that the current thread has registered at, for switches.
struct ThreadBorder {
  ThreadBorder* next = nullptr;
  const reclaim::Borders* borders = nullptr;
  const std::atomic<std::uint64_t>* state = nullptr;
};
void add_thread_border(ThreadBorder& border) noexcept;
void remove_thread_border(ThreadBorder& border) noexcept;

} // namespace tenon::engine
