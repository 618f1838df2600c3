// The public border with an allocation failing at every place: each function gives out_of_memory, or does without; none
// throws. What is noexcept needs no memory at all, but for calls that keep the failure for the next that can report it.
//
// What clients make (arguments, lists) is made before. The whole way of a change, and that nothing is left behind, is in
// transaction_faults_test.cpp; this file goes through the headers function by function, errors of other kinds included:
// their messages need memory, too.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "transaction_support.h"

#include "engine/engine_state.h"

#include <gtest/gtest.h>

#include <concepts>
#include <cstdio>
#include <type_traits>

namespace tenon::test {

namespace {

class Border : public testing::Test {
protected:
  void SetUp() override {
    if (!counts_allocations) GTEST_SKIP() << "ThreadSanitizer owns operator new";
  }

  // Fails the n-th allocation of call(setup()) for n = 1, 2, ... until a run needs fewer, and answers how many it needs.
  // `expected`: the error of the run in which none fails.
  template <class Setup, class Call>
    requires(!std::is_same_v<std::remove_cvref_t<Call>, ErrorCode>)
  long each(Setup&& setup, Call&& call, std::optional<ErrorCode> expected = std::nullopt) {
    for (long n = 1; n < 5000; ++n) {
      auto prepared = setup();
      bool threw = false;
      std::optional<ErrorCode> error;
      fail_allocation(n);
      try {
        auto result = call(prepared);
        fail_allocation(0);
        if (!result) error = result.error().code;
      } catch (...) {
        fail_allocation(0);
        threw = true;
      }
      EXPECT_FALSE(threw) << "an exception at allocation " << n;
      bool met = allocation_failed();
      if (!met || error != ErrorCode::out_of_memory) {
        EXPECT_EQ(error.has_value(), expected.has_value()) << "allocation " << n << (error ? to_string(*error) : "");
        if (error) {
          EXPECT_EQ(error, expected) << "allocation " << n;
        }
      }
      if (!met) return n - 1;
      if (HasFailure()) return 0;
    }
    ADD_FAILURE() << "no end";
    return 0;
  }
  template <std::invocable Call> long each(Call&& call, std::optional<ErrorCode> expected = std::nullopt) {
    return each([] { return 0; }, [&](int) { return call(); }, expected);
  }

  // What needs no memory.
  template <class Call> void never(Call&& call) {
    fail_allocation(1);
    call();
    fail_allocation(0);
    EXPECT_FALSE(allocation_failed());
  }
};

const char long_name[] = "a name that is too long to lie in a std::string itself";
const char missing_name[] = "no_symbol_of_any_object_or_library_has_this_name";

// Everything is absent, or every answer an error.
struct Failing final : Resolver {
  bool fail = false;
  Result<void> resolve(std::span<const Needed>, std::span<Answer>) noexcept override {
    if (fail) return Error{ErrorCode::system, "no"};
    return {};
  }
};

struct Stages : Border {
  Engine engine = make_small_engine();
  Library library = expect(engine.library("border"));
  const std::vector<Object> objects = rich_objects();
  // Without forward references, which neither released code nor code at plain addresses can have.
  const Object simple = compile_c("int x = 3; int f(void) { return x; } int *g(void) { return &x; }");

