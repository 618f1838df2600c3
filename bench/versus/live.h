// A program that is changed while it runs: a function `target` of a replaceable library, another module that calls it, and
// as many versions of the first as wanted, compiled before anything is timed.
//
// Versions are made by tenon-llvm with `replaceable`, so that what is measured is what a client gets. Version v of target(x)
// gives x + v.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/engine.h>
#include <tenon/llvm.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace versus {

using tenon::Error;
using tenon::ErrorCode;
using tenon::Result;

using ObjectBytes = std::vector<std::byte>;

// `replaceable`: as a replaceable library needs it; otherwise as anybody compiles who knows nothing of replacing.
Result<ObjectBytes> compile_text(const std::string& ir, const char* name, bool replaceable = true);

// The options of every engine that is changed under load.
tenon::Options live_options();

// All stages of a change.
Result<tenon::Committed> commit_all(tenon::Change change);

class LiveFunction {
public:
  static constexpr std::size_t versions = 64; // their bytes are used in turns

  // `host_call`: a function of the host, which every version calls before it returns; null: none.
  static Result<std::unique_ptr<LiveFunction>> create(void (*host_call)() = nullptr);

  // Object bytes in, all new calls land. Errors: as of the stages.
  Result<void> swap();

  // What target(0) gives by now.
  int version() const noexcept { return static_cast<int>(current_); }
  // Linked code in another module, which calls target by a direct branch.
  int (*caller() const noexcept)(int) { return caller_; }
  tenon::Engine& engine() noexcept { return engine_; }
  std::size_t object_bytes() const noexcept { return versions_.front().size(); }
  const ObjectBytes& object(std::size_t version) const noexcept { return versions_[version]; }
  const ObjectBytes& caller_object() const noexcept { return caller_bytes_; }

private:
  LiveFunction(tenon::Engine engine, tenon::Library library) : engine_(std::move(engine)), library_(std::move(library)) {}

  tenon::Engine engine_;
  tenon::Library library_;
  std::vector<ObjectBytes> versions_;
  ObjectBytes caller_bytes_;
  std::vector<tenon::Module> module_; // one
  std::size_t current_ = 0;
  int (*caller_)(int) = nullptr;
};

} // namespace versus
