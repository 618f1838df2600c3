// Starting children, and what they do.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "child.h"
#include "measure.h"
#include "participant.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

extern char** environ;

namespace versus {
namespace {

constexpr const char* child_flag = "--child";

Error failed(const char* call) { return Error{ErrorCode::system, std::string(call) + ": " + std::strerror(errno)}; }

// Lengths and bytes one after the other.
class Writer {
public:
  explicit Writer(int descriptor) : descriptor_(descriptor) {}
  void number(std::uint64_t value) { bytes(&value, sizeof value); }
  void text(std::string_view text) {
    number(text.size());
    bytes(text.data(), text.size());
  }
  bool good() const { return good_; }

private:
  void bytes(const void* from, std::size_t size) {
    const char* at = static_cast<const char*>(from);
    while (good_ && size != 0) {
      ssize_t wrote = write(descriptor_, at, size);
      if (wrote <= 0) {
        good_ = false;
      } else {
        at += wrote;
        size -= static_cast<std::size_t>(wrote);
      }
    }
  }
  int descriptor_;
  bool good_ = true;
};

// Reads what Writer wrote, by the same program: nothing is checked.
class Reader {
public:
  explicit Reader(const char* at) : at_(at) {}
  std::uint64_t number() {
    std::uint64_t value = 0;
    std::memcpy(&value, at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  std::string_view text() {
    std::uint64_t size = number();
    at_ += size;
    return {at_ - size, size};
  }
  std::vector<std::string> texts() {
    std::vector<std::string> all(number());
    for (std::string& one : all) one = text();
    return all;
  }

private:
  const char* at_;
};

void write_set(Writer& out, const InputSet& set) {
  out.text(set.name);
  out.number(set.objects.size());
  for (const InputObject& object : set.objects) {
    out.text(object.name);
    out.text({reinterpret_cast<const char*>(object.bytes.data()), object.bytes.size()});
  }
  out.number(set.absolutes.size());
  for (const Absolute& absolute : set.absolutes) out.text(absolute.name);
  for (const auto* names : {&set.names, &set.hidden_roots}) {
    out.number(names->size());
    for (const std::string& name : *names) out.text(name);
  }
}

Result<InputSet> read_set(int descriptor) {
  struct stat status{};
  if (fstat(descriptor, &status) != 0) return failed("fstat");
  auto size = static_cast<std::size_t>(status.st_size);
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (mapped == MAP_FAILED) return failed("mmap");
  Reader in(static_cast<const char*>(mapped));
  InputSet set;
  set.name = in.text();
  set.objects.resize(in.number());
  for (InputObject& object : set.objects) {
    object.name = in.text();
    std::string_view bytes = in.text();
    auto* begin = reinterpret_cast<const std::byte*>(bytes.data());
    object.bytes.assign(begin, begin + bytes.size());
  }
  set.absolutes.resize(in.number());
  for (Absolute& absolute : set.absolutes) absolute = {std::string(in.text()), dso_handle_address()};
  set.names = in.texts();
  set.hidden_roots = in.texts();
  munmap(mapped, size);
  return set;
}

// A figure of /proc/self/FILE in MB, by the line's beginning.
double proc_mb(const char* file, const char* key) {
  double found = 0;
  if (std::FILE* in = std::fopen((std::string("/proc/self/") + file).c_str(), "r")) {
    char line[256];
    while (std::fgets(line, sizeof line, in) != nullptr)
      if (std::strncmp(line, key, std::strlen(key)) == 0) found = std::strtod(line + std::strlen(key), nullptr) * 1024 / 1e6;
    std::fclose(in);
  }
  return found;
}

void reset_peak() {
  int descriptor = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  if (descriptor < 0) return;
  [[maybe_unused]] ssize_t wrote = write(descriptor, "5", 1);
  close(descriptor);
}

std::unique_ptr<Participant> make(const std::string& name) {
  if (name == "tenon") return make_tenon();
  if (name == "jitlink") return make_jitlink();
  if (name == "orc") return make_orc();
  return nullptr;
}

Result<FirstLink> link_here(const InputSet& set, const std::string& name) {
  std::vector<std::uint64_t> found(set.names.size());
  reset_peak();
  double resident = proc_mb("status", "VmRSS:");
  double shares = proc_mb("smaps_rollup", "Pss:");
  double begin = now_ms();
  std::unique_ptr<Participant> participant = make(name);
  if (!participant) return Error{ErrorCode::invalid_argument, "no participant " + name};
  if (auto linked = participant->link(set, found); !linked) return std::move(linked).error();
  FirstLink result;
  result.ms = now_ms() - begin;
  result.peak_mb = proc_mb("status", "VmHWM:") - resident;
  result.left_mb = proc_mb("smaps_rollup", "Pss:") - shares;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i] == 0) return Error{ErrorCode::undefined, set.names[i] + " was not found"};
    if (reinterpret_cast<std::uintptr_t>(dlsym(RTLD_DEFAULT, set.names[i].c_str())) == found[i])
      return Error{ErrorCode::conflict, set.names[i] + " is the host's, not the linked one"};
  }
  // Not removed: the process ends here, and what its end costs is nobody's business.
  [[maybe_unused]] Participant* alive = participant.release();
  return result;
}

std::string read_all(int descriptor) {
  std::string text;
  char part[4096];
  for (ssize_t got = 0; (got = read(descriptor, part, sizeof part)) > 0;) text.append(part, static_cast<std::size_t>(got));
  return text;
}

} // namespace

