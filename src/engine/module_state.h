// A committed module, or one about to be: what it owns, whom it refers to, who refers to it.
//
// Owner: its library (LibraryState::modules), and handles. Fields below "under commit_mutex" are guarded by
// EngineState::commit_mutex; the rest is set before the module is published and constant from then on, but for the atomics.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/library.h>
#include <tenon/memory.h>

#include "base/aside.h"
#include "base/list.h"
#include "engine/collector.h"
#include "engine/definition.h"
#include "engine/kept_linking.h"
#include "engine/machinery.h"
#include "engine/matching.h"
#include "engine/run_blocks.h"
#include "engine/symbol_table.h"
#include "engine/tls.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace tenon {
struct ModuleOptions;
}

namespace tenon::engine {

struct LibraryState;
struct EngineState;
struct Retirement;
struct Transition;
class CodeGraph;
struct Recalls;

// Somebody whom a module refers to: another module, or a COMDAT group that lives as long as anybody shares it.
struct Dependency {
  ModuleState* module = nullptr;
  SymbolRecord* group = nullptr; // set: the reference is to this group of `module`
  const char* symbol =
      nullptr; // one of the symbols referred to; the record's, or among the user's texts: lives as long as this
};

struct InitCall {
  std::uint64_t function = 0;
  std::uint32_t priority = 65536; // pre-initializers come first: 0; then 1 + priority
};

// A pointer in a module's data to a forward symbol. It holds the address of a stub, which serves for functions, until the
// symbol is defined; then the symbol's own, unless the program has changed it.
struct ForwardPointer {
  SymbolRecord* record = nullptr;
  std::uint64_t address = 0;
  std::int64_t addend = 0;
  std::uint64_t initial = 0;
};

// A module's memory when the client provides it.
struct ClientMemory {
  Memory* memory = nullptr;
  base::List<Placement> placements;
  base::List<notify::ForeignFrames> frames;

  ClientMemory() = default;
  ClientMemory(ClientMemory&&) = default;
  ClientMemory& operator=(ClientMemory&& other) noexcept {
    std::swap(memory, other.memory);
    std::swap(placements, other.placements);
    std::swap(frames, other.frames);
    return *this;
  }
  ~ClientMemory();
};

// A module's sizes in two words, if they fit: of the bookkeeping see Version.
struct KeptUsage {
  std::uint64_t code : 28 = 0, rodata : 24 = 0, stubs : 12 = 0;
  std::uint64_t data : 24 = 0, unwind : 20 = 0, got : 10 = 0, slots : 5 = 0, tls : 5 = 0;

  KeptUsage() = default;
  explicit KeptUsage(const Usage& usage) noexcept
      : code(usage.code), rodata(usage.rodata), stubs(usage.stubs), data(usage.data), unwind(usage.unwind), got(usage.got),
        slots(usage.slots), tls(usage.tls) {}
  Usage sizes() const noexcept { return {code, rodata, data, stubs, got, slots, tls, unwind, 0}; }
  bool is(const Usage& usage) const noexcept {
    return code == usage.code && rodata == usage.rodata && stubs == usage.stubs && data == usage.data &&
           unwind == usage.unwind && got == usage.got && slots == usage.slots && tls == usage.tls;
  }
};
static_assert(sizeof(KeptUsage) == 16);

// Where a function of a version lies, for messages.
struct OwnFunction {
  std::uint64_t address = 0;
  Definition* definition = nullptr;
};

// Read-only data that code has taken along when it was moved: call frame information, jump tables.
struct MovedCopy {
  std::shared_ptr<OwnedBlock> block;  // shared with the places that the code was moved away from later
  base::List<std::uint32_t> sections; // the code that needs it
};

// Deletes what is not known here.
template <class T> struct Elsewhere {
  Elsewhere() = default;
  Elsewhere(std::default_delete<T>) noexcept {} // NOLINT: std::make_unique's
  void operator()(T* gone) const noexcept;
};

// What a version of a module that is not replaceable, and has nothing but plain code and data, does without.
struct VersionExtra {
  base::List<OwnedBlock> parts; // what is left of the blocks once trim() has freed a part; under commit_mutex
  ClientMemory client;
  std::shared_ptr<TlsBlock> tls; // shared by the modules of a change if need be; null: no thread-local variables
  std::uint64_t tls_size = 0, tls_image_size = 0;
  std::uint32_t tls_alignment = 1;
  bool strays = false;                          // calls that follow nothing any more may lead into other old code (onward.h)
  base::List<Stretch> tls_image;                // where its initial content lies
  base::List<Stretch> borrowed;                 // memory of earlier versions, or kept for them, that it goes on using
  std::uint64_t serial = 0;                     // of this content, wherever it is; 0: the module can't be replaced
  std::shared_ptr<const ModuleOptions> options; // of a module that can be replaced
  std::shared_ptr<Recalls> recalls;             // of an unloaded one: its code are trampolines

