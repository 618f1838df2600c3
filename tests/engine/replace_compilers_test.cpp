// What compilers, and assemblers, make of ordinary code without saying so in a relocation or a name: by either compiler, at
// several levels, with sections for functions and without.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <array>
#include <atomic>
#include <functional>
#include <thread>

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

// Calls and addresses are absolute, or count from the GOT.
INSTANTIATE_TEST_SUITE_P(Large, CompiledBy,
                         testing::Values("-O0 -fPIC -mcmodel=large -fdata-sections",
                                         "-O2 -fPIC -mcmodel=large -ffunction-sections -fdata-sections",
                                         "-O1 -fno-pic -mcmodel=large -fdata-sections",
                                         "gcc -O0 -fPIC -mcmodel=large -fdata-sections",
                                         "gcc -O2 -fPIC -mcmodel=large -fdata-sections",
                                         "gcc -O2 -fno-pic -mcmodel=large -ffunction-sections -fdata-sections"));

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

TEST_F(ReplaceCompilers, ACallThatAnOldFrameMakesInItsModuleStaysInItsVersionHoweverItLies) {
  let_code_pause();
  auto text = [](int n, const std::string& binding) {
    std::string all = ".section .text.f,\"ax\"\n" + binding + ".type f,@function\nf: movl $" + std::to_string(n) +
                      ",%eax\n ret\n.size f,.-f\n";
    for (int i = 0; i < 8; ++i) {
      const std::string g = "g" + std::to_string(i);
      all += ".section .text." + g + ",\"ax\"\n.p2align 4\n.globl " + g + "\n.type " + g + ",@function\n" + g +
             ": subq $8,%rsp\n call *host_pause@GOTPCREL(%rip)\n.fill " + std::to_string(i) +
             ",1,0x90\n call f\n addq $8,%rsp\n ret\n.size " + g + ",.-" + g + "\n";
    }
    return all;
  };
  for (const char* binding : {"", ".globl f\n.hidden f\n", ".globl f\n.protected f\n", ".globl f\n"})
    for (bool opaque : {false, true}) {
      ModuleOptions options;
      options.opaque = opaque;
      Module m = commit(engine, library, assemble(text(0, binding)), options);
      for (int i = 0; i < 8; ++i) {
        auto* g = get<int()>("g" + std::to_string(i));
        action = [&] {
          Change change = engine.change();
          change.replace(m, assemble(text(i + 1, binding)), {}, options);
          expect(try_commit(std::move(change)));
        };
        EXPECT_EQ(g(), opaque ? i + 1 : i) << binding << "opaque: " << opaque << ", offset " << i;
        action = nullptr;
        EXPECT_EQ(g(), i + 1);
      }
      expect(try_remove(engine, {m}));
      settle();
    }
}

TEST_F(ReplaceCompilers, AnOldFrameKnowsWhichRegistersAHiddenFunctionLeavesAlone) {
  let_code_pause();
  auto text = [](const std::string& visibility, int n) {
    return "extern \"C\" void host_pause();" + visibility + " __attribute__((noinline)) long f(long x) {" +
           (n == 0 ? ""
                   : "asm volatile(\"\" : : \"r\"(x)); asm volatile(\"movq $-1,%%rsi; movq $-1,%%rdx; movq $-1,%%rcx; movq "
                     "$-1,%%r8; movq $-1,%%r9; movq $-1,%%r10; movq $-1,%%r11\" : : : \"rsi\", \"rdx\", \"rcx\", \"r8\", "
                     "\"r9\", \"r10\", \"r11\");") +
           "asm volatile(\"\"); return " + std::to_string(n) +
           "; } extern \"C\" long run(long a, long b, long c) { host_pause();"
           "asm volatile(\"\" : \"+r\"(a), \"+r\"(b), \"+r\"(c)); a += 2 * f(a);"
           "asm volatile(\"\" : \"+r\"(a), \"+r\"(b), \"+r\"(c)); return a * 100 + b * 10 + c; }";
  };
  for (const char* visibility :
       {"static", "__attribute__((visibility(\"hidden\")))", "__attribute__((visibility(\"protected\")))"}) {
    const char* flags = "-O2 -fPIC -ffunction-sections -fdata-sections";
    Module m = commit(engine, library, compile_gcc(text(visibility, 0), flags));
    action = [&] { replace(m, compile_gcc(text(visibility, 1), flags)); };
    EXPECT_EQ(get<long(long, long, long)>("run")(1, 2, 3), 123) << visibility;
    action = nullptr;
    EXPECT_EQ(get<long(long, long, long)>("run")(1, 2, 3), 323) << visibility;
    expect(try_remove(engine, {m}));
    settle();
  }
}

