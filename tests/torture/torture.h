// The torture program: threads that run linked code in every way, and threads that change it meanwhile.
//
// What each thread does is a list of operations drawn from a table by weight (callers.cpp, changers.cpp; an operation is
// added there by a line and a function). The n-th operation of a thread and all choices in it follow from the seed, the
// thread and n, so a run's seed replays what each thread does; how the threads meet it can't replay.
//
// How values are judged: each version of a module has a serial number, which its functions load as immediates and return.
// Before a version is committed its number is stored as the module's newest, after it as the oldest that a call that begins
// then may see. A caller reads the oldest before a call and the newest after it. Versions that are dropped carry a mark in
// theirs.
//
// Under ThreadSanitizer linked code is not instrumented: what it reads and writes is not seen, and what it orders neither.
// The host therefore judges what linked code has stored only in memory of the calling thread. No signals are used there,
// because TSan delivers them at calls of the C library only.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/engine_support.h"
#include "torture/inputs/interface.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#define TENON_THREAD_SANITIZER
#elif defined(__SANITIZE_ADDRESS__)
#define TENON_ADDRESS_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TENON_THREAD_SANITIZER
#elif __has_feature(address_sanitizer)
#define TENON_ADDRESS_SANITIZER
#endif
#endif

namespace torture {

#ifdef TENON_THREAD_SANITIZER
inline constexpr bool thread_sanitized = true, sanitized = true;
#elif defined(TENON_ADDRESS_SANITIZER)
inline constexpr bool thread_sanitized = false, sanitized = true;
#else
inline constexpr bool thread_sanitized = false, sanitized = false;
#endif

using u32 = std::uint32_t;
using u64 = unsigned long;
using tenon::test::expect;

inline constexpr unsigned cores = 4; // modules that call each other in a ring
inline constexpr unsigned couple = cores + 2;
inline constexpr unsigned tracked = 7; // these, a pair that is replaced as a set, and a couple of single functions that are
inline constexpr unsigned guests = 8;  // modules that come and go
inline constexpr unsigned good_variants = 4;
enum BadVariant : unsigned { lacks_a_name = 4, needs_a_name = 5, grows_a_variable = 6 };
inline constexpr unsigned variants = 7;
// Single functions of the ring's modules whose versions callers see.
enum Part : unsigned { value_part, relay_part, fixed_part, area_part, parts };
inline constexpr unsigned windows = cores * parts + tracked - cores;
constexpr unsigned window_of(unsigned module, Part part) { return module * parts + part; }
constexpr unsigned window_of_set(unsigned module) { return cores * parts + module - cores; }
// Modules of the ring of which single functions are replaced: what is compiled for that knows nothing of other functions.
constexpr bool is_opaque(unsigned module) { return module % 2 == 0 || module == couple; }
inline tenon::ModuleOptions options_of(unsigned module) {
  tenon::ModuleOptions options;
  options.opaque = is_opaque(module);
  return options;
}
inline constexpr unsigned rings = 6, ring_size = 3; // cycles of modules that are collected
inline constexpr u32 dropped_mark = 0x8000'0000;

struct Worker;

struct Random {
  u64 state;
  u64 next() noexcept;
  unsigned below(unsigned limit) noexcept { return unsigned((next() >> 33) % limit); }
};

// An object's bytes, and where a serial number stands in them.
struct Mold {
  std::string bytes;
  std::vector<std::size_t> serials;
  std::string name;
  tenon::Object make(u32 serial) const;
};

struct Molds {
  std::array<std::array<Mold, variants>, cores> core;
  std::array<Mold, cores> part, detour; // single functions; what others are redirected to
  std::array<Mold, 2> pair;
  Mold couple, couple_functions;
  std::array<std::array<Mold, ring_size>, rings> ring;
  Mold ring_user;
  std::array<Mold, guests> guest, child;
  std::array<Mold, 3> visitor;
};
Molds make_molds();

// The versions of a function, or of a set, that callers may see.
struct Window {
  std::atomic<u32> oldest{0}, newest{0};
};

// A module that stays, through all its versions.
struct Track {
  std::mutex mutex; // of who changes it; the pair is changed under the first one's
  std::optional<tenon::Module> module, detour;
  std::optional<tenon::Redirect> redirect; // of value() to detour(), while it is led there
  std::atomic<u64> turning{0}, turned{0};  // how often it began to be led there or back, and how often it is done
  std::array<const void*, identities> identity{};
  std::atomic<u64> counts{0}; // calls of count() by threads that have ended
  u64 (*value)(u64) = nullptr;
  void (*loop)(u64, Tally*) = nullptr;
  u64 (*pairs)(u64) = nullptr;
  u64 (*relay)(Visit*, u64, u64) = nullptr;
  u64 (*count)() = nullptr;
  u64 (*mine)() = nullptr;
  void (*get_identity)(const void**) = nullptr;
  u64 (*fixed_pointer)(u64) = nullptr;
};

struct Guest {
  std::mutex mutex;
  std::optional<tenon::Module> module, child;
  std::atomic<u64 (*)(u64)> function{nullptr}, child_function{nullptr};
};

// A cycle of collected modules.
struct Ring {
  std::mutex mutex;
  std::optional<tenon::Kept> kept;
};

struct Settings {
  u64 seed = 1;
  double seconds = 0; // 0: until there were so many patches and calls
  u64 patches = 0, calls = 0;
  unsigned callers = 4, changers = 2;
  bool signals = false;
};

// One engine's life.
struct World {
  World(const Settings& chosen, const Molds& made);

