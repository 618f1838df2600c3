// tenon-scale: does one thing many times, for Callgrind to count instructions and for itself to count memory.
//
//     tenon-scale link N FUNCTIONS CALLS     N modules linked one after the other, each looked up at once
//     tenon-scale all N                      that, then looking up, finding frames, and removing in random order
//     tenon-scale archive FILE...            archives' members in one change, stage by stage; what they lack is given
//
// Each phase prints a line: its name, how many times its one thing was done, what one more or less on the heap and in the
// engine's memory, and the kernel mappings of the process. Under `valgrind --tool=callgrind --collect-atstart=no` each phase
// is dumped under its name, with nothing of start-up and of making the inputs in it. Linked code is never run, so that
// Valgrind needs neither the single-mapping mode nor --smc-check.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "tiny_object.h"

#include <tenon/tenon.h>

#include "base/pages.h"
#include "base/pool.h"

#include <valgrind/callgrind.h>

#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <random>

// The unwinder's own question (libgcc, unwind-dw2-fde.h): which frame description covers this code?
struct dwarf_eh_bases {
  void* tbase;
  void* dbase;
  void* func;
};
extern "C" const void* _Unwind_Find_FDE(void* pc, dwarf_eh_bases* bases);

namespace scale {
namespace {

[[noreturn]] void fail(const std::string& text) {
  std::fprintf(stderr, "tenon-scale: %s\n", text.c_str());
  std::exit(1);
}

template <class T> T take(tenon::Result<T> result) {
  if (!result) fail(result.error().message);
  return std::move(*result);
}

tenon::Committed commit(tenon::Change change) {
  tenon::Draft draft = take(std::move(change).draft());
  if (!draft.undefined().empty()) fail("undefined: " + draft.undefined()[0].name);
  return take(take(take(std::move(draft).place()).link()).commit(tenon::Initialize::skip));
}

std::size_t heap_bytes() {
  struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd + tenon::base::pool::usage().live + tenon::base::mapped_table_bytes();
}

std::size_t mappings() {
  std::ifstream maps("/proc/self/maps");
  return static_cast<std::size_t>(std::count(std::istreambuf_iterator<char>(maps), {}, '\n'));
}

// Whatever nobody defines lies where this program does.
class GivesAll final : public tenon::Resolver {
public:
  tenon::Result<void> resolve(std::span<const tenon::Needed> needed, std::span<tenon::Answer> answers) noexcept override {
    for (std::size_t i = 0; i < needed.size(); ++i)
      answers[i] = tenon::Answer::at({static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(&heap_bytes))});
    return {};
  }
};

class World {
public:
  explicit World(std::size_t count, Shape shape) : count_(count) {
    names_.reserve(count);
    objects_.reserve(count);
    modules_.reserve(count);
    addresses_.reserve(count);
    for (std::size_t i = 0; i < count; ++i) names_.push_back("function" + std::to_string(i));
    for (const std::string& name : names_) objects_.push_back(tiny_object(name, "base", shape));
    base_ = tiny_object("base", "", {1, 0});
    for (std::size_t i = 0; i < count; ++i) order_.push_back(i);
    std::shuffle(order_.begin(), order_.end(), std::mt19937_64(1));
    add(base_, "base"); // what comes first in an engine is not counted
  }

  void link() {
    phase("link", count_, [&] {
      for (std::size_t i = 0; i < count_; ++i) {
        modules_.push_back(add(objects_[i], names_[i]));
        std::optional<tenon::Addr> address = library_.find(names_[i]);
        if (!address) fail(names_[i] + " was not found");
        addresses_.push_back(*address);
      }
    });
  }

  void look_up() {
    phase("lookup", asked, [&] {
      for (std::size_t i = 0; i < asked; ++i) {
        std::size_t one = order_[i % count_];
        if (library_.find(names_[one]) != addresses_[one]) fail(names_[one] + " has moved");
      }
    });
  }

