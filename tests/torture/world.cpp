// Objects, the modules that stay, and the accounting at the end.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "torture/torture.h"

#include <chrono>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

#include <unistd.h>

namespace torture {

thread_local Worker* self = nullptr;
std::atomic<u64> seed_of_run{0};
std::atomic<long> guests_alive{0};
std::atomic<long> rings_alive{0};

u64 Random::next() noexcept { // splitmix64
  u64 z = state += 0x9E37'79B9'7F4A'7C15;
  z = (z ^ (z >> 30)) * 0xBF58'476D'1CE4'E5B9;
  z = (z ^ (z >> 27)) * 0x94D0'49BB'1331'11EB;
  return z ^ (z >> 31);
}

void wrong(const char* format, ...) {
  static std::atomic<bool> told{false};
  if (told.exchange(true)) std::this_thread::sleep_for(std::chrono::hours(1)); // one message
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "\ntorture: WRONG: %s\n", text);
  if (self != nullptr)
    std::fprintf(stderr, "torture: by %s %u, its operation %lu (%s)\n", self->role, self->number, self->operation_number,
                 self->operation);
  std::fprintf(stderr, "torture: again with --seed %lu\n", seed_of_run.load());
  std::_Exit(1);
}

namespace {

extern "C" void torture_fatal_signal(int number) {
  char text[256];
  const int size = std::snprintf(
      text, sizeof text, "\ntorture: signal %d in %s %u, operation %lu (%s); again with --seed %lu\n", number,
      self != nullptr ? self->role : "another thread", self != nullptr ? self->number : 0,
      self != nullptr ? self->operation_number : 0, self != nullptr ? self->operation : "", seed_of_run.load());
  if (size > 0) [[maybe_unused]]
    auto written = write(2, text, std::size_t(size));
  std::signal(number, SIG_DFL);
  std::raise(number);
}

} // namespace

void report_fatal_signals() {
  for (int number : {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGABRT})
    if (const auto there = std::signal(number, torture_fatal_signal); there != SIG_DFL) // a sanitizer's says more
      std::signal(number, there);
}

namespace {

std::string read_input(const std::string& name) {
  std::ifstream file(std::string(TENON_SOURCE_DIR "/tests/torture/inputs/") + name);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  if (text.empty()) throw std::runtime_error("can't read tests/torture/inputs/" + name);
  return text;
}

Mold make_mold(const std::string& file, const std::string& defines, const std::string& level) {
  static const std::string interface = read_input("interface.h");
  std::string text = defines + interface + read_input(file);
  text.erase(text.find("#pragma once"), std::strlen("#pragma once"));
  const tenon::Object object = tenon::test::compile_cpp(
      text, level + " -w -fPIC -fno-inline -fasynchronous-unwind-tables -ffunction-sections -fdata-sections");
  Mold mold;
  mold.name = file;
  mold.bytes.assign(reinterpret_cast<const char*>(object.bytes().data()), object.bytes().size());
  const std::string_view placeholder("\x0D\xF0\xED\x5E", 4);
  for (std::size_t at = 0; (at = mold.bytes.find(placeholder, at)) != std::string::npos; ++at) mold.serials.push_back(at);
  return mold;
}

std::string define(const char* name, unsigned value) {
  return std::string("#define ") + name + " " + std::to_string(value) + "\n";
}

} // namespace

tenon::Object Mold::make(u32 serial) const {
  auto copy = std::make_shared<std::string>(bytes);
  for (std::size_t at : serials) std::memcpy(copy->data() + at, &serial, sizeof serial);
  const tenon::Bytes view = std::as_bytes(std::span(*copy));
  return expect(tenon::Object::borrow(view, std::move(copy), name));
}

