// Coroutines, filesystem, locale, pmr, chrono, random, shared_ptr: what pulls in much of the host's C++ library.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <algorithm>
#include <chrono>
#include <coroutine>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <locale>
#include <memory>
#include <memory_resource>
#include <optional>
#include <random>
#include <ranges>
#include <sstream>
#include <string>
#include <vector>

#include <unistd.h>

namespace {

struct Generator {
  struct promise_type {
    int value = 0;
    Generator get_return_object() { return Generator{std::coroutine_handle<promise_type>::from_promise(*this)}; }
    std::suspend_always initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    std::suspend_always yield_value(int v) {
      value = v;
      return {};
    }
    void return_void() {}
    void unhandled_exception() { throw; }
  };
  std::coroutine_handle<promise_type> handle;
  ~Generator() { handle.destroy(); }
  std::optional<int> next() {
    handle.resume();
    if (handle.done()) return std::nullopt;
    return handle.promise().value;
  }
};

Generator fibonacci(int count) {
  for (int a = 0, b = 1, i = 0; i < count; ++i) {
    co_yield a;
    if (i == 15) throw std::runtime_error("enough");
    b = a + b;
    a = b - a;
  }
}

} // namespace

int main() {
  auto generator = fibonacci(20);
  try {
    while (auto value = generator.next()) std::cout << *value << ' ';
  } catch (const std::exception& e) {
    std::cout << e.what() << '\n';
  }
  namespace fs = std::filesystem;
  auto directory = fs::temp_directory_path() / ("tenon_modern_" + std::to_string(::getpid()));
  fs::create_directories(directory / "a" / "b");
  std::ofstream(directory / "a" / "file.txt") << "content";
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) names.push_back(entry.path().filename());
  std::ranges::sort(names);
  for (const auto& name : names) std::cout << name << ' ';
  std::cout << fs::file_size(directory / "a" / "file.txt") << ' ' << fs::remove_all(directory) << '\n';
  try {
    (void)fs::file_size(directory);
  } catch (const fs::filesystem_error& e) {
    std::cout << e.code().message() << '\n';
  }
  struct Grouping : std::numpunct<char> {
    char do_thousands_sep() const override { return '\''; }
    std::string do_grouping() const override { return "\3"; }
  };
  std::ostringstream grouped;
  grouped.imbue(std::locale(std::locale::classic(), new Grouping));
  grouped << 1234567890;
  std::cout << grouped.str() << ' ' << std::toupper('x', std::locale::classic()) << '\n';
  std::byte storage[4096];
  std::pmr::monotonic_buffer_resource pool(storage, sizeof storage);
  std::pmr::vector<std::pmr::string> strings(&pool);
  for (int i = 0; i < 20; ++i)
    strings.emplace_back("a string that is too long for the small buffer").push_back(char('a' + i));
  std::cout << strings.back() << '\n';
  std::mt19937 random(42);
  std::vector<unsigned> values(1000);
  std::ranges::generate(values, [&] { return random() % 1000; });
  std::ranges::sort(values);
  long sum = 0;
  for (unsigned v : values | std::views::filter([](unsigned x) { return x % 2; }) |
                        std::views::transform([](unsigned x) { return x * x; }))
    sum += v;
  std::cout << values[500] << ' ' << sum << '\n';
  auto shared = std::make_shared<std::string>("shared");
  std::weak_ptr<std::string> weak = shared;
  shared.reset();
  std::cout << weak.expired() << ' ' << std::chrono::duration_cast<std::chrono::minutes>(std::chrono::hours(3)).count()
            << '\n';
  return 0;
}
