// The rounds.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "live_session.h"

#include "report.h"
#include "stats.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <unistd.h>

namespace tenon::cli {

namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using WallClock = std::chrono::system_clock;

constexpr milliseconds settle_limit(2000); // somebody who never stops saving is served in between
constexpr milliseconds missing_grace(400); // an editor that saves may remove a file first
constexpr milliseconds long_compile(300);  // said while it lasts
constexpr milliseconds clock_grain(20);    // file times come from the kernel's tick
constexpr unsigned enough_pins = 4;

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

bool looks_like_header(const std::string& path) {
  const std::string extension = fs::path(path).extension().string();
  for (std::string_view known : {".h", ".hh", ".hpp", ".hxx", ".h++", ".H", ".inc", ".inl", ".ipp", ".def", ".tcc"})
    if (extension == known) return true;
  return false;
}

bool is_preprocessed(const LiveFile& file) {
  return file.input.kind == FileKind::c || file.input.kind == FileKind::cxx || file.input.kind == FileKind::assembly;
}

// Compiled by tenon-llvm, which keeps callers from knowing what is in a function.
bool is_opaque(const LiveFile& file) {
  return file.input.kind == FileKind::c || file.input.kind == FileKind::cxx || file.input.kind == FileKind::ir ||
         file.input.kind == FileKind::bitcode;
}

// A link's own directory and the one that it leads to may both see the change.
std::string canonical(const std::string& path) {
  std::error_code failed;
  std::string real = fs::weakly_canonical(path, failed).string();
  return failed ? path : real;
}

std::string milliseconds_text(double ms) {
  char text[32];
  std::snprintf(text, sizeof text, ms < 1 ? "%.3f ms" : ms < 10 ? "%.2f ms" : ms < 100 ? "%.1f ms" : "%.0f ms", ms);
  return text;
}

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

// What is wrong with these files, and which code runs now.
std::string explain(const Error& error, const std::string& files) {
  std::string text = with_readable_names(error.message);
  // Advice for those who write against the library; here it is an option.
  if (std::size_t advice = text.find("; say in DataPolicy"); advice != text.npos)
    text.replace(advice, text.npos, " (hint: begin again with --resized keep or --resized reinitialize)");
  if (!text.starts_with(files + ": ")) text = files + ": " + text;
  return text + (error.code == ErrorCode::initializer ? "; the new code runs" : "; the old code runs on");
}

// Where headers may turn up that come before those that are found now.
std::vector<std::string> include_directories(const std::vector<std::string>& flags) {
  std::vector<std::string> directories;
  for (std::size_t i = 0; i < flags.size(); ++i)
    for (std::string_view option : {"-I", "-iquote", "-isystem"}) {
      if (!flags[i].starts_with(option)) continue;
      if (flags[i].size() > option.size())
        directories.push_back(flags[i].substr(option.size()));
      else if (i + 1 < flags.size())
        directories.push_back(flags[i + 1]);
    }
  return directories;
}

} // namespace

Result<LiveSession> LiveSession::create(const LiveOptions& options) {
  std::error_code failed;
  const fs::path directory = fs::current_path(failed);
  if (failed) return Error{ErrorCode::system, "the working directory: " + failed.message()};
  Result<LiveLog> log = LiveLog::open(options.log);
  if (!log) return std::move(log).error();
  Result<FileWatch> watch = FileWatch::create();
  if (!watch) return std::move(watch).error();
  std::vector<LiveFile> files;
  std::string first_source;
  for (const std::string& path : options.inputs.files) {
    Result<InputFile> input = open_input(path, options.inputs.stdin_language);
    if (!input) return std::move(input).error();
    LiveFile file;
    file.path = (directory / path).lexically_normal().string();
    file.input = std::move(*input);
    file.dependencies = {file.path};
    watch->watch_directory_of(file.path);
    watch->watch_directory_of(canonical(file.path));
    if (first_source.empty() && is_preprocessed(file)) first_source = file.input.name;
    files.push_back(std::move(file));
  }
  for (const std::string& include : include_directories(options.inputs.compiler_flags))
    watch->watch_directory((directory / include).lexically_normal().string());
  const bool in_colour = log->is_terminal() && std::getenv("NO_COLOR") == nullptr;
  Result<LiveCompiler> compiler = LiveCompiler::create(options.inputs, directory.string(), in_colour, first_source);
  if (!compiler) return std::move(compiler).error();
  return LiveSession(options, std::move(*log), std::move(*watch), std::move(*compiler), std::move(files));
}

