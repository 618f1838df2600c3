// Order of static initializers by priority and then by module, of finalizers and atexit handlers in reverse.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "init_order.h"
#include <cstdio>
#include <cstdlib>

void use_a();
void use_b();

void note(const char* text) { std::printf("%s\n", text); }

Global::Global(const char* n) : name(n) { std::printf("+%s\n", name); }
Global::~Global() { std::printf("-%s\n", name); }

namespace {
Global main_global("main global");
void with_argument(int status, void* argument) {
  std::printf("on_exit %d %s\n", status, static_cast<const char*>(argument));
}
} // namespace

int main() {
  note("main begins");
  std::atexit([] {
    note("atexit 1");
    std::atexit([] { note("registered while exiting"); });
  });
  use_b();
  use_a();
  use_b();
  static Global local("main local static");
  std::atexit([] { note("atexit 2"); });
  on_exit(with_argument, const_cast<char*>("argument"));
  note("main ends");
  std::exit(5);
}
