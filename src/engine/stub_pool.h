// The stubs of replaceable functions: permanent addresses that outlive every version of the code behind them.
//
// A stub is eight bytes of code that jump through a slot of its own. They come in pages of 64, and these in groups that
// share a block and one frame description, so that a program of many small functions pays 16 bytes for each and no block of
// its own.
//
// Owner: EngineState; pages live as long as a stub of theirs does, engine or no engine. Any thread; one lock, inside of all
// others but memory's.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/machinery.h"

#include <cstdint>
#include <memory>
#include <utility>

namespace tenon::engine {

struct StubPage;
struct StubPoolState;

// Gives itself back: nobody jumps to it any more then.
class Stub {
public:
  Stub() = default;
  Stub(std::shared_ptr<StubPage> page, std::uint64_t address, std::uint64_t slot) noexcept
      : page_(std::move(page)), address_(address), slot_(slot) {}
  Stub(Stub&& other) noexcept
      : page_(std::move(other.page_)), address_(std::exchange(other.address_, 0)), slot_(std::exchange(other.slot_, 0)) {}
  Stub& operator=(Stub&& other) noexcept {
    std::swap(page_, other.page_);
    std::swap(address_, other.address_);
    std::swap(slot_, other.slot_);
    return *this;
  }
  ~Stub();

  std::uint64_t address() const noexcept { return address_; }
  std::uint64_t slot() const noexcept { return slot_; }

private:
  std::shared_ptr<StubPage> page_;
  std::uint64_t address_ = 0;
  std::uint64_t slot_ = 0;
};

class StubPool {
public:
  explicit StubPool(std::shared_ptr<Machinery> machinery);
  ~StubPool();
  StubPool(const StubPool&) = delete;
  StubPool& operator=(const StubPool&) = delete;

  // May throw std::bad_alloc. Errors: exhausted, system.
  Result<Stub> take();
  std::uint64_t in_use() const noexcept;

  // Around fork.
  void lock() noexcept;
  void unlock() noexcept;

private:
  std::shared_ptr<StubPoolState> state_;
};

} // namespace tenon::engine
