// What old code may count on of the other functions of its file, and so goes on calling: by what debug information says of
// how it was compiled, wherever the call lies in an aligned word.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "replace_support.h"

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>

namespace tenon::test {
namespace {

// Called by code under test, as `host_pause`: the test acts while that code's frame is there.
std::function<void()> action;
void host_pause() {
  if (action) action();
}

struct KnownCode : ReplaceFixture {
  KnownCode() {
    const std::array symbols{Absolute{"host_pause", Addr{reinterpret_cast<std::uint64_t>(&host_pause)}}};
    expect(library.define(symbols));
  }
  ~KnownCode() override { action = nullptr; }

  // All functions of the module of text(n), while a frame of `run` is in the version before.
  template <class Text> void replace_singly_from_inside(Text&& text) {
    Module m = commit(engine, library, assemble(text(1)));
    for (int n = 2; n < 5; ++n) {
      action = [&] {
        Change change = engine.change();
        change.replace_functions(m, assemble(text(n)));
        expect(try_commit(std::move(change)));
        for (int i = 0; i < 50; ++i) (void)expect(engine.collect());
        for (int i = 0; i < 20; ++i) commit(engine, library, assemble(".text\n .fill 4096,1,0xcc\n"));
      };
      EXPECT_EQ(get<int()>("run")(), n - 1);
      action = nullptr;
      EXPECT_EQ(get<int()>("run")(), n);
      settle();
    }
  }
};

struct How {
  const char* name;
  bool gcc;
  const char* flags;
  bool public_follows, inline_follows, static_follows; // old frames call the new ones
};
void PrintTo(const How& how, std::ostream* out) { *out << how.name; }

struct CompiledSo : KnownCode, testing::WithParamInterface<How> {
  Object compile(const std::string& text) const {
    return GetParam().gcc ? compile_gcc(text, GetParam().flags) : compile_cpp(text, GetParam().flags);
  }
};

INSTANTIATE_TEST_SUITE_P(
    Flags, CompiledSo,
    testing::Values(
        How{"Clang", false, "-g -O2 -fPIC", false, false, false},
        How{"ClangUnrecorded", false, "-g -O2 -fPIC -fsemantic-interposition", false, false, false},
        How{"ClangWithoutDebug", false, "-g0 -O2 -fPIC -fsemantic-interposition", false, false, false},
        How{"ClangInterposable", false, "-g -grecord-command-line -O2 -fPIC -fsemantic-interposition", true, false, false},
        How{"ClangNotOptimized", false, "-g -grecord-command-line -O0 -fPIC -ffunction-sections", true, true, true},
        How{"Gcc", true, "-g -O2 -fPIC", true, false, false},
        How{"GccDwarf4", true, "-gdwarf-4 -O1 -fPIC -fno-plt", true, false, false},
        How{"GccCompressed", true, "-g -gz=zlib -O2 -fPIC", true, false, false},
        How{"GccWithoutDebug", true, "-g0 -O2 -fPIC", false, false, false},
        How{"GccExecutable", true, "-g -O2 -fpie", false, false, false},
        How{"GccFast", true, "-g -Ofast -fPIC", false, false, false},
        How{"GccNotInterposable", true, "-g -O2 -fPIC -fno-semantic-interposition", false, false, false},
        How{"GccNotOptimized", true, "-g -O0 -fPIC -ffunction-sections", true, true, true}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_P(CompiledSo, OldFramesCallNewFunctionsThatTheyKnowNothingOf) {
  auto text = [](int n) {
    const std::string body = "{ int r; asm volatile(\"movl $" + std::to_string(n) + ", %0\" : \"=r\"(r)); return r; }";
    const std::string apart = "__attribute__((noinline)) int ";
    return "extern \"C\" { void host_pause(); " + apart + "pub() " + body + " inline " + apart + "inl() " + body +
           " static " + apart + "loc() " + body + " int run() { host_pause(); return pub() * 100 + inl() * 10 + loc(); } }";
  };
  Module m = commit(engine, library, compile(text(1)));
  auto* run = get<int()>("run");
  for (int n = 2; n < 5; ++n) {
    action = [&] { replace(m, compile(text(n))); };
    auto seen = [&](bool follows) { return follows ? n : n - 1; };
    const How& how = GetParam();
    EXPECT_EQ(run(), seen(how.public_follows) * 100 + seen(how.inline_follows) * 10 + seen(how.static_follows));
    action = nullptr;
    EXPECT_EQ(run(), n * 111);
    settle();
  }
}

TEST_F(KnownCode, AnOldFrameKnowsWhichRegistersAFunctionOfAnExecutableLeavesAlone) {
  auto text = [](int n) {
    return "extern \"C\" { void host_pause(); __attribute__((noinline)) long f(long x) {" +
           std::string(n == 0 ? ""
                              : "asm volatile(\"\" : : \"r\"(x)); asm volatile(\"movq $-1,%%rsi; movq $-1,%%rdx; movq "
                                "$-1,%%rcx\" : : : \"rsi\", \"rdx\", \"rcx\");") +
           "asm volatile(\"\"); return " + std::to_string(n) +
           "; } long run(long a, long b, long c) { host_pause();"
           "asm volatile(\"\" : \"+r\"(a), \"+r\"(b), \"+r\"(c)); a += 2 * f(a);"
           "asm volatile(\"\" : \"+r\"(a), \"+r\"(b), \"+r\"(c)); return a * 100 + b * 10 + c; } }";
  };
  const char* flags = "-g -O2 -fpie -ffunction-sections -fdata-sections";
  Module m = commit(engine, library, compile_gcc(text(0), flags));
  action = [&] { replace(m, compile_gcc(text(1), flags)); };
  EXPECT_EQ(get<long(long, long, long)>("run")(1, 2, 3), 123);
  action = nullptr;
  EXPECT_EQ(get<long(long, long, long)>("run")(1, 2, 3), 323);
}

TEST_F(KnownCode, AStaticFunctionWhoseAddressIsNotTakenAnyMoreIsRefused) {
  // Clang leaves out the parameter that the second version does not use; who has the pointer passes it.
  auto text = [](bool taken, const char* linkage) {
    return std::string(linkage) + " __attribute__((noinline)) int f(int unused, int x) { return x + " +
           (taken ? "unused * 0 + 1" : "2") + "; } int direct(int x) { return f(1, x) + f(2, x); }" +
           (taken ? "void* pointer(void) { return (void*)f; }" : "void* pointer(void) { return 0; }");
  };
  const char* flags = "-O2 -fPIC -ffunction-sections";
  for (const char* linkage : {"static", ""}) {
    Module m = commit(engine, library, compile_c(text(true, linkage), flags));
    auto* f = reinterpret_cast<int (*)(int, int)>(get<void*()>("pointer")());
    Result<Committed> refused = try_replace(m, compile_c(text(false, "static"), flags));
    ASSERT_FALSE(refused.ok()) << linkage;
    EXPECT_EQ(refused.error().code, ErrorCode::needs_flag);
    EXPECT_NE(refused.error().message.find("'f'"), std::string::npos) << refused.error().message;
    EXPECT_EQ(f(7, 1), 2);
    EXPECT_EQ(get<int(int)>("direct")(1), 4);
    // As long as the address is taken, or nothing is optimized, it is what it was.
    replace(m, compile_c(text(true, linkage), flags));
    EXPECT_EQ(f(7, 1), 2);
    replace(m, compile_c(text(false, linkage), "-g -grecord-command-line -O0 -fPIC -ffunction-sections"));
    EXPECT_EQ(f(7, 1), 3);
    expect(try_remove(engine, {m}));
  }
}

// f, and g0 to g7, which call it where its displacement begins in each byte of an aligned word.
std::string calls_everywhere(int n, const std::string& call = "call") {
  std::string all =
      ".section .text.f,\"ax\"\n.globl f\n.type f,@function\nf: movl $" + std::to_string(n) + ",%eax\n ret\n.size f,.-f\n";
  for (int i = 0; i < 8; ++i) {
    const std::string g = "g" + std::to_string(i);
    const bool tail = call != "call";
    all += ".section .text." + g + ",\"ax\"\n.p2align 4\n.globl " + g + "\n.type " + g + ",@function\n" + g + ":" +
           (tail ? "" : " subq $8,%rsp\n") + " .fill " + std::to_string(i) + ",1,0x90\n " + call + " f\n" +
           (tail ? "" : " addq $8,%rsp\n ret\n") + ".size " + g + ",.-" + g + "\n";
  }
  return all;
}

// run, which pauses before it calls f.
const std::string pausing = ".section .text.run,\"ax\"\n.globl run\n.type run,@function\nrun: subq $8,%rsp\n call "
                            "*host_pause@GOTPCREL(%rip)\n .p2align 3\n nop\n nop\n nop\n nop\n call f\n addq $8,%rsp\n "
                            "ret\n.size run,.-run\n";

TEST_F(KnownCode, RedirectionReachesEveryCallOfTheSameModule) {
  for (const char* call : {"call", "jmp"}) {
    Module m = commit(engine, library, assemble(calls_everywhere(1, call)));
    Module other = commit(engine, library, assemble(".globl h\n.type h,@function\nh: movl $7,%eax\n ret\n.size h,.-h\n"));
    {
      Redirect f = expect(library.redirect("f")), h = expect(library.redirect("h"));
      for (int round = 0; round < 2; ++round) {
        expect(f.to(h));
        for (int i = 0; i < 8; ++i) EXPECT_EQ(get<int()>("g" + std::to_string(i))(), 7) << call << " at " << i;
        f.back();
        for (int i = 0; i < 8; ++i) EXPECT_EQ(get<int()>("g" + std::to_string(i))(), 1 + round) << call << " at " << i;
        if (round == 0) replace(m, assemble(calls_everywhere(2, call)));
      }
    }
    expect(try_remove(engine, {m, other}));
    settle();
  }
}

TEST_F(KnownCode, CallsFollowThroughMovesOfTheModuleAndOfItsFunctions) {
  Module m = commit(engine, library, assemble(calls_everywhere(1)));
  Module other = commit(engine, library, assemble(".globl h\n.type h,@function\nh: movl $7,%eax\n ret\n.size h,.-h\n"));
  Redirect f = expect(library.redirect("f")), h = expect(library.redirect("h"));
  auto expect_all = [&](int n) {
    for (int i = 0; i < 8; ++i) EXPECT_EQ(get<int()>("g" + std::to_string(i))(), n) << "at " << i;
  };
  for (int n = 1; n < 4; ++n) {
    if (n > 1) replace(m, assemble(calls_everywhere(n)));
    EXPECT_GE(expect(engine.move(m, "g5")).functions, 1U);
    expect_all(n);
    EXPECT_GE(expect(engine.move(m, "f")).functions, 1U);
    expect_all(n);
    expect(engine.move(m));
    settle();
    expect_all(n);
    expect(f.to(h));
    expect_all(7);
    expect(engine.move(m));
    settle();
    expect_all(7);
    f.back();
    expect_all(n);
  }
}

TEST_F(KnownCode, WithoutSitesOldFramesStayInTheirVersionAsWell) {
  Options options;
  options.mapping = Mapping::single;
  Engine single = make_engine(options);
  Library own = expect(single.library("single", {.replaceable = true}));
  const std::array symbols{Absolute{"host_pause", Addr{reinterpret_cast<std::uint64_t>(&host_pause)}}};
  expect(own.define(symbols));
  Module m = commit(single, own, assemble(calls_everywhere(1) + pausing));
  for (int n = 2; n < 4; ++n) {
    action = [&] {
      Change change = single.change();
      change.replace(m, assemble(calls_everywhere(n) + pausing));
      expect(try_commit(std::move(change)));
    };
    EXPECT_EQ(function<int()>(own, "run")(), n - 1);
    action = nullptr;
    for (int i = 0; i < 8; ++i) EXPECT_EQ(function<int()>(own, "g" + std::to_string(i))(), n) << "at " << i;
  }
}

TEST_F(KnownCode, FramesOfAnUnloadedModuleFinishInItsOwnFunctions) {
  Module m = commit(engine, library, assemble(calls_everywhere(1) + pausing));
  int recalled = 0;
  action = [&] {
    Change change = engine.change();
    change.unload(m, {[&](const Module&, std::string_view) {
                    ++recalled;
                    return Result<std::optional<Object>>(assemble(calls_everywhere(2) + pausing));
                  }});
    expect(try_commit(std::move(change)));
  };
  EXPECT_EQ(get<int()>("run")(), 1);
  EXPECT_EQ(recalled, 0);
  action = nullptr;
  EXPECT_EQ(get<int()>("run")(), 2);
  EXPECT_EQ(recalled, 1);
}

// f, unless it is left out, and run, which pauses before it calls f where the displacement crosses an aligned word.
std::string pausing_astray(int n, bool has_f = true) {
  std::string f =
      ".section .text.f,\"ax\"\n.globl f\n.type f,@function\nf: movl $" + std::to_string(n) + ",%eax\n ret\n.size f,.-f\n";
  return (has_f ? f : "") +
         ".section .text.run,\"ax\"\n.p2align 4\n.globl run\n.type run,@function\nrun: subq $8,%rsp\n call "
         "*host_pause@GOTPCREL(%rip)\n .p2align 3\n .fill 5,1,0x90\n " +
         (has_f ? "call f" : "movl $77,%eax") + "\n addq $8,%rsp\n ret\n.size run,.-run\n";
}

TEST_F(KnownCode, FramesOfAMovedFunctionKeepTheStubsOfItsModule) {
  Module m = commit(engine, library, assemble(pausing_astray(1)));
  action = [&] {
    expect(engine.move(m, "run"));
    expect(engine.move(m)); // with its stubs
    for (int i = 0; i < 50; ++i) (void)expect(engine.collect());
    // What is free now is used for something else.
    for (int i = 0; i < 20; ++i) commit(engine, library, assemble(".text\n .fill 4096,1,0xcc\n"));
  };
  EXPECT_EQ(get<int()>("run")(), 1);
}

struct Opaque : KnownCode {
  ModuleOptions options;
  Opaque() { options.opaque = true; }
  void replace_by(const Module& m, Object object, Switch how = Switch::each) {
    Change change = engine.change();
    change.replace(m, std::move(object), {}, options);
    expect(try_commit(std::move(change), Initialize::run, how));
  }
  void fill() {
    for (int i = 0; i < 50; ++i) (void)expect(engine.collect());
    for (int i = 0; i < 20; ++i) commit(engine, library, assemble(".text\n .fill 4096,1,0xcc\n"));
  }
};

TEST_F(Opaque, CallsByTheStubOfAVanishedFunctionFindTheLastThatWas) {
  Module m = commit(engine, library, assemble(pausing_astray(1)), options);
  action = [&] {
    replace_by(m, assemble(pausing_astray(2)));
    replace_by(m, assemble(pausing_astray(3, false)));
    fill();
  };
  EXPECT_EQ(get<int()>("run")(), 2);
}

TEST_F(Opaque, CallsByTheStubOfAFunctionThatVanishesWithASet) {
  Module m = commit(engine, library, assemble(pausing_astray(1)), options);
  action = [&] {
    replace_by(m, assemble(pausing_astray(2, false)), Switch::atomic);
    fill();
  };
  EXPECT_EQ(get<int()>("run")(), 1);
}

TEST_F(Opaque, CallsByTheStubOfAMemberThatVanishesLater) {
  Module m = commit(engine, library, assemble(pausing_astray(1)), options);
  Border border = expect(engine.border());
  auto entry = std::make_unique<Border::Entry>(border);
  std::atomic<int> stage = 0;
  auto wait_for = [&](int wanted) {
    while (stage != wanted) std::this_thread::yield();
  };
  action = [&] {
    replace_by(m, assemble(pausing_astray(2)), Switch::atomic);
    replace_by(m, assemble(pausing_astray(3, false)));
    fill();
    stage = 1;
    wait_for(2);
    fill();
  };
  int seen = 0;
  std::thread inside([&] { seen = get<int()>("run")(); });
  wait_for(1);
  entry.reset();
  stage = 2;
  inside.join();
  EXPECT_EQ(seen, 2);
}

TEST_F(Opaque, APointerOfTheHostsToAVanishedFunctionEndsTheProgram) {
  Module m = commit(engine, library, assemble(pausing_astray(1)), options);
  auto* f = get<int()>("f");
  EXPECT_EQ(f(), 1);
  replace_by(m, assemble(pausing_astray(2, false)));
  settle();
  fill();
  EXPECT_DEATH(f(), "no longer has it");
}

TEST_F(KnownCode, SingleFunctionsOfCodeThatKnowsThemGoTogether) {
  replace_singly_from_inside([](int n) { return calls_everywhere(n) + pausing; });
}

TEST_F(KnownCode, SingleFunctionsThatBranchAstray) {
  replace_singly_from_inside([](int n) { return pausing_astray(n); });
}

TEST_F(KnownCode, RedirectionReachesCallsByALocalAlias) {
  std::string text = calls_everywhere(1, "call") + ".local f.alias\n.set f.alias,f\n";
  for (std::size_t at = 0; (at = text.find("call f\n", at)) != std::string::npos; at += 8) text.insert(at + 6, ".alias");
  Module m = commit(engine, library, assemble(text));
  Module other = commit(engine, library, assemble(".globl h\n.type h,@function\nh: movl $7,%eax\n ret\n.size h,.-h\n"));
  Redirect f = expect(library.redirect("f")), h = expect(library.redirect("h"));
  expect(f.to(h));
  for (int i = 0; i < 8; ++i) EXPECT_EQ(get<int()>("g" + std::to_string(i))(), 7) << " at " << i;
  f.back();
  for (int i = 0; i < 8; ++i) EXPECT_EQ(get<int()>("g" + std::to_string(i))(), 1) << " at " << i;
}

struct Kind {
  const char* name;
  const char* before; // of f's declaration
  const char* called; // by which name
  const char* branch;
  bool tail;
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

// run0 to run7 branch to f from each place in a word, after a pause; go0 to go7 at once.
struct Branches : KnownCode, testing::WithParamInterface<Kind> {
  static std::string text(int n) {
    const Kind& kind = GetParam();
    const std::string f = kind.called;
    std::string all = kind.before + std::string(".globl f\n");
    const bool ifunc = goes_by_address();
    all += ".section .text.f,\"ax\"\n" + std::string(ifunc ? ".type body,@function\nbody" : ".type f,@function\nf") +
           ": movl $" + std::to_string(n) + ",%eax\n ret\n.size " + (ifunc ? "body,.-body\n" : "f,.-f\n");
    if (ifunc)
      all += ".section .text.choose,\"ax\"\n.type f,@gnu_indirect_function\nf: leaq body(%rip),%rax\n ret\n.size f,.-f\n";
    for (int i = 0; i < 16; ++i) {
      const std::string g = (i < 8 ? "run" : "go") + std::to_string(i % 8);
      all += ".section .text." + g + ",\"ax\"\n.globl " + g + "\n.type " + g + ",@function\n" + g + ": subq $8,%rsp\n" +
             (i < 8 ? " call *host_pause@GOTPCREL(%rip)\n" : "") + " .fill " + std::to_string(i % 8) + ",1,0x90\n" +
             (kind.tail ? " addq $8,%rsp\n xorl %eax,%eax\n " : " ") + kind.branch + "\n" +
             (kind.tail ? " ud2\n" : " addq $8,%rsp\n ret\n") + ".size " + g + ",.-" + g + "\n";
    }
    return all;
  }
  // What a resolver answers is an address, by which the new one is reached.
  static bool goes_by_address() { return std::string_view(GetParam().name).starts_with("Ifunc"); }
  static std::string at(const char* name, int i) { return name + std::to_string(i); }
};

INSTANTIATE_TEST_SUITE_P(
    Kinds, Branches,
    testing::Values(Kind{"Call", "", "f", "call f", false}, Kind{"CallPlt", "", "f", "call f@PLT", false},
                    Kind{"Jump", "", "f", "jmp f", true}, Kind{"Conditional", "", "f", "je f", true},
                    Kind{"CallGot", "", "f", "call *f@GOTPCREL(%rip)", false},
                    Kind{"JumpGot", "", "f", "jmp *f@GOTPCREL(%rip)", true},
                    Kind{"Hidden", ".hidden f\n", "f", "call f", false},
                    Kind{"Protected", ".protected f\n", "f", "call f", false},
                    Kind{"Weak", ".weak f\n#", "f", "call f", false},
                    Kind{"Alias", ".globl other\n.type other,@function\n.set other,f\n", "other", "call other", false},
                    Kind{"Ifunc", "", "f", "call f", false}, Kind{"IfuncJump", "", "f", "jmp f@PLT", true}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_P(Branches, OldFramesStayNewCallsFollowAndNothingIsLeft) {
  Module m = commit(engine, library, assemble(text(1)));
  int now = 1;
  for (int round = 0; round < 3; ++round)
    for (int i = 0; i < 8; ++i) {
      action = [&] { replace(m, assemble(text(++now)), round == 1 ? Switch::atomic : Switch::each); };
      const int seen = get<int()>(at("run", i))();
      EXPECT_EQ(seen, goes_by_address() ? now : now - 1) << i;
      action = nullptr;
      if (round == 2) expect(engine.move(m, at("go", i)));
      for (int j = 0; j < 8; ++j) EXPECT_EQ(get<int()>(at("go", j))(), now) << j;
      settle();
      if (round == 2) expect(engine.move(m));
      for (int j = 0; j < 8; ++j) EXPECT_EQ(get<int()>(at("run", j))(), now) << j;
    }
}

TEST_P(Branches, AnEntrySeesTheOldOnesTogether) {
  Module m = commit(engine, library, assemble(text(1)));
  Border border = expect(engine.border());
  for (int now = 1; now < 4; ++now) {
    std::optional<Border::Entry> entry;
    entry.emplace(border);
    std::thread([&] { replace(m, assemble(text(now + 1)), Switch::atomic); }).join();
    for (int j = 0; j < 8; ++j) EXPECT_EQ(get<int()>(at("go", j))(), now) << j;
    std::thread([&] {
      for (int j = 0; j < 8; ++j) EXPECT_EQ(get<int()>(at("go", j))(), now + 1) << j;
    }).join();
    if (now == 2) std::thread([&] { replace(m, assemble(text(now + 1))); }).join(); // a plain one, meanwhile
    for (int j = 0; j < 8; ++j) EXPECT_EQ(get<int()>(at("go", j))(), now) << j;
    entry.reset();
    for (int j = 0; j < 8; ++j) EXPECT_EQ(get<int()>(at("go", j))(), now + 1) << j;
    settle();
    for (int j = 0; j < 8; ++j) EXPECT_EQ(get<int()>(at("go", j))(), now + 1) << j;
  }
}

TEST_F(KnownCode, FramesOfAFragmentComeBackFromARedirection) {
  Module m = commit(engine, library, assemble(calls_everywhere(1) + pausing));
  Module other = commit(engine, library, assemble(".globl h\n.type h,@function\nh: movl $7,%eax\n ret\n.size h,.-h\n"));
  Change change = engine.change();
  change.replace_functions(m, assemble(calls_everywhere(2) + pausing));
  expect(try_commit(std::move(change)));
  action = [&] {
    {
      Redirect f = expect(library.redirect("f")), h = expect(library.redirect("h"));
      expect(f.to(h));
      replace(m, assemble(calls_everywhere(3) + pausing));
    }
    expect(try_remove(engine, {other}));
    for (int i = 0; i < 50; ++i) (void)expect(engine.collect());
    for (int i = 0; i < 20; ++i) commit(engine, library, assemble(".text\n .fill 4096,1,0xcc\n"));
  };
  EXPECT_EQ(get<int()>("run")(), 2);
}

TEST_F(KnownCode, FramesThatAreTwoVersionsOldDoNotHoldTheOthers) {
  // With evidence, then without, and back; g comes and goes.
  auto text = [](int n) {
    return "extern \"C\" { void host_pause(); " +
           std::string(n % 3 == 0 ? "" : "__attribute__((noinline)) int g(int x) { asm volatile(\"\"); return x; }") +
           "__attribute__((noinline)) " + (n % 4 == 0 ? "static " : "") + "int f() { int r; asm volatile(\"movl $" +
           std::to_string(n) + ", %0\" : \"=r\"(r)); return r; } int run(int depth);" +
           "int run(int depth) { if (depth != 0) host_pause(); int r = f();" +
           (n % 3 == 0 ? "" : "asm volatile(\"nop\"); r += g(0);") + " asm volatile(\"\"); return r; } }";
  };
  auto compile = [&](int n) {
    switch (n % 5) {
    case 0: return compile_gcc(text(n), "-g -O2 -fPIC");
    case 1: return compile_gcc(text(n), "-g0 -O2 -fPIC");
    case 2: return compile_gcc(text(n), "-g -O0 -fPIC -ffunction-sections");
    case 3: return compile_cpp(text(n), "-g -O2 -fPIC");
    default: return compile_cpp(text(n), "-O2 -fPIC -ffunction-sections");
    }
  };
  Module m = commit(engine, library, compile(1));
  int now = 1;
  auto* run = get<int(int)>("run");
  for (int round = 0; round < 20; ++round) {
    const int begin = now;
    int depth = 0;
    action = [&] {
      replace(m, compile(++now));
      for (int i = 0; i < 3; ++i) (void)expect(engine.collect());
      if (++depth < 4) {
        const int before = now, seen = run(1);
        EXPECT_TRUE(before <= seen && seen <= now) << seen;
      }
    };
    const int seen = run(1);
    EXPECT_TRUE(begin <= seen && seen <= now) << seen;
    action = nullptr;
    EXPECT_EQ(run(0), now);
    settle();
  }
}

TEST_F(KnownCode, FramesThatFollowGoOnDoingSoWhenTheModuleIsUnloaded) {
  std::string calls; // from each place in a word
  for (int i = 0; i < 8; ++i) calls += "asm volatile(\".p2align 3; .fill " + std::to_string(i) + ",1,0x90\"); sum += f(); ";
  auto text = [&](int n) {
    return "extern \"C\" { void host_pause(); __attribute__((noinline)) int f() { int r; asm volatile(\"movl $" +
           std::to_string(n) + ", %0\" : \"=r\"(r)); return r; } int run() { int sum = 0; host_pause(); " + calls +
           "return sum; } }";
  };
  Module m = commit(engine, library, compile_gcc(text(1), "-g -O2 -fPIC"));
  action = [&] {
    replace(m, compile_gcc(text(2), "-g0 -O2 -fPIC"));
    Change change = engine.change();
    change.unload(m, {[&](const Module&, std::string_view) {
                    return Result<std::optional<Object>>(compile_gcc(text(3), "-g -O2 -fPIC"));
                  }});
    expect(try_commit(std::move(change)));
  };
  EXPECT_EQ(get<int()>("run")(), 8 * 3) << "not back to what they had left behind";
}

} // namespace
} // namespace tenon::test
