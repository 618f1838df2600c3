// What the torture program and the modules that it links into itself have in common.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

namespace torture {

inline constexpr unsigned max_depth = 12;

// Thrown through linked frames, from either side.
struct Payload {
  unsigned serial, module;
  unsigned long value;
};

// A way down through frames of many modules, and back.
struct Visit {
  enum Action : unsigned { nothing, sleep, trace, throw_inside, throw_outside };
  Action action;
  unsigned entered, left; // frames, and destructors that ran at their end
  unsigned caught;        // by frames that throw it again
  unsigned broken;        // frames whose version was not the same after as before
  unsigned serials[max_depth + 1], modules[max_depth + 1];
  unsigned depth;
  unsigned pause;         // microseconds
  unsigned long argument; // what the innermost frame was called with
};

// What a loop of calls has seen.
struct Tally {
  unsigned long wrong, disorder; // values; versions that came after later ones
  unsigned first, last;          // serial numbers: the lowest, the highest
  unsigned later, earlier;       // that came after it: of the last disorder
  unsigned long when;            // after how many calls
};

struct Shape {
  virtual unsigned long area(unsigned long x) = 0;
};

// All that must have one address for good.
inline constexpr unsigned identities = 6;

} // namespace torture

extern "C" void torture_visit(torture::Visit* visit); // of the host
extern "C" void torture_guest(int born);
extern "C" void torture_ring(int born);
