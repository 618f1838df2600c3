// Many functions and one that calls each of them in turn, in a loop: what a call costs shows there.
//
//     int round(int x, unsigned times)   { do { x = target0(x); x = target1(x); ... } while (...); return x; }
//
// target_i(x) is x + 1, other_i(x) is x + 2: a body that target_i may be redirected to.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "live.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace versus {

using Round = int (*)(int, unsigned);

struct ChainObjects {
  ObjectBytes targets, others, caller;
};

std::vector<std::string> numbered(const char* prefix, std::size_t count);
Result<ChainObjects> compile_chain(std::size_t count, bool replaceable);

// In a replaceable library, each object a module.
class LiveChain {
public:
  static Result<std::unique_ptr<LiveChain>> create(const ChainObjects& objects, std::size_t count);

  Round round() const noexcept { return round_; }
  // Where the code of all three modules begins: the first target's body.
  std::uint64_t code_begin() const { return body("target0"); }
  const tenon::Engine& engine() const noexcept { return engine_; }
  const tenon::Library& library() const noexcept { return library_; }

  // Reads the linked bytes of round(): what is wrong if not each of its calls is a `call rel32` straight to a target's body.
  std::string examine() const;

private:
  LiveChain(tenon::Engine engine, tenon::Library library) : engine_(std::move(engine)), library_(std::move(library)) {}
  // Where the function's permanent stub leads.
  std::uint64_t body(const std::string& name) const;

  tenon::Engine engine_;
  tenon::Library library_;
  std::vector<tenon::Module> modules_;
  std::size_t count_ = 0;
  std::uint64_t round_size_ = 0;
  Round round_ = nullptr;
};

// The same, made a shared object by the static linker, with calls bound inside of it. Its code begins at an address with the
// low 21 bits of `code_begin`: the branch predictor looks functions up by address, and with some thousands of them the same
// bytes take 4.0 or 6.5 ns a call depending on nothing but where they lie.
class StaticChain {
public:
  static Result<std::unique_ptr<StaticChain>> create(const ChainObjects& objects, std::uint64_t code_begin);
  ~StaticChain();
  Round round() const noexcept { return round_; }

private:
  StaticChain(void* handle, Round round) : handle_(handle), round_(round) {}
  void* handle_;
  Round round_;
};

// Wrong, or nothing: called once, from 5.
std::string check_round(Round round, std::size_t count, int step);

} // namespace versus