Molds make_molds() {
  Molds molds;
  const char* const levels[variants] = {"-O1", "-O2", "-O0", "-Os", "-O1", "-O1", "-O1"};
  for (unsigned m = 0; m < cores; ++m)
    for (unsigned v = 0; v < variants; ++v) {
      Mold& mold = molds.core[m][v];
      mold = make_mold("core.cpp", define("MODULE", m) + define("NEXT_MODULE", (m + 1) % cores) + define("VARIANT", v),
                       levels[v] + std::string(is_opaque(m) ? " -fsemantic-interposition" : ""));
      mold.name = "core" + std::to_string(m) + "-" + std::to_string(v);
      if (mold.serials.size() < 4) throw std::runtime_error(mold.name + ": serial numbers were not found");
    }
  for (unsigned m = 0; m < cores; ++m) {
    molds.part[m] = make_mold("part.cpp", define("MODULE", m), "-O1 -fsemantic-interposition");
    molds.detour[m] = make_mold("detour.cpp", define("MODULE", m), "-O1");
    if (molds.part[m].serials.empty() || molds.detour[m].serials.empty())
      throw std::runtime_error("part, detour: serial numbers were not found");
  }
  molds.couple = make_mold("couple.cpp", "", "-O1 -fsemantic-interposition");
  molds.couple_functions = make_mold("couple.cpp", define("FUNCTIONS", 1), "-O0");
  for (unsigned r = 0; r < rings; ++r)
    for (unsigned i = 0; i < ring_size; ++i) {
      const std::string numbers = define("RING", r) + define("OWN", i) + define("NEXT", (i + 1) % ring_size);
      molds.ring[r][i] = make_mold("ring.cpp", numbers + define("CORE", r % cores), i == 0 ? "-O0" : "-O1");
      molds.ring[r][i].name = "ring" + std::to_string(r) + "-" + std::to_string(i);
    }
  molds.ring_user = make_mold("ring_user.cpp", "", "-O1");
  for (unsigned m = 0; m < 2; ++m) {
    molds.pair[m] = make_mold("pair.cpp", define("MODULE", cores + m), "-O1");
    if (molds.pair[m].serials.empty()) throw std::runtime_error("pair: serial numbers were not found");
  }
  for (unsigned g = 0; g < guests; ++g) {
    molds.guest[g] = make_mold("guest.cpp", define("GUEST", g) + define("CORE", g % cores), "-O1");
    molds.child[g] = make_mold("guest.cpp", define("GUEST", g) + define("CHILD", 1), "-O0");
  }
  for (unsigned size = 1; size <= 3; ++size) molds.visitor[size - 1] = make_mold("visitor.cpp", define("SIZE", size), "-O1");
  return molds;
}

namespace {

tenon::Options options_of(const Settings& settings) {
  tenon::Options options;
  if (settings.signals) options.reclaim_signal = SIGURG;
  return options;
}

} // namespace

World::World(const Settings& chosen, const Molds& made)
    : settings(chosen), molds(made), engine(expect(tenon::Engine::create(options_of(chosen)))),
      library(expect(engine.library("core", {.replaceable = true}))),
      guest_library(expect(engine.library("guests", {.replaceable = true}))),
      ring_library(expect(engine.library("rings", {.replaceable = true, .collected = true}))) {
  expect(guest_library.search({tenon::Source::library(library), tenon::Source::process()}));
  expect(ring_library.search({tenon::Source::library(library), tenon::Source::process()}));
  tenon::Change change = engine.change();
  std::array<tenon::ModuleId, tracked> ids, detours;
  const u32 serial = next_serial();
  for (unsigned m = 0; m < tracked; ++m) {
    const Mold& mold = m < cores ? molds.core[m][0] : m == couple ? molds.couple : molds.pair[m - cores];
    ids[m] = change.add(library, mold.make(serial), torture::options_of(m));
    if (m < cores) detours[m] = change.add(library, molds.detour[m].make(serial));
  }
  const tenon::Committed committed = expect(tenon::test::try_commit(std::move(change)));
  for (unsigned m = 0; m < tracked; ++m) {
    tracks[m].module = committed.module(ids[m]);
    if (m < cores) tracks[m].detour = committed.module(detours[m]);
  }
  for (Window& one : window) one.oldest = one.newest = serial;
  find_functions();
  live_at_first = engine.usage().live;
}

void World::find_functions() {
  using tenon::test::function;
  for (unsigned m = 0; m < cores; ++m) {
    Track& track = tracks[m];
    const std::string n = "_" + std::to_string(m);
    track.value = function<u64(u64)>(library, "value" + n);
    track.loop = function<void(u64, Tally*)>(library, "loop" + n);
    track.pairs = function<u64(u64)>(library, "pairs" + n);
    track.relay = function<u64(Visit*, u64, u64)>(library, "relay" + n);
    track.count = function<u64()>(library, "count" + n);
    track.mine = function<u64()>(library, "mine" + n);
    track.get_identity = function<void(const void**)>(library, "identity" + n);
    track.fixed_pointer = function<u64(u64)>(library, "fixed_pointer" + n);
    track.get_identity(track.identity.data());
  }
  pair_left = function<u32()>(library, "pair_left");
  pair_right = function<u32()>(library, "pair_right");
  pair_both = function<u32()>(library, "pair_both");
  couple_left = function<u32()>(library, "couple_left");
  couple_right = function<u32()>(library, "couple_right");
  couple_differ = function<u32(u32)>(library, "couple_differ");
}

