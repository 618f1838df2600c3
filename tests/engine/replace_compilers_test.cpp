// What compilers, and assemblers, make of ordinary code without saying so in a relocation or a name: by either compiler, at
// several levels, with sections for functions and without.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <array>
#include <functional>

namespace tenon::test {
namespace {

// Called by code under test, as `host_pause`: the test acts while that code's frame is there.
std::function<void()> action;
void host_pause() {
  if (action) action();
}

struct ReplaceCompilers : ReplaceFixture {
  void let_code_pause() {
    const std::array symbols{Absolute{"host_pause", Addr{reinterpret_cast<std::uint64_t>(&host_pause)}}};
    expect(library.define(symbols));
  }
  // Versions that functions have to be found in for good stay.
  void free_what_can_be() {
    scrub_stack();
    for (int i = 0; i < 3; ++i) (void)expect(engine.collect());
  }
  ~ReplaceCompilers() override { action = nullptr; }
};

struct CompiledBy : ReplaceCompilers, testing::WithParamInterface<const char*> {
  static Object compile(const std::string& text) {
    const std::string_view how = GetParam();
    return how.starts_with("gcc ") ? compile_gcc(text, how.substr(4)) : compile_cpp(text, how);
  }
};

INSTANTIATE_TEST_SUITE_P(Flags, CompiledBy,
                         testing::Values("-O0 -fPIC -fdata-sections", "-O1 -fPIC -fdata-sections",
                                         "-O2 -fpie -fno-plt -ffunction-sections -fdata-sections",
                                         "gcc -O0 -fPIC -fdata-sections", "gcc -O2 -fPIC -fdata-sections",
                                         "gcc -O3 -fPIC -fno-plt -ffunction-sections -fdata-sections"));

TEST_P(CompiledBy, AnAddressThatTheAssemblerHasWorkedOutIsTheStubs) {
  auto text = [](int n) {
    return "static __attribute__((noinline)) int callback(int x) { return x + " + std::to_string(n) +
           "; }"
           "static void* itself(void* p) { asm volatile(\"\" : \"+r\"(p)); return p ? (void*)itself : p; }"
           "extern \"C\" { void* address() { return (void*)callback; } void* of_itself() { return itself((void*)1); }"
           "int direct(int x) { return callback(x); } int (*table[])(int) = {callback}; }";
  };
  Module m = commit(engine, library, compile(text(1)));
  auto* address = get<void*()>("address");
  auto* of_itself = get<void*()>("of_itself");
  void* callback = address();
  void* itself = of_itself();
  EXPECT_EQ(*address_of(library, "table").as<void**>(), callback);
  EXPECT_EQ(reinterpret_cast<int (*)(int)>(callback)(1), 2);
  for (int n = 2; n < 5; ++n) {
    replace(m, compile(text(n)));
    settle();
    for (bool moved : {false, true}) {
      if (moved) (void)engine.move(m);
      settle();
      EXPECT_EQ(address(), callback);
      EXPECT_EQ(of_itself(), itself);
      EXPECT_EQ(reinterpret_cast<int (*)(int)>(callback)(1), 1 + n);
    }
  }
}

TEST_P(CompiledBy, ACoroutinesPointersThatTheAssemblerHasWorkedOutKeepTheirVersion) {
  Module m = commit(engine, library, compile(coroutine_text(1)));
  auto* begin = get<void*(int)>("begin");
  auto* next = get<int(void*)>("next");
  void* first = begin(5);
  EXPECT_EQ(next(first), 5);
  replace(m, compile(coroutine_text(10)));
  void* second = begin(5);
  (void)engine.move(m);
  free_what_can_be();
  EXPECT_EQ(next(second), 50);
  replace(m, compile(coroutine_text(100)));
  free_what_can_be();
  EXPECT_EQ(next(first), 10);
  EXPECT_EQ(next(second), 100);
  get<void(void*)>("end")(first);
  get<void(void*)>("end")(second);
}

} // namespace
} // namespace tenon::test
