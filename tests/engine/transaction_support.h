// What the tests of transactions share: a picture of everything that a change could leave behind, failures on demand, and
// modules that have one of everything.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine_support.h"

#include <array>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

// ThreadSanitizer's runtime defines operator new itself, and does not give it up. Both map memory as they like.
#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define TENON_THREAD_SANITIZER
#endif
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TENON_SANITIZED
#endif
#elif defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define TENON_SANITIZED
#ifdef __SANITIZE_THREAD__
#define TENON_THREAD_SANITIZER
#endif
#endif
#ifndef TENON_THREAD_SANITIZER
#define TENON_COUNT_ALLOCATIONS
#endif

namespace tenon::test {

#ifdef TENON_COUNT_ALLOCATIONS
inline constexpr bool counts_allocations = true;
#else
inline constexpr bool counts_allocations = false;
#endif
// Calls of operator new that succeeded less calls of operator delete, of all threads.
long live_allocations() noexcept;
// From now on the n-th call of operator new in this thread throws std::bad_alloc, if lasting all after it too; 0: none does.
void fail_allocation(long n, bool lasting = false) noexcept;
// True if that has happened since.
bool allocation_failed() noexcept;

// Modules report with tenon_test_note("word"): the words since the last call, with spaces between.
std::string take_notes();

// The process's mappings as the kernel tells them: begin, end, permissions, name. Without the C library's heap and the
// stack: malloc is told to map nothing itself, so that every change of the rest is ours (or that of a thread that begins).
// Beside a sanitizer, which maps as it likes, only what is named, or lies in the given engine's reservation.
std::vector<std::string> kernel_mappings(const Engine* engine = nullptr);
std::size_t open_descriptors();

// Everything of an engine and the process that a dropped change must leave as it was.
struct Snapshot {
  std::vector<std::string> symbols; // "library:name=address" of all that can be found
  std::vector<std::string> modules;
  std::uint64_t live = 0, module_count = 0, symbol_count = 0;
  std::size_t mappings = 0; // in the reservation, and of files: what threads do changes nothing
  std::size_t descriptors = 0, framed = 0;
  // What memory once used has grown to: areas are given back to the kernel, and tables shrink, only where much is free.
  std::uint64_t committed = 0, bookkeeping = 0;
  std::vector<std::string> ranges; // kernel_mappings()
  bool operator==(const Snapshot&) const = default;

  Snapshot without_growth() const;
};
std::ostream& operator<<(std::ostream& out, const Snapshot& snapshot);

enum class Frames { count, skip }; // counting asks the unwinder for each 16 bytes of code memory
Snapshot snapshot(const Engine& engine, const std::vector<Library>& libraries, Frames frames = Frames::count);

// Two modules that refer to each other and have, between them, COMDAT groups, thread-local and common variables,
// constructors and destructors with priorities, atexit, an IFUNC, exceptions, a weak undefined symbol and a forward
// reference to later_function(int). rich_entry(int) uses all of it, and answers rich_answer(argument) while there is no
// state yet.
std::vector<Object> rich_objects();
ModuleOptions rich_options();
const std::vector<std::string>& rich_names();
Object later_object(); // later_function(x) is x + 1000

// A module for which every area of a fresh engine must grow more than once, and which needs a second thread to be asked
// (about a thread-local variable of the host's). big_code() is 42.
Object big_object();

// The kinds of an engine's own memory.
enum class Kind { dual, single, low };
inline constexpr std::array kinds{Kind::dual, Kind::single, Kind::low};
const char* name_of(Kind kind);
// With a reservation that is small enough for an arena beside it to reach all of it.
Options small_options(Kind kind = Kind::dual);
Engine make_small_engine(Kind kind = Kind::dual);

// A client's memory: one arena, readable, writable and executable, bytes given out in a row. Near an engine's own, because
// the slots of forward references lie there.
class Arena : public Memory {
public:
  explicit Arena(const Engine& engine, Granularity granularity = Granularity::section,
                 std::size_t bytes = std::size_t(1) << 20);
  ~Arena() override;
  Granularity granularity() const noexcept override { return granularity_; }
  Result<void> place(std::span<const BlockRequest> requests, std::span<Placement> placements) override;
  Result<void> publish(std::span<const Placement> placements) override;
  void release(const Placement& placement) noexcept override;

  int outstanding = 0, placed = 0, published = 0;
  bool refuse_place = false, refuse_publish = false;

private:
  Granularity granularity_;
  std::size_t size_ = 0, used_ = 0;
  std::byte* begin_ = nullptr;
};

} // namespace tenon::test
