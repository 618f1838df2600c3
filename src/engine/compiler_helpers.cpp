// libgcc's integer, quad-precision and complex helpers ("The GCC low-level runtime library", GCC internals manual, chapter
// 4). They have no other way out of this library: each is listed. What is not, is searched for in the system's libgcc.a.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/compiler_helpers.h"

#include <algorithm>
#include <iterator>

// clang-format off
#define TENON_COMPILER_HELPERS(X)                                                                                        \
  X(__absvdi2) X(__absvsi2) X(__absvti2) X(__addtf3) X(__addvdi3) X(__addvsi3) X(__addvti3) X(__ashlti3) X(__ashrti3)    \
  X(__bswapdi2) X(__bswapsi2) X(__clrsbdi2) X(__clrsbti2) X(__clzdi2) X(__clzti2) X(__cmpti2) X(__ctzdi2) X(__ctzti2)    \
  X(__divdc3) X(__divmodti4) X(__divsc3) X(__divtc3) X(__divtf3) X(__divti3) X(__divxc3) X(__eqtf2) X(__extenddftf2)     \
  X(__extendsftf2) X(__extendxftf2) X(__ffsdi2) X(__ffsti2) X(__fixdfti) X(__fixsfti) X(__fixtfdi) X(__fixtfsi)          \
  X(__fixtfti) X(__fixunsdfdi) X(__fixunsdfti) X(__fixunssfdi) X(__fixunssfti) X(__fixunstfdi) X(__fixunstfsi)           \
  X(__fixunstfti) X(__fixunsxfdi) X(__fixunsxfti) X(__fixxfti) X(__floatditf) X(__floatsitf) X(__floattidf)              \
  X(__floattisf) X(__floattitf) X(__floattixf) X(__floatunditf) X(__floatunsitf) X(__floatuntidf) X(__floatuntisf)       \
  X(__floatuntitf) X(__floatuntixf) X(__getf2) X(__gttf2) X(__letf2) X(__lshrti3) X(__lttf2) X(__modti3) X(__muldc3)     \
  X(__mulsc3) X(__multc3) X(__multf3) X(__multi3) X(__mulvdi3) X(__mulvsi3) X(__mulvti3) X(__mulxc3) X(__negtf2)         \
  X(__negti2) X(__negvdi2) X(__negvsi2) X(__negvti2) X(__netf2) X(__paritydi2) X(__parityti2) X(__popcountdi2)           \
  X(__popcountti2) X(__powidf2) X(__powisf2) X(__powitf2) X(__powixf2) X(__subtf3) X(__subvdi3) X(__subvsi3)             \
  X(__subvti3) X(__trunctfdf2) X(__trunctfsf2) X(__trunctfxf2) X(__ucmpti2) X(__udivmodti4) X(__udivti3) X(__umodti3)    \
  X(__unordtf2)
// clang-format on

// By their assembler names: the compiler has its own idea of what some of them take.
#define TENON_DECLARE(name) extern "C" void tenon_helper_##name() __asm__(#name);
TENON_COMPILER_HELPERS(TENON_DECLARE)
#undef TENON_DECLARE

namespace tenon::engine {

namespace {

struct Helper {
  std::string_view name;
  void (*function)();
};

#define TENON_ENTRY(name) {#name, &tenon_helper_##name},
constexpr Helper helpers[] = {TENON_COMPILER_HELPERS(TENON_ENTRY)};
#undef TENON_ENTRY

} // namespace

std::uint64_t compiler_helper_address(std::string_view name) noexcept {
  if (!name.starts_with("__")) return 0;
  auto found =
      std::find_if(std::begin(helpers), std::end(helpers), [&](const Helper& helper) { return helper.name == name; });
  return found == std::end(helpers) ? 0 : reinterpret_cast<std::uint64_t>(found->function);
}

} // namespace tenon::engine
