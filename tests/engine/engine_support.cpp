// Running the LLVM tools on snippets, and keeping what they make.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>

namespace tenon::test {

namespace {

namespace fs = std::filesystem;

std::string tool(const std::string& name) {
  fs::path installed = fs::path("/usr/lib/llvm-22/bin") / name;
  return fs::exists(installed) ? installed.string() : name + "-22";
}

std::uint64_t fnv1a(std::string_view text, std::uint64_t hash = 0xcbf29ce484222325) {
  for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

void run(const std::string& command) {
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("can't start " + command);
  std::string output;
  std::array<char, 4096> buffer;
  for (std::size_t got; (got = fread(buffer.data(), 1, buffer.size(), pipe)) != 0;) output.append(buffer.data(), got);
  if (pclose(pipe) != 0) throw std::runtime_error(command + ":\n" + output);
}

// The file with what `command` makes of `text`. It appears under its name only when it is whole: several tests may want it.
std::string made_file(std::string_view text, const std::string& command, const std::string& extension) {
  static std::mutex mutex;
  static std::map<std::string, std::string> known;
  std::string key = command + '\n' + std::string(text);
  std::lock_guard lock(mutex);
  std::string& path = known[key];
  if (!path.empty()) return path;
  fs::path folder = fs::path(TENON_BINARY_DIR) / "test-objects";
  fs::create_directories(folder);
  std::array<char, 40> hash;
  std::snprintf(hash.data(), hash.size(), "%016lx%016lx", fnv1a(key), fnv1a(key, 0x9E3779B97F4A7C15));
  fs::path object = folder / (std::string(hash.data()) + ".o");
  if (!fs::exists(object)) {
    std::string mine = object.string() + "." + std::to_string(getpid());
    std::ofstream(mine + extension) << text;
    run(command + " -o " + mine + " " + mine + extension);
    fs::rename(mine, object);
    fs::remove(mine + extension);
  }
  return path = object.string();
}

Object read(const std::string& path, std::string_view name) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(file)), {});
  return expect(Object::copy(std::as_bytes(std::span(bytes)), std::string(name)));
}

} // namespace

std::string assemble_file(std::string_view text) {
  return made_file(text, tool("llvm-mc") + " -triple=x86_64-linux-gnu -filetype=obj", ".s");
}

std::string compile_cpp_file(std::string_view text, std::string_view flags) {
  return made_file(text, tool("clang++") + " -c -std=c++20 " + std::string(flags), ".cpp");
}

Object assemble(std::string_view text, std::string_view name) { return read(assemble_file(text), name); }

Object compile_c(std::string_view text, std::string_view flags, std::string_view name) {
  return read(made_file(text, tool("clang") + " -c " + std::string(flags), ".c"), name);
}

Object compile_cpp(std::string_view text, std::string_view flags, std::string_view name) {
  return read(compile_cpp_file(text, flags), name);
}

Object compile_gcc(std::string_view text, std::string_view flags, std::string_view name) {
  return read(made_file(text, "g++ -c -std=c++20 " + std::string(flags), ".cpp"), name);
}

std::vector<std::byte> archive_of(std::initializer_list<Object> members) {
  static std::atomic<int> count{0};
  fs::path folder =
      fs::temp_directory_path() / ("tenon-archive-" + std::to_string(getpid()) + "-" + std::to_string(count++));
  fs::create_directories(folder);
  std::string command = tool("llvm-ar") + " rcs " + (folder / "made.a").string();
  int index = 0;
  for (const Object& member : members) {
    fs::path file = folder / (std::to_string(index++) + "_" + fs::path(member.name()).filename().string());
    std::ofstream(file, std::ios::binary)
        .write(reinterpret_cast<const char*>(member.bytes().data()), std::streamsize(member.bytes().size()));
    command += " " + file.string();
  }
  run(command);
  std::ifstream file(folder / "made.a", std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  fs::remove_all(folder);
  auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

std::string describe(const Error& error) { return std::string(to_string(error.code)) + ": " + error.message; }

Engine make_engine(const Options& options) { return expect(Engine::create(options)); }

Result<Committed> try_commit(Change change, Initialize initialize, Switch how) {
  Result<Draft> draft = std::move(change).draft();
  if (!draft) return std::move(draft).error();
  Result<Placed> placed = std::move(*draft).place();
  if (!placed) return std::move(placed).error();
  Result<Linked> linked = std::move(*placed).link();
  if (!linked) return std::move(linked).error();
  return std::move(*linked).commit(initialize, how);
}

Result<Committed> try_commit(Engine& engine, const Library& library, std::vector<Object> objects) {
  Change change = engine.change();
  for (Object& object : objects) change.add(library, std::move(object));
  return try_commit(std::move(change));
}

Module commit(Engine& engine, const Library& library, Object object, ModuleOptions options) {
  Change change = engine.change();
  ModuleId id = change.add(library, std::move(object), std::move(options));
  return expect(try_commit(std::move(change))).module(id);
}

Committed commit(Engine& engine, const Library& library, std::vector<Object> objects) {
  return expect(try_commit(engine, library, std::move(objects)));
}

Result<void> try_remove(Engine& engine, std::vector<Module> modules) {
  Change change = engine.change();
  for (Module& module : modules) change.remove(std::move(module), Quiet::caller_guarantees);
  Result<Committed> committed = try_commit(std::move(change));
  if (!committed) return std::move(committed).error();
  return {};
}

Addr address_of(const Library& library, std::string_view name) {
  std::optional<Addr> address = library.find(name);
  if (!address) throw std::runtime_error("library " + library.name() + " has no " + std::string(name));
  return *address;
}

} // namespace tenon::test
