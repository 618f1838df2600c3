// Classification and loading of input files.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "inputs.h"

#include "compile.h"
#include "libraries.h"
#include "stats.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace tenon::cli {

namespace {

constexpr std::size_t elf_type_offset = 16;
constexpr unsigned elf_type_shared = 3;

std::string_view extension_of(std::string_view path) {
  std::size_t slash = path.rfind('/');
  std::string_view base = slash == std::string_view::npos ? path : path.substr(slash + 1);
  std::size_t dot = base.rfind('.');
  return dot == std::string_view::npos || dot == 0 ? std::string_view{} : base.substr(dot + 1);
}

FileKind kind_of_extension(std::string_view extension, bool versioned_shared) {
  if (versioned_shared || extension == "so") return FileKind::script;
  if (extension == "o" || extension == "obj") return FileKind::object;
  if (extension == "a") return FileKind::archive;
  if (extension == "ll") return FileKind::ir;
  if (extension == "bc") return FileKind::bitcode;
  if (extension == "c" || extension == "i") return FileKind::c;
  if (extension == "s" || extension == "S") return FileKind::assembly;
  for (std::string_view cxx : {"cpp", "cc", "cxx", "c++", "C", "ii"})
    if (extension == cxx) return FileKind::cxx;
  return FileKind::unknown;
}

FileKind kind_of_magic(std::string_view content) {
  if (content.starts_with("\x7f"
                          "ELF")) {
    bool shared =
        content.size() > elf_type_offset && static_cast<unsigned char>(content[elf_type_offset]) == elf_type_shared;
    return shared ? FileKind::shared : FileKind::object;
  }
  if (content.starts_with("!<arch>\n") || content.starts_with("!<thin>\n")) return FileKind::archive;
  if (content.starts_with("BC\xC0\xDE") || content.starts_with("\xDE\xC0\x17\x0B")) return FileKind::bitcode;
  return FileKind::unknown;
}

// Textual IR has no magic number: a line that begins as only IR's top-level entities do.
bool looks_like_ir(std::string_view content) {
  while (!content.empty()) {
    std::size_t end = content.find('\n');
    std::string_view line = content.substr(0, end);
    for (std::string_view start : {"; ModuleID", "source_filename =", "target datalayout", "target triple", "define ",
                                   "declare ", "attributes #", "module asm "})
      if (line.starts_with(start)) return true;
    bool named = !line.empty() && (line[0] == '@' || line[0] == '%' || line[0] == '!' || line[0] == '$');
    if (named && line.find(" = ") != std::string_view::npos) return true;
    content = end == std::string_view::npos ? std::string_view{} : content.substr(end + 1);
  }
  return false;
}

Error system_error(const std::string& path, const char* call) {
  return {ErrorCode::system, path + ": " + call + ": " + std::strerror(errno)};
}

// Reads to the end, or `limit` bytes.
Result<std::string> read_descriptor(int descriptor, const std::string& path, std::size_t limit) {
  std::string content;
  char buffer[1 << 16];
  while (content.size() < limit) {
    ssize_t count = read(descriptor, buffer, std::min(sizeof buffer, limit - content.size()));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error(path, "read");
    if (count == 0) break;
    content.append(buffer, static_cast<std::size_t>(count));
  }
  return content;
}

Result<InputFile> open_stdin(std::string_view language) {
  Result<std::string> content = read_descriptor(STDIN_FILENO, "standard input", SIZE_MAX);
  if (!content) return std::move(content).error();
  InputFile input{"-", "<stdin>", kind_of_magic(*content), true, std::move(*content)};
  if (input.kind == FileKind::unknown && looks_like_ir(input.content)) input.kind = FileKind::ir;
  if (input.kind == FileKind::unknown) input.kind = language == "c++" ? FileKind::cxx : FileKind::c;
  if (input.kind == FileKind::shared)
    return Error{ErrorCode::unsupported,
                 "<stdin>: a shared object can't be loaded from standard input (hint: name its file)"};
  return input;
}

bool is_compiled(FileKind kind) {
  return kind == FileKind::ir || kind == FileKind::bitcode || kind == FileKind::c || kind == FileKind::cxx ||
         kind == FileKind::assembly;
}

Bytes bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

Result<Object> read_object(const InputFile& input) {
  return input.from_stdin ? Object::copy(bytes_of(input.content), input.name) : Object::read_file(input.path);
}

Result<Archive> read_archive(const InputFile& input) {
  return input.from_stdin ? Archive::copy(bytes_of(input.content), input.name) : Archive::read_file(input.path);
}

Result<void> add_archive(Archive archive, bool whole, LoadedInputs& loaded) {
  if (!whole) {
    loaded.sources.push_back(Source::archive(archive));
    loaded.archives.push_back(std::move(archive));
    return {};
  }
  for (std::size_t i = 0; i < archive.size(); ++i) {
    Result<Object> member = archive.member(i);
    if (!member) return std::move(member).error();
    loaded.objects.push_back(std::move(*member));
  }
  return {};
}

Result<void> add_library(FoundLibrary found, bool whole, LoadedInputs& loaded) {
  for (void* handle : found.handles) loaded.sources.push_back(Source::shared(handle));
  for (Archive& archive : found.archives)
    if (Result<void> added = add_archive(std::move(archive), whole, loaded); !added) return added;
  return {};
}

// One file that is not compiled.
Result<void> add_file(const InputFile& input, const InputOptions& options, LoadedInputs& loaded) {
  switch (input.kind) {
  case FileKind::archive: {
    Result<Archive> archive = read_archive(input);
    if (!archive) return std::move(archive).error();
    return add_archive(std::move(*archive), options.whole_archive, loaded);
  }
  case FileKind::shared:
  case FileKind::script: {
    Result<FoundLibrary> found = open_library_file(input.path);
    if (!found) return std::move(found).error();
    return add_library(std::move(*found), false, loaded);
  }
  default: {
    Result<Object> object = read_object(input);
    if (!object) return std::move(object).error();
    loaded.objects.push_back(std::move(*object));
    return {};
  }
  }
}

} // namespace