LiveSession::LiveSession(const LiveOptions& options, LiveLog log, FileWatch watch, LiveCompiler compiler,
                         std::vector<LiveFile> files)
    : options_(options), log_(std::move(log)), watch_(std::move(watch)), compiler_(std::move(compiler)),
      files_(std::move(files)) {}

std::vector<Object> LiveSession::objects() const {
  std::vector<Object> all;
  for (const LiveFile& file : files_)
    if (file.fresh) all.push_back(*file.fresh);
  return all;
}

Result<void> LiveSession::compile_all() {
  if (compile_stale()) return {};
  return Error{ErrorCode::compile, join(shown_) + " can't be compiled (hint: what the compiler says stands above)"};
}

Result<void> LiveSession::link_all(Program& program, std::vector<Object> others) {
  program_ = &program;
  ModuleOptions module_options;
  module_options.unwinding = !options_.program.no_unwind;
  Change change = program.engine->change();
  std::vector<ModuleId> ids;
  for (LiveFile& file : files_) {
    module_options.opaque = is_opaque(file);
    ids.push_back(change.add(*program.library, *file.fresh, module_options));
  }
  module_options.opaque = false;
  for (Object& object : others) change.add(*program.library, std::move(object), module_options);
  Result<Draft> draft = std::move(change).draft();
  if (!draft) return std::move(draft).error();
  if (!draft->undefined().empty()) return Error{ErrorCode::undefined, describe(draft->undefined())};
  Result<Placed> placed = std::move(*draft).place();
  if (!placed) return std::move(placed).error();
  Result<Linked> linked = std::move(*placed).link();
  if (!linked) return std::move(linked).error();
  Result<Committed> committed = std::move(*linked).commit();
  if (!committed) return std::move(committed).error();
  for (std::size_t i = 0; i < files_.size(); ++i) {
    files_[i].module = committed->module(ids[i]);
    files_[i].running = std::exchange(files_[i].fresh, std::nullopt);
  }
  return {};
}

void LiveSession::begin_watching() {
  std::set<std::string> headers;
  std::vector<std::string> names;
  for (const LiveFile& file : files_) {
    names.push_back(file.input.name);
    for (const std::string& dependency : file.dependencies)
      if (dependency != file.path) headers.insert(dependency);
  }
  std::string text = "watching " + join(names);
  if (!headers.empty()) text += " and " + std::to_string(headers.size()) + (headers.size() == 1 ? " header" : " headers");
  log_.line(text);
  WithoutSignals guard;
  thread_ = std::thread([this] { watch_loop(); });
}

void LiveSession::end() {
  if (!thread_.joinable()) return;
  watch_.stop();
  compiler_.stop();
  // Code that was just swapped in may itself have called exit().
  if (std::this_thread::get_id() == thread_.get_id()) return;
  thread_.join();
  pin_modules();
}

// The versions that are in force at the end.
void LiveSession::pin_modules() {
  for (const LiveFile& file : files_) {
    unsigned tried = 0;
    for (const Symbol& symbol : file.running->symbols())
      if (symbol.type == SymbolType::function && symbol.defined() && !symbol.is_local())
        if (program_->pin(std::string(symbol.name())) || ++tried == enough_pins) break;
  }
}

void LiveSession::watch_loop() {
  // Something may have been saved while the first version was compiled.
  bool changed = std::any_of(files_.begin(), files_.end(), [](const LiveFile& file) { return file.stale; });
  while (!watch_.stopped()) {
    if (!changed) {
      Result<std::vector<FileEvent>> events = watch_.wait(milliseconds(-1));
      if (!events) return log_.line("error: " + events.error().message + "; nothing is watched any more");
      if (!mark(*events)) continue;
    }
    if (Result<void> quiet = settle(); !quiet)
      return log_.line("error: " + quiet.error().message + "; nothing is watched any more");
    if (!watch_.stopped()) round();
    changed = false;
  }
}

