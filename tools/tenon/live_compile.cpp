// C and C++ go through clang to unoptimized IR, and from there through tenon-llvm, which optimizes each function by itself.
// clang's own optimizer would inline one replaceable function into another, and draw conclusions from its body.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "live_compile.h"

#include "compile.h"

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <future>

namespace tenon::cli {

namespace {

bool is_source(const InputFile& input) {
  return input.kind == FileKind::c || input.kind == FileKind::cxx || input.kind == FileKind::assembly;
}

// Ours (-g) is for the compiler only, which tells lambdas apart by it.
bool wants_debug_info(const std::vector<std::string>& flags) {
  return std::any_of(flags.begin(), flags.end(), [](const std::string& f) { return f.starts_with("-g") && f != "-g0"; });
}

Result<Object> object_of(std::vector<std::byte> bytes, const std::string& name) {
  auto owner = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  return Object::borrow(*owner, owner, name);
}

} // namespace

struct WithoutSignals::Mask {
  sigset_t set;
};

WithoutSignals::WithoutSignals() : before_(std::make_unique<Mask>()) {
  sigset_t most;
  sigfillset(&most);
  // What a thread does to itself stays with it.
  for (int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&most, own);
  pthread_sigmask(SIG_BLOCK, &most, &before_->set);
}

WithoutSignals::~WithoutSignals() { pthread_sigmask(SIG_SETMASK, &before_->set, nullptr); }

LiveCompiler::LiveCompiler(const InputOptions& options, std::string working_directory, bool in_colour, CompilerPool pool)
    : options_(options), working_directory_(std::move(working_directory)), in_colour_(in_colour), pool_(std::move(pool)) {}

Result<LiveCompiler> LiveCompiler::create(const InputOptions& options, std::string working_directory, bool in_colour,
                                          const std::string& first_source) {
  CompileOptions compile_options;
  compile_options.level = OptLevel(options.level);
  compile_options.replaceable = true;
  compile_options.name_closures = true;
  WithoutSignals guard;
  Result<CompilerPool> pool = CompilerPool::create(compile_options);
  if (!pool) return std::move(pool).error();
  LiveCompiler compiler(options, std::move(working_directory), in_colour, std::move(*pool));
  if (first_source.empty()) return compiler;
  Result<std::string> path = find_clang(first_source);
  if (!path) return std::move(path).error();
  Result<Clang> clang = Clang::create(std::move(*path));
  if (!clang) return std::move(clang).error();
  compiler.clang_.emplace(std::move(*clang));
  return compiler;
}

LiveCompiled LiveCompiler::compile(const InputFile& input) {
  if (is_source(input)) return compile_source(input);
  const std::string path = absolute(input.path);
  Result<std::vector<std::byte>> bytes = read_file(path);
  if (!bytes) return {std::move(bytes).error(), {}, {path}};
  return {is_ir(input) ? compile_ir(std::move(*bytes), input.name, false) : object_of(std::move(*bytes), input.name),
          {},
          {path}};
}

std::vector<std::string> LiveCompiler::arguments(const InputFile& input, std::vector<std::string> what) const {
  std::vector<std::string> all = std::move(what);
  all.insert(all.end(), {"-O" + std::to_string(options_.level), "-fPIC", "-fno-common", "-MT", "object"});
  // Plain assembly and the preprocessor alone have no use for half of it.
  all.push_back("-Wno-unused-command-line-argument");
  if (in_colour_) all.push_back("-fcolor-diagnostics");
  all.insert(all.end(), options_.compiler_flags.begin(), options_.compiler_flags.end());
  // A file whose name begins with a dash is no option.
  all.push_back(input.path.front() == '-' ? "./" + input.path : input.path);
  return all;
}

LiveCompiled LiveCompiler::compile_source(const InputFile& input) {
  std::vector<std::string> what = {"-c", "-o", "-", "-MMD", "-MF", clang_dependencies};
  const bool through_ir = input.kind != FileKind::assembly;
  if (through_ir) what.insert(what.end(), {"-g", "-emit-llvm", "-Xclang", "-disable-llvm-passes"});
  Result<ClangRun> run = clang_->run(arguments(input, std::move(what)));
  if (!run) return {std::move(run).error().within(input.name), {}, {}};
  if (run->status != 0)
    return {Error{ErrorCode::compile, input.name + ": clang failed with status " + std::to_string(run->status)},
            std::move(run->diagnostics), dependencies_of_broken(input)};
  return {through_ir ? compile_ir(std::move(run->output), input.name, !wants_debug_info(options_.compiler_flags))
                     : object_of(std::move(run->output), input.name),
          std::move(run->diagnostics), all_absolute(run->dependencies)};
}

// clang writes no list for a file that it can't compile. The preprocessor alone gets further, and passes over headers that
// are missing.
std::vector<std::string> LiveCompiler::dependencies_of_broken(const InputFile& input) {
  Result<ClangRun> run = clang_->run(arguments(input, {"-MM", "-MG", "-o", "-", "-MF", clang_dependencies}));
  if (!run || run->dependencies.empty()) return {};
  std::vector<std::string> files = all_absolute(run->dependencies);
  // A missing one is listed as it stands in the source, which need not be where it will be.
  const std::filesystem::path beside = std::filesystem::path(absolute(input.path)).parent_path();
  for (const std::string& file : run->dependencies)
    if (std::error_code ignored; !std::filesystem::exists(absolute(file), ignored))
      files.push_back((beside / file).lexically_normal().string());
  return files;
}

Result<Object> LiveCompiler::compile_ir(std::vector<std::byte> ir, const std::string& name, bool strip_debug_info) {
  auto owner = std::make_shared<const std::vector<std::byte>>(std::move(ir));
  Result<std::future<Result<Object>>> object = pool_.submit({*owner, name, owner, {}, strip_debug_info});
  return object ? object->get() : Result<Object>(object.error());
}

std::string LiveCompiler::absolute(const std::string& path) const {
  return (std::filesystem::path(working_directory_) / path).lexically_normal().string();
}

std::vector<std::string> LiveCompiler::all_absolute(const std::vector<std::string>& paths) const {
  std::vector<std::string> all;
  for (const std::string& path : paths) all.push_back(absolute(path));
  return all;
}

void LiveCompiler::stop() {
  if (clang_) clang_->stop();
}

} // namespace tenon::cli
