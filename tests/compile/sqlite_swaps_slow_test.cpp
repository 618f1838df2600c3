// SQLite at work in several threads while its functions are compiled again at other levels and swapped, one after the other:
// the virtual machine, the B-tree, the pager, the parser and the memory allocator, if cmake/fetch_sqlite.sh has fetched the
// amalgamation. TENON_SQLITE_SWAPS says how many swaps.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "samples.h"
#include "sqlite_workload.h"

#include <gtest/gtest.h>

#include <llvm/Bitcode/BitcodeReader.h>
#include <llvm/IR/DebugInfo.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <llvm/Support/MemoryBuffer.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include <pthread.h>
#include <unistd.h>

namespace tenon::testing {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr OptLevel levels[] = {OptLevel::O0, OptLevel::O1, OptLevel::O2};

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

template <class T> T expect(Result<T> result) {
  if (!result) throw std::runtime_error(std::string(to_string(result.error().code)) + ": " + result.error().message);
  return std::move(result).value();
}

std::string source_path() { return std::string(TENON_SOURCE_DIR) + "/build/third_party/sqlite3/sqlite3.c"; }

std::string bitcode_of_sqlite() {
  const std::string installed = "/usr/lib/llvm-22/bin/clang";
  const std::string command = (fs::exists(installed) ? installed : "clang-22") +
                              " -w -O2 -Xclang -disable-llvm-passes -fPIC -gline-tables-only -DSQLITE_THREADSAFE=1"
                              " -emit-llvm -c -o - '" +
                              source_path() + "'";
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) throw std::runtime_error("can't start " + command);
  std::string output;
  std::array<char, 65536> buffer;
  for (std::size_t got; (got = fread(buffer.data(), 1, buffer.size(), pipe)) != 0;) output.append(buffer.data(), got);
  if (pclose(pipe) != 0) throw std::runtime_error(command + " has failed");
  return output;
}

// The file that each line of the amalgamation comes from, by its own marks.
std::vector<std::string> files_of_lines() {
  std::vector<std::string> files(1), stack(1);
  std::ifstream source(source_path());
  for (std::string line; std::getline(source, line);) {
    constexpr std::string_view begin = "/************** Begin file ", end = "/************** End of ";
    if (line.starts_with(begin)) stack.push_back(line.substr(begin.size(), line.find(' ', begin.size()) - begin.size()));
    files.push_back(stack.back());
    if (line.starts_with(end) && stack.size() > 1) stack.pop_back();
  }
  return files;
}

const std::set<std::string_view> files_to_swap = {
    "vdbe.c",     "vdbeaux.c", "vdbeapi.c",  "vdbemem.c", "vdbesort.c",   "vdbeblob.c", "vdbetrace.c",
    "vdbevtab.c", "btree.c",   "pager.c",    "wal.c",     "memjournal.c", "pcache.c",   "pcache1.c",
    "btmutex.c",  "parse.c",   "tokenize.c", "malloc.c",  "mem0.c",       "mem1.c",     "bitvec.c"};

// SQLite as IR, and the functions that are to be swapped.
struct Program {
  llvm::LLVMContext context;
  std::unique_ptr<llvm::Module> module;
  std::vector<std::string> functions;
  std::map<std::string, int> by_file;

  Program() {
    const std::string bitcode = bitcode_of_sqlite();
    auto parsed = llvm::parseBitcodeFile(llvm::MemoryBufferRef(bitcode, "sqlite3.bc"), context);
    if (!parsed) throw std::runtime_error(llvm::toString(parsed.takeError()));
    module = std::move(*parsed);
    const std::vector<std::string> files = files_of_lines();
    for (const llvm::Function& function : *module) {
      const llvm::DISubprogram* subprogram = function.getSubprogram();
      if (function.isDeclaration() || !subprogram || !subprogram->getFilename().ends_with("sqlite3.c")) continue;
      const std::string& file = files.at(subprogram->getLine());
      if (!files_to_swap.contains(file)) continue;
      // A part of its callers, and swapped with them.
      if (function.hasFnAttribute(llvm::Attribute::AlwaysInline)) continue;
      functions.push_back(function.getName().str());
      ++by_file[file];
    }
    llvm::StripDebugInfo(*module);
    std::shuffle(functions.begin(), functions.end(), std::mt19937(1));
  }
};

CompileOptions replaceable_at(OptLevel level) {
  CompileOptions options;
  options.level = level;
  options.replaceable = true;
  return options;
}

