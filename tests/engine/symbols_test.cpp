// Which definition a reference finds, and how it is reached: the rules at the head of include/tenon/library.h, one by one.
// ELF gABI, "Symbol Table"; psABI x86-64 for what the linker defines itself.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include <gmock/gmock.h>

#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <set>
#include <thread>

// What modules find in the host.
extern "C" {
__attribute__((visibility("default"))) int symbols_host_function() { return 1; }
__attribute__((visibility("default"))) int symbols_host_data = 11;
}
asm(R"(
    .pushsection .data
    .globl symbols_host_unique
    .type symbols_host_unique, @gnu_unique_object
    .size symbols_host_unique, 4
    .balign 4
symbols_host_unique:
    .long 77
    .popsection
)");

namespace tenon::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

struct Symbols : testing::Test {
  Engine engine = make_engine();
  Library library = expect(engine.library("main"));

  Library other(std::vector<Source> sources = {}) {
    Library made = expect(engine.library());
    expect(made.search(std::move(sources)));
    return made;
  }
  int call(const char* name) { return function<int()>(library, name)(); }
  std::string error_of(Object object, ErrorCode code, ModuleOptions options = {}) {
    Change change = engine.change();
    change.add(library, std::move(object), std::move(options));
    Result<Committed> committed = try_commit(std::move(change));
    if (committed) return "it links";
    EXPECT_EQ(committed.error().code, code) << committed.error().message;
    return committed.error().message;
  }
};

Object returns(const std::string& name, int value, const std::string& binding = ".globl", const char* object = "returns.o") {
  return assemble(".text\n" + binding + " " + name + "\n.type " + name + ",@function\n" + name + ": movl $" +
                      std::to_string(value) + ", %eax\n ret\n.size " + name + ", .-" + name + "\n",
                  object);
}

Object calls(const std::string& caller, const std::string& callee) {
  return assemble(".text\n.globl " + caller + "\n.type " + caller + ",@function\n" + caller + ": subq $8, %rsp\n call " +
                  callee + "@PLT\n addq $8, %rsp\n ret\n");
}

Object comdat(const std::string& name, int value, const std::string& getter) {
  return assemble(".section .text." + name + ",\"axG\",@progbits," + name + ",comdat\n.weak " + name + "\n.type " + name +
                  ",@function\n" + name + ": movl $" + std::to_string(value) + ", %eax\n ret\n.text\n.globl " + getter +
                  "\n.type " + getter + ",@function\n" + getter + ": jmp " + name + "@PLT\n.globl " + getter + "_address\n" +
                  getter + "_address: movq " + name + "@GOTPCREL(%rip), %rax\n ret\n");
}

TEST_F(Symbols, AnOwnDefinitionWinsOverTheHosts) {
  const char* bindings[] = {".globl", ".weak"};
  int value = 100;
  for (const char* binding : bindings) {
    library = other({Source::process()});
    commit(engine, library, {calls("ask", "symbols_host_function")});
    EXPECT_EQ(call("ask"), 1) << "without a definition of its own";
    library = other({Source::process()});
    commit(engine, library, {calls("ask", "symbols_host_function"), returns("symbols_host_function", ++value, binding)});
    EXPECT_EQ(call("ask"), value) << binding;
    commit(engine, library, {calls("ask_later", "symbols_host_function")});
    EXPECT_EQ(call("ask_later"), value) << binding;
  }
  library = other({Source::process()});
  commit(engine, library, {comdat("symbols_host_function", 5, "ask")});
  EXPECT_EQ(call("ask"), 5) << "COMDAT";
}

std::string unique(const std::string& name, const std::string& getter) {
  return ".data\n.type " + name + ",@gnu_unique_object\n.size " + name + ",4\n" + name + ": .long 55\n.text\n.globl " +
         getter + "\n" + getter + ": movq " + name + "@GOTPCREL(%rip), %rax\n ret\n";
}

TEST_F(Symbols, AUniqueDefinitionYieldsToTheHosts) {
  void* host = dlsym(RTLD_DEFAULT, "symbols_host_unique");
  ASSERT_NE(host, nullptr);
  commit(engine, library, {assemble(unique("symbols_host_unique", "get"))});
  EXPECT_EQ(function<void*()>(library, "get")(), host);
  EXPECT_FALSE(library.find("symbols_host_unique")) << "the library does not hold it";
  commit(engine, library, {assemble(unique("symbols_no_such_unique", "get_own"))});
  EXPECT_EQ(*function<int*()>(library, "get_own")(), 55);
  commit(engine, library, {assemble(unique("symbols_no_such_unique", "get_again"))});
  EXPECT_EQ(function<int*()>(library, "get_again")(), function<int*()>(library, "get_own")()) << "the first one stays";
  library = other();
  commit(engine, library, {assemble(unique("symbols_host_unique", "get"))});
  EXPECT_NE(function<void*()>(library, "get")(), host) << "a library that does not search the process has its own";
}

