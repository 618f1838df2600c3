// Disassembler: LLVM's MC layer behind a few plain values.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/guarded.h"
#include "compile/target.h"

#include <tenon/llvm.h>

#include <llvm/MC/MCAsmInfo.h>
#include <llvm/MC/MCContext.h>
#include <llvm/MC/MCDisassembler/MCDisassembler.h>
#include <llvm/MC/MCInst.h>
#include <llvm/MC/MCInstPrinter.h>
#include <llvm/MC/MCInstrInfo.h>
#include <llvm/MC/MCRegisterInfo.h>
#include <llvm/MC/MCSubtargetInfo.h>
#include <llvm/MC/MCTargetOptions.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Support/raw_ostream.h>

namespace tenon {

// Later members refer to earlier ones.
struct Disassembler::State {
  llvm::Triple triple{"x86_64-unknown-linux-gnu"};
  llvm::MCTargetOptions options;
  std::unique_ptr<const llvm::MCRegisterInfo> registers;
  std::unique_ptr<const llvm::MCAsmInfo> assembly;
  std::unique_ptr<const llvm::MCSubtargetInfo> subtarget;
  std::unique_ptr<const llvm::MCInstrInfo> instructions;
  std::unique_ptr<llvm::MCContext> context;
  std::unique_ptr<const llvm::MCDisassembler> decoder;
  std::unique_ptr<llvm::MCInstPrinter> printer;

  bool build();
  Result<Instruction> decode(Bytes code, std::uint64_t offset, Addr code_begin, Detail detail);
  void describe(const llvm::MCInst& inst, Addr address, Instruction& instruction);
};

bool Disassembler::State::build() {
  compile_layer::initialize_native_target();
  std::string why;
  const llvm::Target* target = llvm::TargetRegistry::lookupTarget(triple, why);
  if (!target) return false;
  registers.reset(target->createMCRegInfo(triple));
  if (!registers) return false;
  assembly.reset(target->createMCAsmInfo(*registers, triple, options));
  subtarget.reset(target->createMCSubtargetInfo(triple, "", ""));
  instructions.reset(target->createMCInstrInfo());
  if (!assembly || !subtarget || !instructions) return false;
  context = std::make_unique<llvm::MCContext>(triple, assembly.get(), registers.get(), subtarget.get());
  decoder.reset(target->createMCDisassembler(*subtarget, *context));
  printer.reset(target->createMCInstPrinter(triple, assembly->getAssemblerDialect(), *assembly, *instructions, *registers));
  if (!decoder || !printer) return false;
  printer->setPrintBranchImmAsAddress(true);
  printer->setPrintImmHex(true);
  return true;
}

Result<Disassembler::Instruction> Disassembler::State::decode(Bytes code, std::uint64_t offset, Addr code_begin,
                                                              Detail detail) {
  if (offset >= code.size())
    return Error{ErrorCode::invalid_argument,
                 "offset " + std::to_string(offset) + " is not inside the code (" + std::to_string(code.size()) + " bytes)"};
  const Bytes rest = code.subspan(offset);
  const llvm::ArrayRef<std::uint8_t> bytes(reinterpret_cast<const std::uint8_t*>(rest.data()), rest.size());
  llvm::MCInst inst;
  std::uint64_t size = 0;
  const Addr address = code_begin + offset;
  if (decoder->getInstruction(inst, size, bytes, address.value, llvm::nulls()) != llvm::MCDisassembler::Success)
    return Error{ErrorCode::malformed, "no instruction at offset " + std::to_string(offset)};

  Instruction instruction;
  instruction.offset = offset;
  instruction.size = static_cast<unsigned>(size);
  instruction.opcode = instructions->getName(inst.getOpcode());
  const llvm::MCInstrDesc& description = instructions->get(inst.getOpcode());
  instruction.call = description.isCall();
  instruction.branch = description.isBranch();
  instruction.returns = description.isReturn();
  // LLVM keeps mnemonics in one static table, padded with blanks or tabs.
  if (const char* mnemonic = printer->getMnemonic(inst).first) {
    const std::string_view text(mnemonic);
    instruction.mnemonic = text.substr(0, text.find_first_of(" \t"));
  }
  if (detail == Detail::full) describe(inst, address, instruction);
  return instruction;
}

void Disassembler::State::describe(const llvm::MCInst& inst, Addr address, Instruction& instruction) {
  instruction.operands.reserve(inst.getNumOperands());
  for (const llvm::MCOperand& operand : inst) {
    if (operand.isReg())
      instruction.operands.push_back({Operand::Kind::reg, static_cast<std::int64_t>(operand.getReg().id())});
    else if (operand.isImm())
      instruction.operands.push_back({Operand::Kind::immediate, operand.getImm()});
    else
      instruction.operands.push_back({});
  }
  llvm::raw_string_ostream stream(instruction.text);
  // Displacements count from the end of the instruction, and the printer adds them to what it is told.
  printer->printInst(&inst, (address + instruction.size).value, "", *subtarget, stream);
  // "\tmovl\t$0x1, %eax" reads better in a message as "movl $0x1, %eax".
  instruction.text.erase(0, instruction.text.find_first_not_of('\t'));
  for (char& c : instruction.text)
    if (c == '\t') c = ' ';
}

Disassembler::Disassembler(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Disassembler::Disassembler(Disassembler&&) noexcept = default;
Disassembler& Disassembler::operator=(Disassembler&&) noexcept = default;
Disassembler::~Disassembler() = default;

Result<Disassembler> Disassembler::create(Machine machine) {
  return base::guarded([&]() -> Result<Disassembler> {
    auto state = std::make_unique<State>();
    if (machine != Machine::x86_64 || !state->build())
      return Error{ErrorCode::unsupported, "no disassembler for this machine: only x86-64 is served"};
    return Disassembler(std::move(state));
  });
}

Result<Disassembler::Instruction> Disassembler::decode(Bytes code, std::uint64_t offset, Addr code_begin, Detail detail) {
  return base::guarded([&] { return state_->decode(code, offset, code_begin, detail); });
}

} // namespace tenon