TEST_P(CompiledBy, AWritableTableOfLabelsBelongsToItsVersion) {
  let_code_pause();
  auto text = [](int n) {
    return "extern \"C\" void host_pause(); extern \"C\" int run(const unsigned char* code) {"
           "static void* labels[] = {&&stop, &&add, &&twice, &&wait}; int x = 0; void** t = labels;"
           "asm volatile(\"\" : \"+r\"(t) : : \"memory\"); goto *t[*code++]; add: x += " +
           std::to_string(n) +
           "; goto *t[*code++]; twice: x *= 2; goto *t[*code++]; wait: host_pause(); goto *t[*code++]; stop: return x; }";
  };
  constexpr unsigned char code[] = {1, 3, 2, 1, 0};
  Module m = commit(engine, library, compile(text(1)));
  auto* run = get<int(const unsigned char*)>("run");
  EXPECT_EQ(run(code), 3);
  DataPolicy policy;
  policy.differing = DataPolicy::Differing::migrate;
  policy.migration = [](const DataPolicy::Migration& migration) -> Result<void> {
    return Error{ErrorCode::unsupported, "nobody can migrate " + std::string(migration.variable)};
  };
  for (int n = 2; n < 5; ++n) {
    action = [&] { replace(m, compile(text(n)), policy); };
    EXPECT_EQ(run(code), 3 * (n - 1)) << "a frame that is under way has its own";
    action = nullptr;
    settle();
    EXPECT_EQ(run(code), 3 * n);
  }
}

TEST_F(ReplaceCompilers, BodiesOfParallelRegionsAndNestedFunctionsAreKnownByTheirContent) {
  static std::vector<void (*)(void*)> given;
  given.clear();
  const std::array symbols{Absolute{
      "GOMP_parallel", Addr{reinterpret_cast<std::uint64_t>(+[](void (*body)(void*), void* data, unsigned, unsigned) {
        given.push_back(body);
        body(data);
      })}}};
  expect(library.define(symbols));
  auto text = [](int n, int of_second) {
    return "extern \"C\" int f(int* a) { int s = 0;\n#pragma omp parallel shared(s)\n{ s += a[0] * 2; }\n"
           "#pragma omp parallel shared(s)\n{ s += a[1] * " +
           std::to_string(of_second) + "; }\nreturn s + " + std::to_string(n) + "; }";
  };
  const char* flags = "-O2 -fPIC -fopenmp -ffunction-sections -fdata-sections";
  Module m = commit(engine, library, compile_gcc(text(0, 5), flags));
  auto* f = get<int(int*)>("f");
  int numbers[] = {10, 100};
  EXPECT_EQ(f(numbers), 520);
  for (int n = 1; n < 4; ++n) {
    replace(m, compile_gcc(text(n, 5), flags));
    EXPECT_EQ(f(numbers), 520 + n);
    settle(); // no version stays
  }
  ASSERT_EQ(given.size(), 8U);
  for (std::size_t i = 2; i < given.size(); ++i) EXPECT_EQ(given[i], given[i % 2]);
  replace(m, compile_gcc(text(0, 6), flags));
  EXPECT_EQ(f(numbers), 620);
  EXPECT_EQ(given[8], given[0]);
  EXPECT_NE(given[9], given[1]);
  struct {
    int* a;
    int s;
  } data{numbers, 0};
  given[1](&data);
  EXPECT_EQ(data.s, 500) << "who holds the old one runs it";
  given[9](&data);
  EXPECT_EQ(data.s, 1100);
}