  base::List<InitCall> initializers; // sorted
  base::List<InitCall> finalizers;   // in the order to call
  // Also held by the commit that brought it while its initializers run: until then it is not freed, though another change
  // may have superseded it by now and no thread be inside yet.
  std::weak_ptr<const char> initializing;

  // Under commit_mutex.
  base::List<std::unique_ptr<char[]>> texts; // symbols of dependencies that have no record
  base::List<ForwardPointer> forward_pointers;
  base::List<SymbolRecord*> forwards;      // forward symbols that it refers to
  base::List<Use> uses;                    // of definitions that may be replaced
  base::List<std::uint64_t> sites;         // what `uses` point into
  base::List<Anonymous> anonymous;         // read-only data without names
  base::List<OwnFunction> functions;       // sorted by address
  base::List<std::uint64_t> escaped_parts; // of functions, to which there are pointers: they may be called at any time
  std::unique_ptr<CodeGraph, Elsewhere<CodeGraph>> graph; // made when single functions of it are first replaced
  base::List<MovedCopy> copies;
  std::uint64_t moves = 0;           // how often code of it was moved
  std::unique_ptr<DebugNames> debug; // what debug information says of it; null: nothing
  std::unique_ptr<Usage> usage;      // its sizes if they don't fit KeptUsage
};

// One linked incarnation of a module. When a module is replaced, the new version's content and the old one's are exchanged:
// the ModuleState stays what everybody refers to.
class Version {
public:
  // Memory. Destroyed in the reverse order: first the TLS key, then client memory, blocks last.
  RunBlocks blocks;

private:
  base::Aside<VersionExtra> extra_;

public:
  KeptLinking linking;

  // Under commit_mutex.
  base::List<Dependency> dependencies;
  base::List<SymbolRecord*> groups; // COMDAT groups that it provides or shares

private:
  KeptUsage usage_;
  std::uint32_t bookkeeping_ = 0; // in steps of 64 KiB from 2 GiB on
public:
  bool opaque = false; // ModuleOptions::opaque

  KeptPlaces places() const noexcept { return linking.places(); }
  KeptBindings bindings() const noexcept { return linking.bindings(); } // of each symbol, for relinking
  KeptRelocations relocations() const noexcept { return linking.relocations(); }

  Usage usage() const noexcept;
  void set_usage(const Usage& usage); // but for the bookkeeping; may throw std::bad_alloc
  std::uint64_t bookkeeping() const noexcept {
    return (bookkeeping_ & coarse) == 0 ? bookkeeping_ : std::uint64_t(bookkeeping_ & ~coarse) << 16;
  }
  void set_bookkeeping(std::uint64_t size) noexcept {
    bookkeeping_ = size < coarse ? std::uint32_t(size) : coarse | std::uint32_t((size + 0xFFFF) >> 16);
  }

  // Where there may be none it is only read, or make_extra() comes first, which may throw std::bad_alloc.
  const VersionExtra& extra() const noexcept { return extra_.get(); }
  VersionExtra& extra() noexcept { return extra_.get(); }
  VersionExtra& make_extra() { return extra_.make(); }
  bool has_extra() const noexcept { return extra_.made(); }

private:
  static constexpr std::uint32_t coarse = std::uint32_t(1) << 31;
};

// Whose records these are, and records of symbols one after another.
using RecordChunk = base::List<std::byte>;

// Ends what ~ModuleState begins: a module's pieces go back to the pool together.
struct EndOfGathering {
  ~EndOfGathering() { base::pool::end_gathering(); }
};

// What a module that is not replaceable, and lives on, does without.
struct ModuleRare {
  base::List<RecordChunk> more_records; // of names that later versions have brought
  std::uint64_t dso_handle = 0;

