// IR in the form that clang gives it before any pass, for the tests of CompileOptions::replaceable; and looks into objects.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "samples.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <tuple>

namespace tenon::testing {

inline constexpr OptLevel all_levels[] = {OptLevel::O0, OptLevel::O1, OptLevel::O2, OptLevel::O3};

// A static function in all the uses that invite conclusions about it. `body` is the function's; what calls it is the same
// whatever the body is.
inline std::string with_callee(std::string_view body) {
  return R"(
@state = internal global i32 0
declare i32 @__gxx_personality_v0(...)
declare void @handled()
define internal i32 @callee(i32 %a, i32 %b, ptr %p) {
)" + std::string(body) +
         R"(}
define i32 @twice(i32 %x, ptr %p) {
  %first = call i32 @callee(i32 %x, i32 2, ptr %p)
  %second = call i32 @callee(i32 %x, i32 2, ptr %p)
  %sum = add i32 %first, %second
  ret i32 %sum
}
define i32 @keeps_values(i32 %x, i32 %y, i32 %z, ptr %p) {
  %before = load i32, ptr %p
  %r = call i32 @callee(i32 %x, i32 %y, ptr %p)
  %after = load i32, ptr %p
  %s = sub i32 %after, %before
  %t = mul i32 %s, %z
  %u = add i32 %t, %y
  %v = add i32 %u, %r
  ret i32 %v
}
define void @drops(i32 %x, ptr %p) {
  %r = call i32 @callee(i32 %x, i32 0, ptr %p)
  ret void
}
define i32 @tail(i32 %x, ptr %p) {
  %r = call i32 @callee(i32 %x, i32 1, ptr %p)
  ret i32 %r
}
define i32 @catches(i32 %x, ptr %p) personality ptr @__gxx_personality_v0 {
  %r = invoke i32 @callee(i32 %x, i32 3, ptr %p) to label %done unwind label %caught
done:
  ret i32 %r
caught:
  %pad = landingpad { ptr, i32 } catch ptr null
  call void @handled()
  ret i32 -1
}
)";
}

// Bodies that each invite another conclusion: pure, constant, returning an argument, without any effect, not returning.
inline constexpr std::string_view callee_bodies[] = {
    "  %r = mul i32 %a, 3\n  ret i32 %r\n",
    "  ret i32 42\n",
    "  ret i32 %b\n",
    "  %v = load i32, ptr %p\n  ret i32 %v\n",
    "  store i32 %a, ptr %p\n  store i32 %b, ptr @state\n  ret i32 0\n",
    "  call void @handled()\n  unreachable\n",
};

// Variables that LLVM would make smaller, align further, take apart, make constant or drop; and a COMDAT's.
inline constexpr std::string_view variables_ir = R"(
$shared = comdat any
@flag = internal global i32 0, align 4
@never_written = internal global i32 7, align 4
@parts = internal global { i32, i64 } { i32 1, i64 2 }, align 8
@buffer = internal global [40 x i8] zeroinitializer, align 4
@origin = internal constant [40 x i8] c"0123456789012345678901234567890123456789", align 4
@table = internal constant [4 x i32] [i32 1, i32 2, i32 3, i32 4], align 4
@unused = internal global i64 5, align 8
@only_stored = internal global i32 0, align 4
@count.0 = internal global i32 3, align 4
@exported = global i32 9, align 4
@hidden = hidden global i32 9, align 4
@per_thread = internal thread_local global i32 1, align 4
@shared = linkonce_odr global i32 0, comdat, align 4
@tentative = common global i32 0, align 4
@private = private global i32 0, align 4
@.str = private unnamed_addr constant [4 x i8] c"abc\00"
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define void @set() {
  store i32 1, ptr @flag, align 4
  store i32 1, ptr @only_stored, align 4
  store i32 2, ptr @private, align 4
  call void @llvm.memcpy.p0.p0.i64(ptr align 4 @buffer, ptr align 4 @origin, i64 40, i1 false)
  ret void
}
define i32 @get(i32 %i) {
  %a = load i32, ptr @flag, align 4
  %b = load i32, ptr @never_written, align 4
  %c = load i32, ptr @parts, align 4
  %d = load i32, ptr getelementptr ([4 x i32], ptr @table, i64 0, i64 2), align 4
  %e = load i32, ptr @per_thread, align 4
  %f = load i32, ptr @shared, align 4
  %g = load i32, ptr @private, align 4
  %h = load i32, ptr @tentative, align 4
  %n = load i32, ptr @count.0, align 4
  store i32 %i, ptr @count.0, align 4
  %ab = add i32 %a, %b
  %cd = add i32 %c, %d
  %ef = add i32 %e, %f
  %gh = add i32 %g, %h
  %abcd = add i32 %ab, %cd
  %efgh = add i32 %ef, %gh
  %all = add i32 %abcd, %efgh
  %r = add i32 %all, %n
  ret i32 %r
}
)";