TEST_P(CompiledBy, ArraysAreDestroyedOnceThoughTheirDestructorsAreNumbered) {
  auto text = [](bool more) {
    return std::string(
               "extern \"C\" int gone[4]; int gone[4]; struct S { int id; S(int i) : id(i) {} ~S() { ++gone[id]; } };") +
           (more ? "extern \"C\" void* other() { static S b[2] = {2, 2}; return b; }" : "") +
           "extern \"C\" void* made() { static S a[2] = {1, 1}; return a; }";
  };
  Module m = commit(engine, library, compile(text(false)));
  get<void*()>("made")();
  replace(m, compile(text(true)));
  get<void*()>("other")();
  free_what_can_be();
  Kept kept = expect(library.keep("gone"));
  const int* gone = kept.address().as<const int*>();
  expect(try_remove(engine, {m}));
  EXPECT_EQ(gone[1], 2);
  EXPECT_EQ(gone[2], 2);
}

TEST_P(CompiledBy, NumberedDestructorsDoNotKeepEveryVersion) {
  auto text = [](int n) {
    return "struct S { int id; S(int i) : id(i) {} ~S(); }; int gone; S::~S() { ++gone; }"
           "extern \"C\" void* b() { static S b[2] = {2, 2}; return b; }"
           "extern \"C\" void* a() { static S a[2] = {1, 1}; return a; } extern \"C\" int f() { return " +
           std::to_string(n) + "; }";
  };
  Module m = commit(engine, library, compile(text(0)));
  get<void*()>("a")();
  expect_no_growth(4, 8, [&](int n) { replace(m, compile(text(n % 3))); });
}

TEST_P(CompiledBy, AnObjectOfALocalClassIsNotAnothersOfTheName) {
  auto text = [](bool more) {
    return std::string("struct Base { virtual int f() = 0; virtual ~Base() {} }; static Base* choose(int k) {") +
           (more ? "if (k == 7) { struct S : Base { int f() override { return 7; } }; return new S; }" : "") +
           "if (k == 1) { struct S : Base { int f() override { return 1; } }; return new S; }"
           "struct T : Base { int f() override { return 2; } }; return new T; }"
           "extern \"C\" { Base* make(int k) { return choose(k); } int call(Base* b) { return b->f(); } void end(Base* b) { "
           "delete b; } }";
  };
  Module m = commit(engine, library, compile(text(false)));
  void* one = get<void*(int)>("make")(1);
  EXPECT_EQ(get<int(void*)>("call")(one), 1);
  replace(m, compile(text(true)));
  free_what_can_be();
  void* seven = get<void*(int)>("make")(7);
  EXPECT_EQ(get<int(void*)>("call")(one), 1) << "the class that has its number now is another";
  EXPECT_EQ(get<int(void*)>("call")(seven), 7);
  for (void* object : {one, seven}) get<void(void*)>("end")(object);
}

