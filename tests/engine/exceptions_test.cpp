// C++ exceptions and backtraces through linked frames, in every direction. Itanium C++ ABI, "Exception Handling";
// LSB 5.0, 10.6.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include <gmock/gmock.h>

#include <execinfo.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>

extern "C" {
__attribute__((visibility("default"))) void exceptions_host_throw(int value) {
  throw std::runtime_error(std::to_string(value));
}
__attribute__((visibility("default"))) int exceptions_host_catch(void (*body)(int), int value) {
  try {
    body(value);
  } catch (int thrown) {
    return thrown;
  } catch (const std::exception& thrown) {
    return -std::stoi(thrown.what());
  }
  return 0;
}
__attribute__((visibility("default"))) void* exceptions_frames[64];
__attribute__((visibility("default"))) int exceptions_backtrace() { return backtrace(exceptions_frames, 64); }
}

namespace tenon::test {
namespace {

struct Exceptions : testing::TestWithParam<Mapping> {
  Engine engine = make_engine([] {
    Options options;
    options.mapping = GetParam();
    return options;
  }());
  Library library = expect(engine.library());
};

constexpr const char* thrower = R"(
#include <stdexcept>
extern "C" void exceptions_host_throw(int);
extern "C" int exceptions_host_catch(void (*)(int), int);
extern "C" int exceptions_backtrace();
extern "C" int destroyed;
int destroyed = 0;
struct Count { ~Count() { ++destroyed; } };
struct Own { int value; };
extern "C" {
void throw_int(int value) { Count count; throw value; }
void throw_own(int value) { Count count; throw Own{value}; }
void throw_standard(int value) { Count count; throw std::runtime_error(std::to_string(value)); }
void call_host(int value) { Count count; exceptions_host_throw(value); }
int catch_host(int value) { try { exceptions_host_throw(value); } catch (const std::exception &e) {
  return std::stoi(e.what()); } return -1; }
int catch_own(int value) { try { throw_own(value); } catch (Own &own) { return own.value; } return -1; }
int through_host(int value) { return exceptions_host_catch(throw_int, value); }
int trace() { Count count; return exceptions_backtrace() + 0 * destroyed; }
int get_destroyed() { return destroyed; }
}
)";

constexpr const char* catcher = R"(
#include <exception>
struct Own { int value; };
extern "C" { void throw_own(int); void throw_int(int); int trace(); }
extern "C" int catch_other(int value) {
  try { throw_own(value); } catch (Own &own) { try { throw_int(own.value + 1); } catch (int thrown) {
    return thrown * 10 + own.value; } }
  return -1;
}
extern "C" int rethrow(int value) {
  try { try { throw_int(value); } catch (...) { std::exception_ptr kept = std::current_exception();
    std::rethrow_exception(kept); } }
  catch (int thrown) { return thrown; }
  return -1;
}
extern "C" int outer_trace() { int depth = trace(); asm volatile("" : "+r"(depth)); return depth; }
)";

TEST_P(Exceptions, InEveryDirection) {
  for (bool gcc : {false, true}) {
    library = expect(engine.library());
    std::string flags = gcc ? "-O2 -fPIC" : "-O1 -fPIC";
    commit(engine, library, {gcc ? compile_gcc(thrower, flags) : compile_cpp(thrower, flags)});
    commit(engine, library, {gcc ? compile_cpp(catcher, flags) : compile_gcc(catcher, flags)});
    auto call = [&](const char* name, int value) { return function<int(int)>(library, name)(value); };
    auto thrown_by = [&](const char* name) { return function<void(int)>(library, name); };
    EXPECT_EQ(exceptions_host_catch(thrown_by("throw_int"), 5), 5) << "linked to host";
    EXPECT_EQ(exceptions_host_catch(thrown_by("throw_standard"), 6), -6);
    EXPECT_EQ(exceptions_host_catch(thrown_by("call_host"), 7), -7) << "host through linked to host";
    EXPECT_EQ(call("catch_host", 8), 8) << "host to linked";
    EXPECT_EQ(call("catch_own", 9), 9);
    EXPECT_EQ(call("through_host", 10), 10) << "linked through host to linked";
    EXPECT_EQ(call("catch_other", 11), 131) << "nested, across modules and compilers";
    EXPECT_EQ(call("rethrow", 12), 12);
    EXPECT_EQ(function<int()>(library, "get_destroyed")(), 8) << "cleanups have run";
    EXPECT_ANY_THROW(thrown_by("call_host")(1));
  }
}

