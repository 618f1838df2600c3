// Who links tiny modules one after the other, each the way an embedder would who needs every one at once.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "tiny.h"

#include <memory>

namespace versus {

class TinyLinker {
public:
  virtual ~TinyLinker();

  // Its key in the table.
  virtual const char* name() const = 0;
  // A fresh instance; the one before goes. `removals`: that many modules will be added which are to be removed one by one.
  virtual Result<void> start(std::size_t removals) = 0;
  // Links an object, registers its frames and looks a name up in what is linked by now: its address. On return it can be
  // called. What was given need not be kept.
  virtual Result<std::uint64_t> add(std::span<const std::byte> object, const char* wanted) = 0;
  // Takes one out: the one that was added as number `index`, counted from zero.
  virtual Result<void> remove(std::size_t index) = 0;
  // Waits until what was removed is free.
  virtual Result<void> settle() { return {}; }
  // Destroys the instance with all that it holds.
  virtual void stop() = 0;
};

enum class Leaving : unsigned char { caller_guarantees, prove };

std::unique_ptr<TinyLinker> make_tiny_tenon(Leaving leaving = Leaving::caller_guarantees);
std::unique_ptr<TinyLinker> make_tiny_orc();
std::unique_ptr<TinyLinker> make_tiny_jitlink();
std::unique_ptr<TinyLinker> make_tiny_rtdyld();

} // namespace versus