TEST_F(Symbols, StrengthDecidesInsideOneChangeWhateverTheOrder) {
  std::string weak = ".weak v\n.data\nv: .long 1\n", strong = ".globl v\n.data\nv: .long 3\n", common = ".comm v,4,4\n";
  std::string user = ".text\n.globl get\nget: movq v@GOTPCREL(%rip), %rax\n movl (%rax), %eax\n ret\n";
  struct Case {
    std::vector<std::string> order;
    int expected;
  };
  for (const Case& c : {Case{{weak, common, strong}, 3}, Case{{strong, common, weak}, 3}, Case{{weak, common}, 0},
                        Case{{common, weak}, 0}, Case{{common, strong}, 3}, Case{{weak}, 1}}) {
    library = other();
    std::vector<Object> objects{assemble(user)};
    for (const std::string& text : c.order) objects.push_back(assemble(text));
    commit(engine, library, std::move(objects));
    EXPECT_EQ(call("get"), c.expected) << c.order.front() << c.order.back();
  }
}

TEST_F(Symbols, OfSeveralWeakOnesTheFirstStays) {
  commit(engine, library, {returns("f", 1, ".weak"), returns("f", 2, ".weak"), calls("ask", "f")});
  EXPECT_EQ(call("ask"), 1);
  commit(engine, library, {returns("f", 3, ".weak"), calls("ask_later", "f")});
  EXPECT_EQ(call("ask_later"), 1);
  EXPECT_EQ(call("f"), 1);
}

TEST_F(Symbols, TwoStrongOnesAreAnError) {
  Result<Committed> both =
      try_commit(engine, library, {returns("f", 1, ".globl", "first.o"), returns("f", 2, ".globl", "second.o")});
  ASSERT_FALSE(both);
  EXPECT_EQ(both.error().code, ErrorCode::duplicate);
  EXPECT_THAT(both.error().message, testing::AllOf(HasSubstr("'f'"), HasSubstr("first.o"), HasSubstr("second.o")));
  commit(engine, library, {returns("f", 1, ".globl", "first.o")});
  EXPECT_THAT(error_of(returns("f", 2, ".globl", "second.o"), ErrorCode::duplicate),
              testing::AllOf(HasSubstr("'f'"), HasSubstr("first.o"), HasSubstr("second.o")));
  // A weak definition that is in use can't be beaten any more: an error too, and the first one stays.
  commit(engine, library, {returns("w", 1, ".weak"), calls("ask", "w")});
  EXPECT_THAT(error_of(returns("w", 2), ErrorCode::duplicate), HasSubstr("'w'"));
  EXPECT_EQ(call("ask"), 1);
}

TEST_F(Symbols, AGroupIsTakenOnceAcrossModulesAndChanges) {
  commit(engine, library, {comdat("shared_f", 1, "a"), comdat("shared_f", 2, "b")});
  commit(engine, library, {comdat("shared_f", 3, "c")});
  for (const char* name : {"a", "b", "c"}) {
    EXPECT_EQ(call(name), 1) << name;
    EXPECT_EQ(function<void*()>(library, std::string(name) + "_address")(), address_of(library, "shared_f").as<void*>())
        << name;
  }
  library = other();
  commit(engine, library, {comdat("shared_f", 4, "d")});
  EXPECT_EQ(call("d"), 4) << "another library has its own";
}

TEST_F(Symbols, AReplacedModuleBringsItsGroupsAnew) {
  Module first = commit(engine, library, comdat("shared_f", 1, "a"));
  Change change = engine.change();
  change.remove(first, Quiet::caller_guarantees);
  change.add(library, comdat("shared_f", 2, "a"));
  ASSERT_NO_THROW(expect(try_commit(std::move(change))));
  EXPECT_EQ(call("a"), 2);
  // Now somebody else shares it: it stays, and the new module shares it as well.
  commit(engine, library, comdat("shared_f", 3, "b"));
  Change again = engine.change();
  again.remove(expect(library.modules())[0]);
  again.add(library, comdat("shared_f", 4, "a"));
  ASSERT_NO_THROW(expect(try_commit(std::move(again))));
  EXPECT_EQ(call("a"), 2);
  EXPECT_EQ(call("b"), 2);
  ASSERT_TRUE(try_remove(engine, expect(library.modules())));
  EXPECT_EQ(engine.usage().live, 0U);
  EXPECT_EQ(engine.usage().modules, 0U);
}

TEST_F(Symbols, HiddenOnesAreTheLibrarysOwn) {
  commit(engine, library, {assemble(".text\n.globl secret\n.hidden secret\nsecret: movl $9, %eax\n ret\n")});
  commit(engine, library, {calls("ask", "secret")});
  EXPECT_EQ(call("ask"), 9);
  EXPECT_FALSE(library.find("secret"));
  EXPECT_FALSE(expect(library.find_anywhere("secret")));
  Library searching = other({Source::library(library)});
  Result<Committed> outside = try_commit(engine, searching, {calls("ask", "secret")});
  ASSERT_FALSE(outside);
  EXPECT_EQ(outside.error().code, ErrorCode::undefined);
}

