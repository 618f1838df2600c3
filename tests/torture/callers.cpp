// What calling threads do. Most operations enter linked code once and judge all that they have seen there.
//
// By its number a thread enters for each operation (0), says nothing of itself (1, 3), or tells the engine of quiescent
// moments between operations (2).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "torture/torture.h"

#include <chrono>
#include <cstring>
#include <thread>

#include <unwind.h>

namespace torture {

namespace {

// Frames from the innermost out: where the two functions of the host stand, and whether the thread's own is reached.
struct Trace {
  u64 frames = 0, visit = 0, caller = 0;
  bool thread = false;
};

u64 call_relay(u64 (*relay)(Visit*, u64, u64), Visit* visit, u64 depth, u64 x);

_Unwind_Reason_Code note_frame(_Unwind_Context* context, void* argument) {
  Trace& trace = *static_cast<Trace*>(argument);
  ++trace.frames;
  int before = 0;
  const _Unwind_Ptr at = _Unwind_GetIPInfo(context, &before);
  const void* const function = _Unwind_FindEnclosingFunction(reinterpret_cast<void*>(at - (before == 0 ? 1 : 0) + 1));
  if (function == reinterpret_cast<const void*>(&torture_visit)) trace.visit = trace.frames;
  if (function == reinterpret_cast<const void*>(&call_relay)) trace.caller = trace.frames;
  if (function == reinterpret_cast<const void*>(&run_caller)) trace.thread = true;
  return _URC_NO_REASON;
}

[[gnu::noinline]] void take_trace(const Visit& visit) {
  Trace trace;
  _Unwind_Backtrace(note_frame, &trace);
  if (trace.visit == 0 || trace.caller == 0 || !trace.thread)
    wrong("a backtrace of %lu frames does not reach the thread's own function", trace.frames);
  if (trace.caller - trace.visit != visit.depth + 2)
    wrong("%lu frames between two functions of the host, not %u", trace.caller - trace.visit - 1, visit.depth + 1);
}

[[gnu::noinline]] u64 call_relay(u64 (*relay)(Visit*, u64, u64), Visit* visit, u64 depth, u64 x) {
  const u64 result = relay(visit, depth, x);
  asm volatile("" : : : "memory"); // no tail call
  return result;
}

// A way through frames of the ring's modules to the host and back.
void go_down(Worker& worker, Visit::Action action) {
  Visit visit{};
  visit.action = action;
  visit.depth = worker.random.below(max_depth + 1);
  visit.pause = worker.random.below(4) == 0 ? 1000 + worker.random.below(8000) : worker.random.below(600);
  const unsigned first = worker.random.below(cores);
  const u64 x = worker.random.below(1000);
  Since since(worker);
  bool thrown = false;
  try {
    const u64 result = call_relay(worker.world.tracks[first].relay, &visit, visit.depth, x);
    if (result != x + 2 * visit.depth + 1)
      wrong("%lu after %u frames, not %lu", result, visit.depth, x + 2 * visit.depth + 1);
  } catch (const Payload& payload) {
    thrown = true;
    if (payload.value != x + visit.depth) wrong("an exception holds %lu, not %lu", payload.value, x + visit.depth);
    if (action == Visit::throw_inside && payload.module != visit.modules[0]) wrong("an exception of another module");
    if (action == Visit::throw_inside)
      since.check(window_of(payload.module, relay_part), payload.serial, "an exception's version");
  }
  if (thrown != (action == Visit::throw_inside || action == Visit::throw_outside)) wrong("an exception was lost");
  if (visit.entered != visit.depth + 1 || visit.left != visit.entered)
    wrong("%u frames of %u entered, %u left", visit.entered, visit.depth + 1, visit.left);
  if (visit.broken != 0) wrong("%u frames have changed their version while they ran", visit.broken);
  if (thrown && visit.caught != (visit.depth + 2) / 3)
    wrong("%u frames have thrown it again, not %u", visit.caught, (visit.depth + 2) / 3);
  for (unsigned i = 0; i <= visit.depth; ++i)
    since.check(window_of(visit.modules[i], relay_part), visit.serials[i], "a frame");
  worker.called(visit.depth + 1);
}

void sleep_inside(Worker& worker) { go_down(worker, Visit::sleep); }
void trace_inside(Worker& worker) { go_down(worker, Visit::trace); }
void throw_inside(Worker& worker) { go_down(worker, Visit::throw_inside); }
void throw_outside(Worker& worker) { go_down(worker, Visit::throw_outside); }
void only_relay(Worker& worker) { go_down(worker, Visit::nothing); }

void call_value(Worker& worker) {
  const unsigned m = worker.random.below(cores);
  const u64 x = worker.random.below(1000);
  const auto value = worker.world.tracks[m].value;
  for (int i = 0; i < 50; ++i) {
    Since since(worker);
    const u64 got = value(x);
    if (u32(got) != x * 3 + m) wrong("value_%u(%lu) is %u", m, x, u32(got));
    since.check(window_of(m, value_part), u32(got >> 32), "value");
  }
  worker.called(50);
}

void call_loop(Worker& worker) {
  const unsigned m = worker.random.below(cores), callee = (m + 1) % cores;
  const u64 times = 1000 + worker.random.below(sanitized ? 1000 : 200'000);
  Tally tally{0, 0, ~0U, 0, 0, 0, 0};
  Since since(worker);
  worker.world.tracks[m].loop(times, &tally);
  if (tally.wrong != 0) wrong("%lu of %lu calls in a loop had a wrong value", tally.wrong, times);
  if (tally.disorder != 0 && !worker.turned(callee))
    wrong("%lu times in a loop of module %u an older version came after a newer one: %u after %u, in call %lu of %lu, "
          "oldest %u",
          tally.disorder, m, tally.earlier, tally.later, tally.when, times, since.oldest[window_of(callee, value_part)]);
  since.check(window_of(callee, value_part), tally.first, "the first call of a loop");
  since.check(window_of(callee, value_part), tally.last, "the last call of a loop");
  worker.called(times);
}

// Variables keep their values, one for all threads and one for each.
void count(Worker& worker) {
  const unsigned m = worker.random.below(cores);
  for (int i = 0; i < 20; ++i) {
    const u64 now = worker.world.tracks[m].count();
    if (now <= worker.last_count[m]) wrong("a counter has gone from %lu to %lu", worker.last_count[m], now);
    worker.last_count[m] = now;
    ++worker.counts[m];
    const u64 mine = worker.world.tracks[m].mine();
    if (mine != ++worker.mine[m]) wrong("a thread-local counter is %lu, not %lu", mine, worker.mine[m]);
  }
  worker.called(40);
}

// What has an address has one for good, and pointers held from before lead to current versions.
void hold_pointers(Worker& worker) {
  const unsigned m = worker.random.below(cores);
  Track& track = worker.world.tracks[m];
  std::array<const void*, identities> now{};
  track.get_identity(now.data());
  for (unsigned i = 0; i < identities; ++i)
    if (now[i] != track.identity[i]) wrong("address %u of module %u is %p, was %p", i, m, now[i], track.identity[i]);
  const std::string literal = "a literal of module " + std::to_string(m);
  if (std::strcmp(static_cast<const char*>(track.identity[2]), literal.c_str()) != 0) wrong("a literal has changed");

  const u64 x = worker.random.below(1000);
  Since since(worker);
  Shape* const shape = const_cast<Shape*>(static_cast<const Shape*>(track.identity[3]));
  const u64 area = shape->area(x);
  if (u32(area) != x * x) wrong("a virtual function gave %u, not %lu", u32(area), x * x);
  since.check(window_of(m, area_part), u32(area >> 32), "a virtual function");
  const auto fixed = reinterpret_cast<u64 (*)(u64)>(const_cast<void*>(track.identity[1]));
  for (const u64 got : {fixed(x), track.fixed_pointer(x)}) {
    if (u32(got) != x + 7) wrong("a static function gave %u, not %lu", u32(got), x + 7);
    since.check(window_of(m, fixed_part), u32(got >> 32), "a static function by its address");
  }
  worker.called(4);
}

// The set's functions are of one version: promised to a thread that has entered.
void check_pair(Worker& worker) {
  if (!worker.entries) {
    if (worker.world.pair_both() != 1) wrong("a set's functions call each other and differ");
    worker.called(1);
    return;
  }
  const unsigned m = worker.random.below(cores);
  const u64 times = 10 + worker.random.below(1000);
  const u32 left = worker.world.pair_left();
  if (const u64 differ = worker.world.tracks[m].pairs(times); differ != 0)
    wrong("%lu of %lu times two functions of a set were of different versions", differ, times);
  const u32 right = worker.world.pair_right();
  if (left != right) wrong("a set's functions are of versions %u and %u", left, right);
  worker.called(2 * times + 2);
}

// The same of a set of single functions.
void check_couple(Worker& worker) {
  const Since since(worker);
  const u32 left = worker.world.couple_left();
  const u32 times = 10 + worker.random.below(1000);
  const u32 differ = worker.world.couple_differ(times);
  const u32 right = worker.world.couple_right();
  if (worker.entries && differ != 0) wrong("%u of %u times two functions were of different versions", differ, times);
  if (worker.entries && left != right) wrong("two functions of a set are of versions %u and %u", left, right);
  since.check(window_of_set(couple), left, "one function of a set");
  since.check(window_of_set(couple), right, "another function of a set");
  worker.called(2 * times + 2);
}

// A cycle that comes and goes when nobody has a handle.
void call_ring(Worker& worker) {
  const unsigned r = worker.random.below(rings), i = worker.random.below(ring_size);
  const u64 x = worker.random.below(1000), depth = worker.random.below(10);
  const std::string name = "ring_" + std::to_string(r) + "_" + std::to_string(i);
  tenon::Result<tenon::Function<u64(u64, u64)>> handle = worker.world.ring_library.function<u64(u64, u64)>(name);
  if (!handle && handle.error().code != tenon::ErrorCode::undefined) wrong("%s", handle.error().message.c_str());
  if (!handle) return;
  for (int times = 0; times < 2; ++times) {
    const u64 got = (*handle)(depth, x);
    if (got != x * (r + 1) + depth) wrong("cycle %u gave %lu, not %lu", r, got, x * (r + 1) + depth);
    if (worker.random.below(8) == 0) std::this_thread::sleep_for(std::chrono::microseconds(worker.random.below(1000)));
  }
  worker.called(2 * depth + 2);
}

void check_guest_value(const Since& since, unsigned guest, u64 x, u64 got) {
  if (u32(got) != x * 3 + guest % cores) wrong("guest %u gave %u", guest, u32(got));
  since.check(window_of(guest % cores, value_part), u32(got >> 32), "what a guest calls");
}

// A module that comes and goes: through a handle, or by a pointer that is looked up inside of an entry.
void call_guest(Worker& worker) {
  const unsigned g = worker.random.below(guests);
  const bool child = worker.random.below(2) == 0;
  const u64 x = worker.random.below(1000);
  Guest& guest = worker.world.guest[g];
  Since since(worker);
  if (worker.entries) {
    if (auto* function = (child ? guest.child_function : guest.function).load(std::memory_order_seq_cst))
      check_guest_value(since, g, x, function(x));
  } else {
    const std::string name = (child ? "child_" : "guest_") + std::to_string(g);
    tenon::Result<tenon::Function<u64(u64)>> handle = worker.world.guest_library.function<u64(u64)>(name);
    if (!handle && handle.error().code != tenon::ErrorCode::undefined) wrong("%s", handle.error().message.c_str());
    if (!handle) return;
    check_guest_value(since, g, x, (*handle)(x));
    if (worker.random.below(8) == 0) std::this_thread::sleep_for(std::chrono::microseconds(worker.random.below(1000)));
    check_guest_value(since, g, x, (*handle)(x));
  }
  worker.called(1);
}

void rest(Worker& worker) { std::this_thread::sleep_for(std::chrono::microseconds(worker.random.below(500))); }

Operation table[] = {
    {"value", 30, call_value},
    {"loop", 40, call_loop},
    {"relay", 10, only_relay},
    {"throw inside", 6, throw_inside},
    {"throw outside", 6, throw_outside},
    {"backtrace", 4, trace_inside},
    {"sleep", 3, sleep_inside},
    {"count", 20, count},
    {"pointers", 15, hold_pointers},
    {"pair", 20, check_pair},
    {"couple", 15, check_couple},
    {"guest", 20, call_guest},
    {"ring", 10, call_ring},
    {"rest", 2, rest},
};

} // namespace

const std::span<Operation> caller_operations(table);

[[gnu::noinline]] void run_caller(World& world, unsigned number) {
  Worker worker{world, caller, number};
  self = &worker;
  std::optional<tenon::Border> border;
  const bool quiescent = number % 4 == 2;
  worker.entries = number % 4 == 0;
  if (worker.entries || quiescent) border.emplace(expect(world.engine.border("caller " + std::to_string(number))));
  if (border) worker.border = &*border;
  if (quiescent) border->set_quiescent_mode(true);
  while (!world.stop.load(std::memory_order_relaxed)) {
    worker.before_entry();
    if (worker.entries) {
      tenon::Border::Entry entry(*border);
      run_operation(worker, caller_operations);
    } else {
      if (quiescent) border->quiescent();
      run_operation(worker, caller_operations);
    }
  }
  if (quiescent) border->set_quiescent_mode(false);
  for (unsigned m = 0; m < cores; ++m) world.tracks[m].counts += worker.counts[m];
  self = nullptr;
}

} // namespace torture

__attribute__((visibility("default"))) void torture_visit(torture::Visit* visit) {
  using torture::Visit;
  if (visit->action == Visit::sleep) std::this_thread::sleep_for(std::chrono::microseconds(visit->pause));
  if (visit->action == Visit::trace) torture::take_trace(*visit);
  if (visit->action == Visit::throw_outside || visit->action == Visit::throw_inside)
    std::this_thread::sleep_for(std::chrono::microseconds(visit->pause / 8)); // frames are old by then
  if (visit->action == Visit::throw_outside) throw torture::Payload{0, 0, visit->argument};
  asm volatile("" : : : "memory");
}

__attribute__((visibility("default"))) void torture_guest(int born) { torture::guests_alive += born != 0 ? 1 : -1; }

__attribute__((visibility("default"))) void torture_ring(int born) { torture::rings_alive += born != 0 ? 1 : -1; }