// Until everything that was superseded or removed is free.
void World::settle(const char* when) {
  std::vector<tenon::Delay> delays;
  for (int i = 0; i < 20000; ++i) {
    delays = expect(engine.collect());
    if (delays.empty() && engine.usage().superseded == 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::string text;
  for (const tenon::Delay& delay : delays)
    text += "\n  " + delay.module + " is delayed by thread " + delay.thread + " " + delay.why + " " + delay.function;
  wrong("%lu versions are not freed %s%s", u64(engine.usage().superseded), when, text.c_str());
}

// Nobody has a handle any more: all cycles vanish.
void World::end_rings() {
  for (Ring& one : ring) one.kept.reset();
  for (int i = 0; i < 20000 && (rings_alive != 0 || !expect(ring_library.modules()).empty()); ++i) {
    expect(engine.collect());
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const std::vector<tenon::Module> left = expect(ring_library.modules());
  if (!left.empty() || rings_alive != 0)
    wrong("%zu modules that nobody reaches are not collected, %ld objects of theirs are alive", left.size(),
          rings_alive.load());
}

void World::end() {
  for (unsigned m = 0; m < cores; ++m)
    if (const u64 counted = tracks[m].count() - 1; counted != tracks[m].counts)
      wrong("module %u has counted %lu calls, not %lu", m, counted, tracks[m].counts.load());
  for (Track& track : tracks) track.redirect.reset();
  end_rings();
  settle("after the threads have ended");
  if (guest[0].module == std::nullopt) guest[0].module = tenon::test::commit(engine, guest_library, molds.guest[0].make(0));
  if (tenon::Result<void> closed = library.close(); closed || closed.error().code != tenon::ErrorCode::still_used)
    wrong("a library was closed that others refer to");
  if (guests_alive <= 0) wrong("%ld objects of guests are alive beside a guest", guests_alive.load());
  const u64 live = live_at_end = engine.usage().live;
  expect(guest_library.close());
  if (guests_alive != 0) wrong("%ld objects of guests are alive after the last one has gone", guests_alive.load());
  expect(library.close());
  settle("after the libraries were closed");
  for (int i = 0; i < 5000 && engine.usage().live != 0; ++i) { // the engine's own thread may be freeing just now
    expect(engine.collect());
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const tenon::EngineUsage left = engine.usage();
  if (left.live != 0 || left.modules != 0 || left.symbols != 0 || left.superseded != 0)
    wrong("left at the end: %lu bytes, %lu modules, %lu symbols, %lu versions", u64(left.live), u64(left.modules),
          u64(left.symbols), u64(left.superseded));
  // What may have grown for good are addresses of things that have vanished: little, however many versions there were.
  if (live > 8 * live_at_first) wrong("%lu bytes are in use at the end, %lu at the beginning", live, live_at_first);
}

namespace {

std::array<u32, windows> oldest_now(const World& world) noexcept {
  std::array<u32, windows> oldest;
  for (unsigned w = 0; w < windows; ++w) oldest[w] = world.window[w].oldest.load(std::memory_order_acquire);
  return oldest;
}

} // namespace

void Worker::before_entry() noexcept {
  oldest_at_entry = oldest_now(world);
  for (unsigned m = 0; m < cores; ++m) turned_before[m] = world.tracks[m].turned.load(std::memory_order_acquire);
}

bool Worker::turned(unsigned module) const noexcept {
  return world.tracks[module].turning.load(std::memory_order_acquire) != turned_before[module];
}

// An entry that began before an atomic commit goes on seeing the old set.
Since::Since(const Worker& of) noexcept
    : world(of.world), worker(of), oldest(of.border != nullptr ? of.oldest_at_entry : oldest_now(of.world)) {}

void Since::check(unsigned window, u32 serial, const char* what) const {
  const u32 newest = world.window[window].newest.load(std::memory_order_acquire);
  const unsigned module = window < cores * parts ? window / parts : window - cores * parts + cores;
  if ((serial & dropped_mark) != 0) wrong("%s: version %u of module %u was dropped", what, serial & ~dropped_mark, module);
  // What an entry sees of a set was decided when it began. Led there again, it finds its own version, whatever it has seen.
  const bool back =
      worker.border != nullptr && module < cores && window == window_of(module, value_part) && worker.turned(module);
  if ((serial < oldest[window] && !back) || serial > newest)
    wrong("%s: version %u of module %u was seen, from %u to %u were current", what, serial, module, oldest[window], newest);
}

void run_operation(Worker& worker, std::span<Operation> table) {
  unsigned sum = 0;
  for (const Operation& operation : table) sum += operation.weight;
  const u64 thread = (worker.role == changer ? 1000 : 2000) + worker.number;
  worker.random.state =
      (worker.world.settings.seed * 1'000'003 + thread) * 0x2545'F491'4F6C'DD1D + ++worker.operation_number;
  worker.random.next();
  unsigned drawn = worker.random.below(sum);
  auto operation = table.begin();
  while (drawn >= operation->weight) drawn -= (operation++)->weight;
  worker.operation = operation->name;
  try {
    operation->run(worker);
  } catch (const std::exception& error) {
    wrong("%s", error.what());
  } catch (const Payload&) {
    wrong("an exception has passed its handler");
  }
  operation->done.fetch_add(1, std::memory_order_relaxed);
}

std::string describe(std::span<const Operation> table) {
  std::string text;
  for (const Operation& operation : table)
    text += std::string(text.empty() ? "" : ", ") + operation.name + " " + std::to_string(operation.done.load());
  return text;
}

} // namespace torture