TEST_F(Symbols, SourcesAreSearchedInTheirOrder) {
  Library first = other(), second = other();
  commit(engine, first, {returns("f", 1)});
  commit(engine, second, {returns("f", 2), returns("g", 3)});
  Archive archive = expect(Archive::copy(archive_of({returns("f", 4, ".globl", "f.o"), returns("h", 5, ".globl", "h.o"),
                                                     returns("weakly", 6, ".globl", "weakly.o")}),
                                         "lib.a"));
  library = other({Source::library(first), Source::library(second), Source::archive(archive)});
  commit(engine, library,
         {calls("f_", "f"), calls("g_", "g"), calls("h_", "h"),
          assemble(".text\n.weak weakly\n.globl get\nget: movq weakly@GOTPCREL(%rip), %rax\n ret\n")});
  EXPECT_EQ(call("f_"), 1);
  EXPECT_EQ(call("g_"), 3);
  EXPECT_EQ(call("h_"), 5);
  EXPECT_EQ(function<void*()>(library, "get")(), nullptr) << "a weak reference pulls no member in";
  EXPECT_EQ(expect(library.modules()).size(), 5U) << "and the member that defines f was not needed";
  library = other({Source::archive(archive), Source::library(first)});
  commit(engine, library, {calls("f_", "f")});
  EXPECT_EQ(call("f_"), 4);
  commit(engine, library, {calls("again", "f")});
  EXPECT_EQ(call("again"), 4);
  EXPECT_EQ(expect(library.modules()).size(), 3U) << "the member is there once";
}

TEST_F(Symbols, MembersOfArchivesNeedEachOther) {
  Archive one = expect(Archive::copy(archive_of({calls("a", "b")}), "one.a"));
  Archive two = expect(Archive::copy(archive_of({calls("b", "c")}), "two.a"));
  Archive three = expect(Archive::copy(archive_of({calls("unused", "nowhere"), returns("c", 8)}), "three.a"));
  library = other({Source::archive(three), Source::archive(two), Source::archive(one)});
  commit(engine, library, {calls("main", "a")});
  EXPECT_EQ(call("main"), 8);
}

TEST_F(Symbols, SharedObjectsByTheirHandles) {
  void* handle = dlopen("libz.so.1", RTLD_NOW);
  ASSERT_NE(handle, nullptr);
  library = other({Source::shared(handle)});
  commit(engine, library, {calls("ask", "zlibVersion")});
  EXPECT_EQ(function<const char*()>(library, "ask")(), reinterpret_cast<const char* (*)()>(dlsym(handle, "zlibVersion"))());
  EXPECT_THAT(error_of(calls("ask_host", "symbols_host_function"), ErrorCode::undefined),
              HasSubstr("symbols_host_function"));
}

struct Counting : Resolver {
  std::mutex mutex;
  std::vector<std::set<std::string>> batches;
  std::set<std::string> weak; // of the last batch
  Result<void> resolve(std::span<const Needed> needed, std::span<Answer> answers) noexcept override {
    std::lock_guard lock(mutex);
    std::set<std::string>& batch = batches.emplace_back();
    weak.clear();
    for (std::size_t i = 0; i < needed.size(); ++i) {
      if (needed[i].weak) weak.emplace(needed[i].name);
      batch.emplace(needed[i].name);
      if (needed[i].name.starts_with("known"))
        answers[i] = Answer::at(Addr::of(&symbols_host_function));
      else if (needed[i].name.starts_with("null"))
        answers[i] = Answer::null();
      else if (needed[i].name == "wrong")
        return Error{ErrorCode::system, "no such thing"};
    }
    return {};
  }
};

TEST_F(Symbols, AResolverIsAskedForEverythingAtOnce) {
  auto resolver = std::make_shared<Counting>();
  library = other({Source::resolver(resolver)});
  commit(engine, library,
         {calls("a", "known_1"), calls("b", "known_2"), calls("c", "known_1"), returns("own", 1), calls("d", "own"),
          assemble(".text\n.weak absent\n.globl get\nget: movq absent@GOTPCREL(%rip), %rax\n orq null_1@GOTPCREL(%rip), "
                   "%rax\n ret\n")});
  ASSERT_EQ(resolver->batches.size(), 1U);
  EXPECT_THAT(resolver->batches[0], UnorderedElementsAre("known_1", "known_2", "absent", "null_1"));
  EXPECT_EQ(call("a") + call("b") + call("c"), 3);
  EXPECT_EQ(function<void*()>(library, "get")(), nullptr);
  EXPECT_THAT(resolver->weak, UnorderedElementsAre("absent"));
  std::string error = error_of(calls("e", "wrong"), ErrorCode::resolver);
  EXPECT_THAT(error, HasSubstr("no such thing"));
  EXPECT_THAT(error_of(calls("e", "unknown"), ErrorCode::undefined), HasSubstr("unknown"));
}