// Until nothing of the program has been saved for a while; what else happens in these directories does not matter.
Result<void> LiveSession::settle() {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point limit = Clock::now() + settle_limit + options_.settle;
  Clock::time_point quiet = Clock::now() + options_.settle;
  while (!watch_.stopped() && Clock::now() < std::min(quiet, limit)) {
    const auto left = std::chrono::ceil<milliseconds>(quiet - Clock::now());
    Result<std::vector<FileEvent>> events = watch_.wait(std::max(left, milliseconds(0)));
    if (!events) return Error(events.error());
    if (mark(*events)) quiet = Clock::now() + options_.settle;
  }
  return {};
}

bool LiveSession::mark(const std::vector<FileEvent>& events) {
  bool any = false;
  for (const FileEvent& event : events) any = mark(event) || any;
  return any;
}

// Whether the event has to do with the program.
bool LiveSession::mark(const FileEvent& event) {
  bool any = false;
  auto concerns = [&](const std::string& dependency) {
    return dependency == event.path || dependency.starts_with(event.path + "/") || canonical(dependency) == event.path;
  };
  for (LiveFile& file : files_)
    if (std::any_of(file.dependencies.begin(), file.dependencies.end(), concerns)) file.stale = any = true;
  // A header that was not there may be the one that is missing, or now come before another of its name.
  if (!any && event.appeared && looks_like_header(event.path))
    for (LiveFile& file : files_)
      if (is_preprocessed(file)) file.stale = any = true;
  return any;
}

void LiveSession::wait_for_missing() {
  auto missing = [&] {
    return std::any_of(files_.begin(), files_.end(), [](const LiveFile& file) {
      return file.stale && !file.gone && !std::all_of(file.dependencies.begin(), file.dependencies.end(), exists);
    });
  };
  const auto limit = std::chrono::steady_clock::now() + missing_grace;
  while (missing() && !watch_.stopped()) {
    auto left = std::chrono::ceil<milliseconds>(limit - std::chrono::steady_clock::now());
    if (left.count() <= 0) return;
    Result<std::vector<FileEvent>> events = watch_.wait(left);
    if (!events) return;
    mark(*events);
  }
}

void LiveSession::say_who_is_gone() {
  for (LiveFile& file : files_) {
    if (!file.stale) continue;
    const bool was_gone = std::exchange(file.gone, !exists(file.path));
    if (file.gone && !was_gone) log_.line(file.input.name + " is gone; its code runs on");
  }
}

void LiveSession::round() {
  wait_for_missing();
  say_who_is_gone();
  shown_.clear();
  LapTimer timer;
  if (std::none_of(files_.begin(), files_.end(), [](const LiveFile& file) { return file.stale && !file.gone; })) return;
  if (!compile_stale()) {
    if (!watch_.stopped()) log_.line("error: " + join(shown_) + " can't be compiled; the old code runs on");
    return;
  }
  swap(timer.lap_ms());
}

// False: some could not be compiled; shown_ are these. Otherwise shown_ are all that were.
bool LiveSession::compile_stale() {
  std::vector<LiveFile*> files;
  for (LiveFile& file : files_)
    if (file.stale && !file.gone) files.push_back(&file);
  for (LiveFile* file : files) shown_.push_back(file->input.name);
  std::vector<std::optional<LiveCompiled>> compiled(files.size());
  const WallClock::time_point begun = WallClock::now();
  auto work = std::async(std::launch::async, [&] { compile_on_threads(files, compiled); });
  if (work.wait_for(long_compile) != std::future_status::ready) log_.passing("compiling " + join(shown_) + " ...");
  work.get();

  std::vector<std::string> failed;
  for (std::size_t i = 0; i < files.size(); ++i)
    if (!accept(*files[i], std::move(*compiled[i]), begun)) failed.push_back(files[i]->input.name);
  if (failed.empty()) return true;
  shown_ = std::move(failed);
  return false;
}