  // Under commit_mutex.
  base::List<SymbolRecord*> filled; // forward symbols that others had declared and it defines
  std::uint64_t moved_of = 0;       // the serial of the Version whose code was here before it was moved; 0: none
  std::unique_ptr<Transition, Elsewhere<Transition>> transition; // whose switches it has
  std::shared_ptr<ModuleState> current;                          // of a superseded one: the module
  ModuleState* fragment_of = nullptr;                            // of a fragment: its module, which has it
  base::List<Stretch> stale;              // no version of its own: code of functions that were replaced singly
  base::List<Stretch> freeable;           // of that, what no other section has a part in
  std::uint64_t stale_of = 0;             // the serial of the Version in whose memory that lies; 0: not such a one
  std::shared_ptr<Retirement> retirement; // of a waiting one; shared by those that wait for each other
};

// What a sweep finds out about a module. Under commit_mutex.
class Swept {
public:
  void needed_by(std::uint64_t sweep) noexcept { set(sweep, Found::needed); }
  void needed_whole_by(std::uint64_t sweep) noexcept { set(sweep, Found::needed_whole); } // not for its COMDAT groups only
  void doomed_by(std::uint64_t sweep) noexcept { set(sweep, Found::doomed); }             // which frees it
  bool is_needed_by(std::uint64_t sweep) const noexcept { return number_ == sweep && found_ != Found::doomed; }
  bool is_needed_whole_by(std::uint64_t sweep) const noexcept { return number_ == sweep && found_ == Found::needed_whole; }
  bool is_doomed_by(std::uint64_t sweep) const noexcept { return number_ == sweep && found_ == Found::doomed; }

private:
  enum class Found : std::uint64_t { needed, needed_whole, doomed };
  void set(std::uint64_t sweep, Found found) noexcept {
    number_ = sweep & ~std::uint64_t(0) >> 2;
    found_ = found;
  }

  std::uint64_t number_ : 62 = 0; // 0: none
  Found found_ : 2 = Found::needed;
};

// Bases in this order: what Version leaves of its last word is used.
struct ModuleState : EndOfGathering, std::enable_shared_from_this<ModuleState>, Version {
  bool removed = false;          // in EngineState::removed; this and the next ones under commit_mutex
  bool finalizing = false;       // removed, and its finalizers may still run
  bool remnant = false;          // removed, but others share its COMDAT groups
  bool superseded = false;       // not a module but an earlier version of one, in EngineState::removed
  bool held = false;             // superseded, and stays: pointers to functions of it may be anywhere
  bool holds_references = false; // superseded, and counts in Collectable::outside until it is freed
  bool auxiliary = false;        // in EngineState::removed, but not a module: a version, or switches
  bool in_transition = false;    // an atomic commit is not over: it can still be entered
  bool waiting = false;          // removed or superseded, and threads may still be inside
  bool ending = false;           // scratch of finalize_all
  std::atomic<bool> live{false}; // published and not removed
  std::atomic<bool> has_exit_handlers{false};
  std::atomic<bool> has_thread_exits{false}; // there were destructors of thread-local variables: see pins
  std::atomic<bool> initialized{false};

  std::atomic<std::uint32_t> pins{0}; // handles, pending thread exits and released code that need its memory
  std::uint32_t codes = 0;            // released code that needs it, under endings(): its finalizers run after the last

  // Under commit_mutex.
  std::uint32_t users = 0;       // dependencies on it, other than through groups, of modules that are not removed
  std::uint32_t index = 0;       // in its library
  std::uint32_t trimmed_for = 0; // how many of its COMDAT groups were shared when trim() last looked; 0: never

  std::string name;
  std::uint64_t sequence = 0; // order of commits
  std::weak_ptr<LibraryState> library;
  RecordChunk records; // what it defines

  // Under commit_mutex.
  std::unique_ptr<Replaceable> replaceable; // null: can't be replaced
  Swept swept;                              // what the last sweep found that has looked at it, if it is removed
  std::uint64_t onward_by = 0;              // number of the last Onward that has reached it
  ModuleState* next_reached = nullptr;      // scratch of either: there is one walk at a time
  std::unique_ptr<Collectable> collectable; // constant; null: it lives until it is removed

