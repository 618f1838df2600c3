// Distances in data to functions, which assemblers name by their section, among jump tables, which look the same.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

namespace tenon::test {
namespace {

struct ReplaceDistances : ReplaceFixture {};

// Local functions f, g and h; a jump table whose second entry has h's offset for an addend, since it leads to 4 bytes
// before.
std::string distances(int n) {
  const std::string value = std::to_string(n), ten = std::to_string(10 * n);
  std::string all =
      ".text\n.p2align 4\n.type f,@function\nf: movl $" + value +
      ",%eax\n ret\n.size f,.-f\n.p2align 4\n.type g,@function\ng: movl $" + ten +
      ",%eax\n ret\n.size g,.-g\n.p2align 4\n.globl pick\n.type pick,@function\npick: leaq .Ltable(%rip),%rcx\n"
      " movslq (%rcx,%rdi,4),%rax\n addq %rcx,%rax\n jmp *%rax\n.L0: pushq $" +
      value + "\n popq %rax\n ret\n.L1: pushq $" + ten +
      "\n popq %rax\n ret\n.size pick,.-pick\n.type h,@function\nh: movl $-" + value +
      ",%eax\n ret\n.size h,.-h\n.globl call\n.type call,@function\ncall: call f\n ret\n.size call,.-call\n";
  auto object = [&](const std::string& section, const std::string& name, const std::string& content) {
    all += ".section " + section + "\n.p2align 3\n.globl " + name + "\n.type " + name + ",@object\n" + name + ": " +
           content + "\n.size " + name + ",.-" + name + "\n";
  };
  object(".rodata.wide,\"a\"", "wide", ".quad f-.\n.quad g-.\n.quad h-.");
  object(".rodata.narrow,\"a\"", "narrow", ".long f-.\n.long g-.\n.long h-.");
  object(".rodata.from_begin,\"a\"", "from_begin", ".long f-from_begin\n.long g-from_begin\n.long h-from_begin");
  object(".data.writable,\"aw\"", "writable", ".quad f-writable\n.quad g-writable\n.quad h-writable");
  object(".data.absolute,\"aw\"", "absolute", ".quad f\n.quad g\n.quad h");
  // No object's: what describes code has its distances so.
  return all + ".section .rodata.table,\"a\"\n.p2align 2\n.Ltable: .long .L0-.Ltable\n.long .L1-.Ltable\n"
               ".section .rodata.described,\"a\"\n.p2align 3\n.globl described\ndescribed: .quad f-.\n";
}

TEST_F(ReplaceDistances, OnesInObjectsLeadToStubsAndJumpTablesStayTheirVersions) {
  Module m = commit(engine, library, assemble(distances(1)));
  auto* absolute = address_of(library, "absolute").as<const std::uint64_t*>();
  auto at = [&](const char* name, std::size_t i, std::size_t width, bool from_itself) {
    const std::uint64_t begin = address_of(library, name).value, field = begin + i * width;
    const std::uint64_t distance =
        width == 8 ? *Addr{field}.as<const std::uint64_t*>() : std::uint64_t(std::int64_t(*Addr{field}.as<const int*>()));
    return distance + (from_itself ? field : begin);
  };
  auto check = [&](int n) {
    const int expected[] = {n, 10 * n, -n};
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(at("wide", i, 8, true), absolute[i]) << i << ", version " << n;
      EXPECT_EQ(at("narrow", i, 4, true), absolute[i]) << i << ", version " << n;
      EXPECT_EQ(at("from_begin", i, 4, false), absolute[i]) << i << ", version " << n;
      EXPECT_EQ(at("writable", i, 8, false), absolute[i]) << i << ", version " << n;
      EXPECT_EQ(Addr{absolute[i]}.as<int (*)()>()(), expected[i]);
    }
    EXPECT_NE(at("described", 0, 8, true), absolute[0]) << "where the code is";
    EXPECT_EQ(get<int(int)>("pick")(0), n);
    EXPECT_EQ(get<int(int)>("pick")(1), 10 * n);
    EXPECT_EQ(get<int()>("call")(), n);
  };
  check(1);
  for (int n = 2; n < 5; ++n) {
    replace(m, assemble(distances(n)));
    settle();
    check(n);
    (void)engine.move(m);
    (void)expect(engine.compact());
    settle();
    check(n);
  }
}

TEST_F(ReplaceDistances, CodeMovesThoughReadOnlyDataHasDistancesToItsFunctions) {
  auto text = [](int n) {
    return ".section .text.f,\"ax\"\n.type f,@function\nf: movl $" + std::to_string(n) +
           ",%eax\n ret\n.size f,.-f\n.section .rodata.d,\"a\"\n.globl d\n.type d,@object\nd: .long f-.\n.size d,4\n";
  };
  Module gap = commit(engine, library, assemble(".globl gap\n.type gap,@function\ngap: ret\n.fill 4096\n.size gap,.-gap\n"));
  Module m = commit(engine, library, assemble(text(1)));
  const auto* d = address_of(library, "d").as<const int*>();
  auto* f = Addr{std::uint64_t(std::int64_t(*d)) + address_of(library, "d").value}.as<int (*)()>();
  EXPECT_EQ(f(), 1);
  expect(try_remove(engine, {gap}));
  settle();
  const Moved moved = expect(engine.move(m));
  EXPECT_EQ(moved.functions, 1U);
  settle();
  EXPECT_EQ(f(), 1);
  replace(m, assemble(text(2)));
  settle();
  EXPECT_EQ(f(), 2) << "the pointer is of the function";
  EXPECT_EQ(address_of(library, "d").as<const int*>(), d) << "and what is the same stays where it was";
}

// Virtual tables of distances: by the functions' names.
TEST_F(ReplaceDistances, RelativeVirtualTablesLeadToStubs) {
  auto text = [](int n) {
    return "struct A { virtual int f(); int x; }; struct B { virtual int g(); virtual int h(); int y; }; int A::f() { "
           "return " +
           std::to_string(n) + "; } int B::g() { return " + std::to_string(n + 10) + "; } int B::h() { return " +
           std::to_string(n + 20) + "; } namespace { struct C : A, B { int f() override { return " + std::to_string(n + 30) +
           "; } int h() override { return " + std::to_string(n + 40) +
           "; } }; } extern \"C\" { void* make() { return new C; } int call(void* p) { C* c = static_cast<C*>(p); A* a = c; "
           "B* b "
           "= c; asm volatile(\"\" : \"+r\"(a), \"+r\"(b)); return a->f() * 10000 + b->g() * 100 + b->h(); } }";
  };
  for (const char* flags : {"-O0 -fPIC", "-O1 -fPIC -ffunction-sections -fdata-sections", "-O1 -fPIC -mcmodel=large"}) {
    SCOPED_TRACE(flags);
    const std::string all = std::string(flags) + " -fno-rtti -fexperimental-relative-c++-abi-vtables";
    Library own = expect(engine.library(flags, {.replaceable = true}));
    Module m = commit(engine, own, compile_cpp(text(0), all));
    void* object = function<void*()>(own, "make")();
    auto* call = function<int(void*)>(own, "call");
    for (int n = 0; n < 4; ++n) {
      if (n != 0) replace(m, compile_cpp(text(n), all));
      (void)engine.move(m);
      settle();
      EXPECT_EQ(call(object), (n + 30) * 10000 + (n + 10) * 100 + n + 40) << "an object of the first version";
    }
    operator delete(object);
  }
}

} // namespace
} // namespace tenon::test
