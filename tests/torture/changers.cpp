// What changing threads do: replace, add, remove, drop half-way, and ask for what must be refused.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "torture/changing.h"

#include <thread>

namespace torture {

using tenon::Change;
using tenon::Committed;
using tenon::Draft;
using tenon::ErrorCode;
using tenon::Initialize;
using tenon::Linked;
using tenon::Placed;
using tenon::Quiet;
using tenon::Result;
using tenon::Switch;

Result<Committed> commit(Change change, Switch how) {
  Result<Draft> draft = std::move(change).draft();
  if (!draft) return std::move(draft).error();
  Result<Placed> placed = std::move(*draft).place();
  if (!placed) return std::move(placed).error();
  Result<Linked> linked = std::move(*placed).link();
  if (!linked) return std::move(linked).error();
  return std::move(*linked).commit(Initialize::run, how);
}

bool is_done(const Result<Committed>& result) {
  if (result) return true;
  if (result.error().code != ErrorCode::conflict) wrong("%s", tenon::test::describe(result.error()).c_str());
  return false;
}

void expect_refused(const Result<Committed>& result, ErrorCode code) {
  if (result) wrong("a change was committed that must be refused");
  if (result.error().code != code && result.error().code != ErrorCode::conflict)
    wrong("refused for another reason: %s", tenon::test::describe(result.error()).c_str());
}

Held::Held(World& world, unsigned first, unsigned limit) {
  for (unsigned i = 0; i < limit; ++i) {
    const unsigned m = (first + i) % limit;
    lock = std::unique_lock(world.tracks[m].mutex, std::try_to_lock);
    if (!lock) continue;
    track = &world.tracks[m];
    number = m;
    return;
  }
}

const Mold& any_version(Worker& worker, unsigned module) {
  return worker.world.molds.core[module][worker.random.below(good_variants)];
}

Switch any_switch(Worker& worker) { return worker.random.below(2) == 0 ? Switch::each : Switch::atomic; }

void Windows::add(const Windows& other) {
  seen.insert(seen.end(), other.seen.begin(), other.seen.end());
  late.insert(late.end(), other.late.begin(), other.late.end());
}

Windows windows_of(const World& world, unsigned module) {
  if (module >= cores) return {{window_of_set(module)}, {}};
  Windows windows = {{window_of(module, relay_part), window_of(module, fixed_part), window_of(module, area_part)}, {}};
  (world.tracks[module].redirect ? windows.late : windows.seen).push_back(window_of(module, value_part));
  return windows;
}

Windows windows_of_detour(const World& world, unsigned module) {
  Windows windows;
  (world.tracks[module].redirect ? windows.seen : windows.late).push_back(window_of(module, value_part));
  return windows;
}

Announcement::Announcement(World& of, Windows all, u32 number) : world(of), windows(std::move(all)), serial(number) {
  for (const std::vector<unsigned>& some : {windows.seen, windows.late})
    for (unsigned window : some) world.window[window].newest.store(serial, std::memory_order_release);
}

void Announcement::done(u64 patches) const {
  for (unsigned window : windows.seen) world.window[window].oldest.store(serial, std::memory_order_release);
  world.patches.fetch_add(patches, std::memory_order_relaxed);
}

namespace {

void replace(Worker& worker) {
  World& world = worker.world;
  Held held(world, worker.random.below(cores), cores);
  const Mold& mold = any_version(worker, held.number);
  if (!held) return;
  const u32 serial = world.next_serial();
  Change change = world.engine.change();
  change.replace(*held.track->module, mold.make(serial), {}, options_of(held.number));
  const Announcement announcement(world, windows_of(world, held.number), serial);
  if (is_done(commit(std::move(change)))) announcement.done();
}

// Two modules of the ring that are replaced together, plainly or as a set.
void replace_two(Worker& worker) {
  World& world = worker.world;
  const unsigned first = worker.random.below(cores), second = (first + 1 + worker.random.below(cores - 1)) % cores;
  const Mold &one = any_version(worker, first), &other = any_version(worker, second);
  const Switch how = any_switch(worker);
  std::unique_lock lock(world.tracks[first].mutex, std::try_to_lock), lock2(world.tracks[second].mutex, std::try_to_lock);
  if (!lock || !lock2) return;
  const u32 serial = world.next_serial();
  Change change = world.engine.change();
  change.replace(*world.tracks[first].module, one.make(serial), {}, options_of(first));
  change.replace(*world.tracks[second].module, other.make(serial), {}, options_of(second));
  Windows windows = windows_of(world, first);
  windows.add(windows_of(world, second));
  const Announcement announcement(world, std::move(windows), serial);
  if (is_done(commit(std::move(change), how))) announcement.done(2);
}

// Always as a set: callers check that they never see a half of it.
void replace_pair(Worker& worker) {
  World& world = worker.world;
  Track &left = world.tracks[cores], &right = world.tracks[cores + 1];
  std::unique_lock lock(left.mutex, std::try_to_lock);
  if (!lock) return;
  const u32 serial = world.next_serial();
  Change change = world.engine.change();
  change.replace(*left.module, world.molds.pair[0].make(serial));
  change.replace(*right.module, world.molds.pair[1].make(serial));
  const Announcement announcement(world, {{window_of_set(cores), window_of_set(cores + 1)}, {}}, serial);
  if (is_done(commit(std::move(change), Switch::atomic))) announcement.done(2);
}

// Changes that end before they are committed. Others may be changing the same modules.
void drop(Worker& worker) {
  World& world = worker.world;
  const unsigned m = worker.random.below(cores), g = worker.random.below(guests), stage = worker.random.below(4);
  const u32 serial = world.next_serial() | dropped_mark;
  Change change = world.engine.change();
  change.replace(*world.tracks[m].module, any_version(worker, m).make(serial), {}, options_of(m));
  change.add(world.guest_library, world.molds.child[g].make(serial));
  if (stage == 0) return;
  Result<Draft> draft = std::move(change).draft();
  const auto may_fail = [](const tenon::Error& error) { // the guest's child is there already, or the guest is not
    if (error.code != ErrorCode::duplicate && error.code != ErrorCode::undefined && error.code != ErrorCode::conflict)
      wrong("%s", tenon::test::describe(error).c_str());
  };
  if (!draft) return may_fail(draft.error());
  if (stage == 1) return;
  Result<Placed> placed = std::move(*draft).place();
  if (!placed) return may_fail(placed.error());
  if (stage == 2) return;
  Result<Linked> linked = std::move(*placed).link();
  if (!linked) return may_fail(linked.error());
}

// What can't be replaced is not, and says why.
void replace_badly(Worker& worker) {
  World& world = worker.world;
  Held held(world, worker.random.below(cores), cores);
  const unsigned how = lacks_a_name + worker.random.below(3);
  if (!held) return;
  const u32 serial = world.next_serial() | dropped_mark;
  tenon::DataPolicy policy;
  policy.differing = tenon::DataPolicy::Differing::migrate;
  policy.migration = [](const tenon::DataPolicy::Migration&) -> Result<void> {
    return tenon::Error{ErrorCode::vetoed, "this migration fails"};
  };
  Change change = world.engine.change();
  change.replace(*held.track->module, world.molds.core[held.number][how].make(serial), std::move(policy),
                 options_of(held.number));
  expect_refused(commit(std::move(change)), how == lacks_a_name   ? ErrorCode::still_used
                                            : how == needs_a_name ? ErrorCode::undefined
                                                                  : ErrorCode::vetoed);
}

// A guest that is not there comes, one that is gets a child, and both leave: never the guest alone.
void change_guest(Worker& worker) {
  World& world = worker.world;
  const unsigned g = worker.random.below(guests), what = worker.random.below(4);
  const std::string number = std::to_string(g);
  Guest& guest = world.guest[g];
  std::unique_lock lock(guest.mutex, std::try_to_lock);
  if (!lock) return;
  if (!guest.module || (!guest.child && what < 2)) {
    Change change = world.engine.change();
    const bool child = guest.module.has_value();
    const tenon::ModuleId id = change.add(world.guest_library, (child ? world.molds.child : world.molds.guest)[g].make(0));
    Result<Committed> committed = commit(std::move(change));
    if (!is_done(committed)) return;
    (child ? guest.child : guest.module) = committed->module(id);
    auto* function = tenon::test::function<u64(u64)>(world.guest_library, (child ? "child_" : "guest_") + std::to_string(g));
    (child ? guest.child_function : guest.function).store(function, std::memory_order_seq_cst);
    return;
  }
  if (guest.child && what == 2) {
    Change change = world.engine.change();
    change.remove(*guest.module);
    expect_refused(commit(std::move(change)), ErrorCode::still_used);
    return;
  }
  guest.child_function.store(nullptr, std::memory_order_seq_cst);
  if (!guest.child || what != 3) guest.function.store(nullptr, std::memory_order_seq_cst);
  Change change = world.engine.change();
  const bool both = !guest.child || what != 3;
  if (both) change.remove(*guest.module, Quiet::prove);
  if (guest.child) change.remove(*guest.child, Quiet::prove);
  if (!is_done(commit(std::move(change)))) return; // callers find them by name only, until they are removed after all
  if (both) guest.module.reset();
  guest.child.reset();
}

void replace_guest(Worker& worker) {
  World& world = worker.world;
  const unsigned g = worker.random.below(guests);
  Guest& guest = world.guest[g];
  std::unique_lock lock(guest.mutex, std::try_to_lock);
  if (!lock || !guest.module) return;
  Change change = world.engine.change();
  change.replace(*guest.module, world.molds.guest[g].make(0));
  if (is_done(commit(std::move(change)))) world.patches.fetch_add(1, std::memory_order_relaxed);
}

// A library that nobody else sees: filled, replaced with a variable that grows, closed.
void visit_library(Worker& worker) {
  World& world = worker.world;
  const bool quiet = worker.random.below(2) == 0;
  tenon::Library library = expect(world.engine.library({}, {.replaceable = true}));
  Change change = world.engine.change();
  const tenon::ModuleId id = change.add(library, world.molds.visitor[0].make(0));
  const tenon::Module module = expect(commit(std::move(change))).module(id);
  auto* const visitor = tenon::test::function<u64()>(library, "visitor");
  if (const u64 got = visitor(); got != 2011) wrong("a library of its own gives %lu, not 2011", got);
  for (u64 size = 2; size <= 3; ++size) {
    tenon::DataPolicy policy;
    policy.differing = tenon::DataPolicy::Differing::migrate;
    policy.migration = [](const tenon::DataPolicy::Migration& migration) -> Result<void> {
      *migration.new_address.as<u64*>() = *migration.old_address.as<u64*>() + 1;
      return {};
    };
    Change next = world.engine.change();
    next.replace(module, world.molds.visitor[size - 1].make(0), std::move(policy));
    expect(commit(std::move(next)));
    if (const u64 got = visitor(); got != (size + 1) * 1000 + size * 10 + size)
      wrong("a variable that has grown to %lu elements: %lu", size, got);
  }
  expect(library.close(quiet ? Quiet::caller_guarantees : Quiet::prove));
}

// Others may be changing the module, or it may be part of a set that is being exchanged.
void move(Worker& worker) {
  World& world = worker.world;
  const tenon::Module& module = *world.tracks[worker.random.below(tracked)].module;
  const Result<tenon::Moved> moved = world.engine.move(module);
  const bool unloaded = !moved && moved.error().message.find("is unloaded") != std::string::npos;
  if (!moved && !unloaded && moved.error().code != ErrorCode::conflict)
    wrong("%s", tenon::test::describe(moved.error()).c_str());
}

void compact(Worker& worker) { expect(worker.world.engine.compact()); }

void collect(Worker& worker) { expect(worker.world.engine.collect()); }

void rest(Worker& worker) { std::this_thread::sleep_for(std::chrono::microseconds(worker.random.below(300))); }

// Name, weight, function: what is new gets a line here and a function above. One that changes a module's code holds its
// Track (Held) and announces versions; one that only moves code needs neither.
Operation table[] = {
    {"replace", 60, replace},
    {"replace two", 15, replace_two},
    {"replace set", 15, replace_pair},
    {"drop", 12, drop},
    {"bad change", 6, replace_badly},
    {"guest", 20, change_guest},
    {"replace guest", 6, replace_guest},
    {"library", 2, visit_library},
    {"functions", 25, replace_functions},
    {"functions of two", 8, replace_functions_of_two},
    {"couple", 10, replace_couple},
    {"unload", 8, unload},
    {"unload once", 2, unload_once},
    {"redirect", 15, redirect},
    {"redirect two", 4, redirect_two},
    {"ring", 10, change_ring},
    {"replace ring", 4, replace_ring},
    {"use ring", 2, use_ring},
    {"cycle", 2, visit_cycle},
    {"move", 6, move},
    {"compact", 1, compact},
    {"collect", 2, collect},
    {"rest", 3, rest},
};

} // namespace

const std::span<Operation> changer_operations(table);

void run_changer(World& world, unsigned number) {
  Worker worker{world, changer, number};
  self = &worker;
  while (!world.stop.load(std::memory_order_relaxed)) run_operation(worker, changer_operations);
  self = nullptr;
}

} // namespace torture
