// An engine's memory with the unwinder told of it, and tiny functions with hand-made unwind information to put into it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "memory/space.h"
#include "notify/frames.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace tenon::test {

// What is looked at is libgcc's own search, the one that a throw uses. Null if it finds nothing.
const void* find_fde(Addr pc);

// A function of `size` bytes, at least 12: sets up a frame, calls the function that it is given, and returns. One that
// `ends_in_call` has the call as its last instruction, so that the return address is just behind it.
struct FunctionSpec {
  std::uint64_t size = 16;
  bool ends_in_call = false;
  bool has_frame = true;
};

using Callback = void();
using Emitted = void(Callback*);

struct Module {
  memory::Block code, unwind;
  std::vector<notify::Frame> frames;
  std::vector<Addr> functions;
  std::vector<std::uint64_t> sizes; // of the functions

  Emitted* function(std::size_t index) const { return functions[index].as<Emitted*>(); }
  // What a search for `pc`, inside the code, has to give.
  const void* expected(Addr pc) const;
};

class Engine {
public:
  explicit Engine(std::uint64_t size = std::uint64_t(1) << 28, memory::Mapping mapping = memory::Mapping::dual);

  memory::Space& space() { return *space_; }
  notify::Frames& frames() { return *frames_; }

  // Allocates and writes code and unwind information, and stops there. `spare_slots` more than the frames need.
  Module emit(const std::vector<FunctionSpec>& functions, std::uint32_t spare_slots = 0);
  void prepare(const Module& module);
  void add(const Module& module);
  Module load(const std::vector<FunctionSpec>& functions, std::uint32_t spare_slots = 0);
  void unload(const Module& module);
  // Without remove: for what was never added.
  void free(const Module& module);

private:
  std::shared_ptr<memory::Space> space_;
  std::unique_ptr<notify::Frames> frames_;
};

// Relocated .eh_frame content for `functions`, to lie at `place`; ends in a zero length. Appends where each FDE lies.
std::vector<std::byte> make_eh_frame(Addr place, const std::vector<notify::Frame>& functions,
                                     const std::vector<std::uint64_t>& sizes, std::vector<Addr>& descriptions);
// The code of one function.
std::vector<std::byte> make_code(const FunctionSpec& spec);

} // namespace tenon::test