Committed commit(Change change, Switch how = Switch::each) {
  auto draft = expect(std::move(change).draft());
  auto placed = expect(std::move(draft).place());
  auto linked = expect(std::move(placed).link());
  return expect(std::move(linked).commit(Initialize::run, how));
}

ModuleOptions opaque() {
  ModuleOptions options;
  options.opaque = true;
  return options;
}

Module add(Engine& engine, const Library& library, Object object) {
  Change change = engine.change();
  ModuleOptions options = opaque();
  options.name = "sqlite3";
  change.add(library, std::move(object), std::move(options));
  return commit(std::move(change)).modules()[0];
}

// Threads that work, each on a database of its own. Their results are compared with those of a copy that nobody changes.
class Workers {
public:
  Workers(Engine& engine, const Library& swapped, const Library& reference)
      : engine_(engine), api_(swapped), reference_(reference),
        folder_(fs::temp_directory_path() / ("tenon_sqlite_" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
    for (Flavor flavor : flavors) {
      const std::string path = folder_ / ("reference" + std::to_string(expected_.size()));
      expected_.push_back(Database(reference_, path, flavor).cycle());
    }
    for (std::size_t i = 0; i < std::size(flavors); ++i) threads_.emplace_back([this, i] { work(i); });
  }

  ~Workers() {
    stop();
    fs::remove_all(folder_);
  }

  void stop() {
    stopping_ = true;
    for (std::thread& thread : threads_)
      if (thread.joinable()) thread.join();
  }

  std::string failure() {
    const std::lock_guard lock(mutex_);
    return failure_;
  }
  std::uint64_t cycles() const { return cycles_; }
  const Sqlite& api() const { return api_; }
  void shut_down() {
    EXPECT_EQ(api_.shutdown(), 0);
    EXPECT_EQ(reference_.shutdown(), 0);
  }

private:
  static constexpr Flavor flavors[] = {Flavor::rollback, Flavor::write_ahead, Flavor::memory};

  void work(std::size_t i) {
    const Flavor flavor = flavors[i];
    pthread_setname_np(pthread_self(), ("sqlite" + std::to_string(i)).c_str());
    const std::string path = folder_ / ("swapped" + std::to_string(i));
    try {
      // One thread says when it is inside; the others are looked at. One keeps its connection for good.
      std::optional<Border> border;
      if (flavor == Flavor::write_ahead) border.emplace(expect(engine_.border()));
      std::optional<Database> kept;
      if (flavor == Flavor::memory) kept.emplace(api_, path, flavor);
      while (!stopping_) {
        std::optional<Border::Entry> entry;
        if (border) entry.emplace(*border);
        const std::uint64_t hash = kept ? kept->cycle() : Database(api_, path, flavor).cycle();
        if (hash != expected_[i]) throw std::runtime_error("other results than without swaps");
        ++cycles_;
      }
    } catch (const std::exception& error) {
      const std::lock_guard lock(mutex_);
      failure_ += "thread " + std::to_string(i) + ": " + error.what() + "\n";
      stopping_ = true;
    }
  }

  Engine& engine_;
  const Sqlite api_, reference_;
  const fs::path folder_;
  std::vector<std::uint64_t> expected_;
  std::vector<std::thread> threads_;
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> cycles_{0};
  std::mutex mutex_;
  std::string failure_;
};

class SqliteSwaps : public ::testing::Test {
protected:
  void SetUp() override {
    if (!fs::exists(source_path())) GTEST_SKIP() << "no " << source_path() << ": run cmake/fetch_sqlite.sh";
    program_ = std::make_unique<Program>();
    std::printf("%zu functions of", program_->functions.size());
    for (const auto& [file, count] : program_->by_file) std::printf(" %s %d", file.c_str(), count);
    std::printf("\n");
    Options options;
    options.reclaim_signal = SIGURG;
    engine_.emplace(expect(Engine::create(options)));
    swapped_.emplace(expect(engine_->library("swapped", {.replaceable = true})));
    reference_.emplace(expect(engine_->library("reference")));
    CompileOptions plain;
    plain.level = OptLevel::O0;
    add(*engine_, *reference_, expect(expect(Compiler::create(plain)).compile(*program_->module)));
  }

  Object whole(OptLevel level) {
    const auto begin = Clock::now();
    Object object = expect(expect(Compiler::create(replaceable_at(level))).compile(*program_->module));
    std::printf("the whole at -O%d: %.1f s\n", static_cast<int>(level), seconds_since(begin));
    return object;
  }