// Initializers as clang makes them: a constructor with a destructor, a result that is stored, one that reads another's
// variable, one that writes two variables, one with a priority and one of a COMDAT variable.
inline constexpr std::string_view initializers_ir = R"(
$inline_one = comdat any
@object = global i32 0, align 4
@_ZL6result = internal global i32 0, align 4
@derived = global i32 0, align 4
@left = global i32 0, align 4
@right = global i32 0, align 4
@early = global i32 0, align 4
@inline_one = linkonce_odr global i32 0, comdat, align 4
@_ZGV10inline_one = linkonce_odr global i64 0, comdat($inline_one), align 8
@__dso_handle = external hidden global i8
@llvm.global_ctors = appending global [3 x { i32, ptr, ptr }] [
  { i32, ptr, ptr } { i32 101, ptr @_GLOBAL__I_000101, ptr null },
  { i32, ptr, ptr } { i32 65535, ptr @__cxx_global_var_init.5, ptr @inline_one },
  { i32, ptr, ptr } { i32 65535, ptr @_GLOBAL__sub_I_file.cpp, ptr null }]
declare void @_ZN1SC1Ei(ptr, i32)
declare i32 @__cxa_atexit(ptr, ptr, ptr)
declare i32 @value()
define linkonce_odr void @_ZN1SD2Ev(ptr %this) {
  ret void
}
define internal void @__cxx_global_var_init() section ".text.startup" {
  call void @_ZN1SC1Ei(ptr @object, i32 1)
  %r = call i32 @__cxa_atexit(ptr @_ZN1SD2Ev, ptr @object, ptr @__dso_handle)
  ret void
}
define internal void @__cxx_global_var_init.1() section ".text.startup" {
  %v = call i32 @value()
  store i32 %v, ptr @_ZL6result, align 4
  ret void
}
define internal void @__cxx_global_var_init.2() section ".text.startup" {
  %v = load i32, ptr @_ZL6result, align 4
  %w = add i32 %v, 1
  store i32 %w, ptr @_ZL6result, align 4
  store i32 %w, ptr @derived, align 4
  ret void
}
define internal void @__cxx_global_var_init.3() section ".text.startup" {
  store i32 1, ptr @left, align 4
  store i32 2, ptr @right, align 4
  ret void
}
define internal void @__cxx_global_var_init.4() section ".text.startup" {
  store i32 3, ptr @early, align 4
  ret void
}
define internal void @__cxx_global_var_init.5() section ".text.startup" comdat($inline_one) {
  store i64 1, ptr @_ZGV10inline_one, align 8
  %v = call i32 @value()
  store i32 %v, ptr @inline_one, align 4
  ret void
}
define internal void @_GLOBAL__I_000101() section ".text.startup" {
  call void @__cxx_global_var_init.4()
  ret void
}
define internal void @_GLOBAL__sub_I_file.cpp() section ".text.startup" {
  call void @__cxx_global_var_init()
  call void @__cxx_global_var_init.1()
  call void @__cxx_global_var_init.2()
  call void @__cxx_global_var_init.3()
  ret void
}
)";

