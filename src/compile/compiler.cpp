// Compiler: checks a module, clones it, runs the IR pipeline, generates code. The same for a client's own target machine.
//
// What is reused must not show in the result. Three things see to that: analysis results are dropped after each module;
// after an error everything is built anew, because LLVM's passes stop in the middle then; and after a module that uses
// `llvm.used` too, because the target machine remembers the addresses of such globals for good and would mark a later
// module's global that happens to lie at the same address.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/guarded.h"
#include "compile/closures.h"
#include "compile/codegen.h"
#include "compile/diagnostics.h"
#include "compile/extract.h"
#include "compile/initializers.h"
#include "compile/ir_pipeline.h"
#include "compile/opaque.h"
#include "compile/prepare.h"
#include "compile/read_ir.h"
#include "compile/target.h"

#include <tenon/llvm.h>

#include <llvm/IR/DebugInfo.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <llvm/Transforms/Utils/Cloning.h>

#include <optional>

namespace tenon {

namespace {

using namespace compile_layer;

// What is kept from module to module. Later members refer to earlier ones.
struct Machinery {
  std::unique_ptr<llvm::TargetMachine> machine;
  std::unique_ptr<IrPipeline> pipeline; // null if the options say not to optimize
  std::unique_ptr<Codegen> codegen;

  // Not by default: that would destroy the old machine before what refers to it.
  Machinery() = default;
  Machinery(Machinery&&) = default;
  Machinery& operator=(Machinery&& other) noexcept {
    clear();
    machine = std::move(other.machine);
    pipeline = std::move(other.pipeline);
    codegen = std::move(other.codegen);
    return *this;
  }
  void clear() {
    codegen.reset();
    pipeline.reset();
    machine.reset();
  }
};

Result<Machinery> build(const CompileOptions& options) {
  auto machine = create_target_machine(options);
  if (!machine) return std::move(machine).error();
  Machinery machinery;
  machinery.machine = std::move(*machine);
  if (options.optimize) machinery.pipeline = std::make_unique<IrPipeline>(*machinery.machine, options.level);
  machinery.codegen = std::make_unique<Codegen>(*machinery.machine, options.replaceable);
  return machinery;
}

Error compile_error(const std::string& name, const DiagnosticScope& diagnostics) {
  return Error{ErrorCode::compile, name + ": " + diagnostics.errors()};
}

Result<Object> generate(Codegen& codegen, llvm::Module& module, Opaque* opaque, const DiagnosticScope& diagnostics) {
  const std::string& name = module.getModuleIdentifier();
  auto bytes = codegen.run(module, opaque);
  if (!bytes) return std::move(bytes).error().within(name);
  if (diagnostics.failed()) return compile_error(name, diagnostics);
  return Object::copy(*bytes, name);
}

} // namespace

struct Compiler::State {
  CompileOptions options;
  Machinery machinery; // empty where the next module has to have it new

