// The compile layer (library tenon-llvm): LLVM IR in, relocatable objects out; and a disassembler for inspectors.
//
// Nothing of LLVM is included: a client that has only IR text or bitcode never sees an LLVM header, and one that has modules
// includes its own. The IR is borrowed: a module that is compiled is printed the same before and after, unless the client
// gives it away with `consume_ir`. Nothing is printed; what LLVM has to say about an error is in the Result.
//
// What LLVM considers fatal (report_fatal_error, its own exhausted memory) ends the process and can't be turned into a
// Result; IR that passes the verifier hardly ever gets there. Bitcode should come from a source that is trusted not to crash
// LLVM.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/addr.h>
#include <tenon/object.h>
#include <tenon/result.h>

#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace llvm {
class Module;
class TargetMachine;
} // namespace llvm

namespace tenon {

enum class OptLevel : unsigned char { O0, O1, O2, O3 };

struct CompileOptions {
  enum class CodeModel : unsigned char { small, medium, large };

  // Chooses the IR pipeline and the effort of the code generator. Functions marked `optnone` (clang -O0) stay as they are.
  OptLevel level = OptLevel::O2;
  // Position independent: linked into a process, a module is like a shared library, and IR that clang made for a
  // position-independent executable is compiled as if for a library (thread-local variables are no longer local-exec).
  bool pic = true;
  // LLVM's own choice for a JIT is the large model, in which every call is an absolute address that nothing can patch.
  CodeModel code_model = CodeModel::small;
  // The processor of this machine with all it can do; otherwise any x86-64. A function's own "target-cpu" and
  // "target-features" (clang writes them always) come first.
  bool host_cpu = true;
  // A section for each function and each variable: what the linker places, replaces and frees on its own.
  bool function_sections = true;
  bool data_sections = true;
  // Checks IR before it is compiled, for up to a tenth of the time at -O0; IR that does not verify can crash LLVM.
  bool verify = true;
  // Runs the IR pipeline of `level`. A client that has optimized already turns it off.
  bool optimize = true;
  // All functions of the module can be replaced later, one by one, the static ones too (Change::replace). Each is opaque to
  // the others at every level: it is not inlined, and a caller relies on nothing but its declaration. `always_inline` is the
  // exception: such a function is part of those that call it, and they are to be replaced with it. Variables keep name, size
  // and alignment at every level, and initializers stay apart: `__tenon_init.NAME` is what initializes NAME; one whose
  // variable can't be told for sure keeps clang's name, `__cxx_global_var_init`. In the small code model calls, tail calls
  // and calls of itself are placed and relocated so that they can be retargeted while threads execute them; calls of
  // __tls_get_addr stay where they are. Implies function_sections and data_sections. The IR
  // should not have been optimized before (clang: -Xclang -disable-llvm-passes): what was inlined stays so. Where a front
  // end saw that a function's body throws nothing, it has left out its callers' handlers: a version that throws passes by.
  bool replaceable = false;
  // With `replaceable`: also functions that the source declares inline (templates and members defined in their class among
  // them). Without, these can become part of the functions that call them, and are replaced together with those only: all
  // that uses the changed header is compiled again. C++ that lives on small inline functions is much faster that way.
  bool replaceable_inline = true;
  // With `replaceable`, of IR with debug information (clang -g): functions of lambdas, and their variables, are named by
  // what the lambda is (where it stands, what it captures, takes and gives) and no longer by its number, so that a new
  // version's take the place of those that they can stand for, and of no others. Whoever holds a closure that no lambda of
  // the new version is like goes on calling the old one. compile_functions() does not know these names and refuses.
  bool name_closures = false;
  // Compile the client's llvm::Module itself and not a clone: faster, and what is left of the module afterwards (also after
  // an error) can only be destroyed.
  bool consume_ir = false;
};

// A target machine with its pass pipelines, kept from module to module: that is worth several times the work on a small
// module. The same IR gives the same bytes whatever was compiled before. One module at a time; any thread, but one at once.
class Compiler {
public:
  // Errors: unsupported (LLVM has no code generator for this machine).
  static Result<Compiler> create(const CompileOptions& options = {});

  Compiler(Compiler&&) noexcept;
  Compiler& operator=(Compiler&&) noexcept;
  ~Compiler();

  const CompileOptions& options() const noexcept;

  // The object is called by the module's identifier. A module without a target triple or data layout gets this machine's.
  // The module's context is used, so no other thread may use it meanwhile; its diagnostic handler is set aside for the
  // duration (warnings still reach it) and put back without LLVM's RespectFilters. Errors: compile (does not verify, inline
  // assembly that does not assemble, what the code generator can't do), unsupported (IR for another target),
  // invalid_argument (a module that is not read in yet).
  Result<Object> compile(llvm::Module& module);