  // All old versions that nobody is inside of are freed.
  EngineUsage settled() {
    for (int i = 0; i < 200 && (engine_->usage().superseded != 0 || !expect(engine_->collect()).empty()); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return engine_->usage();
  }

  void finish(Workers& workers) {
    workers.stop();
    EXPECT_EQ(workers.failure(), "");
    workers.shut_down();
    ASSERT_TRUE(swapped_->close().ok());
    ASSERT_TRUE(reference_->close().ok());
    EXPECT_EQ(settled().superseded, 0u);
    const EngineUsage usage = engine_->usage();
    EXPECT_EQ(usage.modules, 0u);
    EXPECT_EQ(usage.live, 0u);
  }

  std::unique_ptr<Program> program_;
  std::optional<Engine> engine_;
  std::optional<Library> swapped_, reference_;
};

// Functions compiled alone, each once for each level.
class Fragments {
public:
  explicit Fragments(Program& program) : program_(program), objects_(program.functions.size() * std::size(levels)) {
    for (OptLevel level : levels) compilers_.push_back(expect(Compiler::create(replaceable_at(level))));
  }

  const Object& get(std::size_t function, std::size_t level) {
    std::optional<Object>& object = objects_[function * std::size(levels) + level];
    if (!object) {
      const auto begin = Clock::now();
      const std::string_view names[] = {program_.functions[function]};
      object = expect(compilers_[level].compile_functions(*program_.module, names));
      seconds_ += seconds_since(begin);
      ++compiled_;
      check(*object, names[0]);
    }
    return *object;
  }

  void print() const {
    std::printf("%zu functions compiled in %.1f s, %.2f ms each\n", compiled_, seconds_,
                seconds_ * 1e3 / static_cast<double>(compiled_));
  }

private:
  // It defines the function and literals, and nothing else.
  static void check(const Object& object, std::string_view name) {
    for (const Symbol& symbol : object.symbols()) {
      const bool named = symbol.type == SymbolType::function || symbol.type == SymbolType::object;
      EXPECT_TRUE(!symbol.defined() || !named || symbol.name() == name || symbol.name().starts_with(".L")) << symbol.name();
    }
  }

