// What a Border is.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/border.h>

#include "engine/engine_state.h"
#include "engine/reclaimer.h"
#include "engine/transition.h"

namespace tenon {

struct Border::State {
  std::shared_ptr<engine::EngineState> engine;
  reclaim::Borders::Thread thread;
  engine::ThreadBorder in_list; // of the thread

  State(std::shared_ptr<engine::EngineState> owner, engine::Reclaimer& reclaimer, std::string_view name)
      : engine(std::move(owner)), thread(reclaimer.borders(), name) {
    in_list.borders = &reclaimer.borders();
    in_list.state = &thread.state();
    engine::add_thread_border(in_list);
  }
  ~State() { engine::remove_thread_border(in_list); }
};

} // namespace tenon
