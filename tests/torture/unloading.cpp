// Modules whose code goes, and is made again by whoever calls them first.
//
// The version that the call makes has its serial number from when the module was unloaded: whoever calls from then on sees
// it or a later one, however long nobody calls.
// A frame that makes its own module again needs what it calls in the new version: these modules have the same functions in
// all versions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "torture/changing.h"

namespace torture {

namespace {

using tenon::Change;
using tenon::Error;
using tenon::ErrorCode;
using tenon::Module;
using tenon::Object;
using tenon::Recall;
using tenon::Result;
using tenon::Switch;

// The callback commits a version itself, a newer one, unless somebody is changing the module just now.
bool make_it_oneself(World& world, unsigned module, const Mold& mold) {
  const std::unique_lock lock(world.tracks[module].mutex, std::try_to_lock);
  if (!lock) return false;
  const u32 serial = world.next_serial();
  Change change = world.engine.change();
  change.replace(*world.tracks[module].module, mold.make(serial), {}, options_of(module));
  const Announcement announcement(world, windows_of(world, module), serial);
  if (!is_done(commit(std::move(change)))) return false;
  announcement.done();
  return true;
}

Recall recall_of(World& world, unsigned module, const Mold& mold, u32 serial, bool oneself) {
  Recall recall;
  recall.make = [&world, &mold, module, serial, oneself](const Module&, std::string_view) -> Result<std::optional<Object>> {
    if (oneself && make_it_oneself(world, module, mold)) return std::optional<Object>();
    world.patches.fetch_add(1, std::memory_order_relaxed);
    return std::optional(mold.make(serial));
  };
  recall.failed = [](const Module& of, std::string_view function, const Error& error) {
    wrong("%s of %s was not made again: %s", std::string(function).c_str(), of.name().c_str(), error.message.c_str());
  };
  return recall;
}

} // namespace

// A module that stays, or what calls of one of its functions are redirected to.
void unload(Worker& worker) {
  World& world = worker.world;
  Held held(world, worker.random.below(cores / 2) * 2, cores);
  const unsigned what = worker.random.below(8);
  const bool oneself = worker.random.below(3) == 0;
  if (!held || !is_opaque(held.number)) return;
  const Mold& mold = any_version(worker, held.number);
  const u32 serial = world.next_serial();
  Change change = world.engine.change();
  if (what == 0) { // as a set it can't
    change.unload(*held.track->module, recall_of(world, held.number, mold, serial | dropped_mark, false));
    return expect_refused(commit(std::move(change), Switch::atomic), ErrorCode::unsupported);
  }
  Windows windows = what == 1 ? windows_of_detour(world, held.number) : windows_of(world, held.number);
  if (what == 1) {
    change.unload(*held.track->detour, recall_of(world, held.number, world.molds.detour[held.number], serial, false));
  } else {
    change.unload(*held.track->module, recall_of(world, held.number, mold, serial, oneself));
  }
  const Announcement announcement(world, std::move(windows), serial);
  if (is_done(commit(std::move(change)))) announcement.done();
}

// A module that nobody else sees, whose callback fails first, throwing to the caller, and then does not.
void unload_once(Worker& worker) {
  World& world = worker.world;
  tenon::Library library = expect(world.engine.library({}, {.replaceable = true}));
  const Mold& mold = world.molds.couple;
  Change change = world.engine.change();
  const tenon::ModuleId id = change.add(library, mold.make(1));
  const Module module = expect(commit(std::move(change))).module(id);
  auto* const left = tenon::test::function<u32()>(library, "couple_left");
  if (left() != 1) wrong("a module of its own gives a wrong value");
  bool fails = true;
  Recall recall;
  recall.make = [&](const Module&, std::string_view function) -> Result<std::optional<Object>> {
    if (function != "couple_left") wrong("'%s' was called, they say", std::string(function).c_str());
    if (fails) return Error{ErrorCode::vetoed, "not yet"};
    return std::optional(mold.make(2));
  };
  recall.failed = [](const Module&, std::string_view, const Error&) { throw Payload{3, 0, 4}; };
  Change next = world.engine.change();
  next.unload(module, std::move(recall));
  expect(commit(std::move(next)));
  try {
    wrong("a function that can't be made again gave %u", left());
  } catch (const Payload& payload) {
    if (payload.serial != 3 || payload.value != 4) wrong("an exception of a failed callback has changed");
  }
  fails = false;
  if (worker.random.below(2) == 0)
    if (const u32 got = left(); got != 2) wrong("a module that was made again gives %u", got);
  expect(library.close());
}

} // namespace torture
