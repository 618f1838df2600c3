// Compiles and links what the live cases change.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "live.h"

namespace versus {
namespace {

std::string version_text(std::size_t version, bool host_call) {
  return std::string("declare void @host_call()\ndefine i32 @target(i32 %x) {\n") +
         (host_call ? "  call void @host_call()\n" : "") + "  %y = add i32 %x, " + std::to_string(version) +
         "\n  ret i32 %y\n}\n";
}

// Not a tail call: a frame of the caller stays, as it does in most code.
constexpr const char* call_target = R"(
declare i32 @target(i32)
define i32 @call_target(i32 %x) {
  %y = call i32 @target(i32 %x)
  call void asm sideeffect "", ""()
  ret i32 %y
}
)";

} // namespace

Result<ObjectBytes> compile_text(const std::string& ir, const char* name, bool replaceable) {
  tenon::CompileOptions options;
  options.replaceable = replaceable;
  auto compiler = tenon::Compiler::create(options);
  if (!compiler) return std::move(compiler).error();
  auto object = compiler->compile_ir(std::as_bytes(std::span(ir)), name);
  if (!object) return std::move(object).error();
  return ObjectBytes(object->bytes().begin(), object->bytes().end());
}

tenon::Options live_options() {
  tenon::Options options;
  options.reservation_bytes = std::uint64_t(1) << 30;
  return options;
}

Result<tenon::Committed> commit_all(tenon::Change change) {
  auto draft = std::move(change).draft();
  if (!draft) return std::move(draft).error();
  auto placed = std::move(*draft).place();
  if (!placed) return std::move(placed).error();
  auto linked = std::move(*placed).link();
  if (!linked) return std::move(linked).error();
  return std::move(*linked).commit();
}

Result<std::unique_ptr<LiveFunction>> LiveFunction::create(void (*host_call)()) {
  auto engine = tenon::Engine::create(live_options());
  if (!engine) return std::move(engine).error();
  auto library = engine->library("live", {.replaceable = true});
  if (!library) return std::move(library).error();
  if (host_call != nullptr) {
    tenon::Absolute absolute{"host_call", tenon::Addr{reinterpret_cast<std::uintptr_t>(host_call)}};
    if (auto defined = library->define({&absolute, 1}); !defined) return std::move(defined).error();
  }
  std::unique_ptr<LiveFunction> made(new LiveFunction(std::move(*engine), std::move(*library)));
  for (std::size_t v = 0; v < versions; ++v) {
    auto bytes = compile_text(version_text(v, host_call != nullptr), "target");
    if (!bytes) return std::move(bytes).error();
    made->versions_.push_back(std::move(*bytes));
  }
  auto caller = compile_text(call_target, "caller");
  if (!caller) return std::move(caller).error();
  made->caller_bytes_ = std::move(*caller);
  tenon::Change change = made->engine_.change();
  for (const ObjectBytes* bytes : {&made->versions_[0], &made->caller_bytes_}) {
    auto object = tenon::Object::copy(*bytes, bytes == &made->caller_bytes_ ? "caller" : "target");
    if (!object) return std::move(object).error();
    change.add(made->library_, std::move(*object));
  }
  auto committed = commit_all(std::move(change));
  if (!committed) return std::move(committed).error();
  made->module_.push_back(committed->modules()[0]);
  auto address = made->library_.find("call_target");
  if (!address) return Error{ErrorCode::undefined, "call_target was not found"};
  made->caller_ = address->as<int (*)(int)>();
  return made;
}

Result<void> LiveFunction::swap() {
  const std::size_t next = (current_ + 1) % versions;
  auto object = tenon::Object::borrow(versions_[next], nullptr, "target");
  if (!object) return std::move(object).error();
  tenon::Change change = engine_.change();
  change.replace(module_[0], std::move(*object));
  if (auto committed = commit_all(std::move(change)); !committed) return std::move(committed).error();
  current_ = next;
  return {};
}

} // namespace versus