TEST_F(Symbols, OneResolverServesEnginesAndThreads) {
  auto resolver = std::make_shared<Counting>();
  Engine second = make_engine();
  Object object = calls("a", "known_1");
  std::atomic<int> sum{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      Engine& mine = t % 2 == 0 ? engine : second;
      for (int i = 0; i < 20; ++i) {
        Library own = expect(mine.library());
        expect(own.search({Source::resolver(resolver)}));
        commit(mine, own, {object});
        sum += function<int()>(own, "a")();
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum, 80);
  EXPECT_EQ(resolver->batches.size(), 80U);
}

int first_target() { return 21; }
int second_target() { return 22; }
int first_value = 31, second_value = 32;

TEST_F(Symbols, ARebindableSymbolIsFollowedByLinkedCode) {
  Absolute absolutes[] = {{"target", Addr::of(&first_target), true}, {"value", Addr::of(&first_value), true}};
  expect(library.define(absolutes));
  commit(
      engine, library,
      {calls("ask", "target"), assemble(".text\n.globl get\nget: movq value@GOTPCREL(%rip), %rax\n movl (%rax), %eax\n ret\n"
                                        ".globl direct\ndirect: jmp *target@GOTPCREL(%rip)\n")});
  EXPECT_EQ(call("ask") + call("direct"), 42);
  EXPECT_EQ(call("get"), 31);
  absolutes[0].address = Addr::of(&second_target);
  absolutes[1].address = Addr::of(&second_value);
  expect(library.define(absolutes));
  EXPECT_EQ(call("ask") + call("direct"), 44);
  EXPECT_EQ(call("get"), 32);
  Absolute fixed[] = {{"new", Addr::of(&first_target), false}, {"target", Addr::of(&first_target), false}};
  Result<void> refused = library.define(fixed);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::duplicate);
  EXPECT_FALSE(library.find("new")) << "none of the list";
}

const char* forward_user = R"(
extern int later(int);
extern int later_data;
extern int (*later_pointer)(int);
int (*p)(int) = later;
int *q = &later_data;
int *end_of_q = &later_data + 1;
int (*const constant[])(int) = {later, later};
int call_it(int x) { return later(x); }
int call_pointer(int x) { return p(x); }
int call_constant(int x) { return constant[1](x); }
int read_it(void) { return later_data; }
int read_pointer(void) { return *q + (end_of_q == &later_data + 1 ? 0 : 1000); }
int same(void) { return p == later && constant[0] == later && q == &later_data; }
void *get(void) { return p; }
void set(int (*to)(int)) { p = to; }
)";

TEST_F(Symbols, LaterModulesSatisfyForwardReferences) {
  Object user = compile_c(forward_user);
  EXPECT_THAT(error_of(user, ErrorCode::undefined), testing::AllOf(HasSubstr("later"), HasSubstr("later_data")));
  ModuleOptions options;
  options.name = "user";
  options.forward = {"later", "later_data"};
  commit(engine, library, user, options);
  EXPECT_FALSE(library.find("later"));
  Module definer = commit(engine, library, compile_c("int later(int x) { return x + 1; } int later_data = 50;"));
  auto one = [&](const char* name) { return function<int(int)>(library, name)(1); };
  EXPECT_EQ(one("call_it"), 2);
  EXPECT_EQ(one("call_pointer"), 2);
  EXPECT_EQ(one("call_constant"), 2);
  EXPECT_EQ(call("read_it"), 50);
  EXPECT_EQ(call("read_pointer"), 50);
  EXPECT_EQ(call("same"), 1);
  EXPECT_EQ(function<int(int)>(library, "later")(4), 5);
  Result<void> removed = try_remove(engine, {definer});
  ASSERT_FALSE(removed);
  EXPECT_EQ(removed.error().code, ErrorCode::still_used);
  EXPECT_THAT(removed.error().message, HasSubstr("user"));
  EXPECT_TRUE(try_remove(engine, expect(library.modules())));
  EXPECT_EQ(engine.usage().modules, 0U);
}

int replacement(int) { return -1; }

TEST_F(Symbols, APointerThatTheProgramHasChangedIsLeftAlone) {
  ModuleOptions options;
  options.forward = {"*"};
  commit(engine, library, compile_c(forward_user), options);
  function<void(int (*)(int))>(library, "set")(replacement);
  commit(engine, library, compile_c("int later(int x) { return x + 1; } int later_data = 50;"));
  EXPECT_EQ(function<int(int)>(library, "call_pointer")(1), -1);
}

TEST_F(Symbols, AForwardReferenceOutlivesItsDefinersAndUsers) {
  ModuleOptions options;
  options.forward = {"later", "later_data"};
  Module user = commit(engine, library, compile_c(forward_user), options);
  ASSERT_TRUE(try_remove(engine, {user}));
  Module definer = commit(engine, library, compile_c("int later(int x) { return x + 1; } int later_data = 50;"));
  user = commit(engine, library, compile_c(forward_user), options);
  EXPECT_EQ(function<int(int)>(library, "call_it")(1), 2);
  EXPECT_EQ(call("same"), 1);
  ASSERT_TRUE(try_remove(engine, {user, definer}));
  user = commit(engine, library, compile_c(forward_user), options);
  commit(engine, library, compile_c("int later(int x) { return x + 2; } int later_data = 51;"));
  EXPECT_EQ(function<int(int)>(library, "call_it")(1), 3);
  EXPECT_EQ(call("read_pointer"), 51);
}

