// Cycles of collected modules: they come, are kept or not, and must vanish when nobody can reach them.
//
// A cycle lives while its slot has a handle, while a caller has one, or while a module that is not collected calls it. One
// that was let go may be found again until the engine has seen that nobody reaches it; then all of it must be there.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "torture/changing.h"

#include <thread>

namespace torture {

namespace {

using tenon::Change;
using tenon::Committed;
using tenon::ErrorCode;
using tenon::Kept;
using tenon::Module;
using tenon::Object;
using tenon::Recall;
using tenon::Result;

std::string name_of(unsigned ring, unsigned i) { return "ring_" + std::to_string(ring) + "_" + std::to_string(i); }

void check(const Kept& kept, unsigned ring, u64 x) {
  const u64 got = kept.address().as<u64 (*)(u64, u64)>()(5, x);
  if (got != x * (ring + 1) + 5) wrong("cycle %u gave %lu, not %lu", ring, got, x * (ring + 1) + 5);
}

// Found again, or made.
void bring(Worker& worker, unsigned r) {
  World& world = worker.world;
  Ring& ring = world.ring[r];
  const unsigned i = worker.random.below(ring_size);
  if (Result<Kept> kept = world.ring_library.keep(name_of(r, i))) {
    check(*kept, r, worker.random.below(1000));
    ring.kept = std::move(*kept);
    return;
  }
  Change change = world.engine.change();
  for (const Mold& mold : world.molds.ring[r]) change.add(world.ring_library, mold.make(0));
  const Result<Committed> committed = commit(std::move(change));
  if (!is_done(committed)) return;
  ring.kept = expect(world.ring_library.keep(name_of(r, i)));
  check(*ring.kept, r, worker.random.below(1000));
}

std::optional<Module> module_of(World& world, const std::string& name) {
  for (const Module& module : expect(world.ring_library.modules()))
    if (module.name() == name) return module;
  return std::nullopt;
}

} // namespace

void change_ring(Worker& worker) {
  World& world = worker.world;
  const unsigned r = worker.random.below(rings);
  Ring& ring = world.ring[r];
  const std::unique_lock lock(ring.mutex, std::try_to_lock);
  if (!lock) return;
  if (!ring.kept) return bring(worker, r);
  check(*ring.kept, r, worker.random.below(1000));
  if (worker.random.below(2) == 0) ring.kept.reset();
}

// A module of a cycle that is kept is replaced, or its code unloaded.
void replace_ring(Worker& worker) {
  World& world = worker.world;
  const unsigned r = worker.random.below(rings), i = worker.random.below(ring_size);
  Ring& ring = world.ring[r];
  const std::unique_lock lock(ring.mutex, std::try_to_lock);
  if (!lock || !ring.kept) return;
  const Mold& mold = world.molds.ring[r][i];
  const std::optional<Module> module = module_of(world, mold.name);
  if (!module) wrong("a module of cycle %u has vanished although it is kept", r);
  Change change = world.engine.change();
  if (i == ring_size - 1 && worker.random.below(2) == 0)
    change.unload(*module, {[&mold](const Module&, std::string_view) { return Result(std::optional(mold.make(0))); }});
  else
    change.replace(*module, mold.make(0));
  if (is_done(commit(std::move(change)))) world.patches.fetch_add(1, std::memory_order_relaxed);
  check(*ring.kept, r, worker.random.below(1000));
}

// A module of a library that is not collected keeps the first cycle.
void use_ring(Worker& worker) {
  World& world = worker.world;
  const std::unique_lock lock(world.ring[0].mutex, std::try_to_lock);
  if (!lock) return;
  if (!world.ring[0].kept) bring(worker, 0);
  if (!world.ring[0].kept) return;
  tenon::Library library = expect(world.engine.library({}));
  expect(library.search({tenon::Source::library(world.ring_library), tenon::Source::process()}));
  Change change = world.engine.change();
  change.add(library, world.molds.ring_user.make(0));
  if (!is_done(commit(std::move(change)))) return;
  auto* const user = tenon::test::function<u64(u64, u64)>(library, "ring_user");
  world.ring[0].kept.reset();
  for (int i = 0; i < 3; ++i) {
    if (i == 1) expect(world.engine.collect());
    if (const u64 got = user(7, 100); got != 108) wrong("a cycle gave %lu to its user, not 108", got);
    for (unsigned j = 0; j < ring_size; ++j)
      if (!world.ring_library.find(name_of(0, j))) wrong("a cycle was collected although a module uses it");
  }
  expect(library.close());
}

// A cycle in a library that nobody else sees: gone once its handle is.
void visit_cycle(Worker& worker) {
  World& world = worker.world;
  const unsigned r = worker.random.below(rings);
  const bool close_first = worker.random.below(2) == 0;
  std::optional<tenon::Library> library = expect(world.engine.library({}, {.collected = true}));
  expect(library->search({tenon::Source::library(world.library), tenon::Source::process()}));
  Change change = world.engine.change();
  for (const Mold& mold : world.molds.ring[r]) change.add(*library, mold.make(0));
  Result<Committed> result = commit(std::move(change));
  if (!is_done(result)) return;
  std::optional<Committed> committed = std::move(*result);
  const std::vector<Module> modules(committed->modules().begin(), committed->modules().end());
  auto* const function = tenon::test::function<u64(u64, u64)>(*library, name_of(r, 0));
  if (close_first) library.reset();
  expect(world.engine.collect());
  if (const u64 got = function(6, 10); got != 10 * (r + 1) + 6) wrong("a cycle of its own gave %lu", got);
  committed.reset();
  for (int i = 0; i < 20000; ++i) {
    unsigned linked = 0;
    for (const Module& module : modules) linked += module.linked() ? 1 : 0;
    if (linked == 0) return;
    expect(world.engine.collect());
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  wrong("a cycle is not collected");
}

} // namespace torture
