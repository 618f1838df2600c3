// The other module of the polymorphism program.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "polymorphism.h"

Named::~Named() = default;
double Circle::area() const { return 3 * radius * radius; }

std::unique_ptr<Shape> make_shape(int kind) {
  Registry<std::string>::entries.push_back("other");
  ++inline_counter();
  if (kind == 0) return std::make_unique<Square>(2);
  return std::make_unique<Circle>(1);
}
const std::type_info& square_type() { return typeid(Square); }
int* counter_from_other_module() { return &inline_counter(); }
int* variable_from_other_module() { return &inline_variable; }
Operation compose(Operation f, Operation g) {
  return [f = std::move(f), g = std::move(g)](int x) { return f(g(x)); };
}
int (*inline_function_pointer())(int) { return twice; }
