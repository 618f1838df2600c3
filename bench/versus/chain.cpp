// Compiles and links chains of calls.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "chain.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>

namespace versus {
namespace {

std::string targets_text(const char* prefix, std::size_t count, int step) {
  std::string text;
  for (const std::string& name : numbered(prefix, count))
    text += "define i32 @" + name + "(i32 %x) {\n  %y = add i32 %x, " + std::to_string(step) + "\n  ret i32 %y\n}\n";
  return text;
}

std::string caller_text(std::size_t count) {
  std::string text, calls;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string number = std::to_string(i);
    text += "declare i32 @target" + number + "(i32)\n";
    calls += "  %v" + std::to_string(i + 1) + " = call i32 @target" + number + "(i32 %v" + number + ")\n";
  }
  const std::string last = "%v" + std::to_string(count);
  return text + "define i32 @round(i32 %x, i32 %times) {\nentry:\n  br label %loop\nloop:\n" +
         "  %i = phi i32 [ 0, %entry ], [ %n, %loop ]\n  %v0 = phi i32 [ %x, %entry ], [ " + last + ", %loop ]\n" + calls +
         "  %n = add i32 %i, 1\n  %more = icmp ult i32 %n, %times\n  br i1 %more, label %loop, label %done\ndone:\n" +
         "  ret i32 " + last + "\n}\n";
}

Error dl_fault(const std::string& what) {
  const char* why = dlerror();
  return {ErrorCode::system, what + ": " + (why != nullptr ? why : "unknown")};
}

// A folder that is gone at the end of the scope; what is loaded from it stays.
struct Scratch {
  char path[32] = "/tmp/tenon-versus-XXXXXX";
  bool made = mkdtemp(path) != nullptr;
  std::vector<std::string> files;
  std::string file(const char* name) {
    files.push_back(std::string(path) + "/" + name);
    return files.back();
  }
  ~Scratch() {
    for (const std::string& one : files) unlink(one.c_str());
    if (made) rmdir(path);
  }
};

} // namespace

std::vector<std::string> numbered(const char* prefix, std::size_t count) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) names.push_back(prefix + std::to_string(i));
  return names;
}

Result<ChainObjects> compile_chain(std::size_t count, bool replaceable) {
  auto targets = compile_text(targets_text("target", count, 1), "targets", replaceable);
  if (!targets) return std::move(targets).error();
  auto others = compile_text(targets_text("other", count, 2), "others", replaceable);
  if (!others) return std::move(others).error();
  auto caller = compile_text(caller_text(count), "caller", replaceable);
  if (!caller) return std::move(caller).error();
  return ChainObjects{std::move(*targets), std::move(*others), std::move(*caller)};
}

Result<std::unique_ptr<LiveChain>> LiveChain::create(const ChainObjects& objects, std::size_t count) {
  auto engine = tenon::Engine::create(live_options());
  if (!engine) return std::move(engine).error();
  auto library = engine->library("chain", {.replaceable = true});
  if (!library) return std::move(library).error();
  std::unique_ptr<LiveChain> made(new LiveChain(std::move(*engine), std::move(*library)));
  made->count_ = count;
  tenon::Change change = made->engine_.change();
  const ObjectBytes* all[] = {&objects.targets, &objects.others, &objects.caller};
  for (const ObjectBytes* bytes : all) {
    auto object = tenon::Object::copy(*bytes, "chain");
    if (!object) return std::move(object).error();
    if (bytes == &objects.caller)
      for (std::uint32_t i = 0; i < object->symbols().size(); ++i)
        if (object->symbols()[i].name() == "round") made->round_size_ = object->symbols()[i].size;
    change.add(made->library_, std::move(*object));
  }
  auto committed = commit_all(std::move(change));
  if (!committed) return std::move(committed).error();
  made->modules_.assign(committed->modules().begin(), committed->modules().end());
  auto address = made->library_.find("round");
  if (!address) return Error{ErrorCode::undefined, "round was not found"};
  made->round_ = address->as<Round>();
  return made;
}

