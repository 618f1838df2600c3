// What tests of replacing share: an engine with a replaceable library, objects that can be replaced, waiting until what was
// superseded is free.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine_support.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <utility>

namespace tenon::test {

inline constexpr const char* replaceable_gcc = "-O1 -fPIC -ffunction-sections -fdata-sections -fno-inline -fno-ipa-ra";
inline constexpr const char* replaceable_clang = "-O1 -fPIC -ffunction-sections -fdata-sections -fno-inline";

struct CompilerSetting {
  const char* name;
  Object (*compile)(std::string_view, std::string_view, std::string_view);
  const char* flags;
};

struct ReplaceFixture : testing::Test {
  Engine engine = make_engine();
  Library library = expect(engine.library("main", {.replaceable = true}));

  Result<Committed> try_replace(const Module& module, Object object, DataPolicy policy = {}, Switch how = Switch::each) {
    Change change = engine.change();
    change.replace(module, std::move(object), std::move(policy));
    return try_commit(std::move(change), Initialize::run, how);
  }
  void replace(const Module& module, Object object, DataPolicy policy = {}) {
    expect(try_replace(module, std::move(object), std::move(policy)));
  }
  Result<Committed> try_replace(const Module& module, Object object, Switch how) {
    return try_replace(module, std::move(object), {}, how);
  }
  void replace(const Module& module, Object object, Switch how) { expect(try_replace(module, std::move(object), how)); }
  // Everything that nobody is inside of is freed. Other threads of the process may be running just now.
  void settle() {
    scrub_stack();
    wait_until_settled();
  }
  // Calls again(n) for n up to `last`, which replaces something: from `steady` on it takes no more memory than before.
  template <class Again> void expect_no_growth(int steady, int last, Again again) {
    std::uint64_t live = 0;
    for (int n = 1; n <= last; ++n) {
      again(n);
      settle();
      if (n == steady) live = engine.usage().live;
    }
    EXPECT_EQ(engine.usage().live, live);
  }
  template <class Signature> Signature* get(std::string_view name) { return function<Signature>(library, name); }
  static Object c(const std::string& text) { return compile_c(text, replaceable_clang); }
  static Object cpp(const std::string& text) { return compile_cpp(text, replaceable_clang); }

private:
  __attribute__((noinline)) void wait_until_settled() {
    for (int i = 0; i < 5000; ++i) {
      if (expect(engine.collect()).empty() && engine.usage().superseded == 0) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::string who;
    for (const Delay& delay : expect(engine.collect()))
      who += "\n  thread " + delay.thread + " (" + std::to_string(delay.tid) + ") " +
             (delay.inside ? "inside " + delay.function : std::string(delay.why)) + " of " + delay.module;
    FAIL() << "something delays the freeing of old code:" << who;
  }
};

// C++: begin(step) makes a coroutine, next() resumes it and is the sum of steps so far, times `factor`; end() destroys it.
inline std::string coroutine_text(int factor) {
  return "#include <coroutine>\n"
         "struct Task { struct promise_type { int value = 0;"
         "  Task get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }"
         "  std::suspend_always initial_suspend() noexcept { return {}; } std::suspend_always final_suspend() noexcept { "
         "return {}; }"
         "  void return_void() {} void unhandled_exception() {}"
         "  std::suspend_always yield_value(int v) { value = v; return {}; } };"
         "  std::coroutine_handle<promise_type> handle; };"
         "using Handle = std::coroutine_handle<Task::promise_type>;"
         "static Task count(int step) { int x = 0; for (;;) { x += step; co_yield x * " +
         std::to_string(factor) +
         "; } }"
         "extern \"C\" void* begin(int step) { return count(step).handle.address(); }"
         "extern \"C\" int next(void* c) { Handle h = Handle::from_address(c); h.resume(); return h.promise().value; }"
         "extern \"C\" void end(void* c) { Handle::from_address(c).destroy(); }";
}

} // namespace tenon::test
