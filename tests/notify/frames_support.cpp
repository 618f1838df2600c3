// Machine code and unwind information by hand: x86-64 psABI, LSB .eh_frame.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "frames_support.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

extern "C" {
struct dwarf_eh_bases {
  void* tbase;
  void* dbase;
  void* func;
};
const void* _Unwind_Find_FDE(void* pc, struct dwarf_eh_bases* bases);
}

namespace tenon::test {

namespace {

template <class T> T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "%s\n", result.error().message.c_str());
    std::abort();
  }
  return std::move(result).value();
}
void must(Result<void> result) {
  if (!result) {
    std::fprintf(stderr, "%s\n", result.error().message.c_str());
    std::abort();
  }
}

constexpr unsigned char cie[] = {
    20,   0, 0, 0, 0, 0, 0, 0, 1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x1B, 0x0C, 7, 8, // DW_CFA_def_cfa rsp+8
    0x90, 1,                                                                     // DW_CFA_offset return address at cfa-8
    0,    0,
};
constexpr std::size_t fde_size = 24;

} // namespace

const void* find_fde(Addr pc) {
  dwarf_eh_bases bases{};
  return _Unwind_Find_FDE(pc.as<void*>(), &bases);
}

const void* Module::expected(Addr pc) const {
  for (std::size_t i = 0, frame = 0; i < functions.size(); ++i) {
    const bool has_frame = frame < frames.size() && frames[frame].pc == functions[i];
    if (has_frame && pc >= functions[i] && pc < functions[i] + sizes[i]) return frames[frame].fde.as<const void*>();
    frame += has_frame;
  }
  return nullptr;
}

std::vector<std::byte> make_code(const FunctionSpec& spec) {
  static constexpr unsigned char enter[] = {0x48, 0x83, 0xEC, 0x08};       // sub $8, %rsp
  static constexpr unsigned char call[] = {0xFF, 0xD7};                    // call *%rdi
  static constexpr unsigned char leave[] = {0x48, 0x83, 0xC4, 0x08, 0xC3}; // add $8, %rsp; ret
  std::vector<std::byte> code(spec.size, std::byte{0x90});
  std::memcpy(code.data(), enter, sizeof enter);
  std::byte* at = spec.ends_in_call ? code.data() + spec.size - sizeof call : code.data() + sizeof enter;
  std::memcpy(at, call, sizeof call);
  if (!spec.ends_in_call) std::memcpy(at + sizeof call, leave, sizeof leave);
  return code;
}

std::vector<std::byte> make_eh_frame(Addr place, const std::vector<notify::Frame>& functions,
                                     const std::vector<std::uint64_t>& sizes, std::vector<Addr>& descriptions) {
  std::vector<std::byte> out(sizeof cie + functions.size() * fde_size + 4);
  std::memcpy(out.data(), cie, sizeof cie);
  for (std::size_t i = 0; i < functions.size(); ++i) {
    const std::size_t at = sizeof cie + i * fde_size;
    const auto pc_begin = static_cast<std::int32_t>(functions[i].pc.value - (place.value + at + 8));
    const std::uint32_t words[] = {fde_size - 4, static_cast<std::uint32_t>(at + 4), static_cast<std::uint32_t>(pc_begin),
                                   static_cast<std::uint32_t>(sizes[i])};
    // No augmentation data; after the first instruction (4 bytes) the frame has 16 bytes.
    static constexpr unsigned char tail[] = {0, 0x44, 0x0E, 16, 0, 0, 0, 0};
    std::memcpy(out.data() + at, words, sizeof words);
    std::memcpy(out.data() + at + sizeof words, tail, sizeof tail);
    descriptions.push_back(place + at);
  }
  return out;
}

Engine::Engine(std::uint64_t size, memory::Mapping mapping) {
  memory::SpaceOptions options;
  options.mapping = mapping;
  options.size = size;
  space_ = must(memory::Space::create(options, must(notify::reserve_anchor(options))));
  frames_ = std::make_unique<notify::Frames>(must(notify::Frames::create(*space_)));
}

Module Engine::emit(const std::vector<FunctionSpec>& functions, std::uint32_t spare_slots) {
  Module module;
  std::vector<std::byte> code;
  std::size_t described = 0;
  for (const FunctionSpec& function : functions) {
    const auto bytes = make_code(function);
    code.insert(code.end(), bytes.begin(), bytes.end());
    described += function.has_frame;
  }
  module.code = must(space_->allocate(memory::AreaKind::code, std::max<std::size_t>(code.size(), 1), 16,
                                      notify::Frames::slots_for(described) + spare_slots));
  module.unwind = must(space_->allocate(memory::AreaKind::rodata, sizeof cie + described * fde_size + 4, 8));

  std::vector<std::uint64_t> described_sizes;
  Addr at = module.code.begin;
  for (const FunctionSpec& function : functions) {
    module.functions.push_back(at);
    module.sizes.push_back(function.size);
    if (function.has_frame) {
      module.frames.push_back({at, {}});
      described_sizes.push_back(function.size);
    }
    at = at + function.size;
  }
  std::vector<Addr> descriptions;
  const auto unwind = make_eh_frame(module.unwind.begin, module.frames, described_sizes, descriptions);
  for (std::size_t i = 0; i < described; ++i) module.frames[i].fde = descriptions[i];

  const memory::WriteGuard guard(*space_);
  std::copy(code.begin(), code.end(), space_->writable(module.code.begin));
  std::copy(unwind.begin(), unwind.end(), space_->writable(module.unwind.begin));
  return module;
}

void Engine::prepare(const Module& module) { must(frames_->prepare(module.code)); }

void Engine::add(const Module& module) {
  {
    const memory::WriteGuard guard(*space_);
    frames_->add(module.code, module.frames);
  }
  must(space_->publish(module.unwind));
  must(space_->publish(module.code));
}

Module Engine::load(const std::vector<FunctionSpec>& functions, std::uint32_t spare_slots) {
  Module module = emit(functions, spare_slots);
  prepare(module);
  add(module);
  return module;
}

void Engine::unload(const Module& module) {
  {
    const memory::WriteGuard guard(*space_);
    frames_->remove(module.code);
  }
  free(module);
}

void Engine::free(const Module& module) {
  space_->free(module.code);
  space_->free(module.unwind);
}

} // namespace tenon::test
