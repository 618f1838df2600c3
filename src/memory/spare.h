// The reservation of an engine that has ended, kept for the next one.
//
// Loading an anchor and mapping the areas takes twenty system calls, most of what an engine costs that does little. So one
// reservation stays, empty and out of reach, when its engine ends: one for the process, only of the usual kind (2 GiB, dual
// mapping, with an anchor, at a good place). Whoever wants another kind gives it up first: it has the best place. What
// stays is address space, no memory. A child of fork gives it up, too.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "memory/space.h"

#include <memory>

namespace tenon::memory::spare {

// As if just created; null: there is none that serves. `anchored`: of an anchor. Any thread.
std::shared_ptr<Space> take(const SpaceOptions& wanted, bool anchored) noexcept;

// Of an anchor (notify/frames.h). Nobody uses anything of its memory any more; others may own the Space still, then it is
// not kept. Any thread.
void keep(std::shared_ptr<Space> space) noexcept;

} // namespace tenon::memory::spare