const char* to_string(FileKind kind) {
  switch (kind) {
  case FileKind::object: return "object";
  case FileKind::archive: return "archive";
  case FileKind::shared: return "shared object";
  case FileKind::script: return "linker script";
  case FileKind::ir: return "IR";
  case FileKind::bitcode: return "bitcode";
  case FileKind::c: return "C source";
  case FileKind::cxx: return "C++ source";
  case FileKind::assembly: return "assembly source";
  case FileKind::unknown: break;
  }
  return "unknown";
}

FileKind classify(std::string_view content, std::string_view path) {
  FileKind magic = kind_of_magic(content);
  return magic != FileKind::unknown ? magic : kind_of_extension(extension_of(path), path.find(".so.") != path.npos);
}

Result<InputFile> open_input(const std::string& path, std::string_view stdin_language) {
  if (path == "-") return open_stdin(stdin_language);
  int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return system_error(path, "open");
  struct stat status{};
  bool regular = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
  if (S_ISDIR(status.st_mode)) errno = EISDIR;
  // A pipe can be read once only; its reader will see what it is.
  Result<std::string> start = regular ? read_descriptor(descriptor, path, 64) : Result<std::string>(std::string());
  close(descriptor);
  if (!start) return std::move(start).error();
  if (S_ISDIR(status.st_mode)) return Error{ErrorCode::system, path + ": is a directory"};

  InputFile input{path, path, classify(*start, path), false, {}};
  if (input.kind == FileKind::unknown && !regular) input.kind = FileKind::object;
  if (input.kind == FileKind::unknown)
    return Error{
        ErrorCode::malformed,
        path + ": neither its content nor its name is that of a file that can be linked (hint: .o .a .so .ll .bc .c .cpp "
               "are known)"};
  return input;
}

Result<LoadedInputs> load_inputs(const InputOptions& options) {
  LapTimer watch;
  std::vector<InputFile> inputs;
  for (const std::string& path : options.files) {
    Result<InputFile> input = open_input(path, options.stdin_language);
    if (!input) return std::move(input).error();
    inputs.push_back(std::move(*input));
  }

  LoadedInputs loaded;
  loaded.read_ms = watch.lap_ms();
  std::vector<const InputFile*> to_compile;
  for (const InputFile& input : inputs)
    if (is_compiled(input.kind)) to_compile.push_back(&input);
  Result<std::vector<Object>> compiled = compile_inputs(to_compile, options);
  if (!compiled) return std::move(compiled).error();
  loaded.compile_ms = watch.lap_ms();

  std::size_t next_compiled = 0;
  for (const InputFile& input : inputs) {
    if (is_compiled(input.kind)) {
      loaded.objects.push_back(std::move((*compiled)[next_compiled++]));
      continue;
    }
    if (Result<void> added = add_file(input, options, loaded); !added) return Error(added.error());
  }
  for (const std::string& name : options.libraries) {
    Result<FoundLibrary> found = find_library(name, options.directories);
    if (!found) return std::move(found).error();
    if (Result<void> added = add_library(std::move(*found), options.whole_archive, loaded); !added)
      return Error(added.error());
  }
  loaded.read_ms += watch.lap_ms();
  return loaded;
}

} // namespace tenon::cli