  const Settings& settings;
  const Molds& molds;
  tenon::Engine engine;
  tenon::Library library, guest_library, ring_library;
  std::array<Window, windows> window;
  std::array<Track, tracked> tracks;
  std::array<Ring, rings> ring;
  std::array<Guest, guests> guest;
  u32 (*pair_left)() = nullptr;
  u32 (*pair_right)() = nullptr;
  u32 (*pair_both)() = nullptr;
  u32 (*couple_left)() = nullptr;
  u32 (*couple_right)() = nullptr;
  u32 (*couple_differ)(u32 times) = nullptr;
  std::atomic<u32> serials{0};
  std::atomic<u64> patches{0}, calls{0};
  std::atomic<bool> stop{false};
  u64 live_at_first = 0; // bytes, when nothing had been replaced yet
  u64 live_at_end = 0;   // when all old versions are free

  u32 next_serial() noexcept { return serials.fetch_add(1, std::memory_order_relaxed) + 1; }
  // Everything is closed, in the only order that is allowed, and nothing is left.
  void end();

private:
  void find_functions();
  void settle(const char* when);
  void end_rings();
};

// What calls that begin from here on may see; in a thread that has entered, what they may since then.
struct Since {
  explicit Since(const Worker& of) noexcept;
  void check(unsigned window, u32 serial, const char* what) const;
  const World& world;
  const Worker& worker;
  std::array<u32, windows> oldest;
};

inline constexpr const char* caller = "caller";
inline constexpr const char* changer = "changer";

struct Worker {
  World& world;
  const char* role;
  unsigned number;
  Random random{0}; // of the operation under way
  u64 operation_number = 0;
  const char* operation = "beginning";
  std::array<u64, cores> counts{}, last_count{}, mine{};
  tenon::Border* border = nullptr; // null: the thread says nothing of itself
  bool entries = false;            // it enters for each operation
  std::array<u32, windows> oldest_at_entry{};
  std::array<u64, cores> turned_before{};

  // Before an entry begins, or a quiescent point.
  void before_entry() noexcept;
  // Calls of a module's value() have been led elsewhere, or back, since the entry or the operation began.
  bool turned(unsigned module) const noexcept;
  void called(u64 times) noexcept { world.calls.fetch_add(times, std::memory_order_relaxed); }
};

struct Operation {
  const char* name;
  unsigned weight;
  void (*run)(Worker& worker);
  std::atomic<u64> done{0};
};

// Draws one and runs it.
void run_operation(Worker& worker, std::span<Operation> table);
std::string describe(std::span<const Operation> table); // how often each was done

// The bodies of threads: operations until the world stops.
void run_caller(World& world, unsigned number);
void run_changer(World& world, unsigned number);
extern const std::span<Operation> caller_operations, changer_operations;

// The thread's worker, for messages.
extern thread_local Worker* self;
// Ends the program with the seed, the thread, the operation and what is wrong.
[[noreturn, gnu::format(printf, 1, 2)]] void wrong(const char* format, ...);
void report_fatal_signals();
extern std::atomic<u64> seed_of_run;

// How often guests' objects were made, less how often destroyed.
extern std::atomic<long> guests_alive;
extern std::atomic<long> rings_alive;

} // namespace torture
