// Sources become objects. clang writes its object to a memory file that is its standard output, so there is no temporary
// file that a crash or Ctrl-C could leave behind; its standard error is ours.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "compile.h"

#include "descriptor.h"

#include <tenon/llvm.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <iterator>
#include <optional>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

extern char** environ;

namespace tenon::cli {

namespace {

constexpr int shell_signal_base = 128;

// The first of the names that PATH has.
std::optional<std::string> find_in_path(std::initializer_list<const char*> names) {
  const char* variable = std::getenv("PATH");
  std::string path = variable ? variable : "/usr/local/bin:/usr/bin:/bin";
  for (std::string_view name : names) {
    std::size_t start = 0;
    while (start <= path.size()) {
      std::size_t end = std::min(path.find(':', start), path.size());
      std::string file = (end == start ? "." : path.substr(start, end - start)) + "/" + std::string(name);
      if (access(file.c_str(), X_OK) == 0) return file;
      start = end + 1;
    }
  }
  return std::nullopt;
}

std::vector<std::string> clang_arguments(const std::string& clang, const InputFile& input, const InputOptions& options) {
  std::vector<std::string> arguments = {
      clang, "-c", "-o", "-", "-O" + std::to_string(options.level), "-fPIC", "-ffunction-sections", "-fdata-sections"};
  arguments.insert(arguments.end(), options.compiler_flags.begin(), options.compiler_flags.end());
  if (input.from_stdin) {
    arguments.insert(arguments.end(), {"-x", input.kind == FileKind::cxx ? "c++" : "c", "-"});
  } else {
    // A file whose name begins with a dash is no option.
    arguments.push_back(input.path.front() == '-' ? "./" + input.path : input.path);
  }
  return arguments;
}

Result<void> run_clang(const std::vector<std::string>& arguments, int standard_input, int standard_output,
                       const std::string& name) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (standard_input >= 0)
    posix_spawn_file_actions_adddup2(&actions, standard_input, STDIN_FILENO);
  else
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, standard_output, STDOUT_FILENO);
  pid_t child = 0;
  int failed = posix_spawn(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    errno = failed;
    return system_error(arguments[0]);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return system_error("waitpid");
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  int code = WIFEXITED(status) ? WEXITSTATUS(status) : shell_signal_base + WTERMSIG(status);
  return Error{ErrorCode::compile, name + ": " + arguments[0] + " failed with status " + std::to_string(code) +
                                       " (hint: what it says stands above)"};
}

Result<Object> compile_source(const std::string& clang, const InputFile& input, const InputOptions& options) {
  Descriptor output(memfd_create("tenon-object", MFD_CLOEXEC));
  if (output.number() < 0) return system_error("memfd_create");
  Descriptor source(input.from_stdin ? memfd_create("tenon-source", MFD_CLOEXEC) : -1);
  if (input.from_stdin) {
    if (source.number() < 0 || !write_all(source.number(), input.content)) return system_error("memfd_create");
    lseek(source.number(), 0, SEEK_SET);
  }
  std::vector<std::string> arguments = clang_arguments(clang, input, options);
  if (Result<void> ran = run_clang(arguments, source.number(), output.number(), input.name); !ran) return Error(ran.error());
  Result<std::vector<std::byte>> bytes = read_all(output.number(), input.name);
  if (!bytes) return std::move(bytes).error();
  auto owner = std::make_shared<const std::vector<std::byte>>(std::move(*bytes));
  return Object::borrow(*owner, owner, input.name);
}

using Slots = std::vector<std::optional<Result<Object>>>;

// Every source that is no IR, on as many threads as there are processors.
void compile_sources(std::span<const InputFile* const> files, const InputOptions& options, const std::string& clang,
                     Slots& slots) {
  std::atomic<std::size_t> next = 0;
  auto work = [&] {
    for (std::size_t i; (i = next++) < files.size();)
      if (!is_ir(*files[i])) slots[i] = compile_source(clang, *files[i], options);
  };
  std::size_t count = std::min<std::size_t>(std::max(1u, std::thread::hardware_concurrency()), files.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 1; i < count; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

Result<std::shared_ptr<const void>> read_ir(const InputFile& input, Bytes& ir) {
  if (input.from_stdin) {
    ir = std::as_bytes(std::span(input.content));
    return std::shared_ptr<const void>();
  }
  Result<std::vector<std::byte>> bytes = read_file(input.path);
  if (!bytes) return std::move(bytes).error();
  auto owner = std::make_shared<const std::vector<std::byte>>(std::move(*bytes));
  ir = *owner;
  return std::shared_ptr<const void>(owner);
}

Result<void> compile_all_ir(std::span<const InputFile* const> files, const InputOptions& options, Slots& slots) {
  std::vector<CompilerPool::Input> inputs;
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (!is_ir(*files[i])) continue;
    CompilerPool::Input input{{}, files[i]->name};
    Result<std::shared_ptr<const void>> owner = read_ir(*files[i], input.ir);
    if (!owner) return std::move(owner).error();
    input.owner = std::move(*owner);
    inputs.push_back(std::move(input));
    places.push_back(i);
  }
  if (inputs.empty()) return {};

  CompileOptions compile_options;
  compile_options.level = OptLevel(options.level);
  // clang marks what it compiled without optimization as `optnone`: nothing to be done about that here.
  unsigned threads =
      static_cast<unsigned>(std::min<std::size_t>(inputs.size(), std::max(1u, std::thread::hardware_concurrency())));
  Result<CompilerPool> pool = CompilerPool::create(compile_options, threads);
  if (!pool) return std::move(pool).error();
  Result<std::vector<Result<Object>>> objects = pool->compile(inputs);
  if (!objects) return std::move(objects).error();
  for (std::size_t i = 0; i < objects->size(); ++i) slots[places[i]] = std::move((*objects)[i]);
  return {};
}

} // namespace

bool is_ir(const InputFile& input) { return input.kind == FileKind::ir || input.kind == FileKind::bitcode; }

Result<std::string> find_clang(const std::string& for_file) {
  if (std::optional<std::string> found = find_in_path({"clang-22", "clang"})) return *found;
  return Error{ErrorCode::system,
               "no clang-22 and no clang in PATH to compile " + for_file + " with (hint: apt-get install clang-22)"};
}

Result<std::vector<Object>> compile_inputs(std::span<const InputFile* const> files, const InputOptions& options) {
  Slots slots(files.size());
  std::string clang;
  if (!std::all_of(files.begin(), files.end(), [](const InputFile* file) { return is_ir(*file); })) {
    Result<std::string> found = find_clang(files.front()->name);
    if (!found) return std::move(found).error();
    compile_sources(files, options, clang = *found, slots);
  }
  if (Result<void> compiled = compile_all_ir(files, options, slots); !compiled) return Error(compiled.error());

  std::vector<Object> objects;
  for (std::optional<Result<Object>>& slot : slots) {
    if (!*slot) return std::move(*slot).error();
    objects.push_back(std::move(**slot));
  }
  return objects;
}

} // namespace tenon::cli