TEST_F(Symbols, AMissingForwardFunctionEndsTheProgramByName) {
  testing::GTEST_FLAG(death_test_style) = "fast";
  ModuleOptions options;
  options.forward = {"*"};
  commit(engine, library, compile_c(forward_user), options);
  EXPECT_DEATH(function<int(int)>(library, "call_it")(1), "'later'.*forward");
  EXPECT_DEATH(function<int(int)>(library, "call_pointer")(1), "'later'.*forward");
  Module definer = commit(engine, library, compile_c("int later(int x) { return x + 1; } int later_data = 50;"));
  EXPECT_EQ(function<int(int)>(library, "call_it")(1), 2);
}

TEST_F(Symbols, EditsOfADraft) {
  Change change = engine.change();
  ModuleId a =
      change.add(library, compile_c("int target(void); int ask(void) { return target(); } int old_name(void) { return 7; }"
                                    "int inner(void) { return 8; } int call_inner(void) { return inner() + 1; }",
                                    "-O0 -fPIC"));
  Draft draft = expect(std::move(change).draft());
  EXPECT_EQ(draft.undefined().size(), 1U);
  expect(draft.edit({Edit::rename(a, "old_name", "new_name"), Edit::localize(a, "inner"),
                     Edit::bind(a, "target", Addr::of(&first_target))}));
  EXPECT_EQ(draft.undefined().size(), 0U);
  EXPECT_FALSE(draft.edit({Edit::rename({17}, "x", "y")}));
  Linked linked = expect(expect(std::move(draft).place()).link());
  expect(std::move(linked).commit());
  EXPECT_EQ(call("ask"), 21);
  EXPECT_EQ(call("new_name"), 7);
  EXPECT_FALSE(library.find("old_name"));
  EXPECT_FALSE(library.find("inner"));
  EXPECT_EQ(call("call_inner"), 9);
  commit(engine, library, {returns("inner", 1), returns("old_name", 2)});
  // A rename of a reference.
  Change second = engine.change();
  ModuleId b = second.add(library, calls("ask_renamed", "nothing"));
  Draft other_draft = expect(std::move(second).draft());
  expect(other_draft.edit({Edit::rename(b, "nothing", "new_name")}));
  expect(expect(expect(std::move(other_draft).place()).link()).commit());
  EXPECT_EQ(call("ask_renamed"), 7);
}

TEST_F(Symbols, UndefinedWeakOnesAreNull) {
  for (const char* flags : {"-O1 -fPIC", "-O1 -fno-pic -mcmodel=small -fno-plt", "-O1 -fPIE", "-O0 -mcmodel=large"}) {
    library = other();
    if (std::string_view(flags).find("-fno-pic") != std::string_view::npos)
      continue; // absolute addresses need low_2gib: see LowEngine
    commit(engine, library,
           {compile_c("__attribute__((weak)) int maybe(void); __attribute__((weak)) extern int maybe_data;"
                      "int call_maybe(void) { return maybe ? maybe() : 5; } int *get(void) { return &maybe_data; }"
                      "int (*pointer)(void) = maybe; int pointer_is_null(void) { return pointer == 0; }",
                      flags)});
    EXPECT_EQ(call("call_maybe"), 5) << flags;
    EXPECT_EQ(function<int*()>(library, "get")(), nullptr) << flags;
    EXPECT_EQ(call("pointer_is_null"), 1) << flags;
  }
}

