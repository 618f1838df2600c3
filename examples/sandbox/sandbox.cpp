// A sandbox's gate: an inspector that lets no module into the process that enters the kernel on its own.
//
// An inspector sees the final bytes of a change, relocated, before they can run. Its error drops the change and leaves
// nothing.
//
// Without arguments the program shows both sides on two modules of its own. `sandbox FILE.o...` or `sandbox FILE.ll...`
// judges those instead: exit status 1 if one is rejected.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "find_syscall.h"

#include <tenon/llvm.h>
#include <tenon/tenon.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

namespace {

constexpr std::string_view harmless = R"(
define i32 @answer() {
  ret i32 42
}
)";

// getpid, past the C library.
constexpr std::string_view sneaky = R"(
define i64 @answer() {
  %pid = call i64 asm sideeffect "syscall", "={rax},{rax},~{rcx},~{r11},~{memory}"(i64 39)
  ret i64 %pid
}
)";

tenon::Bytes bytes_of(std::string_view text) { return std::as_bytes(std::span<const char>(text.data(), text.size())); }

std::string hex(std::uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

tenon::Result<void> reject_syscalls(tenon::Disassembler& disassembler, const tenon::Linked& linked) {
  for (const tenon::PlacedSection& section : linked.sections()) {
    if (section.kind != tenon::SectionKind::code) continue;
    const tenon::Bytes code = linked.bytes(section.id);
    const auto offset = sandbox::find_syscall(disassembler, code);
    if (!offset) continue;
    const auto found = disassembler.decode(code, *offset, section.address);
    std::string text = "module " + std::string(linked.module_name(section.id.module)) + ", section " +
                       std::string(section.name) + ", offset " + hex(*offset) + ": enters the kernel";
    if (found) text += " (" + found->text + ')';
    return tenon::Error{tenon::ErrorCode::vetoed, std::move(text)};
  }
  return {};
}

tenon::Result<void> load(tenon::Engine& engine, tenon::Disassembler& disassembler, tenon::Object object) {
  auto library = engine.library();
  if (!library) return std::move(library).error();
  tenon::Change change = engine.change();
  change.add(*library, std::move(object));
  auto draft = std::move(change).draft();
  if (!draft) return std::move(draft).error();
  auto placed = std::move(*draft).place();
  if (!placed) return std::move(placed).error();
  auto linked = std::move(*placed).link([&](const tenon::Linked& bytes) { return reject_syscalls(disassembler, bytes); });
  if (!linked) return std::move(linked).error();
  auto committed = std::move(*linked).commit();
  if (!committed) return std::move(committed).error();
  return {};
}

tenon::Result<tenon::Object> read(tenon::Compiler& compiler, const std::string& path) {
  if (path.ends_with(".o")) return tenon::Object::read_file(path);
  std::ifstream file(path, std::ios::binary);
  if (!file) return tenon::Error{tenon::ErrorCode::system, "can't read " + path};
  const std::string content{std::istreambuf_iterator<char>(file), {}};
  return compiler.compile_ir(bytes_of(content), path);
}

// The two modules above, one of which has to be rejected.
bool show(tenon::Engine& engine, tenon::Disassembler& disassembler, tenon::Compiler& compiler) {
  bool as_expected = true;
  for (const bool bad : {false, true}) {
    auto object = compiler.compile_ir(bytes_of(bad ? sneaky : harmless), bad ? "sneaky" : "harmless");
    const auto loaded = object ? load(engine, disassembler, std::move(*object)) : tenon::Result<void>(object.error());
    std::printf("%s: %s\n", bad ? "sneaky" : "harmless", loaded ? "loaded" : loaded.error().message.c_str());
    as_expected &= bad ? !loaded && loaded.error().code == tenon::ErrorCode::vetoed : loaded.ok();
  }
  return as_expected;
}

} // namespace

int main(int argc, char** argv) {
  auto engine = tenon::Engine::create();
  auto disassembler = tenon::Disassembler::create();
  auto compiler = tenon::Compiler::create();
  if (!engine || !disassembler || !compiler) {
    std::fprintf(stderr, "sandbox: no engine, disassembler or compiler for this machine\n");
    return 1;
  }
  if (argc < 2) return show(*engine, *disassembler, *compiler) ? 0 : 1;
  int status = 0;
  for (int i = 1; i < argc; ++i) {
    auto object = read(*compiler, argv[i]);
    const auto loaded = object ? load(*engine, *disassembler, std::move(*object)) : tenon::Result<void>(object.error());
    if (loaded) continue;
    std::fprintf(stderr, "sandbox: %s\n", loaded.error().message.c_str());
    status = 1;
  }
  return status;
}
