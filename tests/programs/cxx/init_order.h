// What the modules of the init_order program share.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

void note(const char* text);

struct Global {
  explicit Global(const char* n);
  ~Global();
  const char* name;
};