  // Textual IR or bitcode, told apart by content. Errors as above, and compile for what can't be parsed:
  // "NAME:LINE:COLUMN: what: source line".
  // `strip_debug_info`: the object is to have none.
  Result<Object> compile_ir(Bytes ir, std::string name, bool strip_debug_info = false);

  // Single functions of a module, to take the place of those that the same module, compiled `replaceable` as a whole, has
  // (Change::replace_functions): at any level, of the same IR or of a newer one. The object defines the named functions, by
  // their names in the IR, and literals; all else that they use is undefined in it: functions and variables of the module,
  // whatever their linkage (local ones are hidden symbols of the same name; statics of a function keep their place), and
  // what the module lacks itself. Nothing in it says how large a variable was thought to be: one that has changed calls for
  // a new version of the whole module. Functions that are part of their callers (see `replaceable` and
  // `replaceable_inline`) come along. Takes time for these functions, not for the module, of which it reads in what it needs
  // if the client has opened it lazily; the module stays the client's, consume_ir or not.
  // Errors: as above, invalid_argument (not compiled with `replaceable`; no such function, or one that the module only
  // declares, has an alias for, or has for inlining), and unsupported (it uses something that has no name; it keeps
  // addresses of its labels in a variable).
  Result<Object> compile_functions(llvm::Module& module, std::span<const std::string_view> functions);

  // The same from textual IR or bitcode. Of bitcode, only the named functions are read in.
  Result<Object> compile_functions_ir(Bytes ir, std::string name, std::span<const std::string_view> functions);

private:
  struct State;
  explicit Compiler(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

// Worker threads with a Compiler each, for the modules of one change. Any thread may submit, several at once. The child of a
// fork has no workers: it needs a pool of its own.
class CompilerPool {
public:
  struct Input {
    Bytes ir; // textual IR or bitcode
    std::string name;
    std::shared_ptr<const void> owner = {};  // keeps `ir` alive; null if the client does until the result is there
    std::vector<std::string> functions = {}; // only these, as Compiler::compile_functions_ir does
    bool strip_debug_info = false;           // as Compiler::compile_ir does; not with `functions`
  };

  // 0 threads: as many as the machine runs at once. Errors: as Compiler::create, and system (no thread to be had).
  static Result<CompilerPool> create(const CompileOptions& options = {}, unsigned threads = 0);

  CompilerPool(CompilerPool&&) noexcept;
  CompilerPool& operator=(CompilerPool&&) noexcept;
  ~CompilerPool(); // finishes what was submitted

  unsigned threads() const noexcept;

  // Compiles all and waits. Results stand in the order of the inputs; one that fails does not stop the others. Errors:
  // out_of_memory, of the list itself; nothing is compiled then.
  Result<std::vector<Result<Object>>> compile(std::span<const Input> inputs);

  // Compiles one later. The result is there when the future is ready. Errors: out_of_memory.
  Result<std::future<Result<Object>>> submit(Input input);

private:
  struct State;
  explicit CompilerPool(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

// For a client that runs its own TargetMachine and pipelines: verifies the module and generates code from a clone, with no
// IR pipeline and nothing reused. Flags of the module stay as they are. Errors: as Compiler::compile.
Result<Object> compile(llvm::TargetMachine& machine, llvm::Module& module);

// Decodes machine code, one instruction at a time. For inspectors of linked bytes and for tests. One thread at once.
class Disassembler {
public:
  struct Operand {
    enum class Kind : unsigned char { reg, immediate, other };
    Kind kind = Kind::other;
    std::int64_t value = 0; // of an immediate; for a register LLVM's number of it
  };

  struct Instruction {
    std::uint64_t offset = 0;
    unsigned size = 0;
    std::string_view opcode;   // LLVM's name of the encoding ("SYSCALL", "JMP_4"); lives as long as the Disassembler
    std::string_view mnemonic; // the first word of the assembly, AT&T syntax ("syscall", "jmp"); lives as long, too
    bool call = false;
    bool branch = false;
    bool returns = false;
    std::vector<Operand> operands; // as LLVM numbers them; Detail::full only
    std::string text;              // AT&T syntax; Detail::full only
  };

  enum class Detail : unsigned char { opcode, full };

  // Errors: unsupported (no decoder for that machine).
  static Result<Disassembler> create(Machine machine = Machine::x86_64);

  Disassembler(Disassembler&&) noexcept;
  Disassembler& operator=(Disassembler&&) noexcept;
  ~Disassembler();

  // The instruction at `offset` in `code`. With `code_begin`, the address of code[0], PC-relative targets in the text are
  // addresses. Errors: malformed (no instruction, or one that reaches past the end), invalid_argument (offset past the end).
  Result<Instruction> decode(Bytes code, std::uint64_t offset, Addr code_begin = {}, Detail detail = Detail::full);

private:
  struct State;
  explicit Disassembler(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

} // namespace tenon