// Whatever way a compiler takes a function's address, it is the one of its stub.
std::string ways(const std::string& f, const std::string& prefix, bool own) {
  std::string all;
  auto getter = [&](const std::string& name, const std::string& code) {
    const std::string g = prefix + "_" + name;
    all += ".section .text." + g + ",\"ax\"\n.globl " + g + "\n.type " + g + ",@function\n" + g + ":\n" + code +
           "\n ret\n.size " + g + ",.-" + g + "\n";
  };
  auto cell = [&](const std::string& section, const std::string& name, const std::string& content) {
    all += ".section " + section + "\n.p2align 3\n.globl " + prefix + "_" + name + "\n.type " + prefix + "_" + name +
           ",@object\n" + prefix + "_" + name + ": " + content + "\n.size " + prefix + "_" + name + ",8\n";
  };
  getter("got", "movq " + f + "@GOTPCREL(%rip),%rax");
  getter("got_plain", "movl $0,%eax\n addq " + f + "@GOTPCREL(%rip),%rax");
  getter("push", "pushq " + f + "@GOTPCREL(%rip)\n popq %rax");
  getter("movabs", "movabsq $" + f + ",%rax");
  getter("got64", "leaq _GLOBAL_OFFSET_TABLE_(%rip),%rcx\n movabsq $" + f + "@GOTOFF,%rax\n addq %rcx,%rax");
  getter("got_large", "leaq _GLOBAL_OFFSET_TABLE_(%rip),%rcx\n movabsq $" + f + "@GOT,%rax\n movq (%rcx,%rax),%rax");
  if (own) getter("lea", "leaq " + f + "(%rip),%rax");
  cell(".data." + prefix + "1,\"aw\"", "data", ".quad " + f);
  cell(".data.rel.ro." + prefix + ",\"aw\"", "relro", ".quad " + f);
  cell(".rodata." + prefix + ",\"a\"", "rodata", ".quad " + f);
  if (prefix != "other") cell(".rodata." + prefix + "2,\"a\"", "distance", ".quad " + f + " - .");
  all += ".section .tdata." + prefix + ",\"awT\"\n.p2align 3\n.type " + prefix + "_tls,@object\n" + prefix + "_tls: .quad " +
         f + "\n.size " + prefix + "_tls,8\n";
  getter("thread",
         "subq $8,%rsp\n data16\n leaq " + prefix +
             "_tls@TLSGD(%rip),%rdi\n .value 0x6666\n rex64\n call __tls_get_addr@PLT\n movq (%rax),%rax\n addq $8,%rsp");
  return all;
}
TEST_F(ReplaceCompilers, EveryWayToAFunctionsAddressLeadsToItsStub) {
  auto text = [](int n) {
    return ".section .text.f,\"ax\"\n.globl f\n.type f,@function\nf: movl $" + std::to_string(n) +
           ",%eax\n ret\n.size f,.-f\n.section .text.l,\"ax\"\n.type l,@function\nl: movl $" + std::to_string(-n) +
           ",%eax\n ret\n.size l,.-l\n" + ways("f", "own", true) + ways("l", "local", true);
  };
  Module m = commit(engine, library, assemble(text(1)));
  Module user = commit(engine, library, assemble(ways("f", "other", false)));
  auto check = [&](std::uint64_t f, std::uint64_t l, int n) {
    for (const char* prefix : {"own", "local", "other"}) {
      const std::string p = prefix;
      const std::uint64_t expected = p == "local" ? l : f;
      for (const char* name : {"got", "got_plain", "push", "movabs", "got64", "got_large", "lea", "thread"}) {
        if (p == "other" && name == std::string("lea")) continue;
        EXPECT_EQ(get<std::uint64_t()>(p + "_" + name)(), expected) << p << " " << name;
      }
      for (const char* name : {"data", "relro", "rodata"})
        EXPECT_EQ(*address_of(library, p + "_" + name).as<std::uint64_t*>(), expected) << p << " " << name;
      if (p != "other") {
        const Addr distance = address_of(library, p + "_distance");
        EXPECT_EQ(*distance.as<std::uint64_t*>() + distance.value, expected) << p;
      }
    }
    EXPECT_EQ(reinterpret_cast<int (*)()>(f)(), n);
    EXPECT_EQ(reinterpret_cast<int (*)()>(l)(), -n);
  };
  const std::uint64_t f = address_of(library, "f").value, l = get<std::uint64_t()>("local_got")();
  EXPECT_EQ(expect(library.find_anywhere("f"))->value, f);
  EXPECT_EQ(reinterpret_cast<std::uint64_t>(expect(library.function<int()>("f")).raw()), f);
  check(f, l, 1);
  for (int n = 2; n < 5; ++n) {
    replace(m, assemble(text(n)));
    settle();
    check(f, l, n);
    (void)engine.move(m);
    (void)engine.move(user);
    settle();
    check(f, l, n);
    replace(user, assemble(ways("f", "other", false)));
    check(f, l, n);
  }
}

