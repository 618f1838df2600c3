// IR that the tests of the compile layer share, and helpers to look into objects.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/llvm.h>

#include <string>
#include <string_view>
#include <vector>

namespace tenon::testing {

inline Bytes bytes_of(std::string_view text) { return std::as_bytes(std::span<const char>(text.data(), text.size())); }

inline constexpr std::string_view add_ir = R"(
define i32 @add(i32 %a, i32 %b) {
  %sum = add i32 %a, %b
  ret i32 %sum
}
)";

// Exception tables, a jump table, thread-local data, constants in pools, COMDAT, initializers, debug information,
// module-level and inline assembly: what the back end keeps state for.
inline constexpr std::string_view rich_ir = R"(
source_filename = "rich.cpp"
module asm ".globl from_assembly"
module asm "from_assembly: ret"
$once = comdat any
@counter = thread_local global i32 7
@text = private unnamed_addr constant [6 x i8] c"hello\00"
@table = global [2 x ptr] [ptr @once, ptr @text]
@zeros = global [64 x i8] zeroinitializer
@llvm.global_ctors = appending global [1 x { i32, ptr, ptr }] [{ i32, ptr, ptr } { i32 101, ptr @start, ptr null }]

declare i32 @__gxx_personality_v0(...)
declare void @may_throw(i32)
declare void @llvm.dbg.value(metadata, metadata, metadata)

define internal void @start() {
  store i32 9, ptr @counter
  ret void
}

define linkonce_odr i32 @once(i32 %n) comdat {
  %r = mul i32 %n, 3
  ret i32 %r
}

define double @scale(double %x) {
  %y = fmul double %x, 3.25
  ret double %y
}

define i32 @select(i32 %n) personality ptr @__gxx_personality_v0 !dbg !5 {
entry:
  call void @llvm.dbg.value(metadata i32 %n, metadata !8, metadata !DIExpression()), !dbg !10
  switch i32 %n, label %other [ i32 0, label %a  i32 1, label %b  i32 2, label %c  i32 3, label %d  i32 4, label %e ]
a:
  ret i32 17
b:
  %old = load i32, ptr @counter, !dbg !10
  ret i32 %old
c:
  %once = call i32 @once(i32 %n), !dbg !10
  ret i32 %once
d:
  call void asm sideeffect "nop", ""(), !dbg !10
  ret i32 -5
e:
  invoke void @may_throw(i32 %n) to label %other unwind label %caught, !dbg !10
other:
  ret i32 1000
caught:
  %pad = landingpad { ptr, i32 } catch ptr null
  ret i32 77
}

!llvm.dbg.cu = !{!0}
!llvm.module.flags = !{!2, !3}
!0 = distinct !DICompileUnit(language: DW_LANG_C_plus_plus, file: !1, emissionKind: FullDebug)
!1 = !DIFile(filename: "rich.cpp", directory: "/src")
!2 = !{i32 2, !"Debug Info Version", i32 3}
!3 = !{i32 7, !"PIE Level", i32 2}
!5 = distinct !DISubprogram(name: "select", scope: !1, file: !1, line: 3, type: !6, unit: !0, spFlags: DISPFlagDefinition,
                         retainedNodes: !9)
!6 = !DISubroutineType(types: !7)
!7 = !{!11, !11}
!8 = !DILocalVariable(name: "n", arg: 1, scope: !5, file: !1, line: 3, type: !11)
!9 = !{!8}
!10 = !DILocation(line: 4, column: 1, scope: !5)
!11 = !DIBasicType(name: "int", size: 32, encoding: DW_ATE_signed)
)";

inline std::string numbered_ir(int number) {
  const std::string n = std::to_string(number);
  return "define i32 @f" + n + "(i32 %a) {\n  %r = add i32 %a, " + n + "\n  ret i32 %r\n}\n";
}

inline const Section* find_section(const Object& object, std::string_view name) {
  for (const Section& section : object.sections())
    if (section.name == name) return &section;
  return nullptr;
}

inline const Symbol* find_symbol(const Object& object, std::string_view name) {
  for (const Symbol& symbol : object.symbols())
    if (symbol.name() == name) return &symbol;
  return nullptr;
}

// The relocation types of all code sections.
inline std::vector<std::uint32_t> code_relocations(const Object& object) {
  std::vector<std::uint32_t> types;
  for (std::uint32_t i = 0; i < object.sections().size(); ++i)
    if (object.sections()[i].kind == SectionKind::code)
      for (const Relocation& relocation : object.relocations(i)) types.push_back(relocation.type);
  return types;
}

inline std::string string_of(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

} // namespace tenon::testing