inline Object compiled(const CompileOptions& options, std::string_view ir, std::string name = "m") {
  auto compiler = Compiler::create(options);
  auto object = compiler ? compiler->compile_ir(bytes_of(ir), std::move(name)) : compiler.error();
  if (!object) {
    ADD_FAILURE() << object.error().message;
    std::abort();
  }
  return std::move(*object);
}

inline CompileOptions replaceable_at(OptLevel level) {
  CompileOptions options;
  options.level = level;
  options.replaceable = true;
  return options;
}

// What a relocation names: a section symbol as its section.
inline std::string name_of_target(const Object& object, const Relocation& relocation) {
  const Symbol& symbol = object.symbols()[relocation.symbol];
  return std::string(symbol.type == SymbolType::section ? object.sections()[symbol.section].name : symbol.name());
}

// The bytes of a section and what its relocations say.
inline std::string picture(const Object& object, std::string_view section) {
  for (std::uint32_t i = 0; i < object.sections().size(); ++i) {
    if (object.sections()[i].name != section) continue;
    std::string text = string_of(object.sections()[i].content);
    for (const Relocation& relocation : object.relocations(i))
      text += "\n" + std::to_string(relocation.offset) + " " + std::to_string(relocation.type) + " " +
              name_of_target(object, relocation) + " " + std::to_string(relocation.addend);
    return text;
  }
  ADD_FAILURE() << "no section " << section;
  return {};
}

struct Sites {
  unsigned all = 0;
  unsigned aligned = 0; // the displacement lies inside an aligned 8-byte word
};

// Direct calls and jumps (E8, E9) with a relocation; those of __tls_get_addr are part of a fixed sequence.
inline Sites call_sites(const Object& object) {
  constexpr std::uint32_t r_pc32 = 2, r_plt32 = 4;
  Sites sites;
  for (std::uint32_t i = 0; i < object.sections().size(); ++i) {
    const Section& section = object.sections()[i];
    if (section.kind != SectionKind::code) continue;
    for (const Relocation& relocation : object.relocations(i)) {
      if ((relocation.type != r_pc32 && relocation.type != r_plt32) || relocation.offset == 0) continue;
      const auto opcode = std::to_integer<unsigned>(section.content[relocation.offset - 1]);
      if ((opcode != 0xe8 && opcode != 0xe9) || name_of_target(object, relocation) == "__tls_get_addr") continue;
      ++sites.all;
      if (section.alignment >= 8 && relocation.offset % 8 <= 4) ++sites.aligned;
    }
  }
  return sites;
}

// Name, size, binding, visibility, type and alignment of each variable that the object shows, but compilers' own.
using Variable = std::tuple<std::string, std::uint64_t, Binding, Visibility, SymbolType, std::uint32_t>;
inline std::set<Variable> variables_of(const Object& object) {
  std::set<Variable> variables;
  for (const Symbol& symbol : object.symbols()) {
    const bool data =
        symbol.type == SymbolType::object || symbol.type == SymbolType::tls || symbol.type == SymbolType::common;
    if (!data || symbol.name().starts_with(".L") || symbol.name().starts_with("switch.table")) continue;
    const std::uint32_t alignment = symbol.section < object.sections().size() ? object.sections()[symbol.section].alignment
                                                                              : static_cast<std::uint32_t>(symbol.value);
    variables.insert({std::string(symbol.name()), symbol.size, symbol.binding, symbol.visibility, symbol.type, alignment});
  }
  return variables;
}

inline std::set<std::string> functions_of(const Object& object) {
  std::set<std::string> names;
  for (const Symbol& symbol : object.symbols())
    if (symbol.type == SymbolType::function && symbol.defined())
      names.insert(std::string(symbol.name()) + (symbol.is_local()                 ? " local"
                                                 : symbol.binding == Binding::weak ? " weak"
                                                                                   : ""));
  return names;
}

} // namespace tenon::testing
