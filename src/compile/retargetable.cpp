// LLVM can align branches (-x86-align-branch), but only as an option of the process, only calls without @PLT, and away from
// the end of the word, too. So the streamer is ours. Before a direct call or tail call it asks for alignment to 8 if that
// takes at most 4 bytes: the instruction then begins at 0 to 3 modulo 8, and its last 4 bytes lie inside one aligned word.
// It is the assembler's ordinary alignment: right whatever is relaxed around it, at 1.25 bytes per call on average.
//
// The code emitter is wrapped for the relocations: one for each call, against the function's own symbol, where the assembler
// would resolve a call of a local function to itself and name sections instead of local functions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "compile/retargetable.h"

#include <llvm/BinaryFormat/ELF.h>
#include <llvm/MC/MCAsmBackend.h>
#include <llvm/MC/MCCodeEmitter.h>
#include <llvm/MC/MCELFStreamer.h>
#include <llvm/MC/MCExpr.h>
#include <llvm/MC/MCFixup.h>
#include <llvm/MC/MCInst.h>
#include <llvm/MC/MCInstrInfo.h>
#include <llvm/MC/MCObjectWriter.h>
#include <llvm/MC/MCSubtargetInfo.h>
#include <llvm/MC/MCSymbol.h>
#include <llvm/MC/TargetRegistry.h>

namespace tenon::compile_layer {

namespace {

// LLVM's numbers of the instructions; the header that has them is not installed.
struct Opcodes {
  explicit Opcodes(const llvm::MCInstrInfo& instructions) {
    for (unsigned i = 0; i < instructions.getNumOpcodes(); ++i) {
      const llvm::StringRef name = instructions.getName(i);
      if (name == "CALL64pcrel32") call = i;
      if (name == "JMP_1") short_jump = i;
      if (name == "JMP_4") jump = i;
      if (name == "JCC_1") short_conditional = i;
      if (name == "JCC_4") conditional = i;
    }
  }
  bool complete() const { return call && short_jump && jump && short_conditional && conditional; }

  unsigned call = 0, short_jump = 0, jump = 0, short_conditional = 0, conditional = 0;
};

// What a call or jump goes to, if it is a symbol that the object shows: not a label inside a function.
const llvm::MCSymbol* target_of(const llvm::MCInst& inst) {
  if (inst.getNumOperands() == 0 || !inst.getOperand(0).isExpr()) return nullptr;
  const auto* reference = llvm::dyn_cast<llvm::MCSymbolRefExpr>(inst.getOperand(0).getExpr());
  if (!reference || reference->getSymbol().isTemporary()) return nullptr;
  return &reference->getSymbol();
}

class Emitter final : public llvm::MCCodeEmitter {
public:
  Emitter(std::unique_ptr<llvm::MCCodeEmitter> inner, const Opcodes& opcodes)
      : inner_(std::move(inner)), opcodes_(opcodes) {}

  void reset() override { inner_->reset(); }

  void encodeInstruction(const llvm::MCInst& inst, llvm::SmallVectorImpl<char>& bytes,
                         llvm::SmallVectorImpl<llvm::MCFixup>& fixups,
                         const llvm::MCSubtargetInfo& subtarget) const override {
    const std::size_t before = fixups.size();
    inner_->encodeInstruction(inst, bytes, fixups, subtarget);
    const unsigned opcode = inst.getOpcode();
    if (opcode != opcodes_.call && opcode != opcodes_.jump && opcode != opcodes_.conditional) return;
    if (fixups.size() != before + 1 || !target_of(inst)) return;
    // As if by `.reloc`: always a relocation, and against the symbol itself.
    constexpr llvm::MCFixupKind kind = llvm::FirstLiteralRelocationKind + int(llvm::ELF::R_X86_64_PLT32);
    const llvm::MCFixup& old = fixups.back();
    fixups.back() = llvm::MCFixup::create(old.getOffset(), old.getValue(), kind, old.isPCRel());
  }

private:
  std::unique_ptr<llvm::MCCodeEmitter> inner_;
  const Opcodes& opcodes_;
};

class Streamer final : public llvm::MCELFStreamer {
public:
  Streamer(llvm::MCContext& context, std::unique_ptr<llvm::MCAsmBackend> backend,
           std::unique_ptr<llvm::MCObjectWriter> writer, std::unique_ptr<llvm::MCCodeEmitter> emitter,
           const Opcodes& opcodes)
      : MCELFStreamer(context, std::move(backend), std::move(writer), std::move(emitter)), opcodes_(opcodes) {
    setAllowAutoPadding(true);
  }

  void reset() override {
    MCELFStreamer::reset();
    setAllowAutoPadding(true);
  }

  void emitInstruction(const llvm::MCInst& inst, const llvm::MCSubtargetInfo& subtarget) override {
    const llvm::MCSymbol* target = target_of(inst);
    // LLVM takes the permission away where a sequence must have the length that it planned.
    if (!target || !getAllowAutoPadding()) return MCELFStreamer::emitInstruction(inst, subtarget);
    llvm::MCInst site = inst;
    if (inst.getOpcode() == opcodes_.short_jump) site.setOpcode(opcodes_.jump);
    if (inst.getOpcode() == opcodes_.short_conditional) site.setOpcode(opcodes_.conditional);
    const unsigned opcode = site.getOpcode();
    // The call of __tls_get_addr is the end of a sequence that linkers know by its bytes.
    const bool call = opcode == opcodes_.call && target->getName() != "__tls_get_addr";
    const llvm::Align word(8);
    if (call || opcode == opcodes_.jump) emitCodeAlignment(word, &subtarget, 4);
    if (opcode == opcodes_.conditional) emitCodeAlignment(word, &subtarget, 5); // one byte longer: 0 to 2 modulo 8
    MCELFStreamer::emitInstruction(site, subtarget);
  }

private:
  const Opcodes& opcodes_;
};

} // namespace

std::unique_ptr<llvm::MCStreamer> create_retargetable_streamer(const llvm::TargetMachine& machine, llvm::MCContext& context,
                                                               llvm::raw_pwrite_stream& out) {
  const llvm::Triple& triple = machine.getTargetTriple();
  if (triple.getArch() != llvm::Triple::x86_64 || !triple.isOSBinFormatELF()) return nullptr;
  const llvm::Target& target = machine.getTarget();
  const llvm::MCInstrInfo& instructions = *machine.getMCInstrInfo();
  static const Opcodes opcodes(instructions);
  if (!opcodes.complete()) return nullptr;
  std::unique_ptr<llvm::MCCodeEmitter> encoder(target.createMCCodeEmitter(instructions, context));
  std::unique_ptr<llvm::MCAsmBackend> backend(
      target.createMCAsmBackend(*machine.getMCSubtargetInfo(), *machine.getMCRegisterInfo(), machine.Options.MCOptions));
  if (!encoder || !backend) return nullptr;
  std::unique_ptr<llvm::MCObjectWriter> writer = backend->createObjectWriter(out);
  auto streamer = std::make_unique<Streamer>(context, std::move(backend), std::move(writer),
                                             std::make_unique<Emitter>(std::move(encoder), opcodes), opcodes);
  new llvm::MCTargetStreamer(*streamer); // which belongs to the streamer from here
  return streamer;
}

} // namespace tenon::compile_layer
