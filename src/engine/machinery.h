// The memory of one engine and the unwinder's view of it. Shared by the engine and by all code that may outlive it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "base/list.h"
#include "memory/space.h"
#include "notify/frames.h"

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace tenon::engine {

struct Machinery {
  Machinery() = default;
  ~Machinery();
  Machinery(const Machinery&) = delete;
  Machinery& operator=(const Machinery&) = delete;
  static std::shared_ptr<Machinery> make(); // may throw std::bad_alloc

  std::shared_ptr<memory::Space> space;
  std::optional<notify::Frames> frames; // none: the engine registers no unwind information
  bool ended = false;                   // the engine is at its end: who is still needed ends without it; under endings()
  std::atomic<std::uint32_t> codes{0};  // released code, which may outlive the engine
  std::atomic<bool> dropped{false};     // nobody needs anything of it any more: blocks need not be freed one by one

  // Blocks, of which there are many, count by themselves: all shared_ptrs are one of `users`.
  void enter() noexcept { users_.fetch_add(1, std::memory_order_relaxed); }
  void leave() noexcept { // who is last sees what all others have done with it
    if (users_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

private:
  std::atomic<std::size_t> users_{1};
};

struct Stretch {
  Addr begin, end;
};

// Sorted, widened to whole granules, those that touch joined. May throw std::bad_alloc.
std::vector<Stretch> whole_granules(std::vector<Stretch> stretches);

// Withdraws its frames first.
void free_block(Machinery& machinery, const memory::Block& block) noexcept;

// A block that frees itself.
class OwnedBlock {
public:
  OwnedBlock() = default;
  OwnedBlock(Machinery& machinery, const memory::Block& block) noexcept : machinery_(&machinery), block_(block) {
    machinery_->enter();
  }
  ~OwnedBlock() { reset(); }
  OwnedBlock(OwnedBlock&& other) noexcept
      : machinery_(std::exchange(other.machinery_, nullptr)), block_(std::exchange(other.block_, {})) {}
  OwnedBlock& operator=(OwnedBlock&& other) noexcept {
    std::swap(machinery_, other.machinery_);
    std::swap(block_, other.block_);
    return *this;
  }

  explicit operator bool() const noexcept { return block_.size != 0; }
  const memory::Block& operator*() const noexcept { return block_; }
  const memory::Block* operator->() const noexcept { return &block_; }

  // Allocates; for code with room for that many frames in the unwinder's table, which is readied. May throw std::bad_alloc.
  // Errors: as Space::allocate.
  static Result<OwnedBlock> allocate(const std::shared_ptr<Machinery>& machinery, memory::AreaKind area, std::uint64_t size,
                                     std::uint64_t alignment, std::uint32_t frames);
  // The same at the lowest address that is free and lies before `below`. Errors: exhausted, too, if none does.
  static Result<OwnedBlock> allocate_low(const std::shared_ptr<Machinery>& machinery, memory::AreaKind area,
                                         std::uint64_t size, std::uint64_t alignment, std::uint32_t frames, Addr below);
  void reset() noexcept;
  // Somebody else frees the block, and has its count: Machinery::leave().
  Machinery* give_up() noexcept {
    block_ = {};
    return std::exchange(machinery_, nullptr);
  }

  // Of blocks[index] keeps what lies in the given stretches of addresses (sorted, each of whole granules, no two of them
  // touching), as blocks of their own at the end of `blocks`, and moves the rest to the end of `freed`; it is empty then.
  // May throw std::bad_alloc, and then nothing has changed.
  static void keep_only(std::vector<OwnedBlock>& blocks, std::size_t index, std::span<const Stretch> kept,
                        std::vector<OwnedBlock>& freed);
  static void keep_only(base::List<OwnedBlock>& blocks, std::size_t index, std::span<const Stretch> kept,
                        std::vector<OwnedBlock>& freed);

private:
  static Result<OwnedBlock> adopt(const std::shared_ptr<Machinery>& machinery, Result<memory::Block> block);
  memory::Block piece(Addr begin, Addr end) const noexcept;

  template <class Blocks>
  static void divide(Blocks& blocks, std::size_t index, std::span<const Stretch> kept, std::vector<OwnedBlock>& freed);
  void leave() noexcept { give_up()->leave(); }

  Machinery* machinery_ = nullptr; // null: no block
  memory::Block block_;
};

} // namespace tenon::engine