TEST_P(Exceptions, ThroughStubs) {
  // Called and tail-called through the linker's stubs and through the GOT.
  commit(engine, library, {assemble(R"(
    .text
    .globl called, tail, got
called: .cfi_startproc
    subq $8, %rsp
    .cfi_adjust_cfa_offset 8
    call exceptions_host_throw@PLT
    addq $8, %rsp
    .cfi_adjust_cfa_offset -8
    ret
    .cfi_endproc
tail: .cfi_startproc
    jmp exceptions_host_throw@PLT
    .cfi_endproc
got: .cfi_startproc
    subq $8, %rsp
    .cfi_adjust_cfa_offset 8
    call *exceptions_host_throw@GOTPCREL(%rip)
    addq $8, %rsp
    .cfi_adjust_cfa_offset -8
    ret
    .cfi_endproc
)")});
  for (const char* name : {"called", "tail", "got"})
    EXPECT_EQ(exceptions_host_catch(function<void(int)>(library, name), 3), -3) << name;
}

TEST_P(Exceptions, BacktracesGoOn) {
  commit(engine, library,
         {compile_cpp(thrower, "-O1 -fPIC"), compile_cpp(catcher, "-O1 -fPIC -fno-optimize-sibling-calls")});
  int depth = function<int()>(library, "outer_trace")();
  auto within = [&](void* frame, const char* name) {
    std::uint64_t begin = address_of(library, name).value, at = Addr::of(frame).value;
    return at > begin && at < begin + 200;
  };
  auto begin = exceptions_frames, end = exceptions_frames + depth;
  auto inner = std::find_if(begin, end, [&](void* frame) { return within(frame, "trace"); });
  auto outer = std::find_if(begin, end, [&](void* frame) { return within(frame, "outer_trace"); });
  ASSERT_NE(inner, end);
  ASSERT_NE(outer, end);
  EXPECT_EQ(outer - inner, 1);
  EXPECT_GT(end - outer, 3) << "and on to main";
}

TEST_P(Exceptions, WhileOtherModulesComeAndGo) {
  commit(engine, library, compile_cpp(thrower, "-O1 -fPIC"));
  auto catch_own = function<int(int)>(library, "catch_own");
  std::atomic<bool> stop{false};
  std::atomic<long> wrong{0}, thrown{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&] {
      while (!stop) {
        wrong += catch_own(3) == 3 ? 0 : 1;
        ++thrown;
      }
    });
  Object other = compile_cpp("extern \"C\" int again() { try { throw 1; } catch (int i) { return i; } }");
  for (int i = 0; i < 100; ++i) {
    Library own = expect(engine.library());
    commit(engine, own, other);
    wrong += function<int()>(own, "again")() == 1 ? 0 : 1;
  }
  while (thrown < 100) std::this_thread::yield();
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

INSTANTIATE_TEST_SUITE_P(Mappings, Exceptions, testing::Values(Mapping::dual, Mapping::single),
                         [](const auto& mapping) { return mapping.param == Mapping::dual ? "dual" : "single"; });

TEST(Unwinding, AnEngineWithoutItLinksAndRuns) {
  Options options;
  options.unwinding = false;
  Engine engine = make_engine(options);
  Library library = expect(engine.library());
  std::uint64_t frames = engine.usage().frames;
  Module module = commit(engine, library, compile_cpp(thrower, "-O1 -fPIC"));
  EXPECT_EQ(function<int()>(library, "get_destroyed")(), 0);
  EXPECT_EQ(engine.usage().frames, frames);
  ASSERT_TRUE(try_remove(engine, {module}));
  EXPECT_EQ(engine.usage().live, 0U);
}

TEST(Unwinding, AModuleWithoutItEndsTheProgramWhereItThrows) {
  testing::GTEST_FLAG(death_test_style) = "fast";
  Engine engine = make_engine();
  Library library = expect(engine.library());
  ModuleOptions options;
  options.unwinding = false;
  commit(engine, library, compile_cpp(thrower, "-O1 -fPIC"), options);
  EXPECT_EQ(function<int()>(library, "get_destroyed")(), 0);
  EXPECT_DEATH(function<int(int)>(library, "catch_own")(1), "terminate called");
}

} // namespace
} // namespace tenon::test
