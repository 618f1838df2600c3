// Single functions of modules that stay are replaced: out of a whole file by name, or from an object of their own.
//
// A function that is replaced gets the new serial number, the others of its module keep theirs: each has its own window.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "torture/changing.h"

namespace torture {

namespace {

using tenon::Change;
using tenon::Switch;

struct Single {
  std::string name;
  int part; // whose version callers see; below zero: it has none
};

std::vector<Single> functions_of(unsigned module) {
  const std::string n = std::to_string(module);
  return {{"value_" + n, value_part},
          {"relay_" + n, relay_part},
          {"_ZN12_GLOBAL__N_15fixedEm", fixed_part},
          {"_ZN8Square_" + n + "4areaEm", area_part},
          {"count_" + n, -1},
          {"loop_" + n, -1},
          {"pairs_" + n, -1},
          {"identity_" + n, -1},
          {"fixed_pointer_" + n, -1}};
}

// Adds some functions of a module to the change. Returns what callers will see of it.
Windows add_functions(Worker& worker, Change& change, unsigned module, u32 serial) {
  const World& world = worker.world;
  const Track& track = world.tracks[module];
  Windows windows;
  const auto see = [&](int part) {
    if (part < 0) return;
    (part == value_part && track.redirect ? windows.late : windows.seen).push_back(window_of(module, Part(part)));
  };
  if (worker.random.below(3) == 0) {
    change.replace_functions(*track.module, world.molds.part[module].make(serial), {}, {}, options_of(module));
    see(value_part);
    return windows;
  }
  std::vector<std::string> names;
  const unsigned chosen = 1 + worker.random.below(worker.random.below(2) == 0 ? 15 : 511); // a bit for each
  const std::vector<Single> all = functions_of(module);
  for (unsigned i = 0; i < all.size(); ++i)
    if ((chosen >> i & 1) != 0) {
      names.push_back(all[i].name);
      see(all[i].part);
    }
  change.replace_functions(*track.module, any_version(worker, module).make(serial), std::move(names), {},
                           options_of(module));
  return windows;
}

// Of a module that is unloaded just now there are no single functions.
void finish(const Announcement& announcement, Change change, Switch how, u64 patches) {
  const tenon::Result<tenon::Committed> result = commit(std::move(change), how);
  const bool unloaded = !result && result.error().code == tenon::ErrorCode::unsupported &&
                        result.error().message.find("is unloaded") != std::string::npos;
  if (!unloaded && is_done(result)) announcement.done(patches);
}

} // namespace

void replace_functions(Worker& worker) {
  World& world = worker.world;
  const unsigned m = worker.random.below(cores / 2) * 2;
  const Switch how = any_switch(worker);
  const std::unique_lock lock(world.tracks[m].mutex, std::try_to_lock);
  if (!lock) return;
  const u32 serial = world.next_serial();
  Change change = world.engine.change();
  const Announcement announcement(world, add_functions(worker, change, m, serial), serial);
  finish(announcement, std::move(change), how, 1);
}

// Beside functions of another module, or another module as a whole.
void replace_functions_of_two(Worker& worker) {
  World& world = worker.world;
  const unsigned first = worker.random.below(cores / 2) * 2, second = (first + 1 + worker.random.below(cores - 1)) % cores;
  const Switch how = any_switch(worker);
  const std::unique_lock lock(world.tracks[first].mutex, std::try_to_lock);
  const std::unique_lock lock2(world.tracks[second].mutex, std::try_to_lock);
  if (!lock || !lock2) return;
  const u32 serial = world.next_serial();
  Change change = world.engine.change();
  Windows windows = add_functions(worker, change, first, serial);
  if (is_opaque(second)) {
    windows.add(add_functions(worker, change, second, serial));
  } else {
    change.replace(*world.tracks[second].module, any_version(worker, second).make(serial), {}, options_of(second));
    windows.add(windows_of(world, second));
  }
  const Announcement announcement(world, std::move(windows), serial);
  finish(announcement, std::move(change), how, 2);
}

// Always as a set: as two functions of one object or of two, or with the rest of their module.
void replace_couple(Worker& worker) {
  World& world = worker.world;
  Track& track = world.tracks[couple];
  const unsigned how = worker.random.below(4);
  const std::unique_lock lock(track.mutex, std::try_to_lock);
  if (!lock) return;
  const u32 serial = world.next_serial();
  Change change = world.engine.change();
  const Mold &whole = world.molds.couple, &functions = world.molds.couple_functions;
  if (how == 0) change.replace(*track.module, whole.make(serial), {}, options_of(couple));
  if (how == 1) change.replace_functions(*track.module, functions.make(serial), {}, {}, options_of(couple));
  if (how == 2)
    change.replace_functions(*track.module, whole.make(serial), {"couple_right", "couple_left"}, {}, options_of(couple));
  if (how == 3) {
    change.replace_functions(*track.module, whole.make(serial), {"couple_right"}, {}, options_of(couple));
    change.replace_functions(*track.module, functions.make(serial), {"couple_left"}, {}, options_of(couple));
  }
  const Announcement announcement(world, windows_of(world, couple), serial);
  if (is_done(commit(std::move(change), Switch::atomic))) announcement.done();
}

} // namespace torture
