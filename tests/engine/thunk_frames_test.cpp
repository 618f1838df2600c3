// Unwinding from thunks: an instruction whose data is out of reach runs elsewhere, in the frame of its function
// (src/link/thunk_frames.cpp). Here its load faults, and the handler of the signal looks at its callers.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine_support.h"

#include <gtest/gtest.h>

#include <signal.h>
#include <sys/mman.h>
#include <unwind.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

namespace tenon::test {
namespace {

// A page that nothing is within 2 GiB of. The first of these places is ThreadSanitizer's to give, the second
// AddressSanitizer's.
std::uint64_t far_data = 0;

void map_far_data() {
  for (std::uint64_t place : {0x10000000000, 0x180000000000}) {
    void* at = mmap(reinterpret_cast<void*>(place), 4096, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (at == MAP_FAILED) continue;
    far_data = place;
    static_cast<long*>(at)[0] = 1234;
    return;
  }
  throw std::runtime_error("the places for far data are taken");
}

struct Frame {
  std::uint64_t ip = 0, rbx = 0;
};
std::array<Frame, 64> frames;
std::size_t frame_count = 0;
std::uint64_t fault_ip = 0;

_Unwind_Reason_Code note(_Unwind_Context* context, void*) {
  constexpr int rbx = 3; // psABI figure 3.36
  if (frame_count == frames.size()) return _URC_END_OF_STACK;
  frames[frame_count++] = {_Unwind_GetIP(context), std::uint64_t(_Unwind_GetGR(context, rbx))};
  return _URC_NO_REASON;
}

void on_fault(int, siginfo_t*, void* context) {
  fault_ip = std::uint64_t(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  frame_count = 0;
  _Unwind_Backtrace(note, nullptr);
  mprotect(reinterpret_cast<void*>(far_data), 4096, PROT_READ | PROT_WRITE);
}

struct ThunkFrames : testing::Test {
  Engine engine = make_engine();
  Library library = expect(engine.library("main"));
  struct sigaction before{};

  ThunkFrames() {
    map_far_data();
    Absolute far[] = {{"far", {far_data}, false}};
    expect(library.define(far));
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, &before);
    note(nullptr); // the unwinder loads what it needs outside of a handler
  }
  ~ThunkFrames() override {
    sigaction(SIGSEGV, &before, nullptr);
    munmap(reinterpret_cast<void*>(far_data), 4096);
  }
  static void note(void*) {
    _Unwind_Backtrace([](_Unwind_Context*, void*) { return _URC_NO_REASON; }, nullptr);
  }

  // Calls the function with its data out of bounds: the frames that the handler saw from the thunk on.
  std::vector<Frame> frames_at_fault(const char* name, long argument, long answer) {
    mprotect(reinterpret_cast<void*>(far_data), 4096, PROT_NONE);
    fault_ip = 0;
    EXPECT_EQ(function<long(long)>(library, name)(argument), answer) << name;
    EXPECT_NE(fault_ip, 0U) << name;
    auto begin = std::find_if(frames.begin(), frames.begin() + std::ptrdiff_t(frame_count),
                              [](const Frame& frame) { return frame.ip == fault_ip; });
    return {begin, frames.begin() + std::ptrdiff_t(frame_count)};
  }
};

// Callers put a number of their own into rbx before they call, which the callee saves.
constexpr const char* callers = R"(
    .macro caller name callee number
    .globl \name, \name\()_return
\name: .cfi_startproc
    pushq %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset %rbx, -16
    movq $\number, %rbx
    call \callee
\name\()_return:
    popq %rbx
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
    .endm
)";

} // namespace

TEST_F(ThunkFrames, AreThoseOfTheFunctionAtTheInstruction) {
  commit(engine, library, assemble(std::string(callers) + R"(
    .text
    caller pushes_caller, pushes, 0x1001
    caller early_caller, early, 0x1002
    caller remembers_caller, remembers, 0x1003
    caller frame_pointer_caller, frame_pointer, 0x1004
    caller leaf_caller, leaf, 0x1005
    caller realigned_caller, realigned, 0x1006
leaf: .cfi_startproc
    movq far(%rip), %rax
    ret
    .cfi_endproc
pushes: .cfi_startproc
    pushq %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset %rbx, -16
    pushq %r12
    .cfi_def_cfa_offset 24
    .cfi_offset %r12, -24
    subq $40, %rsp
    .cfi_def_cfa_offset 64
    movq $7, %rbx
    movq far(%rip), %r12
    leaq (%r12), %rax
    addq $40, %rsp
    .cfi_def_cfa_offset 24
    popq %r12
    .cfi_def_cfa_offset 16
    popq %rbx
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
    # Between two pushes; what follows must not count.
early: .cfi_startproc
    pushq %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset %rbx, -16
    movl far(%rip), %ebx
    movl %ebx, %eax
    pushq %rax
    .cfi_def_cfa_offset 24
    popq %rax
    .cfi_def_cfa_offset 16
    popq %rbx
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
remembers: .cfi_startproc
    pushq %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset %rbx, -16
    subq $16, %rsp
    .cfi_def_cfa_offset 32
    movq $7, %rbx
    testq %rdi, %rdi
    jne 1f
    .cfi_remember_state
    movq far(%rip), %rcx
    leaq 1(%rcx), %rax
    addq $16, %rsp
    .cfi_def_cfa_offset 16
    popq %rbx
    .cfi_restore %rbx
    .cfi_def_cfa_offset 8
    ret
1:  .cfi_restore_state
    movq far(%rip), %rax
    addq $16, %rsp
    .cfi_def_cfa_offset 16
    popq %rbx
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
frame_pointer: .cfi_startproc
    pushq %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset %rbp, -16
    movq %rsp, %rbp
    .cfi_def_cfa_register %rbp
    pushq %rbx
    .cfi_offset %rbx, -24
    subq $4096, %rsp
    movq far(%rip), %rbx
    movq %rbx, %rax
    movq -8(%rbp), %rbx
    leave
    .cfi_def_cfa %rsp, 8
    ret
    .cfi_endproc
    # The CFA in memory, as GCC has it where it realigns the stack: DW_CFA_def_cfa_expression(breg6 -8, deref).
realigned: .cfi_startproc
    leaq 8(%rsp), %r10
    andq $-64, %rsp
    pushq -8(%r10)
    pushq %rbp
    movq %rsp, %rbp
    pushq %r10
    .cfi_escape 0x0f, 0x03, 0x76, 0x78, 0x06
    .cfi_escape 0x10, 0x06, 0x02, 0x76, 0x00
    pushq %rbx
    .cfi_escape 0x10, 0x03, 0x02, 0x76, 0x70
    movq far(%rip), %rbx
    movq %rbx, %rax
    popq %rbx
    popq %r10
    popq %rbp
    leaq -8(%r10), %rsp
    .cfi_def_cfa %rsp, 8
    ret
    .cfi_endproc
    .globl text_end
text_end:
    ud2
)"));
  struct Case {
    const char* name;
    long argument, answer;
    std::uint64_t rbx;
  };
  for (const Case& c : {Case{"pushes", 0, 1234, 0x1001}, Case{"early", 0, 1234, 0x1002}, Case{"remembers", 0, 1235, 0x1003},
                        Case{"remembers", 1, 1234, 0x1003}, Case{"frame_pointer", 0, 1234, 0x1004},
                        Case{"leaf", 0, 1234, 0x1005}, Case{"realigned", 0, 1234, 0x1006}}) {
    std::string caller = std::string(c.name) + "_caller";
    std::vector<Frame> seen = frames_at_fault(caller.c_str(), c.argument, c.answer);
    ASSERT_GE(seen.size(), 3U) << c.name << ": the caller, and the host's function above it";
    EXPECT_GT(fault_ip, address_of(library, "text_end").value) << "the load was to run in a thunk";
    EXPECT_EQ(seen[1].ip, address_of(library, caller + "_return").value) << c.name;
    EXPECT_EQ(seen[1].rbx, c.rbx) << c.name;
  }
}

TEST_F(ThunkFrames, EndWhereNothingDescribesTheFunction) {
  commit(engine, library, assemble(std::string(callers) + R"(
    .text
    caller bare_caller, bare, 0x1001
    caller strange_caller, strange, 0x1002
    caller by_address_caller, by_address, 0x1003
    caller own_return_caller, own_return, 0x1004
    caller by_register_caller, by_register, 0x1005
bare: movq far(%rip), %rax
    ret
strange: .cfi_startproc
    .cfi_escape 0x1c, 0x00
    movq far(%rip), %rax
    ret
    .cfi_endproc
by_address: .cfi_startproc
    .cfi_escape 0x16, 3, 2, 0x80, 0x00 # rbx is rip + 0
    movq far(%rip), %rax
    ret
    .cfi_endproc
own_return: .cfi_startproc
    .cfi_offset %rip, -16
    movq far(%rip), %rax
    ret
    .cfi_endproc
by_register: .cfi_startproc
    .cfi_register %rbx, %rip
    movq far(%rip), %rax
    ret
    .cfi_endproc
)"));
  EXPECT_EQ(frames_at_fault("bare_caller", 0, 1234).size(), 1U);
  EXPECT_EQ(frames_at_fault("strange_caller", 0, 1234).size(), 1U) << "instructions of no standard";
  for (const char* caller : {"by_address_caller", "own_return_caller", "by_register_caller"})
    EXPECT_EQ(frames_at_fault(caller, 0, 1234).size(), 1U) << caller << ": would be wrong in a thunk";
}

// A CIE that all descriptions share and that takes a megabyte: what would be read again for each is not read at all.
TEST_F(ThunkFrames, CostNoMoreThanTheirFunctions) {
  auto frames_with = [&](const std::string& padding, unsigned count) {
    std::string text = ".text\n", descriptions = R"(
    .section .eh_frame,"a",@unwind
cie: .long cie_end - cie_begin
cie_begin: .long 0
    .byte 1
    .asciz "zR"
    .uleb128 1
    .sleb128 -8
    .byte 16
    .uleb128 1
    .byte 0x1b, 0x0c, 7, 8, 0x90, 1
    .zero )" + padding + "\ncie_end:\n";
    for (unsigned i = 0; i < count; ++i) {
      const std::string name = "f" + std::to_string(i);
      text += name + ": movq far(%rip), %rax\n";
      descriptions += ".long 16, . - cie, " + name + " - ., 7\n.byte 0, 0, 0, 0\n";
    }
    const std::uint64_t before = engine.usage().frames;
    Module module = commit(engine, library, assemble(text + "ret\n" + descriptions));
    return engine.usage().frames - before;
  };
  EXPECT_EQ(frames_with("1000000", 20'000), frames_with("0", 20'000) - 1) << "the thunks have none";
  EXPECT_EQ(frames_with("100", 3), frames_with("0", 3));
}

// What compilers make, many sites in one function, and memory accounted for: frames come and go with their module.
TEST_F(ThunkFrames, OfCompiledCode) {
  Object object = compile_c(R"(
    static inline long far(void) { long v; __asm__ volatile("movq far(%%rip), %0" : "=r"(v)); return v; }
    __attribute__((noinline)) long inner(long x) {
      long sum = 0; char buffer[200];
      for (long i = 0; i < x; ++i) { sum += far(); __asm__ volatile("" : : "r"(buffer) : "memory"); }
      if (x > 3) return sum + far();
      return sum - 1 + far(); }
    long outer(long x) { return inner(x) + 1; })",
                            "-O2 -fPIC -fomit-frame-pointer");
  Module module = commit(engine, library, object);
  std::vector<Frame> seen = frames_at_fault("outer", 2, 1234 * 3);
  std::uint64_t outer = address_of(library, "outer").value;
  ASSERT_GE(seen.size(), 3U);
  EXPECT_LT(seen[1].ip - outer, 64U);
  expect(try_remove(engine, {module}));
  EXPECT_EQ(engine.usage().live, 0U);
}

} // namespace tenon::test