  Change change() {
    Change made = engine.change();
    for (const Object& object : objects) made.add(library, object, rich_options());
    return made;
  }
  Draft draft() { return expect(change().draft()); }
  Placed placed() { return expect(draft().place()); }
  Linked linked() { return expect(placed().link()); }
  Draft simple_draft() {
    Change made = engine.change();
    made.add(library, simple);
    return expect(std::move(made).draft());
  }
  Linked simple_linked() { return expect(expect(simple_draft().place()).link()); }
  void close() {
    expect(library.close(Quiet::caller_guarantees));
    library = expect(engine.library("border"));
  }
};

// An archive without an index, thin or not.
std::vector<std::byte> plain_archive(std::span<const Object> members, bool thin) {
  std::string text = thin ? "!<thin>\n" : "!<arch>\n";
  for (std::size_t i = 0; i < members.size(); ++i) {
    char header[61];
    std::snprintf(header, sizeof header, "%-16s%-12d%-6d%-6d%-8o%-10zu`\n", ("m" + std::to_string(i) + ".o/").c_str(), 0, 0,
                  0, 0644U, members[i].bytes().size());
    text += header;
    if (thin) continue;
    text.append(reinterpret_cast<const char*>(members[i].bytes().data()), members[i].bytes().size());
    if (text.size() % 2 != 0) text += '\n';
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  return {bytes, bytes + text.size()};
}

// What may not throw says so.
static_assert(noexcept(Source::process()) && noexcept(Source::shared(nullptr)));
static_assert(noexcept(Source::library(std::declval<const Library&>())));
static_assert(noexcept(Source::archive(std::declval<Archive&&>())));
static_assert(noexcept(Source::resolver(std::declval<std::shared_ptr<Resolver>&&>())));
static_assert(noexcept(std::declval<Engine&>().change()) && noexcept(std::declval<const Engine&>().usage()));
static_assert(noexcept(std::declval<Change&>().add(std::declval<const Library&>(), std::declval<Object&&>(),
                                                   std::declval<ModuleOptions&&>())));
static_assert(noexcept(std::declval<Change&>().remove(std::declval<Module&&>())));
static_assert(noexcept(std::declval<const Library&>().find(std::string_view())));
static_assert(noexcept(std::declval<const Committed&>().module(ModuleId{})));
static_assert(noexcept(std::declval<Error&&>().within(std::string_view())));
static_assert(noexcept(Edit::rename({}, std::declval<std::string&&>(), std::declval<std::string&&>())));

// Handles and the pieces of arguments are copied without memory; a Committed, which has a list, is not copied at all.
template <class... T> constexpr bool copies = (... && std::is_nothrow_copy_constructible_v<T>);
static_assert(copies<Engine, Library, Module, Source, Object, Archive, Code, Function<int()>, Absolute, Needed, Answer>);
static_assert(copies<PlacedSection, PlacedSymbol, LinkerEntry, ModuleLayout, SectionLayout, Options, Usage, EngineUsage>);
static_assert(!std::is_copy_constructible_v<Committed>);

} // namespace

TEST_F(Border, Objects) {
  Object object = compile_gcc("int f(int x) { return x; }", "-O1 -g -gz=zlib", "a_long_name_of_an_object.o");
  Bytes bytes = object.bytes();
  auto name = [] { return std::string(long_name); };
  EXPECT_GT(each(name, [&](std::string& n) { return Object::copy(bytes, std::move(n)); }), 2);
  EXPECT_GT(each(name, [&](std::string& n) { return Object::borrow(bytes, nullptr, std::move(n)); }), 0);
  EXPECT_GT(
      each(name, [&](std::string& n) { return Object::copy(bytes.first(100), std::move(n)); }, ErrorCode::malformed), 1);
  EXPECT_GT(each(name, [&](std::string& n) { return Object::copy({}, std::move(n)); }, ErrorCode::malformed), 0);
  std::string path = assemble_file(".globl f\nf: call g\n ret\n"), no_path = std::string("/") + missing_name;
  EXPECT_GT(each([&] { return Object::read_file(path); }), 2);
  EXPECT_GT(each([&] { return Object::read_file(no_path); }, ErrorCode::system), 0);
  std::uint32_t compressed = 0;
  for (std::uint32_t i = 0; i < object.sections().size(); ++i) {
    if (object.sections()[i].compressed) compressed = i;
    each([&] { return object.check_relocations(i); });
  }
  ASSERT_NE(compressed, 0U);
  EXPECT_GT(each([&] { return object.uncompressed(compressed); }), 0);
  EXPECT_GT(each([&] { return object.uncompressed(compressed, 1); }, ErrorCode::unsupported), 0);
  never([&] {
    Object copy = object;
    (void)copy.name();
    (void)copy.machine();
    for (std::uint32_t i = 0; i < copy.sections().size(); ++i) (void)copy.relocations(i);
  });
}

TEST_F(Border, Archives) {
  std::vector<Object> members = rich_objects();
  std::vector<std::byte> indexed = archive_of({members[0], members[1], members[2]});
  std::vector<std::byte> plain = plain_archive(members, false), thin = plain_archive(members, true);
  auto name = [] { return std::string(long_name); };
  Archive::Loader loader = [&](std::string_view member) -> Result<std::vector<std::byte>> {
    Bytes bytes = members[std::size_t(member[1] - '0')].bytes();
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  EXPECT_GT(each(name, [&](std::string& n) { return Archive::copy(indexed, std::move(n)); }), 3);
  EXPECT_GT(each(name, [&](std::string& n) { return Archive::borrow(indexed, nullptr, std::move(n)); }), 2);
  EXPECT_GT(
      each(
          name, [&](std::string& n) { return Archive::copy(Bytes(indexed).first(90), std::move(n)); }, ErrorCode::malformed),
      1);
  std::string no_path = std::string("/") + missing_name;
  EXPECT_GT(each([&] { return Archive::read_file(no_path); }, ErrorCode::system), 0);
  // The index that the archive lacks is made once: for each place another archive.
  auto without_index = [&] { return expect(Archive::borrow(plain, nullptr, "plain.a")); };
  auto thin_archive = [&] { return expect(Archive::borrow(thin, nullptr, "thin.a", loader)); };
  EXPECT_GT(each(without_index, [&](Archive& archive) { return archive.find("rich_third"); }), 10);
  EXPECT_GT(each(thin_archive, [&](Archive& archive) { return archive.find("rich_third"); }), 10);
  EXPECT_GT(each(thin_archive, [&](Archive& archive) { return archive.member_bytes(1); }), 1);
  EXPECT_GT(each(thin_archive, [&](Archive& archive) { return archive.member(1); }), 2);
  // A failure is not kept.
  Archive again = without_index();
  fail_allocation(8);
  EXPECT_FALSE(again.find("rich_third"));
  fail_allocation(0);
  EXPECT_EQ(expect(again.find("rich_third")), 2U);
  Archive archive = expect(Archive::borrow(indexed, nullptr, "indexed.a"));
  EXPECT_GT(each([&] { return archive.member(0); }), 0);
  never([&] {
    Archive copy = archive;
    EXPECT_TRUE(copy.find("rich_third").value());
    EXPECT_TRUE(again.find("rich_third").value());
    (void)copy.member_name(0).size();
    (void)copy.member_bytes(0).ok();
    (void)Archive::is_archive(indexed);
  });
}

TEST_F(Stages, EnginesAndLibraries) {
  EXPECT_GT(each([] { return Engine::create(); }), 5);
  std::string name = long_name;
  EXPECT_GT(each([&] { return make_small_engine(); }, [&](Engine& fresh) { return fresh.library(name); }), 2);
  EXPECT_GT(each([&] { return engine.library(); }), 1);

  Library other = expect(engine.library("other")), foreign = expect(make_small_engine().library("foreign"));
  commit(engine, other, later_object());
  auto resolver = std::make_shared<Failing>();
  Archive archive = expect(Archive::copy(archive_of({objects[2]}), "lib.a"));
  never([&] {
    std::optional<Source> sources[] = {Source::process(), Source::shared(nullptr), Source::library(other),
                                       Source::archive(archive), Source::resolver(resolver)};
    std::optional<Source> copies[5];
    for (int i = 0; i < 5; ++i) copies[i] = sources[i];
  });
  auto sources = [&] {
    return std::vector<Source>{Source::library(other), Source::archive(archive), Source::process(),
                               Source::resolver(resolver)};
  };
  EXPECT_GT(each(sources, [&](std::vector<Source>& list) { return library.search(std::move(list)); }), 0);
  EXPECT_GT(each([&] { return std::vector<Source>{Source::library(foreign)}; },
                 [&](std::vector<Source>& list) { return library.search(std::move(list)); }, ErrorCode::invalid_argument),
            0);
  expect(library.search(sources()));
  for (std::string_view found : {std::string_view("later_function"), std::string_view("tenon_test_note")}) {
    EXPECT_TRUE(expect(library.find_anywhere(found)));
    each([&] { return library.find_anywhere(found); });
  }
  EXPECT_FALSE(expect(library.find_anywhere(missing_name)));
  EXPECT_GT(each([&] { return library.find_anywhere(missing_name); }), 0);
  resolver->fail = true;
  EXPECT_GT(each([&] { return library.find_anywhere(missing_name); }, ErrorCode::resolver), 0);

  std::string one = std::string(long_name) + "1", two = std::string(long_name) + "2";
  std::vector<Absolute> absolutes{{one, {1000}, false}, {two, {2000}, true}};
  EXPECT_GT(each([&] { return expect(engine.library()); }, [&](Library& own) { return own.define(absolutes); }), 4);
  expect(library.define(absolutes));
  EXPECT_GT(each([&] { return library.define(absolutes); }, ErrorCode::duplicate), 1);
  EXPECT_GT(each([&] { return other.function<int(int)>("later_function"); }), 0);
  EXPECT_GT(each([&] { return other.function<int(int)>(missing_name); }, ErrorCode::undefined), 0);
  EXPECT_EQ(expect(other.modules()).size(), 1U);
  EXPECT_GT(each([&] { return other.modules(); }), 0);
  Function<int(int)> function = expect(other.function<int(int)>("later_function"));
  Module module = expect(other.modules())[0];
  std::string_view names[] = {"later_function", missing_name};
  Addr found[2];
  never([&] {
    Function<int(int)> copy = function;
    EXPECT_EQ(copy(1), 1001);
    EXPECT_TRUE(other.find("later_function"));
    EXPECT_EQ(other.find(names, found), 1U);
    Module same = module;
    (void)same.usage();
    (void)same.linked();
    (void)engine.usage();
    (void)engine.options();
    Library handle = other;
  });
  int number = 0;
  auto fresh = [&] {
    Library made = expect(engine.library("closed" + std::to_string(++number)));
    commit(engine, made, objects[1], [] {
      ModuleOptions options;
      options.forward = {"*"};
      return options;
    }());
    return made;
  };
  EXPECT_GT(each(fresh, [&](Library& made) { return made.close(Quiet::caller_guarantees); }), 1);
}

TEST_F(Stages, Drafts) {
  Module module = commit(engine, library, later_object());
  ModuleOptions named = rich_options();
  named.name = long_name;
  // What adding and removing could not keep, draft() reports.
  auto collected = [&](std::vector<ModuleOptions>& options) {
    Change made = engine.change();
    for (std::size_t i = 0; i < objects.size(); ++i) made.add(library, objects[i], std::move(options[i]));
    made.remove(module);
    return std::move(made).draft();
  };
  EXPECT_GT(each([&] { return std::vector<ModuleOptions>(3, named); }, collected), 30);
  auto twice = [&] {
    Change made = engine.change();
    made.remove(module);
    made.remove(module);
    return std::move(made).draft();
  };
  EXPECT_GT(each(twice, ErrorCode::invalid_argument), 3);
  Library foreign = expect(make_small_engine().library("foreign"));
  auto astray = [&] {
    Change made = engine.change();
    made.add(foreign, objects[0]);
    return std::move(made).draft();
  };
  EXPECT_GT(each(astray, ErrorCode::invalid_argument), 2);
  Object later = later_object();
  auto duplicate = [&] {
    Change made = engine.change();
    made.add(library, later);
    return std::move(made).draft();
  };
  EXPECT_GT(each(duplicate, ErrorCode::duplicate), 5);

  Draft kept = draft();
  for (Granularity granularity : {Granularity::whole, Granularity::section, Granularity::function})
    EXPECT_GT(each([&] { return kept.blocks(granularity); }), 5);
  auto edits = [&] {
    std::vector<Edit> list{Edit::localize({2}, "rich_third"), Edit::rename({0}, "rich_entry", long_name)};
    return std::pair(draft(), std::move(list));
  };
  EXPECT_GT(each(edits, [](auto& both) { return both.first.edit(std::move(both.second)); }), 30);
  auto nobody = [] { return std::vector<Edit>{Edit::localize({2}, missing_name)}; };
  EXPECT_GT(
      each(nobody, [&](std::vector<Edit>& list) { return kept.edit(std::move(list)); }, ErrorCode::invalid_argument), 30);
  never([&] {
    (void)kept.layouts();
    (void)kept.undefined();
    (void)kept.object({0});
  });
}

TEST_F(Stages, PlacedAndLinked) {
  auto fresh_draft = [&] { return draft(); };
  EXPECT_GT(each(fresh_draft, [](Draft& one) { return std::move(one).place(); }), 3);
  Arena arena(engine);
  EXPECT_GT(each(fresh_draft, [&](Draft& one) { return std::move(one).place(arena); }), 5);
  EXPECT_EQ(arena.outstanding, 0);
  std::vector<Addr> at;
  for (std::size_t blocks = expect(simple_draft().blocks(Granularity::section)).size(); at.size() < blocks;)
    at.push_back({0x100000 + at.size() * 0x10000});
  auto simple_one = [&] { return simple_draft(); };
  auto place_at = [&](Draft& one) { return std::move(one).place(Granularity::section, at); };
  EXPECT_GT(each(simple_one, place_at), 5);
  auto too_few = [&](Draft& one) { return std::move(one).place(Granularity::section, std::span(at).first(1)); };
  EXPECT_GT(each(simple_one, too_few, ErrorCode::invalid_argument), 1);

  Inspector passes = [](const Linked&) -> Result<void> { return {}; };
  Inspector vetoes = [](const Linked&) -> Result<void> { return Error{ErrorCode::system, "no"}; };
  auto fresh_placed = [&] { return placed(); };
  each(fresh_placed, [&](Placed& one) { return std::move(one).link(passes); });
  each(fresh_placed, [&](Placed& one) { return std::move(one).link(vetoes); }, ErrorCode::vetoed);
  never([one = placed()] { (void)one.sections(); });

  Linked kept = linked();
  EXPECT_GT(each([&] { return kept.symbols(); }), 3);
  EXPECT_GT(each([&] { return kept.entries(); }), 1);
  std::vector<std::span<std::byte>> none;
  EXPECT_GT(each([&] { return kept.copy_out(none); }, ErrorCode::invalid_argument), 0);
  never([&] {
    for (const PlacedSection& section : kept.sections()) {
      (void)kept.bytes(section.id);
      (void)kept.relocations(section.id);
    }
    (void)kept.module_name({0});
    (void)kept.object({0});
  });
  Linked away = expect(expect(simple_draft().place(Granularity::section, at)).link());
  EXPECT_GT(each([&] { return away.copy_out(none); }, ErrorCode::invalid_argument), 0);
  EXPECT_GT(each([&] { return expect(expect(simple_draft().place(Granularity::section, at)).link()); },
                 [](Linked& one) { return std::move(one).commit(); }, ErrorCode::invalid_argument),
            0);
}

TEST_F(Stages, CommittedAndReleased) {
  auto fresh_linked = [&] { return linked(); };
  // Each round's modules, those of the last one included, go before the next.
  auto commits = [&] {
    close();
    take_notes();
    return linked();
  };
  EXPECT_GT(each(commits, [](Linked& one) { return std::move(one).commit(); }), 20);
  EXPECT_EQ(take_notes(), "early born");
  EXPECT_EQ(expect(library.modules()).size(), 3U);
  Module module = expect(library.modules())[1];
  auto still_used = [&] {
    Change made = engine.change();
    made.remove(module);
    return std::move(made).draft();
  };
  EXPECT_GT(each(still_used, ErrorCode::still_used), 3);
  close();

  auto fresh_simple = [&] { return simple_linked(); };
  EXPECT_GT(each(fresh_simple, [](Linked& one) { return std::move(one).release(); }), 5);
  EXPECT_GT(each(fresh_linked, [](Linked& one) { return std::move(one).release(); }, ErrorCode::invalid_argument), 0);
  Code code = expect(simple_linked().release());
  never([&] {
    Code copy = code;
    EXPECT_TRUE(copy.find("f"));
    (void)copy.usage();
  });
  Linked one = simple_linked();
  Committed committed = expect(std::move(one).commit());
  never([&] {
    (void)committed.module({0}).linked();
    (void)committed.modules();
  });
}

TEST_F(Border, Errors) {
  Error base{ErrorCode::malformed, long_name};
  auto copy = [&] { return Error(base); };
  std::string context = missing_name;
  for (bool fails : {false, true}) {
    Error error = copy();
    if (fails) fail_allocation(1);
    Error further = std::move(error).within(context);
    fail_allocation(0);
    EXPECT_EQ(allocation_failed(), fails);
    EXPECT_EQ(further.code, ErrorCode::malformed);
    EXPECT_EQ(further.message, fails ? std::string(long_name) : context + ": " + long_name);
  }
}

} // namespace tenon::test