TEST_F(Symbols, SectionBoundsAreThoseOfTheWholeChange) {
  const char* text = R"(
extern int __start_things[], __stop_things[];
__attribute__((section("things"), used)) int one = ONE;
__attribute__((section("things"), used)) static int two = 20;
int NAME(void) { int sum = 0; for (int *p = __start_things; p != __stop_things; ++p) sum += *p; return sum; }
)";
  commit(engine, library,
         {compile_c(text, "-O1 -fPIC -fdata-sections -DONE=1 -DNAME=sum_1"),
          compile_c(text, "-O1 -fPIC -fdata-sections -DONE=2 -DNAME=sum_2 -Done=uno")});
  EXPECT_EQ(call("sum_1"), 43);
  EXPECT_EQ(call("sum_2"), 43);
  // Several sections of one name lie next to each other, alignments permitting.
  library = other();
  commit(engine, library, {assemble(R"(
    .section things,"aw",@progbits,unique,1
    .long 1
    .data
    .long 100
    .section things,"aw",@progbits,unique,2
    .long 2
    .section things,"aw",@progbits,unique,3
    .long 3
    .text
    .globl begin
begin: leaq __start_things(%rip), %rax
    ret
    .globl end
end: movq __stop_things@GOTPCREL(%rip), %rax
    ret
)")});
  int* begin = function<int*()>(library, "begin")();
  ASSERT_EQ(function<int*()>(library, "end")() - begin, 3);
  EXPECT_THAT(std::vector<int>(begin, begin + 3), ElementsAre(1, 2, 3));
}

TEST_F(Symbols, WhatEachModuleHasOfItsOwn) {
  std::string text = ".text\n.globl dso_N\ndso_N: leaq __dso_handle(%rip), %rax\n ret\n.hidden __dso_handle\n"
                     ".globl got_N\ngot_N: leaq _GLOBAL_OFFSET_TABLE_(%rip), %rax\n ret\n";
  auto numbered = [&](char n) {
    std::string copy = text;
    std::replace(copy.begin(), copy.end(), 'N', n);
    return assemble(copy);
  };
  commit(engine, library, {numbered('1'), numbered('2')});
  auto get = [&](const char* name) { return function<void*()>(library, name)(); };
  EXPECT_NE(get("dso_1"), nullptr);
  EXPECT_NE(get("dso_1"), get("dso_2"));
  EXPECT_NE(get("got_1"), nullptr);
  EXPECT_NE(get("got_1"), get("got_2"));
}

TEST_F(Symbols, CommonSymbolsMerge) {
  commit(engine, library,
         {compile_c("int table[4]; int *first(void) { return table; }", "-O1 -fPIC -fcommon"),
          compile_c("int table[100]; int *second(void) { return table; }", "-O1 -fPIC -fcommon")});
  int* table = function<int*()>(library, "first")();
  EXPECT_EQ(table, function<int*()>(library, "second")());
  for (int i = 0; i < 100; ++i) EXPECT_EQ(std::exchange(table[i], i), 0);
  commit(engine, library, {compile_c("int table[4]; int *third(void) { return table; }", "-O1 -fPIC -fcommon")});
  EXPECT_EQ(function<int*()>(library, "third")(), table);
}

TEST_F(Symbols, IndirectFunctions) {
  const char* text = R"(
static int fast(void) { return 42; }
static int (*choose(void))(void) { return fast; }
int chosen(void) __attribute__((ifunc("choose")));
static int own(void) __attribute__((ifunc("choose")));
int (*pointer)(void) = chosen;
int call_own(void) { return chosen() + own(); }
void *own_address(void) { return (void *)chosen; }
int same_pointer(void) { return pointer == chosen; }
)";
  const char* user = "int chosen(void); int CALL(void) { return chosen(); } void *ADDRESS(void) { return (void *)chosen; }";
  commit(engine, library, {compile_c(text, "-O0 -fPIC"), compile_c(user, "-O1 -fPIC -DCALL=call_2 -DADDRESS=address_2")});
  commit(engine, library, {compile_c(user, "-O1 -fPIC -DCALL=call_3 -DADDRESS=address_3")});
  EXPECT_EQ(call("call_own"), 84);
  EXPECT_EQ(call("call_2"), 42);
  EXPECT_EQ(call("call_3"), 42);
  EXPECT_EQ(call("chosen"), 42);
  EXPECT_EQ(call("same_pointer"), 1);
  void* address = function<void*()>(library, "own_address")();
  EXPECT_EQ(function<void*()>(library, "address_2")(), address);
  EXPECT_EQ(function<void*()>(library, "address_3")(), address);
  EXPECT_EQ(address_of(library, "chosen").as<void*>(), address);
}

TEST_F(Symbols, AnIndirectFunctionThatLosesIsNotChosen) {
  commit(engine, library,
         {assemble(".text\nchoose: ud2\n.weak f\n.type f,@gnu_indirect_function\nf = choose\n.globl ask\nask: jmp f@PLT\n"),
          returns("f", 6)});
  EXPECT_EQ(call("ask"), 6);
}

TEST_F(Symbols, WhatCompilersExpectOfTheirSupportLibrary) {
  commit(engine, library,
         {compile_c("unsigned long high(unsigned long a, unsigned long b, unsigned long c) {"
                    "  unsigned __int128 n = (unsigned __int128)a << 64 | b; return (unsigned long)(n / c >> 3); }"
                    "int model(void) { __builtin_cpu_init(); return __builtin_cpu_supports(\"sse2\") != 0; }")});
  EXPECT_EQ(function<unsigned long(unsigned long, unsigned long, unsigned long)>(library, "high")(1, 0, 16), 1UL << 57);
  EXPECT_EQ(call("model"), 1);
}

