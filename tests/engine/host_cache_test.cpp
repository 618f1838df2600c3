// What engines keep of the process: names that dlsym has found, until something is loaded or unloaded.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include "engine/host_cache.h"

#include <gtest/gtest.h>

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

namespace tenon::test {
namespace {

namespace fs = std::filesystem;
using engine::hash_name;
using engine::HostCache;
using engine::HostGeneration;

class HostLibraries : public testing::Test {
protected:
  HostLibraries() { fs::create_directories(folder_); }
  ~HostLibraries() override { fs::remove_all(folder_); }

  // A shared library whose tenon_test_cached() returns the number.
  std::string make(int number) {
    const std::string path = (folder_ / (std::to_string(number) + ".so")).string();
    const std::string text = "int tenon_test_cached(void) { return " + std::to_string(number) + "; }";
    const std::string command = "echo '" + text + "' | gcc -x c -shared -fPIC -o " + path + " -";
    EXPECT_EQ(std::system(command.c_str()), 0); // NOLINT: no other thread changes the environment
    return path;
  }

  // What a module that is linked now calls by that name.
  Result<int> linked() {
    Library library = expect(engine_.library());
    expect(library.search({Source::process()}));
    Object object = compile_c("int tenon_test_cached(void); int ask(void) { return tenon_test_cached(); }");
    if (auto committed = try_commit(engine_, library, {object}); !committed) return std::move(committed).error();
    return function<int()>(library, "ask")();
  }

  fs::path folder_ = fs::temp_directory_path() / ("tenon-host-" + std::to_string(getpid()));
  Engine engine_ = make_engine();
};

// What dlsym finds by that name, called: 0 if it finds nothing. (glibc keeps a library from which it has given a symbol away
// to code that is never unloaded; where it does not, the name must be gone for modules, too.)
int dynamic_linkers() {
  void* found = dlsym(RTLD_DEFAULT, "tenon_test_cached");
  return found != nullptr ? reinterpret_cast<int (*)()>(found)() : 0;
}

TEST_F(HostLibraries, ModulesGetWhatTheDynamicLinkerFinds) {
  EXPECT_FALSE(linked()); // is not kept: the name comes now
  void* first = dlopen(make(1).c_str(), RTLD_NOW | RTLD_GLOBAL);
  ASSERT_NE(first, nullptr) << dlerror();
  EXPECT_EQ(expect(linked()), 1);
  EXPECT_EQ(expect(linked()), 1);
  ASSERT_EQ(dlclose(first), 0);
  Result<int> without = linked();
  EXPECT_EQ(without ? *without : 0, dynamic_linkers());
  void* second = dlopen(make(2).c_str(), RTLD_NOW | RTLD_GLOBAL);
  ASSERT_NE(second, nullptr) << dlerror();
  EXPECT_EQ(expect(linked()), dynamic_linkers());
  ASSERT_EQ(dlclose(second), 0);
}

TEST_F(HostLibraries, EveryLoadedObjectBeginsAGeneration) {
  const HostGeneration before = HostGeneration::now();
  EXPECT_EQ(HostGeneration::now(), before);
  void* handle = dlopen(make(3).c_str(), RTLD_NOW);
  ASSERT_NE(handle, nullptr) << dlerror();
  const HostGeneration loaded = HostGeneration::now();
  EXPECT_NE(loaded, before);
  ASSERT_EQ(dlclose(handle), 0);
  EXPECT_NE(HostGeneration::now(), before);
  EXPECT_NE(HostGeneration::now(), loaded);
}

TEST(HostCache, KeepsOneGeneration) {
  HostCache cache;
  const HostCache::Entry one{"one", hash_name("one"), 1}, two{"two", hash_name("two"), 2};
  EXPECT_EQ(cache.find("one", one.hash), 0U);
  cache.add({7, 0}, std::vector{one});
  cache.add({7, 0}, std::vector{one, two});
  EXPECT_EQ(cache.generation(), (HostGeneration{7, 0}));
  EXPECT_EQ(cache.find("one", one.hash), 1U);
  EXPECT_EQ(cache.find("two", two.hash), 2U);
  cache.add({7, 1}, std::vector{two});
  EXPECT_EQ(cache.find("one", one.hash), 0U);
  EXPECT_EQ(cache.find("two", two.hash), 2U);
}

} // namespace
} // namespace tenon::test
