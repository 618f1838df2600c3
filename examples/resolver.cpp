// One resolver for several engines: the client decides what names mean, a batch at a time.
//
// Engines may draft at once in different threads and then ask the resolver at once. This one only reads its table, so that
// it needs no lock; and the engines hold none while they ask.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <tenon/llvm.h>
#include <tenon/tenon.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <unordered_map>

namespace {

template <class T> T need(tenon::Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "%s\n", result.error().message.c_str());
  std::exit(1);
}

std::atomic<int> calls{0};

int add_and_count(int a, int b) {
  ++calls;
  return a + b;
}

struct Table : tenon::Resolver {
  std::unordered_map<std::string_view, tenon::Addr> functions{{"host_add", tenon::Addr::of(&add_and_count)}};

  tenon::Result<void> resolve(std::span<const tenon::Needed> needed, std::span<tenon::Answer> answers) noexcept override {
    for (std::size_t i = 0; i < needed.size(); ++i)
      if (const auto found = functions.find(needed[i].name); found != functions.end())
        answers[i] = tenon::Answer::at(found->second);
      else if (needed[i].name.starts_with("hook_"))
        answers[i] = tenon::Answer::null(); // known not to be there; others stay `absent` and are reported
    return {};
  }
};

// Calls the hook only if there is one.
constexpr std::string_view program = R"(
declare i32 @host_add(i32, i32)
declare extern_weak void @hook_entered()
define i32 @run(i32 %x) {
  %there = icmp ne ptr @hook_entered, null
  br i1 %there, label %call, label %go
call:
  call void @hook_entered()
  br label %go
go:
  %sum = call i32 @host_add(i32 %x, i32 2)
  ret i32 %sum
}
)";

int run_in_own_engine(const tenon::Object& object, const std::shared_ptr<Table>& table, int argument) {
  tenon::Engine engine = need(tenon::Engine::create());
  tenon::Library library = need(engine.library());
  if (const auto set = library.search({tenon::Source::resolver(table)}); !set) return -1; // and nothing of the process
  tenon::Change change = engine.change();
  change.add(library, object);
  need(need(need(need(std::move(change).draft()).place()).link()).commit());
  return need(library.function<int(int)>("run"))(argument);
}

// What nobody knows is a value, before anything was placed.
std::size_t count_missing(const tenon::Object& object) {
  tenon::Engine engine = need(tenon::Engine::create());
  tenon::Library library = need(engine.library());
  tenon::Change change = engine.change();
  change.add(library, object); // searches the process, which has no host_add
  tenon::Draft draft = need(std::move(change).draft());
  for (const tenon::Missing& missing : draft.undefined())
    std::printf("without the resolver '%s' is missing, needed by %s\n", missing.name.c_str(),
                missing.needed_by.front().c_str());
  return draft.undefined().size();
}

} // namespace

int main() {
  tenon::Compiler compiler = need(tenon::Compiler::create());
  const tenon::Object object = need(compiler.compile_ir(std::as_bytes(std::span(program)), "program.ll"));
  const auto table = std::make_shared<Table>();

  int first = 0, second = 0;
  std::thread one([&] { first = run_in_own_engine(object, table, 40); });
  std::thread two([&] { second = run_in_own_engine(object, table, 70); });
  one.join();
  two.join();
  std::printf("%d and %d, %d calls\n", first, second, calls.load());
  return first == 42 && second == 72 && calls == 2 && count_missing(object) == 1 ? 0 : 1;
}