void LiveSession::compile_on_threads(std::span<LiveFile* const> files, std::vector<std::optional<LiveCompiled>>& compiled) {
  std::atomic<std::size_t> next = 0;
  auto work = [&] {
    for (std::size_t i; (i = next++) < files.size();) compiled[i] = compiler_.compile(files[i]->input);
  };
  std::size_t count = std::min<std::size_t>(std::max(1u, std::thread::hardware_concurrency()), files.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 1; i < count; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

bool LiveSession::accept(LiveFile& file, LiveCompiled compiled, WallClock::time_point begun) {
  if (watch_.stopped()) return false;
  log_.text(compiled.diagnostics);
  file.stale = !compiled.object;
  if (!compiled.dependencies.empty()) file.dependencies = std::move(compiled.dependencies);
  watch_dependencies(file, begun);
  if (compiled.object) {
    file.fresh = std::move(*compiled.object);
    return true;
  }
  // clang has spoken for itself.
  if (compiled.diagnostics.empty()) log_.line("error: " + compiled.object.error().message);
  return false;
}

void LiveSession::watch_dependencies(LiveFile& file, WallClock::time_point begun) {
  for (const std::string& dependency : file.dependencies) {
    bool fresh_directory = watch_.watch_directory_of(dependency);
    fresh_directory = watch_.watch_directory_of(canonical(dependency)) || fresh_directory;
    if (!fresh_directory) continue;
    std::error_code failed;
    const auto written = fs::last_write_time(dependency, failed);
    if (!failed && std::chrono::file_clock::to_sys(written) + clock_grain > begun) file.stale = true;
  }
}

void LiveSession::swap(double compile_ms) {
  std::vector<LiveFile*> files;
  std::vector<std::string> names;
  ObjectDifference differences;
  for (LiveFile& file : files_) {
    if (!file.fresh) continue;
    if (same_bytes(*file.running, *file.fresh)) {
      file.fresh.reset();
      continue;
    }
    differences.append(difference(*file.running, *file.fresh));
    files.push_back(&file);
    names.push_back(file.input.name);
  }
  if (files.empty()) return log_.line(join(shown_) + ": no change in the code; compile " + milliseconds_text(compile_ms));
  double link_ms = 0, swap_ms = 0;
  Result<void> committed = commit(files, link_ms, swap_ms);
  // Of an inline function or a template there is one copy for all. The others have it in their objects too, and bring it.
  if (!committed && committed.error().code == ErrorCode::still_used && files.size() < files_.size()) {
    std::vector<LiveFile*> all;
    for (LiveFile& file : files_) all.push_back(&file);
    Result<void> together = commit(all, link_ms, swap_ms);
    if (together || together.error().code != ErrorCode::still_used) committed = std::move(together);
  }
  // The code is in force, even if an initializer of a new variable has thrown.
  if (committed || committed.error().code == ErrorCode::initializer)
    for (LiveFile* file : files) file->running = std::exchange(file->fresh, std::nullopt);
  if (!committed) return log_.line("error: " + explain(committed.error(), join(names)));
  log_.line(join(names) + ": " + describe(differences) + "; compile " + milliseconds_text(compile_ms) + ", link " +
            milliseconds_text(link_ms) + ", swap " + milliseconds_text(swap_ms));
}

Result<void> LiveSession::commit(std::span<LiveFile* const> files, double& link_ms, double& swap_ms) {
  LapTimer timer;
  ModuleOptions module_options;
  module_options.unwinding = !options_.program.no_unwind;
  DataPolicy data;
  data.differing = options_.resized;
  Change change = program_->engine->change();
  std::vector<ModuleId> ids;
  for (LiveFile* file : files) {
    module_options.opaque = is_opaque(*file);
    ids.push_back(change.replace(*file->module, file->fresh ? *file->fresh : *file->running, data, module_options));
  }
  Result<Draft> draft = std::move(change).draft();
  if (!draft) return std::move(draft).error();
  if (!draft->undefined().empty()) return Error{ErrorCode::undefined, describe(draft->undefined())};
  std::vector<std::string> warnings; // a draft's views end with it
  for (const Warning& warning : draft->warnings()) warnings.push_back("warning: " + with_readable_names(warning.text));
  Result<Placed> placed = std::move(*draft).place();
  if (!placed) return std::move(placed).error();
  Result<Linked> linked = std::move(*placed).link();
  if (!linked) return std::move(linked).error();
  link_ms = timer.lap_ms();
  // Function by function, not as a set: main runs on in its old version, and must not go on calling those of its time.
  Result<Committed> committed = std::move(*linked).commit();
  swap_ms = timer.lap_ms();
  if (committed || committed.error().code == ErrorCode::initializer)
    for (const std::string& warning : warnings) log_.line(warning);
  if (!committed) return std::move(committed).error();
  for (std::size_t i = 0; i < files.size(); ++i) files[i]->module = committed->module(ids[i]);
  return {};
}

} // namespace tenon::cli
