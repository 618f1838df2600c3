// The blocks of a version, one for each run at most, in half the room of as many OwnedBlocks: all of them are one engine's,
// so that addresses are granules from the begin of its reservation, and the run tells the area.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/machinery.h"
#include "link/module.h"

#include <array>
#include <cstdint>

namespace tenon::engine {

constexpr memory::AreaKind area_of(link::Run run) {
  switch (run) {
  case link::Run::code: return memory::AreaKind::code;
  case link::Run::rodata: return memory::AreaKind::rodata;
  case link::Run::data: return memory::AreaKind::data;
  default: return memory::AreaKind::slots;
  }
}

class RunBlocks {
public:
  // What is packed is read by value.
  class View {
  public:
    View() = default;
    explicit View(const memory::Block& block) noexcept : block_(block) {}
    explicit operator bool() const noexcept { return block_.size != 0; }
    const memory::Block& operator*() const noexcept { return block_; }
    const memory::Block* operator->() const noexcept { return &block_; }

  private:
    memory::Block block_;
  };

  RunBlocks() = default;
  ~RunBlocks() { reset(); }
  RunBlocks(RunBlocks&& other) noexcept { swap(other); }
  RunBlocks& operator=(RunBlocks&& other) noexcept {
    swap(other);
    return *this;
  }

  View operator[](link::Run run) const noexcept { return View(block(std::size_t(run))); }
  // By run; empty ones for those that there are none of.
  std::array<View, link::runs> all() const noexcept;
  // The run has none. Allocates one, as OwnedBlock::allocate() does: where it lies. If it fails there may be one already,
  // which goes with the rest. May throw std::bad_alloc.
  Result<Addr> allocate(const std::shared_ptr<Machinery>& machinery, link::Run run, const link::RunSize& size,
                        std::uint32_t frames);
  // The run has had none.
  void put(link::Run run, OwnedBlock&& block) noexcept;
  OwnedBlock take(link::Run run) noexcept; // an empty one if there is none
  void reset() noexcept;
  // Asks for the memory that reset() will look at; then for what that leads to.
  void prefetch() const noexcept;
  void prefetch_neighbours() const noexcept;

private:
  struct Packed {
    std::uint32_t begin = 0, size = 0; // in granules
  };

  memory::Block block(std::size_t run) const noexcept;
  void pack(std::size_t run, const memory::Space& space, const memory::Block& block) noexcept;
  memory::Block block(std::size_t run, Addr origin) const noexcept; // of one that there is
  void swap(RunBlocks& other) noexcept;

  Machinery* machinery_ = nullptr; // null: no blocks
  std::array<Packed, link::runs> packed_;
  std::uint32_t first_slot_ = 0, slots_ = 0; // of the code
};

} // namespace tenon::engine