TEST_F(Symbols, ExitHandlersRunWhenTheModuleGoes) {
  static std::string log;
  log.clear();
  struct Log {
    static void add(char c) { log += c; }
  };
  Absolute add[] = {{"add", Addr::of(&Log::add), false}};
  expect(library.define(add));
  Module module = commit(engine, library, compile_cpp(R"(
extern "C" { void add(char); int atexit(void (*)()); int at_quick_exit(void (*)());
  int pthread_atfork(void (*)(), void (*)(), void (*)()); }
struct Object { Object() { add('c'); } ~Object() { add('d'); } } object;
extern "C" int set_up() {
  return atexit([] { add('1'); }) + atexit([] { add('2'); }) + at_quick_exit([] { add('q'); }) +
         pthread_atfork([] { add('f'); }, nullptr, nullptr);
}
)"));
  EXPECT_EQ(log, "c");
  EXPECT_EQ(call("set_up"), 0);
  ASSERT_TRUE(try_remove(engine, {module}));
  EXPECT_EQ(log, "c21d");
  if (pid_t child = fork(); child == 0) // the handler went with the module
    _exit(log == "c21d" ? 0 : 1);
  else {
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  testing::GTEST_FLAG(death_test_style) = "fast";
  EXPECT_EXIT(quick_exit(3), testing::ExitedWithCode(3), "") << "nor is a quick-exit handler called that is gone";
}

TEST_F(Symbols, AbsoluteSymbols) {
  commit(engine, library,
         {assemble(".globl fixed\nfixed = 0x123456789a\n.globl small\nsmall = 77\n.text\n.globl get\nget: movabsq $fixed, "
                   "%rax\n ret\n")});
  commit(engine, library,
         {assemble(".text\n.globl get_later\nget_later: movq fixed@GOTPCREL(%rip), %rax\n subq $small, %rax\n ret\n")});
  EXPECT_EQ(function<std::uint64_t()>(library, "get")(), 0x123456789aU);
  EXPECT_EQ(address_of(library, "fixed").value, 0x123456789aU);
  EXPECT_EQ(function<std::uint64_t()>(library, "get_later")(), 0x123456789aU - 77);
}

const char* models_text = R"(
extern "C" int symbols_host_function();
extern "C" int symbols_host_data;
int table[1000] = {1, 2, 3};
static int counter;
static int bump(int by) { return counter += by; }
int (*volatile pointer)(int) = bump;
#ifdef NO_TLS
int mine = 4;
#else
thread_local int mine = 4;
#endif
extern "C" int use(int x) {
  mine += 1;
  switch (x) { case 0: return 10; case 1: return 21; case 2: return 32; case 3: return 43; case 4: return 54;
    case 5: break; default: return 0; }
  try { if (x == 5) throw 7; } catch (int i) {
    return i + symbols_host_function() + symbols_host_data + pointer(3) + table[2] + mine; }
  return -1;
}
)";

TEST_F(Symbols, CodeModelsAndTheirRelatives) {
  struct Case {
    const char* flags;
    bool gcc, large;
  };
  const Case cases[] = {{"-O1 -fPIC", false, false},
                        {"-O1 -mcmodel=large -fPIC", false, true},
                        {"-O0 -mcmodel=large -fno-pic", false, true},
                        {"-O1 -mcmodel=medium -fPIC -mlarge-data-threshold=16", false, false},
                        {"-O1 -fPIC -fno-plt", false, false},
                        {"-O1 -fPIC -mtls-dialect=gnu2", false, false},
                        {"-O2 -fPIE", false, false},
                        {"-O2 -fPIC", true, false},
                        {"-O2 -fPIC -fno-plt", true, false},
                        {"-O2 -fPIC -mtls-dialect=gnu2", true, false},
                        {"-O1 -fPIC -mcmodel=large", true, true},
                        {"-O1 -fPIC -mcmodel=medium -mlarge-data-threshold=16", true, false}};
  for (const Case& c : cases) {
    SCOPED_TRACE(std::string(c.gcc ? "g++ " : "clang++ ") + c.flags);
    library = other({Source::process()});
    Change change = engine.change();
    std::string flags = std::string(c.flags);
    if (flags.find("-fPIE") != std::string::npos || flags.find("-fno-pic") != std::string::npos)
      flags += " -DNO_TLS"; // they use the local-exec model whatever is said
    change.add(library, c.gcc ? compile_gcc(models_text, flags) : compile_cpp(models_text, flags));
    Draft draft = expect(std::move(change).draft());
    EXPECT_EQ(draft.layouts()[0].large_model, c.large);
    Result<Placed> placed = std::move(draft).place();
    Result<Linked> linked = placed ? std::move(*placed).link() : Result<Linked>(placed.error());
    if (!linked) {
      ADD_FAILURE() << describe(linked.error());
      continue;
    }
    expect(std::move(*linked).commit());
    auto use = function<int(int)>(library, "use");
    EXPECT_EQ(use(1), 21);
    EXPECT_EQ(use(3), 43);
    EXPECT_EQ(use(5), 7 + 1 + 11 + 3 + 3 + 7);
  }
}

TEST(LowEngine, CodeThatIsNotPositionIndependent) {
  Object clang = compile_cpp(models_text, "-O1 -fno-pic -DNO_TLS"),
         gcc = compile_gcc(models_text, "-O2 -fno-pic -fno-pie -DNO_TLS");
  Object table = assemble(
      ".text\n.globl get\nget: movl $value, %eax\n movl (%rax), %eax\n cmpl $0, value(%rip)\n ret\n.data\nvalue: .long 5\n");
  Object weak =
      compile_c("__attribute__((weak)) int maybe(void); int ask(void) { return maybe ? maybe() : 5; }", "-O1 -fno-pic");
  Engine ordinary = make_engine();
  Library elsewhere = expect(ordinary.library());
  for (const Object& object : {clang, gcc, table}) {
    Result<Committed> refused = try_commit(ordinary, elsewhere, {object});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::out_of_range);
    EXPECT_THAT(refused.error().message, HasSubstr("low_2gib"));
  }
  Options options;
  options.low_2gib = true;
  Engine engine = make_engine(options);
  Library library = expect(engine.library());
  commit(engine, library, {table, weak});
  EXPECT_LT(address_of(library, "get").value, 1UL << 31);
  EXPECT_EQ(function<int()>(library, "get")(), 5);
  EXPECT_EQ(function<int()>(library, "ask")(), 5);
  // The host's data is out of reach of such code where the program itself is not in the low 2 GiB: functions only.
  for (const char* data : {"extern \"C\" int symbols_host_data; int *get() { return &symbols_host_data; }",
                           "int get() { try { throw 1; } catch (int i) { return i; } }"}) {
    Result<Committed> refused = try_commit(engine, library, {compile_cpp(data, "-O1 -fno-pic")});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::out_of_range);
    EXPECT_THAT(refused.error().message, HasSubstr("-fPIC"));
  }
  const char* text = R"(
