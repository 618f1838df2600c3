// What all tests of the engine need: objects from snippets of assembly, C and C++, and the way from an object to a running
// function in one line.
//
// Snippets are translated by the LLVM tools of the system. Results are kept in memory and in a folder of the build, under a
// hash of the text and the command, so that a test program that runs again, or each test of it in a process of its own,
// starts none.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/tenon.h>

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::test {

// These throw std::runtime_error with the tool's own words: a snippet that does not translate fails its test.
Object assemble(std::string_view text, std::string_view name = "snippet.o");
Object compile_c(std::string_view text, std::string_view flags = "-O1 -fPIC", std::string_view name = "snippet.o");
Object compile_cpp(std::string_view text, std::string_view flags = "-O1 -fPIC", std::string_view name = "snippet.o");
// The same by the other compiler: g++ of the system.
Object compile_gcc(std::string_view text, std::string_view flags = "-O1 -fPIC", std::string_view name = "snippet.o");

// The file that holds the object.
std::string assemble_file(std::string_view text);
std::string compile_cpp_file(std::string_view text, std::string_view flags = "-O1 -fPIC");

// An archive (with an index) of such objects, as bytes.
std::vector<std::byte> archive_of(std::initializer_list<Object> members);

std::string describe(const Error& error);

// The value, or a failed test that says why.
template <class T> T expect(Result<T> result) {
  if (!result) throw std::runtime_error("unexpected: " + describe(result.error()));
  return std::move(result).value();
}
inline void expect(Result<void> result) {
  if (!result) throw std::runtime_error("unexpected: " + describe(result.error()));
}

// Overwrites what calls that are over have left below the caller's frame. A stack is looked at word by word, and in a frame
// that comes to lie there a return address of before may stay between the variables.
#if defined(__clang__)
__attribute__((no_sanitize("address", "thread", "undefined")))
#endif
__attribute__((noinline)) inline void scrub_stack() {
  volatile unsigned char below[16384];
  for (volatile unsigned char& byte : below) byte = 0;
}

Engine make_engine(const Options& options = {});

// All four stages. The error of the first that fails.
Result<Committed> try_commit(Change change, Initialize initialize = Initialize::run, Switch how = Switch::each);
Result<Committed> try_commit(Engine& engine, const Library& library, std::vector<Object> objects);
// The module of the only object, which is expected to link.
Module commit(Engine& engine, const Library& library, Object object, ModuleOptions options = {});
Committed commit(Engine& engine, const Library& library, std::vector<Object> objects);
Result<void> try_remove(Engine& engine, std::vector<Module> modules);

// The address of a symbol that is there.
Addr address_of(const Library& library, std::string_view name);
template <class Signature> Signature* function(const Library& library, std::string_view name) {
  return address_of(library, name).as<Signature*>();
}

} // namespace tenon::test