  void find_frames() {
    phase("frames", asked, [&] {
      for (std::size_t i = 0; i < asked; ++i) {
        dwarf_eh_bases bases{};
        std::uint64_t begin = addresses_[order_[i % count_]].value;
        if (_Unwind_Find_FDE(reinterpret_cast<void*>(begin + 1), &bases) == nullptr) fail("a frame is not registered");
        if (reinterpret_cast<std::uintptr_t>(bases.func) != begin) fail("a frame is another function's");
      }
    });
  }

  void remove() {
    phase("remove", count_, [&] {
      for (std::size_t one : order_) {
        tenon::Change change = engine_.change();
        change.remove(modules_[one], tenon::Quiet::caller_guarantees);
        commit(std::move(change));
      }
      modules_.clear();
    });
  }

  void link_archives(std::span<char*> paths) {
    std::vector<tenon::Archive> archives;
    std::size_t count = 0;
    for (const char* path : paths) {
      archives.push_back(take(tenon::Archive::read_file(path)));
      count += archives.back().size();
    }
    tenon::Library library = take(engine_.library());
    if (auto set = library.search({tenon::Source::process(), tenon::Source::resolver(std::make_shared<GivesAll>())}); !set)
      fail(set.error().message);
    std::optional<tenon::Change> change = engine_.change();
    std::optional<tenon::Draft> draft;
    std::optional<tenon::Placed> placed;
    std::optional<tenon::Linked> linked;
    phase("parse", count, [&] {
      for (const tenon::Archive& archive : archives)
        for (std::size_t i = 0; i < archive.size(); ++i) change->add(library, take(archive.member(i)));
    });
    phase("draft", count, [&] { draft = take(std::move(*change).draft()); });
    phase("place", count, [&] { placed = take(std::move(*draft).place()); });
    phase("link", count, [&] { linked = take(std::move(*placed).link()); });
    phase("commit", count, [&] { take(std::move(*linked).commit(tenon::Initialize::skip)); });
  }

private:
  static constexpr std::size_t asked = 20000;

  tenon::Module add(const std::vector<std::byte>& bytes, const std::string& name) {
    tenon::Change change = engine_.change();
    change.add(library_, take(tenon::Object::borrow(bytes, nullptr, name)));
    return commit(std::move(change)).modules()[0];
  }

  template <class Work> void phase(const char* name, std::size_t times, Work&& work) {
    auto memory = [&] {
      tenon::EngineUsage usage = engine_.usage();
      return std::pair(static_cast<long long>(heap_bytes()), static_cast<long long>(usage.live));
    };
    auto [heap, live] = memory();
    CALLGRIND_ZERO_STATS;
    CALLGRIND_TOGGLE_COLLECT;
    work();
    CALLGRIND_TOGGLE_COLLECT;
    CALLGRIND_DUMP_STATS_AT(name);
    auto [heap_after, live_after] = memory();
    std::printf("%s %zu %lld %lld %zu\n", name, times, heap_after - heap, live_after - live, mappings());
  }

  std::size_t count_;
  std::vector<std::string> names_;
  std::vector<std::vector<std::byte>> objects_;
  std::vector<std::byte> base_;
  std::vector<std::size_t> order_;
  tenon::Engine engine_ = take(tenon::Engine::create());
  tenon::Library library_ = take(engine_.library("scale"));
  std::vector<tenon::Module> modules_;
  std::vector<tenon::Addr> addresses_;
};

int run(std::span<char*> arguments) {
  auto number = [&](std::size_t i) { return std::strtoul(arguments[i], nullptr, 10); };
  std::string what = arguments.size() > 1 ? arguments[1] : "";
  if (what == "link" && arguments.size() == 5) {
    World(number(2), {static_cast<unsigned>(number(3)), static_cast<unsigned>(number(4))}).link();
  } else if (what == "all" && arguments.size() == 3) {
    World world(number(2), {});
    world.link();
    world.look_up();
    world.find_frames();
    world.remove();
  } else if (what == "archive" && arguments.size() >= 3) {
    World(0, {}).link_archives(arguments.subspan(2));
  } else {
    fail("usage: tenon-scale link N FUNCTIONS CALLS | all N | archive FILE...");
  }
  return 0;
}

} // namespace
} // namespace scale

int main(int argc, char** argv) { return scale::run({argv, static_cast<std::size_t>(argc)}); }
