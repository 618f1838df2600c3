// Calls of value() are led to another body and back.
//
// Callers must see versions in order, so both ends of the way get a new one just before calls reach them. Two kinds of calls
// may see older ones afterwards: those of an entry, which goes on with what it has seen of a set, and those that follow one
// that was under way when calls were led elsewhere (Worker::turned).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "torture/changing.h"

namespace torture {

namespace {

using tenon::Change;
using tenon::ErrorCode;
using tenon::Redirect;
using tenon::Redirection;
using tenon::Switch;

std::string name_of(const char* what, unsigned module) { return what + std::to_string(module); }

// A new version of what calls are led to.
bool replace_detour(World& world, unsigned module, u32 serial, Switch how) {
  Track& track = world.tracks[module];
  Change change = world.engine.change();
  change.replace(*track.detour, world.molds.detour[module].make(serial));
  const Announcement announcement(world, windows_of_detour(world, module), serial);
  if (!is_done(commit(std::move(change), how))) return false;
  announcement.done();
  return true;
}

void lead_there(Worker& worker, unsigned module) {
  World& world = worker.world;
  Track& track = world.tracks[module];
  const u32 serial = world.next_serial();
  if (!replace_detour(world, module, serial, Switch::each)) return;
  Redirect value = expect(world.library.redirect(name_of("value_", module)));
  const Redirect detour = expect(world.library.redirect(name_of("detour_", module)));
  const Announcement announcement(world, {{window_of(module, value_part)}, {}}, serial);
  const Turning turning(track);
  expect(value.to(detour));
  track.redirect = std::move(value);
  announcement.done();
}

// Its own new version, which does not show yet.
bool renew(Worker& worker, unsigned module, u32 serial) {
  World& world = worker.world;
  Change change = world.engine.change();
  change.replace(*world.tracks[module].module, any_version(worker, module).make(serial), {}, options_of(module));
  const Announcement announcement(world, windows_of(world, module), serial);
  if (!is_done(commit(std::move(change)))) return false;
  announcement.done();
  return true;
}

void lead_back(Worker& worker, unsigned module) {
  World& world = worker.world;
  Track& track = world.tracks[module];
  const unsigned how = worker.random.below(3);
  const u32 serial = world.next_serial();
  if (!renew(worker, module, serial)) return;
  const Announcement announcement(world, {{window_of(module, value_part)}, {}}, serial);
  const Turning turning(track);
  if (how == 0) track.redirect->back();
  if (how == 1) expect(track.redirect->to(*track.redirect));
  track.redirect.reset();
  announcement.done();
}

} // namespace

void redirect(Worker& worker) {
  World& world = worker.world;
  Held held(world, worker.random.below(cores), cores);
  const unsigned what = worker.random.below(4);
  if (!held) return;
  if (!held.track->redirect) return lead_there(worker, held.number);
  if (what == 0) {
    Change change = world.engine.change();
    change.remove(*held.track->detour);
    return expect_refused(commit(std::move(change)), ErrorCode::still_used);
  }
  if (what == 1) {
    replace_detour(world, held.number, world.next_serial(), any_switch(worker));
    return;
  }
  lead_back(worker, held.number);
}

// Both at once, there or back.
void redirect_two(Worker& worker) {
  World& world = worker.world;
  const unsigned a = worker.random.below(cores), b = (a + 1 + worker.random.below(cores - 1)) % cores;
  Track &first = world.tracks[a], &second = world.tracks[b];
  const std::unique_lock lock(first.mutex, std::try_to_lock), lock2(second.mutex, std::try_to_lock);
  if (!lock || !lock2 || first.redirect.has_value() != second.redirect.has_value()) return;
  const u32 serial = world.next_serial();
  const bool back = first.redirect.has_value();
  if (!(back ? renew(worker, a, serial) && renew(worker, b, serial)
             : replace_detour(world, a, serial, Switch::each) && replace_detour(world, b, serial, Switch::each)))
    return;
  const Redirect value_a = expect(world.library.redirect(name_of("value_", a)));
  const Redirect value_b = expect(world.library.redirect(name_of("value_", b)));
  const Redirect detour_a = expect(world.library.redirect(name_of("detour_", a)));
  const Redirect detour_b = expect(world.library.redirect(name_of("detour_", b)));
  const Announcement announcement(world, {{window_of(a, value_part), window_of(b, value_part)}, {}}, serial);
  const Turning turning(first), turning2(second);
  if (back) {
    const Redirection home[] = {{&*first.redirect, nullptr}, {&*second.redirect, nullptr}};
    expect(world.engine.redirect(home));
    first.redirect.reset();
    second.redirect.reset();
  } else {
    const Redirection there[] = {{&value_a, &detour_a}, {&value_b, &detour_b}};
    expect(world.engine.redirect(there));
    first.redirect = value_a;
    second.redirect = value_b;
  }
  announcement.done();
}

} // namespace torture
