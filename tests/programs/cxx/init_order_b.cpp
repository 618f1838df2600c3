// Initializers and finalizers of module b: globals, init_priority, constructor and destructor attributes, local statics.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "init_order.h"
#include <cstdlib>

namespace {
Global plain_first("b plain 1");
Global early __attribute__((init_priority(300))) ("b priority 300");
Global plain_second("b plain 2");
Global earlier __attribute__((init_priority(200))) ("b priority low");

__attribute__((constructor)) void constructor() { note("b constructor"); }
__attribute__((constructor(150))) void early_constructor() { note("b constructor 150"); }
__attribute__((destructor)) void destructor() { note("b destructor"); }
__attribute__((destructor(150))) void late_destructor() { note("b destructor 150"); }
} // namespace

void use_b() {
  static Global local("b local static");
  std::atexit([] { note("b atexit"); });
}