extern "C" int symbols_host_function();
struct Thrown { int value; };
int table[1000] = {1, 2, 3};
static int bump(int by) { return table[0] += by; }
int (*volatile pointer)(int) = bump;
int (*volatile host_pointer)() = symbols_host_function;
extern "C" int use(int x) {
  try { if (x == 5) throw Thrown{7}; } catch (Thrown &t) {
    return t.value + symbols_host_function() + pointer(3) + table[x - 3] + host_pointer(); }
  return -1;
}
)";
  for (bool by_gcc : {false, true}) {
    Library own = expect(engine.library());
    commit(engine, own, {by_gcc ? compile_gcc(text, "-O2 -fno-pic -fno-pie") : compile_cpp(text, "-O1 -fno-pic")});
    EXPECT_EQ(function<int(int)>(own, "use")(5), 7 + 1 + 4 + 3 + 1);
  }
}

struct Far : Symbols {
  long* data = nullptr;
  Far() {
    // Nothing is within 2 GiB of it: engines lie below the host's libraries.
    void* at =
        mmap(reinterpret_cast<void*>(0x10000000000), 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    data = static_cast<long*>(at);
    data[0] = 1234;
    Absolute far[] = {{"far", Addr::of(data), false}};
    expect(library.define(far));
  }
  ~Far() override { munmap(data, 4096); }
};

TEST_F(Far, LoadsAreLedThroughThunks) {
  ASSERT_GT(engine.usage().reserved, 0U);
  commit(engine, library, {assemble(R"(
    .text
    .globl load, load_32, load_r15, address, offset, red_zone, flags, pushed
load: movq far(%rip), %rax
    ret
load_32: movl $-1, %eax
    movl far(%rip), %eax
    ret
load_r15: movq %r15, %rdx
    movq far(%rip), %r15
    movq %r15, %rax
    movq %rdx, %r15
    ret
address: leaq far(%rip), %rax
    ret
offset: leaq far+8(%rip), %rax
    ret
red_zone: movq $42, -8(%rsp)
    movq $43, -16(%rsp)
    movq far(%rip), %rcx
    movq -8(%rsp), %rax
    addq -16(%rsp), %rax
    ret
flags: xorl %eax, %eax
    stc
    movq far(%rip), %rcx
    adcq $0, %rax
    cmpq $7, %rcx
    leaq far(%rip), %rcx
    seta %cl
    movzbl %cl, %ecx
    leaq (%rax,%rcx,2), %rax
    ret
)")});
  auto get = [&](const char* name) { return function<long()>(library, name)(); };
  EXPECT_EQ(get("load"), 1234);
  EXPECT_EQ(get("load_32"), 1234);
  EXPECT_EQ(get("load_r15"), 1234);
  EXPECT_EQ(get("address"), long(reinterpret_cast<std::uintptr_t>(data)));
  EXPECT_EQ(get("offset"), long(reinterpret_cast<std::uintptr_t>(data + 1)));
  EXPECT_EQ(get("red_zone"), 85);
  EXPECT_EQ(get("flags"), 3);
}

TEST_F(Far, OtherFormsAreANamedError) {
  for (const char* instruction :
       {"addl $1, far(%rip)", "cmpq $0, far(%rip)", "movl %eax, far(%rip)", "movsd far(%rip), %xmm0"}) {
    std::string error = error_of(assemble(std::string(".text\n.globl f\nf: ") + instruction + "\n ret\n", "forms.o"),
                                 ErrorCode::out_of_range);
    EXPECT_THAT(error, testing::AllOf(HasSubstr("forms.o"), HasSubstr("'far'"), HasSubstr("-fPIC"))) << instruction;
  }
  commit(engine, library, {compile_c("extern long far; long load(void) { return far; } long *get(void) { return &far; }")});
  EXPECT_EQ(function<long()>(library, "load")(), 1234) << "the engine goes on; through the GOT everything is in reach";
}

} // namespace
} // namespace tenon::test