Result<SharedSet> SharedSet::create(const InputSet& set) {
  int descriptor = memfd_create("tenon-versus set", 0); // inherited, so not closed by exec
  if (descriptor < 0) return failed("memfd_create");
  SharedSet shared(descriptor);
  Writer out(descriptor);
  write_set(out, set);
  if (!out.good()) return failed("write");
  return shared;
}

SharedSet::~SharedSet() {
  if (descriptor_ >= 0) close(descriptor_);
}

Result<Finished> run_program(const std::vector<std::string>& arguments) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return failed("pipe2");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_t child = 0;
  double begin = now_ms();
  int refused = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  Finished finished;
  if (refused == 0) finished.output = read_all(ends[0]);
  close(ends[0]);
  errno = refused;
  if (refused != 0) return failed(argv[0]);
  int status = 0;
  struct rusage usage{};
  while (wait4(child, &status, 0, &usage) < 0 && errno == EINTR) {
  }
  finished.ms = now_ms() - begin;
  finished.peak_mb = static_cast<double>(usage.ru_maxrss) * 1024 / 1e6;
  if (status == 0) return finished;
  std::string how = WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                        : "exit status " + std::to_string(WEXITSTATUS(status));
  return Error{ErrorCode::system, arguments[0] + ": " + how + ": " + finished.output.substr(0, 2000)};
}

Result<FirstLink> first_link(const SharedSet& set, const std::string& participant) {
  auto finished = run_program({"/proc/self/exe", child_flag, participant, std::to_string(set.descriptor())});
  if (!finished) return std::move(finished).error();
  FirstLink result;
  if (std::sscanf(finished->output.c_str(), "%lf %lf %lf", &result.ms, &result.peak_mb, &result.left_mb) != 3)
    return Error{ErrorCode::system, "a child said: " + finished->output};
  return result;
}

std::optional<int> run_as_child(int argc, char** argv) {
  if (argc != 4 || std::strcmp(argv[1], child_flag) != 0) return std::nullopt;
  auto set = read_set(std::atoi(argv[3]));
  Result<FirstLink> result = set ? link_here(*set, argv[2]) : Result<FirstLink>(std::move(set).error());
  if (result)
    std::printf("%.9g %.9g %.9g\n", result->ms, result->peak_mb, result->left_mb);
  else
    std::printf("%s\n", result.error().message.c_str());
  std::fflush(stdout);
  _exit(result ? 0 : 1);
}

} // namespace versus