  ModuleState();
  ~ModuleState();

  template <class Visit> void for_each_record(Visit&& visit) const {
    visit_records(records, visit);
    for (const RecordChunk& chunk : rare().more_records) visit_records(chunk, visit);
  }

  // Goes on at the record where it ended, and ends when visit() returns false. False: there are more.
  template <class Visit> bool visit_records_from(RecordPosition& from, Visit&& visit) const {
    for (; from.chunk <= rare().more_records.size(); ++from.chunk, from.at = 0) {
      const RecordChunk& chunk = from.chunk != 0 ? rare().more_records[from.chunk - 1] : records;
      from.at = std::max(from.at, SymbolRecord::chunk_head);
      while (from.at < chunk.size()) {
        SymbolRecord* record = record_at(chunk, from.at);
        from.at += record->bytes();
        if (!visit(*record)) return false;
      }
    }
    return true;
  }

  // As extra(): where there may be none it is only read, or make_rare() comes first.
  const ModuleRare& rare() const noexcept { return rare_.get(); }
  ModuleRare& rare() noexcept { return rare_.get(); }
  ModuleRare& make_rare() { return rare_.make(); }
  bool has_rare() const noexcept { return rare_.made(); }

  std::uint64_t tls_key() const noexcept { return extra().tls != nullptr ? extra().tls->key.value() : 0; }

  // The name of the function that the address is in, if it has one that is known. Under commit_mutex.
  std::string function_at(Addr address) const;

  // Gives its memory back; what is known of it stays.
  void release_memory() noexcept;

private:
  // Records change where the module that has them does not.
  static SymbolRecord* record_at(const RecordChunk& chunk, std::size_t at) noexcept {
    return reinterpret_cast<SymbolRecord*>(const_cast<std::byte*>(chunk.data()) + at);
  }
  template <class Visit> static void visit_records(const RecordChunk& chunk, Visit& visit) {
    for (std::size_t at = SymbolRecord::chunk_head; at < chunk.size();) {
      SymbolRecord* record = record_at(chunk, at);
      at += record->bytes();
      visit(*record);
    }
  }

  base::Aside<ModuleRare> rare_;
};

// In memory of the pool. May throw std::bad_alloc.
std::shared_ptr<ModuleState> make_state();
// The same for a replaceable module, or what stands for a version of one: with all that few have.
std::shared_ptr<ModuleState> make_full_state();

// Calls visit(ModuleState&) for the module, and for its fragments: whatever has a Version of its own.
template <class State, class Visit> void for_each_holder(State& module, Visit&& visit) {
  visit(module);
  if (module.replaceable == nullptr) return;
  for (const std::shared_ptr<ModuleState>& fragment : module.replaceable->fragments) visit(static_cast<State&>(*fragment));
}

// Runs, as at the end of a program made of these modules, what they registered with atexit, then the finalizers of those
// that were initialized: high priority numbers first, then the last module first. `modules` in the order of commits. Once
// for each module; no lock is held.
void finalize_all(std::span<const std::shared_ptr<ModuleState>> modules) noexcept;

// Who ends a module that released code needs is settled once: the engine at its end, or else the last such code.
// Process-wide, because either outlives the other; inside of all the engine's locks.
std::mutex& endings() noexcept;

// Keeps a module's memory, and its engine if there is one still, while somebody may call into it.
class Pin {
public:
  Pin(std::shared_ptr<EngineState> engine, std::shared_ptr<ModuleState> module) noexcept;
  ~Pin();
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;

private:
  std::shared_ptr<EngineState> engine_;
  std::shared_ptr<ModuleState> module_;
};

// What the slot of a symbol holds that nobody has defined: ends the program with a message.
std::uint64_t unresolved_function() noexcept;

// Written at a module's __dso_handle, so that functions that are handed one find the module.
inline constexpr std::uint64_t dso_handle_magic = 0x5454'454e'4f4e'4453;

// The module of a __dso_handle, or null if it is not one of ours.
ModuleState* module_of_dso_handle(const void* dso_handle) noexcept;

} // namespace tenon::engine
