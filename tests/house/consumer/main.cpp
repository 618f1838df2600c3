// A client of an installed Tenon: includes, links, calls one function, checks its answer.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <tenon/result.h>

#ifdef WITH_TENON_LLVM
#include <tenon/llvm.h>
#endif

#include <cstdio>
#include <string_view>

int main() {
  const std::string_view name = tenon::to_string(tenon::ErrorCode::malformed);
  if (name != "malformed") {
    std::fprintf(stderr, "to_string(malformed) is '%.*s'\n", static_cast<int>(name.size()), name.data());
    return 1;
  }
  std::puts("tenon found");
}