// The large model calls by address: of an offset from the PLT nothing but a call is made, and a clone is only ever called.
TEST_F(ReplaceCompilers, ACallByOffsetOfAnOldFrameStaysInItsVersion) {
  let_code_pause();
  auto text = [](int n) {
    return ".text\n.globl f\n.hidden f\n.type f,@function\nf: movl $" + std::to_string(n) +
           ",%eax\n ret\n.size f,.-f\n.globl g\n.type g,@function\ng: subq $8,%rsp\n call *host_pause@GOTPCREL(%rip)\n leaq "
           "_GLOBAL_OFFSET_TABLE_(%rip),%rcx\n movabsq $f@PLTOFF,%rax\n addq %rcx,%rax\n call *%rax\n addq $8,%rsp\n ret\n"
           ".size g,.-g\n";
  };
  for (bool opaque : {false, true}) {
    ModuleOptions options;
    options.opaque = opaque;
    Module m = commit(engine, library, assemble(text(1)), options);
    action = [&] {
      Change change = engine.change();
      change.replace(m, assemble(text(2)), {}, options);
      expect(try_commit(std::move(change)));
    };
    EXPECT_EQ(get<int()>("g")(), opaque ? 2 : 1);
    action = nullptr;
    settle();
    EXPECT_EQ(get<int()>("g")(), 2);
    expect(try_remove(engine, {m}));
    settle();
  }
}

TEST_F(ReplaceCompilers, CallsOfClonesByAddressDoNotKeepTheirVersions) {
  auto text = [](int n) {
    return "static __attribute__((noinline)) int f(int x, int scale) { asm volatile(\"\" : \"+r\"(x)); return x * scale + " +
           std::to_string(n) +
           "; } extern \"C\" int a(int x) { return f(x, 3) + 1; } extern \"C\" int b(int x) { return f(x + 1, 3) * 2; }";
  };
  for (const char* flags : {"-O2 -fPIC -mcmodel=large", "-O2 -fno-pic -mcmodel=large -ffunction-sections"}) {
    const Object first = compile_gcc(text(1), flags);
    ASSERT_NE(
        std::string_view(reinterpret_cast<const char*>(first.bytes().data()), first.bytes().size()).find(".constprop."),
        std::string_view::npos);
    Module m = commit(engine, library, first);
    std::uint64_t live = 0;
    for (int n = 2; n < 8; ++n) {
      replace(m, compile_gcc(text(n), flags));
      settle();
      EXPECT_EQ(get<int(int)>("a")(5), 16 + n);
      if (n == 3) live = engine.usage().live;
    }
    EXPECT_EQ(engine.usage().live, live) << flags;
    expect(try_remove(engine, {m}));
    settle();
  }
}

// Exceptions through frames of old versions, with cleanups, virtual bases, types without linkage, caught there and rethrown.
TEST_P(CompiledBy, ExceptionsThroughOldFrames) {
  let_code_pause();
  auto text = [](int n) {
    return "extern \"C\" void host_pause(); struct Root { int r = 1; virtual ~Root() {} }; struct L : virtual Root { int l "
           "= 2; }; struct R : virtual Root { int q = 3; }; struct Both : L, R { int b; Both(int x) : b(x) {} };"
           "namespace { struct Hidden : Both { Hidden(int x) : Both(x) {} }; } extern \"C\" int cleaned; int cleaned; "
           "struct Guard { ~Guard() { cleaned += " +
           std::to_string(n) +
           "; } };"
           "__attribute__((noinline)) void thrower(int k) { host_pause(); if (k) throw Hidden(" +
           std::to_string(n) +
           "); }"
           "__attribute__((noinline)) void middle(int k) { Guard g; host_pause(); try { thrower(k); } catch (Hidden& h) { "
           "h.b += 100; throw; } }"
           "extern \"C\" int outer(int k) { Guard g; try { host_pause(); middle(k); } catch (Root& root) { return "
           "dynamic_cast<Both&>(root).b + root.r * 1000; } return 0; }";
  };
  Module m = commit(engine, library, compile(text(1)));
  EXPECT_EQ(get<int(int)>("outer")(1), 1101);
  EXPECT_EQ(*address_of(library, "cleaned").as<int*>(), 2);
  int n = 1;
  action = [&] {
    replace(m, compile(text(++n)));
    (void)engine.collect();
  };
  const int got = get<int(int)>("outer")(1);
  action = nullptr;
  EXPECT_GE(got, 1101);
  EXPECT_EQ(got / 1000, 1);
  EXPECT_EQ(get<int(int)>("outer")(1), 1100 + n);
}

