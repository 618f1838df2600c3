// Initializers and finalizers of module a: globals, init_priority, constructor and destructor attributes, local statics.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "init_order.h"
#include <cstdlib>

namespace {
Global plain_first("a plain 1");
Global early __attribute__((init_priority(300))) ("a priority 300");
Global plain_second("a plain 2");
Global earlier __attribute__((init_priority(250))) ("a priority low");

__attribute__((constructor)) void constructor() { note("a constructor"); }
__attribute__((constructor(150))) void early_constructor() { note("a constructor 150"); }
__attribute__((destructor)) void destructor() { note("a destructor"); }
__attribute__((destructor(150))) void late_destructor() { note("a destructor 150"); }
} // namespace

void use_a() {
  static Global local("a local static");
  std::atexit([] { note("a atexit"); });
}
