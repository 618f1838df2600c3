// What the modules of the polymorphism program share.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <typeinfo>
#include <vector>

struct Shape {
  virtual ~Shape() = default;
  virtual double area() const = 0;
  virtual std::string name() const { return "shape"; }
};
struct Named {
  virtual ~Named();
  virtual std::string label() const = 0;
};
struct Square : Shape, virtual Named {
  explicit Square(double s) : side(s) {}
  double area() const override { return side * side; }
  std::string name() const override { return "square"; }
  std::string label() const override { return "L:" + name(); }
  double side;
};
struct Circle final : Shape {
  explicit Circle(double r) : radius(r) {}
  double area() const override;
  double radius;
};

// One object for all modules, whichever of them has it.
inline int& inline_counter() {
  static int counter = 0;
  return counter;
}
template <class T> struct Registry {
  static std::vector<T> entries;
};
template <class T> std::vector<T> Registry<T>::entries;
inline int inline_variable = 5;

std::unique_ptr<Shape> make_shape(int kind);
const std::type_info& square_type();
int* counter_from_other_module();
int* variable_from_other_module();
using Operation = std::function<int(int)>;
Operation compose(Operation f, Operation g);
int (*inline_function_pointer())(int);
inline int twice(int x) { return 2 * x; }