  Result<void> prepare();
  Result<Object> compile(llvm::Module& module, bool consume, bool verify, bool strip_debug_info = false);
  Result<Object> compile_functions(llvm::Module& module, std::span<const std::string_view> functions);
  Result<Object> compile_text(Bytes ir, std::string name, std::optional<std::span<const std::string_view>> functions,
                              bool strip_debug_info = false);
  Result<Object> compile_owned(llvm::Module& module, bool broken_debug_info, bool strip_debug_info);
};

Result<void> Compiler::State::prepare() {
  if (machinery.machine) return {};
  auto built = build(options);
  if (!built) return std::move(built).error();
  machinery = std::move(*built);
  return {};
}

Result<Object> Compiler::State::compile(llvm::Module& module, bool consume, bool verify, bool strip_debug_info) {
  if (auto ready = prepare(); !ready) return std::move(ready).error();
  bool broken_debug_info = false;
  if (auto sound = check_module(module, *machinery.machine, verify, broken_debug_info); !sound)
    return std::move(sound).error();
  if (consume) return compile_owned(module, broken_debug_info, strip_debug_info);
  const std::unique_ptr<llvm::Module> clone = llvm::CloneModule(module);
  return compile_owned(*clone, broken_debug_info, strip_debug_info);
}

// `module` is ours to change.
Result<Object> Compiler::State::compile_owned(llvm::Module& module, bool broken_debug_info, bool strip_debug_info) {
  const bool single_use = module.getNamedGlobal("llvm.used") != nullptr;
  if (options.replaceable && options.name_closures && !broken_debug_info) name_closures(module);
  if (strip_debug_info || broken_debug_info) llvm::StripDebugInfo(module);
  adopt_target(module, *machinery.machine);
  if (options.pic) mark_as_library(module);
  DiagnosticScope diagnostics(module.getContext());
  std::optional<Opaque> opaque;
  if (options.replaceable) {
    split_initializers(module);
    opaque.emplace(module, options);
  }
  if (machinery.pipeline) machinery.pipeline->run(module);
  if (opaque) opaque->restore_functions();
  auto object = diagnostics.failed() ? compile_error(module.getModuleIdentifier(), diagnostics)
                                     : generate(*machinery.codegen, module, opaque ? &*opaque : nullptr, diagnostics);
  if (!object || single_use) machinery.clear();
  return object;
}

Result<Object> Compiler::State::compile_functions(llvm::Module& module, std::span<const std::string_view> functions) {
  if (!options.replaceable)
    return Error{ErrorCode::invalid_argument,
                 module.getModuleIdentifier() + ": functions are compiled alone with CompileOptions::replaceable only"};
  if (options.name_closures)
    return Error{ErrorCode::invalid_argument, module.getModuleIdentifier() +
                                                  ": functions can't be compiled alone with CompileOptions::name_closures: "
                                                  "the names that it makes are found in whole modules only"};
  auto extracted = extract_functions(module, functions, options);
  if (!extracted) return std::move(extracted).error();
  return compile(**extracted, /*consume=*/true, /*verify=*/false); // its functions were verified where they come from
}

// All of the IR, or some functions of it.
Result<Object> Compiler::State::compile_text(Bytes ir, std::string name,
                                             std::optional<std::span<const std::string_view>> functions,
                                             bool strip_debug_info) {
  if (auto ready = prepare(); !ready) return std::move(ready).error();
  // A context of its own for each: types and constants of one module neither pile up nor show in the next.
  llvm::LLVMContext context;
  DiagnosticScope diagnostics(context);
  auto module = read_ir(ir, name, machinery.machine->createDataLayout(), context, /*lazily=*/functions.has_value());
  if (!module) return std::move(module).error();
  if (diagnostics.failed()) return compile_error(name, diagnostics);
  (*module)->setModuleIdentifier(name);
  return functions ? compile_functions(**module, *functions)
                   : compile(**module, /*consume=*/true, options.verify, strip_debug_info);
}

Compiler::Compiler(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Compiler::Compiler(Compiler&&) noexcept = default;
Compiler& Compiler::operator=(Compiler&&) noexcept = default;
Compiler::~Compiler() = default;

Result<Compiler> Compiler::create(const CompileOptions& options) {
  return base::guarded([&]() -> Result<Compiler> {
    auto machinery = build(options);
    if (!machinery) return std::move(machinery).error();
    return Compiler(std::make_unique<State>(State{options, std::move(*machinery)}));
  });
}

const CompileOptions& Compiler::options() const noexcept { return state_->options; }

Result<Object> Compiler::compile(llvm::Module& module) {
  return base::guarded([&] { return state_->compile(module, state_->options.consume_ir, state_->options.verify); });
}

Result<Object> Compiler::compile_ir(Bytes ir, std::string name, bool strip_debug_info) {
  return base::guarded([&] { return state_->compile_text(ir, std::move(name), std::nullopt, strip_debug_info); });
}

Result<Object> Compiler::compile_functions(llvm::Module& module, std::span<const std::string_view> functions) {
  return base::guarded([&] { return state_->compile_functions(module, functions); });
}

Result<Object> Compiler::compile_functions_ir(Bytes ir, std::string name, std::span<const std::string_view> functions) {
  return base::guarded([&] { return state_->compile_text(ir, std::move(name), functions); });
}

Result<Object> compile(llvm::TargetMachine& machine, llvm::Module& module) {
  return base::guarded([&]() -> Result<Object> {
    // The client may have set up another target than ours, but inline assembly is parsed by what is registered.
    initialize_native_target();
    bool broken_debug_info = false;
    if (auto sound = check_module(module, machine, /*verify=*/true, broken_debug_info); !sound)
      return std::move(sound).error();
    const std::unique_ptr<llvm::Module> clone = llvm::CloneModule(module);
    if (broken_debug_info) llvm::StripDebugInfo(*clone);
    adopt_target(*clone, machine);
    DiagnosticScope diagnostics(clone->getContext());
    Codegen codegen(machine, /*retargetable=*/false);
    return generate(codegen, *clone, /*opaque=*/nullptr, diagnostics);
  });
}

} // namespace tenon
