// backtrace() and _Unwind_Backtrace through linked frames: the frames of the recursion are all there, main's caller is
// reached, and instruction pointers lie inside the functions that were called.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <cstdint>
#include <cstdio>
#include <execinfo.h>
#include <unwind.h>

namespace {

volatile int sink;

struct Walk {
  int frames = 0, in_recursion = 0;
  std::uintptr_t begin = 0;
};

[[gnu::noinline]] int recurse(int depth, int (*leaf)()) {
  int result = depth ? recurse(depth - 1, leaf) + 1 : leaf();
  sink = result;
  return result;
}

[[gnu::noinline]] int count_backtrace() {
  void* frames[200];
  int count = backtrace(frames, 200);
  sink = count;
  return count;
}

[[gnu::noinline]] int count_unwind() {
  Walk walk;
  walk.begin = reinterpret_cast<std::uintptr_t>(&recurse);
  _Unwind_Backtrace(
      [](_Unwind_Context* context, void* data) {
        auto& w = *static_cast<Walk*>(data);
        ++w.frames;
        if (_Unwind_GetRegionStart(context) == w.begin) ++w.in_recursion;
        return _URC_NO_REASON;
      },
      &walk);
  sink = walk.frames;
  return walk.in_recursion;
}

} // namespace

int main() {
  int shallow = recurse(0, count_backtrace);
  int deep = recurse(30, count_backtrace) - 30;
  std::printf("difference %d, plausible %d\n", deep - shallow, shallow >= 3);
  std::printf("in recursion %d\n", recurse(30, count_unwind) - 30);
  return 0;
}
