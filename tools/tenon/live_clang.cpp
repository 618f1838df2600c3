// Running clang out of the program's sight.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "live_clang.h"

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

extern char** environ;

namespace tenon::cli {

namespace {

constexpr int shell_signal_base = 128;
constexpr int cannot_execute = 126;
constexpr int dependencies_number = 3; // see clang_dependencies
constexpr int least_private_descriptor = 64;

struct Child {
  const char* path;
  char* const* argv;
  char* const* environment;
  int directory, output, diagnostics, dependencies;
};

// In a child of a process with threads, so only what is allowed in signal handlers may be called.
[[noreturn]] void become_clang(const Child& child) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int nothing = open("/dev/null", O_RDONLY);
  bool ready = fchdir(child.directory) == 0 && dup2(nothing, STDIN_FILENO) >= 0 && dup2(child.output, STDOUT_FILENO) >= 0 &&
               dup2(child.diagnostics, STDERR_FILENO) >= 0 && dup2(child.dependencies, dependencies_number) >= 0;
  syscall(SYS_close_range, dependencies_number + 1, ~0U, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (ready) execve(child.path, child.argv, child.environment);
  _exit(cannot_execute);
}

// The child between: waits for clang and passes its status on.
[[noreturn]] void watch_over_clang(const Child& child) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  pid_t clang = vfork();
  if (clang == 0) become_clang(child);
  int status = 0;
  while (clang > 0 && waitpid(clang, &status, 0) < 0)
    if (errno != EINTR) _exit(cannot_execute);
  _exit(clang < 0 ? cannot_execute : WIFEXITED(status) ? WEXITSTATUS(status) : shell_signal_base + WTERMSIG(status));
}

// No exit signal: neither SIGCHLD nor wait() without __WALL tells of it.
pid_t fork_unseen() { return static_cast<pid_t>(syscall(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr)); }

Result<Descriptor> memory_file(const char* name) {
  Descriptor file = out_of_the_way(Descriptor(memfd_create(name, MFD_CLOEXEC)));
  if (!file.is_open()) return system_error("memfd_create");
  return file;
}

std::string text_of(const std::vector<std::byte>& bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> all;
  for (const std::string& string : strings) all.push_back(const_cast<char*>(string.c_str()));
  all.push_back(nullptr);
  return all;
}

} // namespace

Descriptor out_of_the_way(Descriptor descriptor) {
  if (!descriptor.is_open()) return descriptor;
  int moved = fcntl(descriptor.number(), F_DUPFD_CLOEXEC, least_private_descriptor);
  return moved < 0 ? std::move(descriptor) : Descriptor(moved);
}

std::vector<std::string> rule_prerequisites(std::string_view rule) {
  std::size_t colon = rule.find(": ");
  if (colon == rule.npos) return {};
  std::vector<std::string> names;
  std::string name;
  auto finish = [&] {
    if (!name.empty()) names.push_back(std::exchange(name, {}));
  };
  for (std::size_t i = colon + 2; i < rule.size(); ++i) {
    char c = rule[i], next = i + 1 < rule.size() ? rule[i + 1] : '\n';
    if (c == '\\' && next == '\n') {
      finish();
      ++i;
    } else if ((c == '\\' && (next == ' ' || next == '#')) || (c == '$' && next == '$')) {
      name += next;
      ++i;
    } else if (c == ' ' || c == '\n') {
      finish();
    } else {
      name += c;
    }
  }
  finish();
  return names;
}

Result<Clang> Clang::create(std::string path) {
  Descriptor directory = out_of_the_way(Descriptor(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)));
  if (!directory.is_open()) return system_error("the working directory");
  return Clang(std::move(path), std::move(directory));
}

Clang::Clang(std::string path, Descriptor directory) : path_(std::move(path)), directory_(std::move(directory)) {
  for (char** variable = environ; *variable; ++variable) environment_.emplace_back(*variable);
}

Clang::Clang(Clang&& other) noexcept
    : path_(std::move(other.path_)), directory_(std::move(other.directory_)), environment_(std::move(other.environment_)) {}

Result<ClangRun> Clang::run(std::vector<std::string> arguments) {
  Result<Descriptor> output = memory_file("tenon-object");
  Result<Descriptor> diagnostics = memory_file("tenon-diagnostics");
  Result<Descriptor> dependencies = memory_file("tenon-dependencies");
  for (Result<Descriptor>* file : {&output, &diagnostics, &dependencies})
    if (!*file) return std::move(*file).error();
  arguments.insert(arguments.begin(), path_);
  Result<int> status = run_child(pointers(arguments), output->number(), diagnostics->number(), dependencies->number());
  if (!status) return std::move(status).error();

  ClangRun run;
  run.status = *status;
  Result<std::vector<std::byte>> object = read_all(output->number(), "clang's output");
  if (!object) return std::move(object).error();
  run.output = std::move(*object);
  if (auto text = read_all(diagnostics->number(), "clang's diagnostics")) run.diagnostics = text_of(*text);
  if (auto rule = read_all(dependencies->number(), "clang's dependencies"))
    run.dependencies = rule_prerequisites(text_of(*rule));
  return run;
}

Result<int> Clang::run_child(const std::vector<char*>& argv, int output, int diagnostics, int dependencies) {
  const std::vector<char*> environment = pointers(environment_);
  Child child{path_.c_str(), argv.data(), environment.data(), directory_.number(), output, diagnostics, dependencies};
  pid_t pid = 0;
  {
    std::lock_guard lock(mutex_);
    if (stopped_) return Error{ErrorCode::system, "the program has ended"};
    pid = fork_unseen();
    if (pid == 0) watch_over_clang(child);
    if (pid < 0) return system_error("fork");
    children_.insert(pid);
  }
  int status = 0;
  pid_t waited = 0;
  // Waits without taking the child away: as long as it is in the set, its number is its own.
  siginfo_t info{};
  while (waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT | __WALL) < 0 && errno == EINTR) {
  }
  {
    std::lock_guard lock(mutex_);
    children_.erase(pid);
  }
  while ((waited = waitpid(pid, &status, __WALL)) < 0 && errno == EINTR) {
  }
  if (waited < 0) return system_error("waitpid");
  return WIFEXITED(status) ? WEXITSTATUS(status) : shell_signal_base + WTERMSIG(status);
}

void Clang::stop() {
  std::lock_guard lock(mutex_);
  stopped_ = true;
  for (pid_t child : children_) kill(child, SIGKILL);
}

} // namespace tenon::cli