TEST_P(CompiledBy, JumpTablesOfOldFrames) {
  let_code_pause();
  auto text = [](int n) {
    std::string all = "extern \"C\" void host_pause(); extern \"C\" int pick(const int* p, int count) { int x = 0; for (int "
                      "i = 0; i < count; ++i) { host_pause(); switch (p[i]) {";
    for (int k = 0; k < 12; ++k)
      all += "case " + std::to_string(k) + ": x = x * " + std::to_string(k + 2) + " + " + std::to_string(n * (k * k + 1)) +
             "; asm volatile(\"\" : \"+r\"(x)); break;";
    return all + "default: x = -1; } } return x; }";
  };
  Module m = commit(engine, library, compile(text(1)));
  const int p[] = {3, 5, 7, 2};
  const int expected = get<int(const int*, int)>("pick")(p, 4);
  int n = 1;
  action = [&] {
    replace(m, compile(text(++n)));
    (void)engine.collect();
  };
  EXPECT_EQ(get<int(const int*, int)>("pick")(p, 4), expected);
  action = nullptr;
  EXPECT_EQ(get<int(const int*, int)>("pick")(p, 4), expected * n);
}

// Thread-local objects with destructors, static ones with guards.
TEST_P(CompiledBy, ObjectsLiveOnceThroughVersions) {
  auto text = [](int n) {
    return "extern \"C\" int made, gone; int made, gone; struct S { int v; S() : v(++made) {} ~S() { ++gone; v = -1; } int "
           "get() { return v * 10 + " +
           std::to_string(n) +
           "; } };"
           "static S& instance() { static S s; return s; } thread_local S mine; struct V : virtual S { int x = 1; }; extern "
           "\"C\" int shared() { return instance().get(); } extern \"C\" int own() { return mine.get(); } extern \"C\" int* "
           "counts() { static int c[2]; c[0] = made; c[1] = gone; return c; }";
  };
  const std::string_view flags = GetParam();
  if (flags.find("-fpie") != flags.npos || flags.find("-fno-pic") != flags.npos) {
    const Result<Committed> refused = try_commit(engine, library, {compile(text(1))});
    ASSERT_FALSE(refused.ok()) << "its thread-local variables are an executable's";
    EXPECT_NE(refused.error().message.find("global-dynamic"), std::string::npos) << refused.error().message;
    return;
  }
  Module m = commit(engine, library, compile(text(1)));
  EXPECT_EQ(get<int()>("shared")(), 11);
  std::atomic<int> step{0};
  int first = 0, second = 0;
  std::thread other([&] {
    first = get<int()>("own")();
    step = 1;
    while (step != 2) std::this_thread::yield();
    second = get<int()>("own")();
  });
  while (step != 1) std::this_thread::yield();
  replace(m, compile(text(5)));
  step = 2;
  other.join();
  EXPECT_EQ(first, 21);
  EXPECT_EQ(second, 25);
  EXPECT_EQ(get<int()>("shared")(), 15);
  EXPECT_EQ(*address_of(library, "made").as<int*>(), 2);
  EXPECT_EQ(*address_of(library, "gone").as<int*>(), 1);
  replace(m, compile(text(7)));
  settle();
  Kept kept = expect(library.keep("gone"));
  int* gone = kept.address().as<int*>();
  expect(try_remove(engine, {m}));
  EXPECT_EQ(*gone, 2);
}

// A destructor's class goes, the object stays.
TEST_P(CompiledBy, WhatVanishesIsDestroyedOnceAtTheEnd) {
  const std::string common = "extern \"C\" int gone; int gone; ";
  Module m = commit(engine, library,
                    compile(common + "struct S { int v = 3; ~S() { gone += v; } }; static S s; static S t[2]; extern \"C\" "
                                     "int f() { return s.v + t[0].v; }"));
  EXPECT_EQ(get<int()>("f")(), 6);
  replace(m, compile(common + "extern \"C\" int f() { return 1; }"));
  free_what_can_be();
  EXPECT_EQ(get<int()>("f")(), 1);
  Kept kept = expect(library.keep("gone"));
  int* gone = kept.address().as<int*>();
  expect(try_remove(engine, {m}));
  EXPECT_EQ(*gone, 9);
}

} // namespace
} // namespace tenon::test