  Program& program_;
  std::vector<Compiler> compilers_;
  std::vector<std::optional<Object>> objects_;
  std::size_t compiled_ = 0;
  double seconds_ = 0;
};

// What becomes of a set of functions.
enum class Fate { visible, atomic, dropped };

class SqliteVersions : public SqliteSwaps {
protected:
  // Versions of the whole, and between them sets of functions of mixed levels.
  void run(std::span<const Fate> fates) {
    std::vector<Object> versions;
    for (OptLevel level : {OptLevel::O0, OptLevel::O2}) versions.push_back(whole(level));
    Module module = add(*engine_, *swapped_, versions[1]);
    Workers workers(*engine_, *swapped_, *reference_);
    Fragments fragments(*program_);
    std::mt19937 random(2);
    std::size_t sets = 0;
    double milliseconds = 0;
    for (std::size_t i = 0; i < 12 && workers.failure().empty(); ++i) {
      const auto begin = Clock::now();
      Change change = engine_->change();
      change.replace(module, versions[i % versions.size()], {}, opaque());
      commit(std::move(change));
      milliseconds += seconds_since(begin) * 1e3;
      if (fates.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(100));
      for (int j = 0; j < 20 && !fates.empty(); ++j) {
        Change set = engine_->change();
        std::set<std::size_t> members;
        while (members.size() < 8) members.insert(random() % program_->functions.size());
        for (std::size_t member : members)
          set.replace_functions(module, fragments.get(member, random() % std::size(levels)), {}, {}, opaque());
        const Fate fate = fates[sets++ % fates.size()];
        if (fate == Fate::dropped)
          expect(expect(expect(std::move(set).draft()).place()).link());
        else
          commit(std::move(set), fate == Fate::atomic ? Switch::atomic : Switch::each);
      }
    }
    const EngineUsage usage = settled();
    fragments.print();
    std::printf(
        "12 versions of the whole, %.1f ms each; %zu sets of functions; %llu cycles; %.1f MB live, %llu superseded\n",
        milliseconds / 12, sets, static_cast<unsigned long long>(workers.cycles()), static_cast<double>(usage.live) / 1e6,
        static_cast<unsigned long long>(usage.superseded));
    EXPECT_EQ(sets, fates.empty() ? 0u : 240u);
    EXPECT_GT(workers.cycles(), 20u);
    finish(workers);
  }
};

TEST_F(SqliteVersions, OfTheWhole) { run({}); }

TEST_F(SqliteVersions, SetsBetweenThem) {
  constexpr Fate fates[] = {Fate::visible};
  run(fates);
}

TEST_F(SqliteVersions, AtomicSetsBetweenThem) {
  constexpr Fate fates[] = {Fate::visible, Fate::atomic};
  run(fates);
}

TEST_F(SqliteVersions, DroppedSetsBetweenThem) {
  constexpr Fate fates[] = {Fate::visible, Fate::dropped};
  run(fates);
}

// That the tests here can fail.
TEST_F(SqliteSwaps, AWrongFunctionShows) {
  Module module = add(*engine_, *swapped_, whole(OptLevel::O0));
  Workers workers(*engine_, *swapped_, *reference_);
  constexpr std::string_view wrong = "define double @sqlite3VdbeRealValue(ptr %p) {\n  ret double 1.5\n}\n";
  Change change = engine_->change();
  change.replace_functions(
      module, expect(expect(Compiler::create(replaceable_at(OptLevel::O1))).compile_ir(bytes_of(wrong), "wrong")), {}, {},
      opaque());
  commit(std::move(change));
  for (int i = 0; i < 1000 && workers.failure().empty(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(workers.failure().find("other results") != std::string::npos) << workers.failure();
}

std::size_t swaps_to_do() {
  const char* text = std::getenv("TENON_SQLITE_SWAPS");
  return text ? std::strtoul(text, nullptr, 10) : 10'000;
}

double own_milliseconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6;
}

void print_times(const char* what, std::vector<double>& milliseconds) {
  std::sort(milliseconds.begin(), milliseconds.end());
  const auto percentile = [&](double p) {
    return milliseconds[static_cast<std::size_t>(p * static_cast<double>(milliseconds.size() - 1))];
  };
  std::printf("%zu swaps, %s: p50 %.3f ms, p99 %.3f ms, longest %.3f ms\n", milliseconds.size(), what, percentile(0.5),
              percentile(0.99), percentile(1));
}

std::uint64_t resident_bytes() {
  std::uint64_t size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

TEST_F(SqliteSwaps, SingleFunctions) {
  Module module = add(*engine_, *swapped_, whole(OptLevel::O0));
  Fragments fragments(*program_);
  Workers workers(*engine_, *swapped_, *reference_);
  const std::size_t functions = program_->functions.size(), swaps = swaps_to_do();
  std::vector<double> wall, own; // milliseconds
  const auto print_memory = [&](std::size_t done) {
    const EngineUsage usage = settled();
    std::printf("after %zu swaps: %.2f MB live, %.2f MB of bookkeeping, %llu superseded, %.1f MB resident, %llu cycles\n",
                done, static_cast<double>(usage.live) / 1e6, static_cast<double>(usage.bookkeeping) / 1e6,
                static_cast<unsigned long long>(usage.superseded), static_cast<double>(resident_bytes()) / 1e6,
                static_cast<unsigned long long>(workers.cycles()));
    return usage;
  };
  EngineUsage early{};
  for (std::size_t i = 0; i < swaps && workers.failure().empty(); ++i) {
    const std::size_t which = i % functions;
    const Object& object = fragments.get(which, (which + i / functions) % std::size(levels));
    const auto begin = Clock::now();
    const double own_begin = own_milliseconds();
    Change change = engine_->change();
    change.replace_functions(module, object, {}, {}, opaque());
    commit(std::move(change));
    own.push_back(own_milliseconds() - own_begin);
    wall.push_back(seconds_since(begin) * 1e3);
    // Once round, every function stands in a fragment of its own.
    if (i + 1 == functions)
      early = print_memory(i + 1);
    else if ((i + 1) % 1000 == 0)
      print_memory(i + 1);
  }
  const EngineUsage late = print_memory(wall.size());
  fragments.print();
  EXPECT_EQ(wall.size(), swaps);
  print_times("on a busy machine", wall);
  print_times("processor time", own);
  EXPECT_GT(workers.cycles(), 20u);
  if (early.live != 0) {
    EXPECT_LT(static_cast<double>(late.live), static_cast<double>(early.live) * 1.2);
    EXPECT_LT(static_cast<double>(late.bookkeeping), static_cast<double>(early.bookkeeping) * 1.2);
  }
  finish(workers);
}

} // namespace
} // namespace tenon::testing
