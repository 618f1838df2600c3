// The first program of the README: LLVM IR goes in, a function that can be called comes out.
//
// README.md shows this program, without this head and with nothing else changed; a test compiles and runs the README's copy.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <tenon/llvm.h>
#include <tenon/tenon.h>

#include <cstdio>
#include <cstdlib>

// The value, or the end of the program with the error's text.
template <class T> T need(tenon::Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "%s\n", result.error().message.c_str());
  std::exit(1);
}

int main() {
  const std::string_view ir = "define i32 @twice(i32 %x) {\n  %y = add i32 %x, %x\n  ret i32 %y\n}\n";
  tenon::Compiler compiler = need(tenon::Compiler::create());
  tenon::Object object = need(compiler.compile_ir(std::as_bytes(std::span(ir)), "twice.ll"));

  tenon::Engine engine = need(tenon::Engine::create());
  tenon::Library library = need(engine.library("app"));
  tenon::Change change = engine.change();
  change.add(library, object);
  tenon::Draft draft = need(std::move(change).draft());  // symbols are resolved, sizes are known
  tenon::Placed placed = need(std::move(draft).place()); // addresses are chosen
  tenon::Linked linked = need(std::move(placed).link()); // bytes are final; nobody can see them yet
  need(std::move(linked).commit());                      // visible as a whole

  auto twice = need(library.function<int(int)>("twice"));
  std::printf("twice(21) = %d\n", twice(21));
  return twice(21) == 42 ? 0 : 1;
}
