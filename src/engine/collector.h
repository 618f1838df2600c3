// Collecting modules of libraries that were made with LibraryOptions::collected: those that nobody can reach go, cycles too.
//
// Marking in small steps, while other threads go on. Roots are modules that a counted handle pins, or that something refers
// to which is not collected itself (Collectable::outside). A cycle of collection has a number; a module is marked by it.
// What makes new references marks what they lead to, under the same locks as the look-up that found it: a handle that is
// taken, a commit. So when nothing is left to look at, whatever bears an older number is unreachable, and stays so, because
// one store under EngineState::tables (Collection::dead_below) hides all of it from look-ups at once. Only then do the dead
// modules leave their libraries, again in steps: nobody can find one half while the other is gone. A step need not end with
// a module: names that are hidden may leave the tables one by one. Who defines such a name meanwhile takes out the dead one.
//
//     begin       a new number: all modules are unmarked
//     mark        modules that are roots, then what they refer to
//     (flip)      nothing is left: unmarked ones are dead from here on
//     unpublish   dead modules leave the tables, name by name, then their libraries; each counts as being finalized until
//     all
//                 have left
//     end         finalizers, in the reverse order of commits, without a lock; then the memory waits for threads, as that of
//                 any removed module does
//
// No step needs memory: what the removal of a module takes is made with the module.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>

namespace tenon::engine {

struct EngineState;
struct ModuleState;
class SymbolRecord;

// Among a module's records, in the order in which they were made.
struct RecordPosition {
  std::size_t chunk = 0, at = 0;
};

// The collector's part of a module.
struct Collectable {
  std::atomic<std::uint64_t> marked{0}; // number of the last cycle that has reached it
  // Under commit_mutex.
  std::uint32_t outside = 0; // references of modules that are not collected, or that are being finalized
  ModuleState* newer = nullptr;
  ModuleState* older = nullptr;
  std::list<std::shared_ptr<ModuleState>> entry; // a null one: its place in EngineState::removed
  RecordPosition unpublished;                    // of a dead one: names before it are out of the tables

  ModuleState* next = nullptr;       // of those that are to be looked at, or of the dead
  std::shared_ptr<ModuleState> self; // of one that is to be looked at: a client may remove it meanwhile
};

struct Collection {
  enum class Phase : unsigned char { idle, mark, unpublish };

  std::mutex mutex; // one thread collects at a time; outside of all the engine's locks, no client code runs under it
  std::atomic<bool> wanted{false};

  // Under EngineState::tables, to change them under commit_mutex too.
  std::uint64_t cycle = 1;
  std::uint64_t dead_below = 0; // modules marked by an older cycle than this are dead
  // Pushed to under `tables`, shared or not; taken from under commit_mutex, as a whole.
  std::atomic<ModuleState*> reached{nullptr};

  // Under commit_mutex.
  Phase phase = Phase::idle;
  ModuleState* newest = nullptr;  // all published modules that are collected
  ModuleState* cursor = nullptr;  // among them: the next one to be looked at
  ModuleState* pending = nullptr; // reached, to be looked at
  ModuleState* dead = nullptr;    // unpublished by this cycle, in the reverse order of commits
  ModuleState* last_dead = nullptr;

  ~Collection();
};

// Whether a module is only waiting to be unpublished. Under tables or commit_mutex.
bool is_dead(const Collection& collection, const ModuleState& module) noexcept;
// Whether a record stands for nothing any more.
bool is_gone(const Collection& collection, const SymbolRecord& record) noexcept;

// There is a new reference to the module. Under tables, shared or not.
void reach(Collection& collection, ModuleState& module) noexcept;
// All that the module refers to. Under commit_mutex and tables.
void reach_references(Collection& collection, const ModuleState& module) noexcept;

// What counts from outside: references of modules that are not collected. Under commit_mutex and tables.
void hold_references(Collection& collection, const ModuleState& module) noexcept;
// Under commit_mutex.
void release_references(Collection& collection, const ModuleState& module) noexcept;
// A version has been superseded, and `held` is settled: whoever is inside, or may yet come in, calls what it refers to. So
// that counts from outside until the version is freed; versions that a collected module holds count as its own code instead,
// since the module may be part of a cycle. Under commit_mutex and tables, and under commit_mutex.
void keep_references(Collection& collection, ModuleState& version) noexcept;
void let_go_references(Collection& collection, ModuleState& version) noexcept;

// A module, marked, is published, or leaves. Under commit_mutex and, to publish it, tables.
void enlist(Collection& collection, ModuleState& module) noexcept;
void delist(Collection& collection, ModuleState& module) noexcept;

// Something may have become unreachable: the engine's own thread is to look.
void want_collection(EngineState& engine) noexcept;

// One cycle. Runs finalizers; the caller holds no lock. True: something was dead.
bool collect_unreferenced(EngineState& engine) noexcept;
// After a removal has failed: true if those that refer to the modules may have been dead. They are gone now: once more.
bool collect_users(EngineState& engine, const Error& why) noexcept;

} // namespace tenon::engine