std::uint64_t LiveChain::body(const std::string& name) const {
  auto address = library_.find(name);
  if (!address) return 0;
  const auto* stub = address->as<const unsigned char*>();
  if (stub[0] != 0xFF || stub[1] != 0x25) return 0; // jmp *slot(%rip)
  std::int32_t displacement = 0;
  std::memcpy(&displacement, stub + 2, sizeof displacement);
  std::uint64_t target = 0;
  std::memcpy(&target, stub + 6 + displacement, sizeof target);
  return target;
}

std::string LiveChain::examine() const {
  auto disassembler = tenon::Disassembler::create();
  if (!disassembler) return disassembler.error().message;
  std::map<std::uint64_t, std::size_t> calls; // body of a target -> how many call it
  for (const std::string& name : numbered("target", count_)) {
    std::uint64_t target = body(name);
    if (target == 0) return name + "'s address is not that of a stub";
    calls[target] = 0;
  }
  const std::uint64_t begin = body("round");
  if (begin == 0 || round_size_ == 0) return "round's body was not found";
  const tenon::Bytes code(reinterpret_cast<const std::byte*>(begin), round_size_);
  for (std::uint64_t at = 0; at < code.size();) {
    auto decoded = disassembler->decode(code, at, tenon::Addr{begin}, tenon::Disassembler::Detail::opcode);
    if (!decoded) return "round at " + std::to_string(at) + ": " + decoded.error().message;
    if (decoded->call) {
      // Padding may stand before the opcode as prefixes; the opcode is the fifth byte from the end.
      std::int32_t displacement = 0;
      std::memcpy(&displacement, code.data() + at + decoded->size - 4, sizeof displacement);
      if (decoded->size < 5 || code[at + decoded->size - 5] != std::byte{0xE8})
        return "round at " + std::to_string(at) + ": its call is not a call rel32";
      auto place = calls.find(begin + at + decoded->size + static_cast<std::uint64_t>(std::int64_t(displacement)));
      if (place == calls.end()) return "round at " + std::to_string(at) + ": its call leads to no target's body";
      ++place->second;
    }
    at += decoded->size;
  }
  for (const auto& [target, count] : calls)
    if (count != 1) return "a target's body is called at " + std::to_string(count) + " places instead of one";
  return {};
}

Result<std::unique_ptr<StaticChain>> StaticChain::create(const ChainObjects& objects, std::uint64_t code_begin) {
  Scratch scratch;
  if (!scratch.made) return Error{ErrorCode::system, "no folder can be made in /tmp"};
  const std::string library = scratch.file("chain.so");
  // The first address is for headers and tables, below the code; the loader puts multiples of 2 MiB where they belong.
  constexpr std::uint64_t alignment = std::uint64_t(1) << 21;
  char text[200];
  std::snprintf(text, sizeof text, "ld -shared -Bsymbolic -z now -z max-page-size=%#llx --section-start=.text=%#llx -o ",
                static_cast<unsigned long long>(alignment),
                static_cast<unsigned long long>(2 * alignment + code_begin % alignment));
  std::string command = text + library;
  for (auto [name, bytes] : {std::pair("targets.o", &objects.targets), std::pair("others.o", &objects.others),
                             std::pair("caller.o", &objects.caller)}) {
    const std::string path = scratch.file(name);
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes->data()), static_cast<std::streamsize>(bytes->size()));
    command += " " + path;
  }
  if (std::system(command.c_str()) != 0) return Error{ErrorCode::system, "failed: " + command};
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return dl_fault(library);
  void* round = dlsym(handle, "round");
  if (round == nullptr) {
    dlclose(handle);
    return dl_fault("round");
  }
  std::unique_ptr<StaticChain> made(new StaticChain(handle, reinterpret_cast<Round>(round)));
  auto* first = dlsym(handle, "target0");
  if ((reinterpret_cast<std::uintptr_t>(first) - code_begin) % alignment != 0)
    return Error{ErrorCode::system, "the loader has put the shared object elsewhere than it asks for"};
  return made;
}

StaticChain::~StaticChain() { dlclose(handle_); }

std::string check_round(Round round, std::size_t count, int step) {
  const int got = round(5, 3), wanted = 5 + 3 * static_cast<int>(count) * step;
  return got == wanted ? std::string() : "round(5, 3) gave " + std::to_string(got) + " instead of " + std::to_string(wanted);
}

} // namespace versus
