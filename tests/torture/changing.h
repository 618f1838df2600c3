// What the operations of changing threads have in common.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "torture/torture.h"

namespace torture {

tenon::Result<tenon::Committed> commit(tenon::Change change, tenon::Switch how = tenon::Switch::each);
// False: so many others were faster that the engine gave up, and nothing has happened.
bool is_done(const tenon::Result<tenon::Committed>& result);
void expect_refused(const tenon::Result<tenon::Committed>& result, tenon::ErrorCode code);

// A module of the ring that nobody else is changing, `first` or the next one.
struct Held {
  Held(World& world, unsigned first, unsigned limit);
  explicit operator bool() const { return track != nullptr; }
  std::unique_lock<std::mutex> lock;
  Track* track = nullptr;
  unsigned number = 0;
};

const Mold& any_version(Worker& worker, unsigned module);
tenon::Switch any_switch(Worker& worker);

// What callers see of a change. Of a function that is led elsewhere they see what it is led to, except by calls that were
// under way when it was: those may see any version (`late`) that comes until they get there.
struct Windows {
  std::vector<unsigned> seen, late;
  void add(const Windows& other);
};
Windows windows_of(const World& world, unsigned module); // all of a module

Windows windows_of_detour(const World& world, unsigned module);

// The newest before the commit, the oldest after it; the modules' mutexes are held.
struct Announcement {
  Announcement(World& world, Windows windows, u32 number);
  void done(u64 patches = 1) const;
  World& world;
  Windows windows;
  u32 serial;
};

// While calls of value() begin to be led elsewhere, or back; the module's mutex is held.
struct Turning {
  explicit Turning(Track& module) : track(module) { track.turning.fetch_add(1, std::memory_order_release); }
  ~Turning() { track.turned.fetch_add(1, std::memory_order_release); }
  Turning(const Turning&) = delete;
  Turning& operator=(const Turning&) = delete;
  Track& track;
};

// Single functions (functions.cpp).
void replace_functions(Worker& worker);
void replace_functions_of_two(Worker& worker);
void replace_couple(Worker& worker);
// Code that is made again (unloading.cpp).
void unload(Worker& worker);
void unload_once(Worker& worker);
// Calls led elsewhere (redirecting.cpp).
void redirect(Worker& worker);
void redirect_two(Worker& worker);
// Collected modules (rings.cpp).
void change_ring(Worker& worker);
void replace_ring(Worker& worker);
void use_ring(Worker& worker);
void visit_cycle(Worker& worker);

} // namespace torture
