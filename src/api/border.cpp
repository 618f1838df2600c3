// Border and its entries: thin covers over src/reclaim.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <tenon/border.h>

#include "api/border_state.h"

namespace tenon {

namespace {
using Mark = reclaim::Borders::Thread::Mark;
static_assert(sizeof(Mark) == 1);
Mark& mark_of(char& byte) noexcept { return *reinterpret_cast<Mark*>(&byte); }
} // namespace

Border::Border(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Border::Border(Border&&) noexcept = default;
Border& Border::operator=(Border&&) noexcept = default;
Border::~Border() = default;

void Border::set_quiescent_mode(bool on) noexcept { state_->thread.set_quiescent_mode(on); }
void Border::quiescent() noexcept { state_->thread.quiescent(); }
void Border::set_real_time(bool on) noexcept { state_->thread.set_real_time(on); }

Border::Entry::Entry(Border& border) noexcept : state_(*border.state_) { state_.thread.enter(mark_of(mark_)); }
Border::Entry::~Entry() { state_.thread.leave(mark_of(mark_)); }

} // namespace tenon
