// Sets of functions are exchanged atomically.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/transition.h"

#include "base/check.h"
#include "engine/change_state.h"
#include "engine/reclaimer.h"
#include "link/arch/arch.h"
#include "reclaim/scan.h"

#include <algorithm>
#include <cstddef>

extern "C" {
void tenon_choose_version();
void tenon_choose_version_end();
// The head of this thread's list. Read by tenon_choose_version in the initial-exec model: no call, no vector register.
__attribute__((visibility("hidden"),
               tls_model("initial-exec"))) constinit thread_local tenon::engine::ThreadBorder* tenon_thread_borders =
    nullptr;
}

namespace tenon::engine {

static_assert(offsetof(Choice, before) == 0 && offsetof(Choice, after) == 8 && offsetof(Choice, transition) == 16);
static_assert(offsetof(Transition, epoch) == 0 && offsetof(Transition, borders) == 8);
static_assert(offsetof(ThreadBorder, borders) == 8 && offsetof(ThreadBorder, state) == 16);

void touch_choose_version() noexcept { (void)*reinterpret_cast<const volatile char*>(&tenon_choose_version); }

void add_thread_border(ThreadBorder& border) noexcept {
  border.next = tenon_thread_borders;
  tenon_thread_borders = &border;
}

void remove_thread_border(ThreadBorder& border) noexcept {
  for (ThreadBorder** at = &tenon_thread_borders; *at != nullptr; at = &(*at)->next)
    if (*at == &border) {
      *at = border.next;
      return;
    }
}

namespace {

// Switches, the cells that they push and jump through, and their call frame information.
Result<void> allocate(const std::shared_ptr<Machinery>& machinery, std::size_t count, ModuleState& memory) {
  auto take = [&](link::Run run, memory::AreaKind area, std::uint64_t size, std::uint32_t frames) -> Result<void> {
    Result<OwnedBlock> block = OwnedBlock::allocate(machinery, area, size, 16, frames);
    if (!block) return std::move(block).error();
    memory.blocks.put(run, std::move(*block));
    return {};
  };
  Result<void> done = take(link::Run::code, memory::AreaKind::code, count * link::arch::switch_bytes, 1);
  if (done) done = take(link::Run::slots, memory::AreaKind::slots, (count + 1) * 8, 0);
  if (done && machinery->frames)
    done = take(link::Run::rodata, memory::AreaKind::rodata,
                link::arch::frame_head_bytes + link::arch::switch_frame_bytes + 4, 0);
  return done;
}

void write(memory::Space& space, Transition& transition) {
  const ModuleState& memory = *transition.memory;
  const std::uint64_t code = memory.blocks[link::Run::code]->begin.value;
  const std::uint64_t cells = memory.blocks[link::Run::slots]->begin.value;
  memory::WriteGuard guard(space);
  auto put = [&](std::uint64_t at, const void* value) { std::memcpy(space.writable({at}), &value, sizeof value); };
  put(cells, reinterpret_cast<const void*>(&tenon_choose_version));
  bool near = true;
  for (std::size_t i = 0; i < transition.choices.size(); ++i) {
    Choice& choice = transition.choices[i];
    choice.switch_address = code + i * link::arch::switch_bytes;
    put(cells + 8 * (i + 1), &choice);
    near &=
        link::arch::write_switch(space.writable({choice.switch_address}), choice.switch_address, cells + 8 * (i + 1), cells);
  }
  if (const RunBlocks::View frames = memory.blocks[link::Run::rodata]) {
    const std::uint64_t description = frames->begin.value + link::arch::frame_head_bytes;
    link::arch::write_frame_head(space.writable(frames->begin));
    link::arch::write_switch_frame(space.writable({description}), transition.choices.size() * link::arch::switch_bytes);
    near &= link::arch::set_frame_address(space.writable({description}), description, code);
  }
  TENON_CHECK(near, "a reservation in which something is out of reach");
}

Result<void> publish(Machinery& machinery, const ModuleState& memory) {
  for (const RunBlocks::View& block : memory.blocks.all())
    if (block)
      if (Result<void> done = machinery.space->publish(*block); !done) return done;
  const RunBlocks::View frames = memory.blocks[link::Run::rodata];
  if (!machinery.frames || !frames) return {};
  const RunBlocks::View code = memory.blocks[link::Run::code];
  const notify::Frame frame{code->begin, frames->begin + link::arch::frame_head_bytes};
  memory::WriteGuard guard(*machinery.space);
  machinery.frames->add(*code, {&frame, 1});
  return {};
}

} // namespace

Result<std::unique_ptr<Transition>> make_transition(ChangeState& change) {
  auto transition = std::make_unique<Transition>();
  reclaim::Transit::begin.store(reinterpret_cast<std::uint64_t>(&tenon_choose_version), std::memory_order_relaxed);
  reclaim::Transit::end.store(reinterpret_cast<std::uint64_t>(&tenon_choose_version_end), std::memory_order_relaxed);
  Result<Reclaimer*> reclaimer = reclaimer_of(*change.engine);
  if (!reclaimer) return std::move(reclaimer).error();
  transition->borders = &(*reclaimer)->borders();
  std::size_t count = 0;
  auto for_each_member = [&](auto&& visit) {
    for (const ModuleDraft& draft : change.drafts) {
      if (draft.replacement == nullptr) continue;
      for (const Provided& p : draft.replacement->provided)
        if (!p.fresh && p.definition->kind == DefinitionKind::function) visit(p);
    }
  };
  for_each_member([&](const Provided&) { ++count; });
  if (count == 0) return std::unique_ptr<Transition>();
  transition->choices = std::vector<Choice>(count);
  std::size_t at = 0;
  for_each_member([&](const Provided& p) {
    Choice& choice = transition->choices[at++];
    choice.after.store(p.address, std::memory_order_relaxed);
    choice.transition = transition.get();
    choice.definition = p.definition;
  });
  transition->memory = make_full_state();
  transition->memory->name = "switches";
  transition->memory->auxiliary = transition->memory->removed = true;
  transition->memory->waiting = transition->memory->in_transition = true;
  // Switches name definitions, which must be there until they are over.
  for (const ModuleDraft& draft : change.drafts)
    if (draft.replaces != nullptr) transition->memory->dependencies.push_back({draft.replaces.get(), nullptr, ""});
  if (Result<void> done = allocate(change.engine->machinery, count, *transition->memory); !done)
    return std::move(done).error();
  write(*change.engine->machinery->space, *transition);
  if (Result<void> done = publish(*change.engine->machinery, *transition->memory); !done) return std::move(done).error();
  transition->superseded.reserve(change.drafts.size());
  transition->retirement = std::make_shared<Retirement>();
  change.superseded.push_back(transition->memory); // for EngineState::removed
  return transition;
}

void begin_transition(EngineState& engine, std::unique_ptr<Transition> transition) noexcept {
  memory::Space& space = *engine.machinery->space;
  for (Choice& choice : transition->choices) {
    if (choice.led_to != nullptr) ++choice.led_to->awaited;
    choice.before.store(choice.definition->own, std::memory_order_relaxed);
    lead_to(space, *choice.definition, choice.switch_address);
    choice.definition->choice = &choice;
  }
  reclaim::process::sync_cores();
  engine.reclaimer->borders().next_epoch(&transition->epoch);
  engine.transitions.push_back(std::move(transition)); // has the room
}

namespace {

// Where a switch of this transition leads from now on, whatever still leads to it.
void settle(EngineState& engine, Transition& transition) noexcept {
  memory::Space& space = *engine.machinery->space;
  for (Choice& choice : transition.choices) {
    const std::uint64_t after = choice.after.load(std::memory_order_relaxed);
    Definition& definition = *choice.definition;
    if (choice.led_to != nullptr) --choice.led_to->awaited;
    if (definition.choice == &choice && definition.ends_with_switch) {
      leave_switch(space, definition);
      lead_nowhere(space, definition);
    } else if (definition.choice == &choice) {
      leave_switch(space, definition);
    } else {
      // A later transition leads through this one.
      for (const std::unique_ptr<Transition>& later : engine.transitions) {
        if (later == nullptr) continue; // over as well
        for (Choice& other : later->choices) {
          std::uint64_t expected = choice.switch_address;
          other.before.compare_exchange_strong(expected, after, std::memory_order_release);
        }
      }
    }
    // Versions that a later set has superseded call each other as they did then: through this switch.
    memory::WriteGuard guard(space);
    for (Use* use = definition.uses; use != nullptr; use = use->next)
      if (use->frozen && use->bound == choice.switch_address) bind_sites(space, *use, after);
  }
  for (Definition* definition : transition.vanished)
    if (definition->vanished && !definition->led) {
      // An earlier set's, which for want of memory is found to be over later.
      definition->ends_with_switch = definition->choice != nullptr;
      if (!definition->ends_with_switch) lead_nowhere(space, *definition);
    }
  transition.vanished.clear();
}

bool is_over(const EngineState& engine, const Transition& transition) {
  bool over = true;
  engine.reclaimer->borders().for_each_lingering(transition.epoch.load(std::memory_order_relaxed),
                                                 [&](const reclaim::Borders::Standing&) { over = false; });
  return over;
}

} // namespace

bool finish_transitions(EngineState& engine) noexcept {
  {
    std::lock_guard lock(engine.commit_mutex);
    if (engine.transitions.empty()) return false;
  }
  // A thread that was about to enter in an epoch of before has either said so by now, or reads the epoch again and enters in
  // the new one (Borders::Thread::begin).
  reclaim::process::sync_cores();
  std::lock_guard lock(engine.commit_mutex);
  for (std::unique_ptr<Transition>& transition : engine.transitions) {
    try {
      if (!is_over(engine, *transition)) continue;
    } catch (const std::bad_alloc&) {
      continue;
    }
    settle(engine, *transition);
    // Switches and old versions retire only now: until here they could be entered.
    for (const std::shared_ptr<ModuleState>& version : transition->superseded) version->in_transition = false;
    transition->superseded.clear();
    const std::shared_ptr<ModuleState> memory = std::move(transition->memory);
    memory->in_transition = false;
    memory->rare().transition = std::move(transition); // switches read it while a thread may be inside
  }
  std::erase(engine.transitions, nullptr);
  return !engine.transitions.empty();
}

namespace {

// The epoch of the thread's oldest entry, as tenon_choose_version finds it; 0: it has none.
std::uint64_t epoch_of_this_thread(const reclaim::Borders& borders) noexcept {
  std::uint64_t oldest = 0;
  for (const ThreadBorder* border = tenon_thread_borders; border != nullptr; border = border->next) {
    const std::uint64_t epoch = border->borders == &borders ? border->state->load(std::memory_order_relaxed) : 0;
    if (epoch != 0 && (oldest == 0 || epoch < oldest)) oldest = epoch;
  }
  return oldest;
}

} // namespace

std::uint64_t version_after(const EngineState& engine, const Definition& definition, std::uint64_t trampoline) noexcept {
  const Choice* earlier = nullptr;
  for (const std::unique_ptr<Transition>& transition : engine.transitions)
    for (const Choice& choice : transition->choices) {
      if (choice.definition != &definition) continue;
      const std::uint64_t before = choice.before.load(std::memory_order_relaxed);
      const bool leads_there = before == trampoline || (earlier != nullptr && before == earlier->switch_address &&
                                                        earlier->after.load(std::memory_order_relaxed) == trampoline);
      const std::uint64_t epoch = epoch_of_this_thread(*transition->borders);
      if (leads_there && epoch != 0 && epoch < transition->epoch.load(std::memory_order_relaxed))
        return choice.after.load(std::memory_order_acquire);
      earlier = &choice;
    }
  return 0;
}

bool may_lead_to(const EngineState& engine, std::uint64_t from, std::uint64_t to) noexcept {
  if (from == to) return true;
  for (const std::unique_ptr<Transition>& transition : engine.transitions)
    for (const Choice& choice : transition->choices)
      if (choice.switch_address == from)
        return may_lead_to(engine, choice.before.load(std::memory_order_relaxed), to) ||
               may_lead_to(engine, choice.after.load(std::memory_order_relaxed), to);
  return false;
}

void describe_transitions(const EngineState& engine, std::vector<Delay>& delays) {
  for (const std::unique_ptr<Transition>& transition : engine.transitions)
    engine.reclaimer->borders().for_each_lingering(
        transition->epoch.load(std::memory_order_relaxed), [&](const reclaim::Borders::Standing& thread) {
          for (const std::shared_ptr<ModuleState>& version : transition->superseded)
            delays.push_back({thread.name, thread.tid, false, version->name, "", {}, "its entry began before the exchange"});
        });
}

} // namespace tenon::engine
